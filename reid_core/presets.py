"""Named configurations: functions that return a `TrialConfig`.

name → configuration. Every other configuration is one of these with overrides.
"""

from collections.abc import Callable

from reid_core.config import TrialConfig, UserError, override


def megadescriptor() -> TrialConfig:
    """MegaDescriptor-L-384 with metric learning, the paper's best (§4.1.4): testSet BAKS .579, BAUS .903, GEO .723.

    `python sweeps/metric.py --data PATH --out OUT`; needs a GPU and, once, the Hugging Face hub. Weights: CC BY-NC 4.0.
    """
    return TrialConfig()


def tiny() -> TrialConfig:
    """A four-stage ConvNeXt of 0.4 M parameters at 64 px from random weights: the demo's and the tests' preset.

    `python sweeps/metric.py --data synthetic --out OUT`; minutes on two CPU cores. Cosine GEO_MEAN on `thresholdSet` of
    the synthetic data goes from 0.18 (untrained) to about 0.36; a Swin of that size learns nothing in six epochs.
    """
    return override(
        TrialConfig(),
        {
            "data.image_px": 64,
            "augment.probability": 0.25,
            "augment.erase_fraction": 0.0,
            "model.backbone": "convnext_micro_64",
            "model.weights": "random",
            "model.unfrozen_stages": 4,
            "model.embedding_dim": 256,
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


PRESETS: dict[str, Callable[[], TrialConfig]] = {"megadescriptor": megadescriptor, "tiny": tiny}


def make_preset(name: str) -> TrialConfig:
    """The configuration of a preset.

    Raises:
        UserError: If there is none of that name.
    """
    if name not in PRESETS:
        raise UserError(f"--preset {name}: no such preset; there are: {', '.join(PRESETS)}")
    return PRESETS[name]()
