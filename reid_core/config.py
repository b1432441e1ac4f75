"""Every hyperparameter of one trial, as frozen dataclasses.

dotted values in → one checked `TrialConfig` out. Standard library only, so that anything may import it.
"""

import dataclasses
import hashlib
import json
import sys
import types
from dataclasses import dataclass, field
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


class UserError(ValueError):
    """A mistake in what the user gave (file, row, flag). Command lines print its message without a traceback."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which image plays which part, and how batches are drawn from `training`."""

    split: Literal["stratified", "paper", "time_proportion", "time_cutoff"] = "stratified"
    cutoff_date: str | None = None  # YYYY-MM-DD; of time_cutoff: photographs from that day on are queries
    whole_encounters: bool = False  # photographs of one animal on one date never straddle query and gallery
    image_px: int = 384
    mean: float | tuple[float, float, float] | None = None  # None: from the weights' pretrained config
    std: float | tuple[float, float, float] | None = None
    images_per_identity: int | None = 4  # M of the M-per-identity batches; None: every image once, shuffled
    oversample_to: int | None = 5  # paper §3.3: identities with fewer images are repeated up to this many
    undersample_to: int | None = None  # paper §7.1: at most this many images per identity, drawn anew each epoch
    variants: int | None = None  # None: augmented online; V: offline, each image as itself and up to V - 1 variants


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of training images (paper §3.3), online or offline (`data.variants`)."""

    probability: float = 0.5  # of each effect; 0 turns augmentation off
    rotation_deg: float = 20.0
    clahe_clip: float = 3.0
    blur_px: int = 5
    brightness: float = 0.2
    noise_std: float = 0.04
    erase_fraction: float = 0.2  # side of the largest erased rectangle, as a share of the image
    flip: bool = False  # a flipped flank is another animal's flank


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Backbone, the part of it that is trained, and the embedding head (paper §4.1.1, §4.1.4.2)."""

    backbone: str = "hf-hub:BVRA/MegaDescriptor-L-384"
    weights: str = "pretrained"  # "pretrained", "random", or the path of a safetensors file
    unfrozen_stages: int = 2  # counted from the top; the final norm and the head are always trained
    head: Literal["none", "linear", "mlp"] = "linear"
    head_hidden: int = 1024
    head_dropout: float = 0.1  # of the mlp head
    embedding_dim: int = 1024
    drop_path: float = 0.0
    classifier: Literal["linear", "mlp"] = "linear"  # of the cross-entropy loss (paper §4.1.3.1: linear or complex)
    orientation: Literal["none", "embedding", "input"] = "none"  # paper §7.2: before the head, or with the image
    keep_activations: bool = False  # of the frozen stages, computed once per image and shared by all trials
    activations_gb: float = 50.0  # largest file of kept activations


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What is minimised (paper §4.1.3.4, §4.1.4.1)."""

    name: Literal["triplet", "cross_entropy", "arcface", "subcenter_arcface"] = "triplet"
    margin_cosine: float = 0.2  # of triplet
    miner: Literal["semihard", "hard", "all"] = "semihard"  # of triplet
    label_smoothing: float = 0.0  # of cross_entropy
    margin_deg: float = 28.6  # of arcface: angle added between an image and its own identity
    scale: float = 64.0  # of arcface: cosines are multiplied by this before the softmax
    sub_centers: int = 3  # of subcenter_arcface, per identity


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with one learning rate per part (paper §4.1.2, §4.1.3.3)."""

    epochs: int = 20
    batch_size: int = 32  # global: over all workers of the trial
    lr_head: float = 5e-5  # of the embedding head and the classifier
    lr_head_scaling: Literal["none", "linear"] = "none"  # linear: lr_head is for 16 images, and grows with batch_size
    lr_stages: float = 5e-5
    lr_norm: float = 1e-5
    weight_decay: float = 0.05
    schedule: Literal["constant", "cosine", "onecycle"] = "constant"
    warmup_epochs: float = 0.0  # of constant and cosine
    head_only_epochs: int = 0  # first epochs, in which the backbone does not move
    clip_norm: float | None = 1.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 autocast on a GPU
    patience_epochs: int | None = None  # stop after this many epochs without a better `patience_on`
    patience_on: Literal["geo_mean_cosine", "loss_validating"] = "geo_mean_cosine"


