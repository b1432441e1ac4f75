"""Every hyperparameter of one trial, as frozen dataclasses; its limits and what a search tries stand beside it.

dotted values in → one checked `TrialConfig` out. Standard library only, so that anything may import it.
"""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Literal

from reid_core.config.ranges import INFINITE, Between, Choices, Range, check_limits
from reid_core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which image plays which part, and how batches are drawn from `training`."""

    split: Literal["stratified", "paper", "time_proportion", "time_cutoff"] = "stratified"
    cutoff_date: str | None = None  # YYYY-MM-DD; of time_cutoff: photographs from that day on are queries
    whole_encounters: bool = False  # photographs of one animal on one date never straddle query and gallery
    image_px: Annotated[int, Between(16, 4096)] = 384
    # None: from the weights' pretrained config
    mean: Annotated[float | tuple[float, float, float] | None, Between(-10, 10)] = None
    std: Annotated[float | tuple[float, float, float] | None, Between(1e-6, 10)] = None
    # M of the M-per-identity batches; None: every image once, shuffled
    images_per_identity: Annotated[int | None, Between(2, 1024), Choices((2, 4, 8))] = 4
    # paper §3.3: identities with fewer images are repeated up to this many
    oversample_to: Annotated[int | None, Between(1, 10_000), Choices((None, 5, 10))] = 5
    # paper §7.1: at most this many images per identity, drawn anew each epoch
    undersample_to: Annotated[int | None, Between(1, 1_000_000), Choices((None, 10, 30))] = None
    # None: augmented online; V: offline, each image as itself and up to V - 1 variants
    variants: Annotated[int | None, Between(1, 1000), Choices((None, 5))] = None


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of training images (paper §3.3), online or offline (`data.variants`)."""

    probability: Annotated[float, Between(0, 1), Range(0.0, 0.8)] = 0.5  # of each effect; 0 turns augmentation off
    rotation_deg: Annotated[float, Between(0, 180), Range(0.0, 45.0)] = 20.0
    clahe_clip: Annotated[float, Between(1, 100), Range(1.0, 8.0)] = 3.0
    blur_px: Annotated[int, Between(3, 99), Choices((3, 5, 7))] = 5
    brightness: Annotated[float, Between(0, 1), Range(0.0, 0.5)] = 0.2
    noise_std: Annotated[float, Between(0, 1), Range(0.0, 0.1)] = 0.04
    # side of the largest erased rectangle, as a share of the image
    erase_fraction: Annotated[float, Between(0, 0.9), Range(0.0, 0.4)] = 0.2
    flip: bool = False  # a flipped flank is another animal's flank


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Backbone, the part of it that is trained, and the embedding head (paper §4.1.1, §4.1.4.2)."""

    backbone: str = "hf-hub:BVRA/MegaDescriptor-L-384"
    weights: str = "pretrained"  # "pretrained", "random", or the path of a safetensors file
    # counted from the top; the final norm and the head are always trained
    unfrozen_stages: Annotated[int, Between(0, 64), Choices((0, 1, 2))] = 2
    head: Literal["none", "linear", "mlp"] = "linear"
    head_hidden: Annotated[int, Between(1, 1_000_000), Choices((512, 1024, 2048))] = 1024
    head_dropout: Annotated[float, Between(0, 0.99), Range(0.0, 0.5)] = 0.1  # of the mlp head
    embedding_dim: Annotated[int, Between(2, 65_536), Choices((256, 512, 1024))] = 1024
    drop_path: Annotated[float, Between(0, 0.99), Range(0.0, 0.3)] = 0.0
    classifier: Literal["linear", "mlp"] = "linear"  # of the cross-entropy loss (paper §4.1.3.1: linear or complex)
    orientation: Literal["none", "embedding", "input"] = "none"  # paper §7.2: before the head, or with the image
    keep_activations: bool = False  # of the frozen stages, computed once per image and shared by all trials
    activations_gb: Annotated[float, Between(0, INFINITE)] = 50.0  # largest file of kept activations


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What is minimised (paper §4.1.3.4, §4.1.4.1)."""

    name: Literal["triplet", "cross_entropy", "arcface", "subcenter_arcface"] = "triplet"
    margin_cosine: Annotated[float, Between(0, 2), Range(0.05, 0.5)] = 0.2  # of triplet
    miner: Literal["semihard", "hard", "all"] = "semihard"  # of triplet
    label_smoothing: Annotated[float, Between(0, 0.99), Range(0.0, 0.2)] = 0.0  # of cross_entropy
    # of arcface: angle added between an image and its own identity
    margin_deg: Annotated[float, Between(0, 90), Range(5.0, 45.0)] = 28.6
    # of arcface: cosines are multiplied by this before the softmax
    scale: Annotated[float, Between(1, 1000), Choices((16.0, 32.0, 64.0))] = 64.0
    sub_centers: Annotated[int, Between(1, 100), Choices((2, 3, 5))] = 3  # of subcenter_arcface, per identity


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with one learning rate per part (paper §4.1.2, §4.1.3.3)."""

    epochs: Annotated[int, Between(0, 100_000)] = 20
    # global: over all workers of the trial
    batch_size: Annotated[int, Between(2, 1_000_000), Choices((16, 32, 64))] = 32
    # of the embedding head and the classifier
    lr_head: Annotated[float, Between(0, 10), Range(1e-5, 1e-3, log=True)] = 5e-5
    lr_head_scaling: Literal["none", "linear"] = "none"  # linear: lr_head is for 16 images, and grows with batch_size
    lr_stages: Annotated[float, Between(0, 10), Range(1e-6, 1e-4, log=True)] = 5e-5
    lr_norm: Annotated[float, Between(0, 10), Range(1e-6, 1e-4, log=True)] = 1e-5
    weight_decay: Annotated[float, Between(0, 10), Range(1e-3, 0.5, log=True)] = 0.05
    schedule: Literal["constant", "cosine", "onecycle"] = "constant"
    warmup_epochs: Annotated[float, Between(0, 100_000), Choices((0.0, 1.0, 2.0))] = 0.0  # of constant and cosine
    # first epochs, in which the backbone does not move
    head_only_epochs: Annotated[int, Between(0, 100_000), Choices((0, 1, 2))] = 0
    clip_norm: Annotated[float | None, Between(0, INFINITE), Choices((None, 0.5, 1.0, 5.0))] = 1.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 autocast on a GPU
    # stop after this many epochs without a better `patience_on`
    patience_epochs: Annotated[int | None, Between(1, 100_000)] = None
    patience_on: Literal["geo_mean_cosine", "loss_validating"] = "geo_mean_cosine"


@dataclass(frozen=True, kw_only=True)
class MatchConfig:
    """Local matching of the shortlisted pairs (paper §5.1)."""

    matcher: Literal["aliked-lightglue", "aliked-mnn", "sift-mnn", "none"] = "aliked-lightglue"
    weights: str | None = None  # folder with the matchers' files; None: torch hub's cache, then the network
    shortlist: Annotated[int, Between(1, 1_000_000), Choices((10, 20, 50, 100))] = 20  # B, gallery images per query
    image_px: Annotated[int, Between(32, 4096)] = 512
    num_keypoints: Annotated[int, Between(8, 8192)] = 256
    same_side: bool = False  # only gallery images that show a side the query shows; an empty orientation fits all


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """From the scores of several matchers to one probability per pair (paper §5.1, §7.3)."""

    calibration: Literal["isotonic", "logistic", "none"] = "isotonic"  # none: the raw cosine, without any matcher
    weights: Literal["equal", "fitted"] = "equal"  # fitted: on the calibration set; equal is the paper's
    second_model: str | None = None  # a second global model: timm name, hf-hub:…, or the folder of a bundle
    second_weights: str = "pretrained"  # of a second model that is no bundle; as model.weights


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """From the probabilities of pairs, or from the classifier, to an answer (paper §5.2, §7.3)."""

    rule: Literal["threshold", "softmax", "openmax"] = "threshold"  # the last two ask the classifier, not the gallery
    aggregate: Literal["max", "mean", "mean_top", "vote"] = "max"  # over an identity's shortlisted images
    top_images: Annotated[int, Between(1, 1_000_000), Choices((2, 3, 5))] = 3  # of mean_top
    votes: Annotated[int, Between(1, 1_000_000), Choices((5, 10, 20))] = 10  # of vote
    # largest distances that a Weibull distribution is fitted to
    openmax_tail: Annotated[int, Between(2, 1_000_000), Choices((10, 20, 40))] = 5
    # identities whose activations are revised; with the authors' 10 few are ever named
    openmax_top: Annotated[int, Between(1, 1_000_000), Choices((3, 5, 10))] = 3


@dataclass(frozen=True, kw_only=True)
class ThresholdConfig:
    """Range of the threshold and the aggregate that is the objective (paper §5.2)."""

    smallest: Annotated[float, Between(0, 1)] = 0.05
    largest: Annotated[float, Between(0, 1)] = 0.95
    search: Literal["exact", "grid"] = "exact"  # grid: the paper's 0.05, 0.10 … 0.95 within the range
    per: Literal["group", "all"] = "group"  # all: one threshold for all groups
    fixed: Annotated[float | None, Between(-1, 1)] = None  # not searched at all
    objective: Literal["mean_of_groups", "pooled", "worst_group"] = "mean_of_groups"


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One trial. Field names, joined by dots, are the parameter names of the search and of `--set`."""

    seed: int = 0
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
