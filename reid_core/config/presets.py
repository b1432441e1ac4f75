"""Named configurations: functions that return a `TrialConfig`.

name → configuration. Every other configuration is one of these with overrides. The first seven of `PRESETS` are the
rows of the paper's table 6.2; the numbers in their docstrings are its BAKS, BAUS and GEO_MEAN on `testSet`.
"""

from collections.abc import Callable

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import override
from reid_core.errors import UserError


def _classification(changes: dict[str, object]) -> TrialConfig:
    """MegaDescriptor-L-384 as a classifier (§4.1.3): last stage and norm unfrozen, head removed before evaluation."""
    settings = {
        "data.images_per_identity": None,
        "data.variants": 5,
        "model.unfrozen_stages": 1,
        "model.head": "none",
        "loss.name": "cross_entropy",
        "optim.lr_head": 1e-5,
        "optim.lr_stages": 5e-5,
        "optim.lr_norm": 1e-5,
        "optim.weight_decay": 0.05,
        "optim.patience_epochs": 5,
        "optim.patience_on": "loss_validating",
    }
    return override(TrialConfig(), settings | changes)


def batch16() -> TrialConfig:
    """Batch16: linear classifier, batch size 16, head learning rate 1e-5. BAKS .518, BAUS .905, GEO_MEAN .684."""
    return _classification({"optim.batch_size": 16})


def batch32() -> TrialConfig:
    """Batch32: batch size 32, head learning rate 2e-5 (1e-5 scaled linearly). BAKS .500, BAUS .843, GEO_MEAN .649."""
    return _classification({"optim.batch_size": 32, "optim.lr_head_scaling": "linear"})


def batch64() -> TrialConfig:
    """Batch64: batch size 64, head learning rate 5e-5 (the paper's, not 4e-5). BAKS .497, BAUS .862, GEO_MEAN .654."""
    return _classification({"optim.batch_size": 64, "optim.lr_head": 5e-5})


def batch64_warmup() -> TrialConfig:
    """Batch64-WarmupLR: as Batch64 with the OneCycle schedule of figure A.7. BAKS .500, BAUS .932, GEO_MEAN .683."""
    return override(batch64(), {"optim.schedule": "onecycle"})


def batch64_complex_head() -> TrialConfig:
    """Batch64-ComplexHead: as Batch64 with an MLP classifier, which overfitted. BAKS .431, BAUS .914, GEO_MEAN .628."""
    return override(batch64(), {"model.classifier": "mlp"})


def metric() -> TrialConfig:
    """Metric: triplet loss, 1024 dimensions, two stages unfrozen (§4.1.4). BAKS .579, BAUS .903, GEO_MEAN .723.

    Augmented offline, as the paper was; `megadescriptor` is the same with online augmentation.
    """
    return override(TrialConfig(), {"data.variants": 5})


def efficientnet_b4() -> TrialConfig:
    """EfficientNet B4 as a direct classifier of all animals (§4.2). BAKS .229, BAUS .706, GEO_MEAN .402.

    The paper's first attempt: every stage is trained, and the top probability is rejected below a threshold. At 384 px,
    MegaDescriptor's size, so that one image cache serves all rows; the network's own is 380.
    """
    settings = {
        "model.backbone": "efficientnet_b4",
        "model.unfrozen_stages": 5,
        "optim.lr_head": 5e-4,
        "optim.lr_head_scaling": "none",
        "optim.lr_stages": 1e-4,
        "optim.lr_norm": 1e-4,
        "match.matcher": "none",
        "predict.rule": "softmax",
    }
    return override(batch32(), settings)


def efficientnet_b4_frozen() -> TrialConfig:
    """EfficientNet B4's second attempt (§4.2): frozen body, a new head trained on it, scored through WildFusion."""
    settings = {
        "model.backbone": "efficientnet_b4",
        "model.unfrozen_stages": 0,
        "model.head": "linear",
        "optim.lr_head": 5e-4,
        "optim.lr_head_scaling": "none",
        "optim.lr_norm": 0.0,
    }
    return override(batch32(), settings)


def starter() -> TrialConfig:
    """AnimalCLEF25's starter notebook: frozen MegaDescriptor, cosine, one threshold of 0.6, no matcher.

    About 0.30 on the public leaderboard; the paper's "140 % improvement" is over this.
    """
    settings = {
        "model.unfrozen_stages": 0,
        "model.head": "none",
        "optim.epochs": 0,
        "match.matcher": "none",
        "fusion.calibration": "none",
        "threshold.fixed": 0.6,
    }
    return override(TrialConfig(), settings)


