"""What is minimised: triplet loss over the global batch, cross-entropy, or an angular margin loss.

head outputs (B, D) and identity codes (B,) of this rank → scalar loss (paper §4.1.3.4, §4.1.4.1).
"""

from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import TripletMarginMiner
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper, DistributedMinerWrapper
from torch import nn

from reid_core.config.parameters import LossConfig
from reid_core.model.heads import AngularClassifier
from reid_core.training.step.gradients import Loss


def make_loss(config: LossConfig, classifier: nn.Module | None = None, *, world_size: int = 1) -> Loss:
    """The loss of a trial as a function of features before normalisation and identities.

    DistributedDataParallel takes the mean over ranks of each rank's gradients. That is the global batch's for losses
    that are means over images; a triplet needs the images of all ranks (`make_triplet_loss`).

    Args:
        config: Of the loss.
        classifier: From `heads.make_classifier`; needed by every loss but the triplet's.
        world_size: Number of ranks.
    """
    if config.name == "triplet":
        return make_triplet_loss(config, world_size=world_size)
    if classifier is None:
        raise ValueError(f"loss.name={config.name} needs a classifier")
    if isinstance(classifier, AngularClassifier):
        return classifier.loss
    smoothing = config.label_smoothing
    return lambda feature_BD, identity_B: nn.functional.cross_entropy(
        classifier(feature_BD), identity_B, label_smoothing=smoothing
    )


def make_triplet_loss(config: LossConfig, *, world_size: int = 1) -> Loss:
    """Triplet loss on cosine similarity, `max(0, cos(a, n) - cos(a, p) + margin)`, mean over triplets above 0.

    The miner picks semi-hard triplets (negatives less similar than the positive, but within the margin). With several
    workers triplets are mined over the embeddings of all of them. The value is then multiplied by `world_size`, which
    undoes the mean that DistributedDataParallel takes over gradients.
    """
    distance = CosineSimilarity()
    loss = TripletMarginLoss(margin=config.margin_cosine, distance=distance)
    miner = TripletMarginMiner(margin=config.margin_cosine, type_of_triplets=config.miner, distance=distance)
    if world_size > 1:
        loss, miner = DistributedLossWrapper(loss), DistributedMinerWrapper(miner)
    return lambda feature_BD, identity_B: loss(feature_BD, identity_B, miner(feature_BD, identity_B))
