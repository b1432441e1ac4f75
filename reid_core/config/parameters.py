"""Every hyperparameter of one trial, as frozen dataclasses; its limits and what a search tries stand beside it.

dotted values in → one checked `TrialConfig` out. Standard library only, so that anything may import it.
The comment after a field, or directly above it, is its description in the documentation. Values in it are written as
in YAML (null, true).
"""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Literal

from reid_core.config.ranges import INFINITE, Between, Choices, Range, check_limits
from reid_core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which image plays which part, and how batches are drawn from `training` (paper §3.3, §3.4)."""

    # how labelled images are divided: within each group (stratified), as in the paper (§3.4), or by date: an animal's
    # latest days are queries (time_proportion), or all days from one on are (time_cutoff; paper §7.2)
    split: Literal["stratified", "paper", "time_proportion", "time_cutoff"] = "stratified"
    # of time_cutoff: YYYY-MM-DD, the first day of the queries; null: chosen for each group, about 20 % are queries
    cutoff_date: str | None = None
    # photographs of one animal on one date never straddle query and gallery (paper §7.2)
    whole_encounters: bool = False
    # side in pixels of the squares that photographs are squashed to, for the backbone
    image_px: Annotated[int, Between(16, 4096)] = 384
    # mean of pixel values in [0, 1], one number or one per colour (RGB); null: that of the pretrained weights
    mean: Annotated[float | tuple[float, float, float] | None, Between(-10, 10)] = None
    # standard deviation of pixel values, as `mean`
    std: Annotated[float | tuple[float, float, float] | None, Between(1e-6, 10)] = None
    # M: images of each identity in a batch (paper §4.1.4); null: every image once per epoch, shuffled
    images_per_identity: Annotated[int | None, Between(2, 1024), Choices((2, 4, 8))] = 4
    # identities with fewer images are repeated up to this many (paper §3.3); null: off
    oversample_to: Annotated[int | None, Between(1, 10_000), Choices((None, 5, 10))] = 5
    # at most this many images per identity, drawn anew each epoch (paper §7.1); null: all
    undersample_to: Annotated[int | None, Between(1, 1_000_000), Choices((None, 10, 30))] = None
    # V: augmented offline, each image itself and up to V - 1 fixed variants (paper §3.3); null: online, each time anew
    variants: Annotated[int | None, Between(1, 1000), Choices((None, 5))] = None


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of training images (paper §3.3), online or offline (`data.variants`)."""

    # of each effect, also of those without a key (scale, shift, hue); 0 turns augmentation off
    probability: Annotated[float, Between(0, 1), Range(0.0, 0.8)] = 0.5
    # largest rotation to either side, in degrees
    rotation_deg: Annotated[float, Between(0, 180), Range(0.0, 45.0)] = 20.0
    # largest clip limit of CLAHE, which evens out contrast within an image
    clahe_clip: Annotated[float, Between(1, 100), Range(1.0, 8.0)] = 3.0
    # largest kernel of the Gaussian blur, in pixels; odd
    blur_px: Annotated[int, Between(3, 99), Choices((3, 5, 7))] = 5
    # largest change of brightness and of contrast, either way, as a share
    brightness: Annotated[float, Between(0, 1), Range(0.0, 0.5)] = 0.2
    # largest standard deviation of the noise, as a share of the range of pixel values
    noise_std: Annotated[float, Between(0, 1), Range(0.0, 0.1)] = 0.04
    # side of the largest erased rectangle, as a share of the image; 0: nothing is erased
    erase_fraction: Annotated[float, Between(0, 0.9), Range(0.0, 0.4)] = 0.2
    # mirror every second image; off, because a flank seen in a mirror is another animal's
    flip: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Backbone, the part of it that is trained, and the embedding head (paper §4.1.1, §4.1.4.2)."""

    backbone: str = "hf-hub:BVRA/MegaDescriptor-L-384"  # name of a timm model, or hf-hub:OWNER/NAME
    # the backbone's to start from: pretrained (timm's, the hub's, or of convnext_micro_64 this program's own), random,
    # or the path of a safetensors file
    weights: str = "pretrained"
    # stages of the backbone that are trained, from the top (paper §4.1.1); its final norm and the head always are
    unfrozen_stages: Annotated[int, Between(0, 64), Choices((0, 1, 2))] = 2
    # stages of a backbone whose blocks are all at one stride, such as a vision transformer: its blocks in so many equal
    # groups; null: 4. As many groups as blocks and unfrozen_stages=1 train the last block alone
    block_groups: Annotated[int | None, Between(1, 64)] = None
    # from the backbone's features to the embedding (paper §4.1.4.2); none: the features are the embedding
    head: Literal["none", "linear", "mlp"] = "linear"
    # width of the hidden layer, of an mlp head and of an mlp classifier
    head_hidden: Annotated[int, Between(1, 1_000_000), Choices((512, 1024, 2048))] = 1024
    # share of hidden values that are dropped in training, of an mlp head and of an mlp classifier
    head_dropout: Annotated[float, Between(0, 0.99), Range(0.0, 0.5)] = 0.1
    # length of the embedding (paper §4.1.4.2); without a head it is the backbone's
    embedding_dim: Annotated[int, Between(2, 65_536), Choices((256, 512, 1024))] = 1024
    # share of the backbone's residual blocks that are skipped in training (stochastic depth)
    drop_path: Annotated[float, Between(0, 0.99), Range(0.0, 0.3)] = 0.0
    classifier: Literal["linear", "mlp"] = "linear"  # of loss.name=cross_entropy (paper §4.1.3.1: linear or complex)
    # what the model is given of the photographed side (paper §7.2): nothing, before the head, or with the image
    orientation: Literal["none", "embedding", "input"] = "none"
    # the frozen stages' outputs are computed once per image, kept in files, and shared by all trials
    keep_activations: bool = False
    # most that those files may take, in 10^9 bytes
    activations_gb: Annotated[float, Between(0, INFINITE)] = 50.0
    # what the trained stages' blocks need for their gradients is computed again instead of kept (gradient
    # checkpointing): the same result with less memory, in a third more time; auto: where nothing else fits into the GPU
    checkpointing: Literal["auto", "always", "never"] = "auto"


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What is minimised (paper §4.1.3.4, §4.1.4.1)."""

    # triplets of images (paper §4.1.4.1), or a classifier of all identities (§4.1.3.4), by angles with the last two
    name: Literal["triplet", "cross_entropy", "arcface", "subcenter_arcface"] = "triplet"
    # of triplet: by how much an image's cosine with its own identity shall exceed that with another one
    margin_cosine: Annotated[float, Between(0, 2), Range(0.05, 0.5)] = 0.2
    # of triplet: which of them count; semihard: the right image is more similar than the wrong one, within the margin
    miner: Literal["semihard", "hard", "all"] = "semihard"
    # of cross_entropy: share of the target that is spread over all identities
    label_smoothing: Annotated[float, Between(0, 0.99), Range(0.0, 0.2)] = 0.0
    # of both arcfaces: angle added between an image and its own identity, in degrees
    margin_deg: Annotated[float, Between(0, 90), Range(5.0, 45.0)] = 28.6
    # of both arcfaces: cosines are multiplied by this before the softmax
    scale: Annotated[float, Between(1, 1000), Choices((16.0, 32.0, 64.0))] = 64.0
    # of subcenter_arcface: centres of each identity, of which the nearest counts
    sub_centers: Annotated[int, Between(1, 100), Choices((2, 3, 5))] = 3


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with one learning rate per part (paper §4.1.2, §4.1.3.3)."""

    # times that the training images are gone through; 0: nothing is trained
    epochs: Annotated[int, Between(0, 100_000)] = 20
    # images per step, over all workers of the trial together
    batch_size: Annotated[int, Between(2, 1_000_000), Choices((16, 32, 64))] = 32
    # peak learning rate of the embedding head and the classifier
    lr_head: Annotated[float, Between(0, 10), Range(1e-5, 1e-3, log=True)] = 5e-5
    # linear: lr_head is for batches of 16 images, and grows with batch_size (paper §4.1.3.3)
    lr_head_scaling: Literal["none", "linear"] = "none"
    # peak learning rate of the unfrozen stages
    lr_stages: Annotated[float, Between(0, 10), Range(1e-6, 1e-4, log=True)] = 5e-5
    # peak learning rate of the backbone's final norm
    lr_norm: Annotated[float, Between(0, 10), Range(1e-6, 1e-4, log=True)] = 1e-5
    # of AdamW: pulls all trained values towards 0
    weight_decay: Annotated[float, Between(0, 10), Range(1e-3, 0.5, log=True)] = 0.05
    # learning rates over the steps: constant, half a cosine down to 0, or up and down again (paper figure A.7)
    schedule: Literal["constant", "cosine", "onecycle"] = "constant"
    # of constant and cosine: epochs in which the learning rates rise from 0
    warmup_epochs: Annotated[float, Between(0, 100_000), Choices((0.0, 1.0, 2.0))] = 0.0
    # first epochs, in which the head alone is trained
    head_only_epochs: Annotated[int, Between(0, 100_000), Choices((0, 1, 2))] = 0
    # longer gradients are shortened to this length; null: none is
    clip_norm: Annotated[float | None, Between(0, INFINITE), Choices((None, 0.5, 1.0, 5.0))] = 1.0
    # of the network: auto: bfloat16 on a GPU, else float32; tf32: float32 whose products a GPU rounds to 10 bits. With
    # bfloat16 a GPU takes tf32 in training for what stays float32; scores are always computed in float32
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = "auto"
    # each worker goes through its images of a step in so many parts (gradient accumulation): the same result with less
    # memory; null: as few as fit into its GPU's memory
    accumulate: Annotated[int | None, Between(1, 1_000_000)] = None
    # training stops after this many epochs without a better `patience_on`; null: never
    patience_epochs: Annotated[int | None, Between(1, 100_000)] = None
    # GEO_MEAN of the cosine alone on `thresholdSet` (larger is better), or loss on `validating` (smaller is)
    patience_on: Literal["geo_mean_cosine", "loss_validating"] = "geo_mean_cosine"


@dataclass(frozen=True, kw_only=True)
class MatchConfig:
    """Local matching of the shortlisted pairs (paper §5.1)."""

    # keypoints and how two images' are compared; none: the embeddings' cosine alone
    matcher: Literal["aliked-lightglue", "aliked-mnn", "sift-mnn", "none"] = "aliked-lightglue"
    # folder with the published weights of ALIKED and LightGlue; null: torch hub's cache, then the network
    weights: str | None = None
    # B: gallery images that each query is matched with, those of the most similar embeddings
    shortlist: Annotated[int, Between(1, 1_000_000), Choices((10, 20, 50, 100))] = 20
    # side in pixels of the squares that keypoints are found in
    image_px: Annotated[int, Between(32, 4096)] = 512
    # keypoints of each image, the strongest ones
    num_keypoints: Annotated[int, Between(8, 8192)] = 256
    # shortlist only gallery images that show a side that the query shows (paper §7.2); an empty orientation fits all
    same_side: bool = False


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """From the scores of several matchers to one probability per pair (paper §5.1, §7.3)."""

    # score to probability by any rising curve (isotonic) or an S-shaped one (logistic; paper §5.1); none: the cosine
    # itself is the score, without any matcher
    calibration: Literal["isotonic", "logistic", "none"] = "isotonic"
    # fusion weights, by which the probabilities of the matchers are averaged: equal (the paper's), or fitted on the
    # calibration pairs (§7.3)
    weights: Literal["equal", "fitted"] = "equal"
    # a second global model, whose cosine is fused too: timm name, hf-hub:OWNER/NAME, or a bundle's folder; null: none
    second_model: str | None = None
    second_weights: str = "pretrained"  # the second model's own, as model.weights; not of a bundle, which has them


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """From the probabilities of pairs, or from the classifier, to an answer (paper §5.2, §7.3)."""

    # what is compared with the threshold: the probability of the best identity in the gallery (threshold), or of the
    # classifier, without a gallery (softmax) or with room for an unknown animal (openmax; paper §7.3)
    rule: Literal["threshold", "softmax", "openmax"] = "threshold"
    # over the shortlisted images of an identity: the best one's probability, their mean, that of the best few, or votes
    aggregate: Literal["max", "mean", "mean_top", "vote"] = "max"
    # of mean_top: so many of an identity's best images
    top_images: Annotated[int, Between(1, 1_000_000), Choices((2, 3, 5))] = 3
    # of vote: so many of the query's best candidates vote for their identity
    votes: Annotated[int, Between(1, 1_000_000), Choices((5, 10, 20))] = 10
    # of openmax: how many of the largest distances of an identity's images a Weibull distribution is fitted to
    openmax_tail: Annotated[int, Between(2, 1_000_000), Choices((10, 20, 40))] = 5
    # of openmax: the most active identities, whose activations are revised; with the authors' 10, few are ever named
    openmax_top: Annotated[int, Between(1, 1_000_000), Choices((3, 5, 10))] = 3


@dataclass(frozen=True, kw_only=True)
class ThresholdConfig:
    """Range of the threshold and the aggregate that is the objective (paper §5.2)."""

    # smallest threshold that is tried on `thresholdSet`, a probability
    smallest: Annotated[float, Between(0, 1)] = 0.05
    # largest threshold that is tried
    largest: Annotated[float, Between(0, 1)] = 0.95
    # which thresholds are tried within the range: exact: all that differ; grid: the paper's 0.05, 0.10 … 0.95 (§5.2)
    search: Literal["exact", "grid"] = "exact"
    # one threshold for each species group, or one for all groups
    per: Literal["group", "all"] = "group"
    # this threshold, without any search; null: it is searched
    fixed: Annotated[float | None, Between(-1, 1)] = None
    # what trials are compared by: mean of the groups' GEO_MEAN, GEO_MEAN of all queries together, or the worst group's
    objective: Literal["mean_of_groups", "pooled", "worst_group"] = "mean_of_groups"


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One trial. Field names, joined by dots, are the parameter names of the search and of `--set`."""

    seed: int = 0  # of the split, the batches, random initial weights, augmentation and the search
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    match: MatchConfig = field(default_factory=MatchConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    threshold: ThresholdConfig = field(default_factory=ThresholdConfig)

    def __post_init__(self) -> None:
        for each in fields(self):
            if is_dataclass(part := getattr(self, each.name)):
                check_limits(each.name, part)
        smallest, largest = self.threshold.smallest, self.threshold.largest
        if smallest > largest:
            raise UserError(f"threshold.smallest={smallest} is above threshold.largest={largest}")
        _check_combination(self)


def _check_combination(config: TrialConfig) -> None:
    """Refuse what contradicts itself."""
    if config.predict.rule != "threshold" and config.loss.name == "triplet":
        raise UserError(f"predict.rule={config.predict.rule} needs a classifier; loss.name=triplet trains none")
    if config.fusion.calibration == "none" and (config.match.matcher != "none" or config.fusion.second_model):
        raise UserError("fusion.calibration=none is for the cosine alone: set match.matcher=none and no second model")
    if config.optim.head_only_epochs and config.loss.name == "triplet" and config.model.head == "none":
        raise UserError("optim.head_only_epochs with loss.name=triplet and model.head=none would train nothing")