def metric_512() -> TrialConfig:
    """`metric` with 512 dimensions, which the paper found "much inferior" to 1024 (§4.1.4.2)."""
    return override(metric(), {"model.embedding_dim": 512})


def megadescriptor() -> TrialConfig:
    """`metric` with online augmentation, which the paper found better and could not afford (§7.1).

    `python sweeps/metric.py --data PATH --out OUT`; needs a GPU and, once, the Hugging Face hub. Weights: CC BY-NC 4.0.
    """
    return TrialConfig()


def tiny() -> TrialConfig:
    """A four-stage ConvNeXt of 0.4 M parameters at 64 px, with weights of ours: the demo's and the tests' preset.

    `python sweeps/metric.py --data synthetic --out OUT`; minutes on two CPU cores. Of the synthetic data, cosine
    GEO_MEAN on `thresholdSet` goes from 0.43 (its own features, before training) to 0.57, and the share of `validating`
    images whose most similar training image shows the same animal from 0.47 to 0.67 (`benchmarks/demo_learns.py`).
    """
    return override(
        TrialConfig(),
        {
            "data.image_px": 64,
            "augment.probability": 0.25,
            "augment.erase_fraction": 0.0,
            "model.backbone": "convnext_micro_64",
            "model.unfrozen_stages": 4,
            "model.embedding_dim": 256,
            # Of so few animals in a batch, hardly any triplets teach anything; a classifier compares with all of them.
            "data.images_per_identity": None,
            "loss.name": "arcface",
            "loss.margin_deg": 10.0,
            "loss.scale": 16.0,
            "optim.epochs": 6,
            "optim.batch_size": 32,
            "optim.lr_head": 2e-3,
            "optim.lr_stages": 2e-3,
            "optim.lr_norm": 2e-3,
            "optim.schedule": "cosine",
            "optim.warmup_epochs": 1.0,
            "match.matcher": "sift-mnn",
            "match.image_px": 128,
            "match.num_keypoints": 128,
        },
    )


SMALL_BACKBONES = {"efficientnet": "test_efficientnet", "": "swin_micro_patch4_window4_64"}  # by start of the name
# Random weights need larger learning rates than pretrained ones; with more than 10 times, triplets learn nothing.
SMALL_RATES = {"triplet": 10, "": 40}  # by loss


def shrink(config: TrialConfig) -> TrialConfig:
    """The same recipe on a laptop's CPU: `--scale small`.

    The backbone becomes a tiny one of its family at 64 px with random weights, all of it trained (the frozen part of a
    random backbone knows nothing) unless nothing of it was; learning rates × 40 (triplet: × 10); SIFT in place of
    ALIKED and LightGlue.
    """
    small = next(name for start, name in SMALL_BACKBONES.items() if config.model.backbone.startswith(start))
    faster = SMALL_RATES.get(config.loss.name, SMALL_RATES[""])
    num_stages = 5 if small.startswith("test_efficientnet") else 4
    settings = {
        "data.image_px": 64,
        "augment.probability": 0.25,
        "augment.erase_fraction": 0.0,
        "model.backbone": small,
        "model.weights": "random",
        "model.unfrozen_stages": num_stages if config.model.unfrozen_stages else 0,
        "optim.epochs": min(config.optim.epochs, 12),
        "optim.lr_head": config.optim.lr_head * faster,
        "optim.lr_stages": config.optim.lr_stages * faster,
        "optim.lr_norm": config.optim.lr_norm * faster,
        "match.matcher": "none" if config.match.matcher == "none" else "sift-mnn",
        "match.image_px": 128,
        "match.num_keypoints": 128,
    }
    return override(config, settings)


PRESETS: dict[str, Callable[[], TrialConfig]] = {
    function.__name__: function
    for function in (
        batch16,
        batch32,
        batch64,
        batch64_warmup,
        batch64_complex_head,
        metric,
        efficientnet_b4,
        efficientnet_b4_frozen,
        starter,
        metric_512,
        megadescriptor,
        tiny,
    )
}


def make_preset(name: str) -> TrialConfig:
    """The configuration of a preset.

    Raises:
        UserError: If there is none of that name.
    """
    if name not in PRESETS:
        raise UserError(f"--preset {name}: no such preset; there are: {', '.join(PRESETS)}")
    return PRESETS[name]()
