"""Metric-learning losses over the global batch.

embeddings (B, D) and identity codes (B,) of this rank → scalar loss (paper §4.1.4.1).
"""

from collections.abc import Callable

import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import TripletMarginMiner
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper, DistributedMinerWrapper

from reid_core.config import LossConfig

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def make_loss(config: LossConfig, *, world_size: int = 1) -> Loss:
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
    return lambda embedding_BD, identity_B: loss(embedding_BD, identity_B, miner(embedding_BD, identity_B))
