"""The bundle's own README: what the model is, how to use it, what it reached.

configuration, gallery, thresholds, metrics, findings → Markdown for people; no program reads it.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from reid_core.config.parameters import ModelConfig
from reid_core.data.table.findings import Finding
from reid_core.files.escape import escape_markdown
from reid_core.model.micro import has_weights


def describe_bundle(
    model: ModelConfig,
    animals: list[str],
    thresholds: Mapping[str, float],
    metrics: Mapping[str, Mapping[str, float]],
    *,
    gains: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
    findings: Sequence[Finding] = (),
    refitted_epochs: int | None,
) -> str:
    """The text of README.md.

    Args:
        model: Of the configuration: backbone and weights are named.
        animals: Of each gallery photograph, one name per animal.
        thresholds: By group.
        metrics: "thresholdSet" and "testSet" → metrics (`summary.summarise`).
        gains: By set, what training added to the frozen backbone (`gain.summarise_gain`); may be empty.
        findings: What was noticed in the data and in the training.
        refitted_epochs: As in `folder.Bundle`.
    """
    lines = [
        "# Animal re-identification model",
        "",
        f"Backbone `{model.backbone}` from {_describe_weights(model)}, gallery of {len(animals)} photographs of "
        f"{len(set(animals))} animals.",
        "",
        "    python -m reid_core.predict THIS_FOLDER --data PHOTOGRAPHS --out submission.csv",
        "    sha256sum --check SHA256SUMS        # whether it arrived as it was written; loading checks the same",
        "",
        *_describe_training(refitted_epochs),
        "",
        "| group | threshold | GEO_MEAN thresholdSet | GEO_MEAN testSet (95 % interval) |",
        "|---|---|---|---|",
        *(_describe_group(group, thresholds[group], metrics) for group in sorted(thresholds)),
    ]
    if "testSet" in gains:
        lines += ["", "## What fine-tuning added", "", *_describe_gain(gains["testSet"], sorted(thresholds))]
    if findings:
        lines += ["", "## What was noticed", ""]
        lines += [f"* {escape_markdown(str(finding))}" for finding in findings]
    if "MegaDescriptor" in model.backbone:
        lines += ["", "MegaDescriptor's weights are CC BY-NC 4.0, and so is what is fine-tuned from them."]
    return "\n".join(lines) + "\n"


def _describe_gain(gain: Mapping[str, float], groups: Sequence[str]) -> list[str]:
    """The frozen backbone's scores, and what came on top, of each group."""
    lines = [
        "The backbone as it was before training, without a head, answered the same photographs of testSet by the same "
        "steps (epoch 0).",
        "",
        "| group | GEO_MEAN of epoch 0 | gain (95 % interval) |",
        "|---|---|---|",
    ]
    for group in groups:
        value, low, high = (gain.get(f"gain{end}.{group}", np.nan) for end in ("", "_low", "_high"))
        before = gain.get(f"epoch0.{group}", np.nan)
        lines.append(f"| {escape_markdown(group)} | {before:.3f} | {value:+.3f} ({low:+.3f} … {high:+.3f}) |")
    return lines


def _describe_weights(model: ModelConfig) -> str:
    """What the backbone was before it was trained here; a file's place is in config.yaml."""
    if model.weights == "pretrained" and has_weights(model.backbone):
        return "this program's own pretrained weights (trained on drawn animals)"
    return f"{model.weights} weights" if model.weights in ("pretrained", "random") else "weights of a file"


def _describe_training(refitted_epochs: int | None) -> list[str]:
    lines = [
        "Thresholds and calibration were fitted against the `training` images only; the gallery here holds every "
        "readable database image."
    ]
    if refitted_epochs is None:
        return [*lines, "This is the evaluated model: the scores below are its own."]
    return [
        *lines,
        f"This is a refitted model: trained for {refitted_epochs} epochs on every readable database image. Thresholds, "
        "calibration and the scores below are those of the evaluated model; its own cannot be measured.",
    ]


def _describe_group(group: str, threshold: float, metrics: Mapping[str, Mapping[str, float]]) -> str:
    """A row of the table."""
    chosen, test = metrics["thresholdSet"], metrics["testSet"]
    low, high = test.get(f"geo_mean_low.{group}", np.nan), test.get(f"geo_mean_high.{group}", np.nan)
    score, test_score = (values.get(f"geo_mean.{group}", np.nan) for values in (chosen, test))
    name = escape_markdown(group)
    return f"| {name} | {threshold:.3f} | {score:.3f} | {test_score:.3f} ({low:.3f} … {high:.3f}) |"