@dataclass(frozen=True, kw_only=True)
class MatchConfig:
    """Local matching of the shortlisted pairs (paper §5.1)."""

    matcher: Literal["aliked-lightglue", "aliked-mnn", "sift-mnn", "none"] = "aliked-lightglue"
    weights: str | None = None  # folder with the matchers' files; None: torch hub's cache, then the network
    shortlist: int = 20  # B, gallery images per query
    image_px: int = 512
    num_keypoints: int = 256
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
    top_images: int = 3  # of mean_top
    votes: int = 10  # of vote
    openmax_tail: int = 5  # largest distances that a Weibull distribution is fitted to
    openmax_top: int = 3  # identities whose activations are revised; with the authors' 10 few are ever named


@dataclass(frozen=True, kw_only=True)
class ThresholdConfig:
    """Range of the threshold and the aggregate that is the objective (paper §5.2)."""

    smallest: float = 0.05
    largest: float = 0.95
    search: Literal["exact", "grid"] = "exact"  # grid: the paper's 0.05, 0.10 … 0.95 within the range
    per: Literal["group", "all"] = "group"  # all: one threshold for all groups
    fixed: float | None = None  # not searched at all
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
        for key, low, high in _RANGES:
            value = get(self, key)
            numbers = value if isinstance(value, tuple) else (value,)
            if value is not None and not all(low <= number <= high for number in numbers):
                raise UserError(f"{key}={value!r} is outside {low} … {high}")
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


_INF = float("inf")
_RANGES = (
    ("data.image_px", 16, 4096),
    ("data.mean", -10, 10),
    ("data.std", 1e-6, 10),
    ("data.images_per_identity", 2, 1024),
    ("data.oversample_to", 1, 10_000),
    ("data.undersample_to", 1, 1_000_000),
    ("data.variants", 1, 1000),
    ("augment.probability", 0, 1),
    ("augment.rotation_deg", 0, 180),
    ("augment.clahe_clip", 1, 100),
    ("augment.blur_px", 3, 99),
    ("augment.brightness", 0, 1),
    ("augment.noise_std", 0, 1),
    ("augment.erase_fraction", 0, 0.9),
    ("model.unfrozen_stages", 0, 64),
    ("model.head_hidden", 1, 1_000_000),
    ("model.head_dropout", 0, 0.99),
    ("model.embedding_dim", 2, 65_536),
    ("model.drop_path", 0, 0.99),
    ("model.activations_gb", 0, _INF),
    ("loss.margin_cosine", 0, 2),
    ("loss.label_smoothing", 0, 0.99),
    ("loss.margin_deg", 0, 90),
    ("loss.scale", 1, 1000),
    ("loss.sub_centers", 1, 100),
    ("optim.epochs", 0, 100_000),
    ("optim.batch_size", 2, 1_000_000),
    ("optim.lr_head", 0, 10),
    ("optim.lr_stages", 0, 10),
    ("optim.lr_norm", 0, 10),
    ("optim.weight_decay", 0, 10),
    ("optim.warmup_epochs", 0, 100_000),
    ("optim.head_only_epochs", 0, 100_000),
    ("optim.clip_norm", 0, _INF),
    ("optim.patience_epochs", 1, 100_000),
    ("match.shortlist", 1, 1_000_000),
    ("match.image_px", 32, 4096),
    ("match.num_keypoints", 8, 8192),
    ("predict.top_images", 1, 1_000_000),
    ("predict.votes", 1, 1_000_000),
    ("predict.openmax_tail", 2, 1_000_000),
    ("predict.openmax_top", 1, 1_000_000),
    ("threshold.fixed", -1, 1),
    ("threshold.smallest", 0, 1),
    ("threshold.largest", 0, 1),
)


def get(config: TrialConfig, key: str) -> Any:
    """Value at a dotted key, e.g. ``get(config, "optim.lr_head")``."""
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def flatten(config: TrialConfig) -> dict[str, Any]:
    """All values by dotted key, in the order of declaration; tuples as lists, as JSON has them.

    Example:
        >>> flatten(TrialConfig())["optim.batch_size"]
        32
    """
    flat: dict[str, Any] = {}
    for name, value in dataclasses.asdict(config).items():
        parts = value if isinstance(value, dict) else {"": value}
        for key, leaf in parts.items():
            flat[f"{name}.{key}".rstrip(".")] = list(leaf) if isinstance(leaf, tuple) else leaf
    return flat


def parse_value(value: Any) -> Any:
    """A value as a person types it: JSON where it is JSON (`1e-4`, `null`, `[0.5, 0.5, 0.5]`), else the text itself.

    Example:
        >>> parse_value("1e-4"), parse_value("none"), parse_value(3)
        (0.0001, 'none', 3)
    """
    try:
        return json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError:
        return value


def override(config: TrialConfig, changes: dict[str, Any]) -> TrialConfig:
    """Replace values by dotted key, check their types and ranges, and construct once.

    Raises:
        UserError: If a key is unknown, or a value has the wrong type or lies outside its range.

    Example:
        >>> override(TrialConfig(), {"optim.lr_head": 1e-4}).optim.lr_head
        0.0001
        >>> override(TrialConfig(), {"optim.lr": 1e-4})
        Traceback (most recent call last):
        reid_core.config.UserError: unknown key 'optim.lr'; 'optim' has: epochs, batch_size, lr_head, ...
    """
    top: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        checked = _checked(key, value)
        part, _, name = key.partition(".")
        if name:
            nested.setdefault(part, {})[name] = checked
        else:
            top[part] = checked
    for part, values in nested.items():
        top[part] = dataclasses.replace(getattr(config, part), **values)
    return dataclasses.replace(config, **top)


def fingerprint(config: TrialConfig) -> str:
    """Short hash of the canonical JSON of a configuration: equal configurations, equal fingerprints."""
    canonical = json.dumps(flatten(config), sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode(), digest_size=6).hexdigest()


def _checked(key: str, value: Any) -> Any:
    part, dot, name = key.partition(".")
    hints = get_type_hints(TrialConfig)
    if dot:
        if not dataclasses.is_dataclass(hints.get(part)):
            raise UserError(f"unknown key {key!r}; the parts are: {', '.join(hints)}")
        owner, hints = part, get_type_hints(hints[part])
        known = f"{owner!r} has: {', '.join(hints)}"
    else:
        name, known = part, f"known: {', '.join(hints)}"
    if name not in hints or dataclasses.is_dataclass(hints[name]):
        raise UserError(f"unknown key {key!r}; {known}")
    return _coerce(key, value, hints[name])


def _coerce(key: str, value: Any, hint: Any) -> Any:
    """Check `value` against a type hint; whole numbers pass as floats, lists as tuples, nothing else is bent."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for option in options:
        if get_origin(option) is Literal:
            if value in get_args(option) and not isinstance(value, bool):
                return value
        elif get_origin(option) is tuple:
            if isinstance(value, list | tuple) and len(value) == len(get_args(option)):
                return tuple(_coerce(key, item, kind) for item, kind in zip(value, get_args(option), strict=True))
        elif option is float:
            if isinstance(value, float) and value == value:
                return value
            if isinstance(value, int) and not isinstance(value, bool):
                if abs(value) > sys.float_info.max:
                    raise UserError(f"{key}: the number is too large")
                return float(value)
        elif isinstance(value, option) and isinstance(value, bool) == (option is bool):
            return value
    raise UserError(f"{key}={value!r} has the wrong type; expected {_describe(hint)}")


def _describe(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
