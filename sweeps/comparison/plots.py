"""One plot of each kind that the paper has, as a PNG file readable in grayscale. No Ray, no torch, no pyplot.

arrays and reports per epoch → a picture (paper §3.2, figures 6.1 to 6.4 and A.1 to A.7). Each function writes
one PNG file at `path`, whose folder it makes, and returns `path`; where there is nothing to draw the picture says so.
Shape letters: N images, B batch, V variants, H W C pixels, T thresholds, S steps, E epochs, X points of a line.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from reid_core.data.animals import positions_by_group
from sweeps.comparison.figure_parts import (
    MARK,
    Curve,
    Series,
    add_legend,
    clean_name,
    draw_counts,
    draw_curves,
    draw_images,
    draw_lines,
    make_panels,
    mark_threshold,
    save_png,
    set_log,
    show_note,
    wrap_title,
)

LOG_FROM = 10.0  # losses whose largest values differ by more than this factor are drawn on a logarithmic axis

Reports = Sequence[Mapping[str, Any]]  # one per epoch, as `Trainer.fit` yields them


def plot_images_per_individual(identity_N: np.ndarray, group_N: np.ndarray, path: Path) -> Path:
    """How unevenly images are spread over identities, a panel per group (paper §3.2).

    Args:
        identity_N: Identity of each image; shape (N,). Where it is None or empty the image is counted apart.
        group_N: Group of each image; shape (N,).
    """
    group_N = np.asarray(group_N, dtype=str)
    named_N = np.array([identity is not None and identity != "" for identity in identity_N], dtype=bool)
    groups = list(positions_by_group(group_N))
    figure, panels = make_panels(len(groups), "Images per identity, most photographed first")
    for axes, (group, images) in zip(panels, groups, strict=False):
        names = np.asarray(identity_N)[images[named_N[images]]].astype(str)
        draw_counts(axes, group, np.unique(names, return_counts=True)[1], unnamed=int((~named_N[images]).sum()))
    if not groups:
        show_note(panels[0], "no images")
    return save_png(figure, path)


def plot_augmentation(before_BHWC: np.ndarray, after_BHWC: np.ndarray, path: Path) -> Path:
    """A batch before and after augmentation, each image at the same place (paper figure A.1).

    Args:
        before_BHWC: Images as the cache holds them; uint8, or floats in [0, 1].
        after_BHWC: The same images, augmented.

    Raises:
        ValueError: If there are not as many images after as before.
    """
    if len(before_BHWC) != len(after_BHWC):
        raise ValueError(f"{len(before_BHWC)} images before augmentation, {len(after_BHWC)} after")
    figure = Figure(figsize=(11, 6), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_images(left, before_BHWC, f"Before augmentation ({len(before_BHWC)} images)")
    draw_images(right, after_BHWC, "After, each image at the same place")
    return save_png(figure, path)


def plot_variants(image_HWC: np.ndarray, variants_VHWC: np.ndarray, path: Path) -> Path:
    """One image and what augmentation makes of it, many times (paper figure A.2).

    Args:
        image_HWC: The image; uint8, or floats in [0, 1].
        variants_VHWC: Its augmented variants.
    """
    figure = Figure(figsize=(11, 6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 2))
    draw_images(left, np.asarray(image_HWC)[None], "One image")
    draw_images(right, variants_VHWC, f"The same image augmented {len(variants_VHWC)} times")
    return save_png(figure, path)


def plot_losses(reports_of_row: Mapping[str, Reports], key: str, path: Path, title: str) -> Path:
    """A loss per epoch, a line per row of the comparison (paper figures 6.1, 6.2, A.5, A.6).

    Args:
        reports_of_row: Row name → reports.
        key: "loss" (of training) or "loss_validating"; a report without it leaves a gap.
        title: What is shown.
    """
    series = [_series_of(name, reports, key) for name, reports in reports_of_row.items()]
    return _plot_epochs(series, path, title, "loss, mean of the epoch", may_log=True)


def plot_row_losses(reports: Reports, path: Path, title: str) -> Path:
    """Training and validation loss of one row per epoch (paper figure A.3)."""
    keys = {"training": "loss", "validating": "loss_validating"}
    series = [_series_of(name, reports, key) for name, key in keys.items()]
    return _plot_epochs(series, path, title, "loss, mean of the epoch", may_log=True)


def plot_accuracy(reports: Reports, path: Path, title: str) -> Path:
    """Accuracy on `validating` and on a fixed random part of `training` per epoch, in per cent (paper figure A.4)."""
    keys = {
        "validating, by most similar image": "accuracy_validating",
        "part of training, by most similar image": "accuracy_training",
        "validating, by classifier": "classifier_accuracy_validating",
        "part of training, by classifier": "classifier_accuracy_training",
    }
    always = list(keys.values())[:2]
    series = [
        _series_of(name, reports, key, scale=100.0)
        for name, key in keys.items()
        if key in always or any(key in report for report in reports)
    ]
    return _plot_epochs(series, path, title, "images named rightly (%)", limits=(-2.0, 102.0))


def plot_threshold_curves(
    curves_of_group: Mapping[str, Curve], chosen_of_group: Mapping[str, float], path: Path, title: str
) -> Path:
    """BAKS, BAUS and GEO_MEAN against the threshold, a panel per group (paper figures 6.3, 6.4).

    Args:
        curves_of_group: Group → thresholds, ascending, and BAKS, BAUS, GEO_MEAN at each; four arrays of shape (T,).
        chosen_of_group: Group → the threshold in use, marked by a vertical line; a group may be missing.
        title: What is shown.
    """
    figure, panels = make_panels(len(curves_of_group), title)
    lines: list[Line2D] = []
    for axes, (group, curve) in zip(panels, curves_of_group.items(), strict=False):
        lines = draw_curves(axes, group, curve)
        mark_threshold(axes, chosen_of_group.get(group))
    if lines:
        mark = Line2D([], [], **MARK)
        add_legend(figure, [*lines, mark], ["BAKS", "BAUS", "GEO_MEAN", "threshold in use"], below=True)
    else:
        show_note(panels[0], "no groups")
    return save_png(figure, path)


def plot_learning_rates(
    lr_of_part: Mapping[str, np.ndarray] | np.ndarray, steps_per_epoch: int, path: Path, title: str
) -> Path:
    """The learning-rate schedule (paper figure A.7).

    Args:
        lr_of_part: Parameter group → learning rate at each step; arrays of shape (S,). Groups with the same rates
            share a line. Or one such array: the multiplier of every learning rate.
        steps_per_epoch: Batches in an epoch.
        title: What is shown.
    """
    ylabel = "learning rate of the step"
    if not isinstance(lr_of_part, Mapping):
        lr_of_part, ylabel = {"all parameter groups": lr_of_part}, "multiplier of the learning rate"
    names_of_rate: dict[tuple[float, ...], list[str]] = {}
    for name, lr_S in lr_of_part.items():
        names_of_rate.setdefault(tuple(np.asarray(lr_S, dtype=float).tolist()), []).append(name)
    series = [
        Series(", ".join(names), np.arange(len(rate)) / steps_per_epoch, np.array(rate))
        for rate, names in names_of_rate.items()
    ]
    return _plot_epochs(series, path, title, ylabel, xlabel="epochs trained")


def _series_of(name: str, reports: Reports, key: str, *, scale: float = 1.0) -> Series:
    epoch_E = np.array([report.get("epoch", index) for index, report in enumerate(reports, 1)], dtype=float)
    value_E = np.array([report.get(key) for report in reports], dtype=float)  # None becomes NaN
    return Series(name, epoch_E, scale * value_E)


def _plot_epochs(
    series: Sequence[Series],
    path: Path,
    title: str,
    ylabel: str,
    *,
    xlabel: str = "epoch",
    limits: tuple[float, float] | None = None,
    may_log: bool = False,
) -> Path:
    """One panel of lines over epochs, with the legend beside it."""
    drawn = [one.y_X[np.isfinite(one.y_X)] for one in series]
    names = [one.name if len(y_X) else f"{one.name} (no values)" for one, y_X in zip(series, drawn, strict=True)]
    longest = max((len(clean_name(name)) for name in names), default=0)
    figure = Figure(figsize=(6.5 + 0.085 * longest, max(4.0, 0.8 + 0.23 * len(series))), layout="constrained")
    axes = figure.subplots()
    lines = draw_lines(axes, series)
    peaks = [y_X.max() for y_X in drawn if len(y_X)]
    if not peaks:
        show_note(axes, "no values")
    elif may_log and all((y_X > 0).all() for y_X in drawn) and max(peaks) > LOG_FROM * min(peaks):
        set_log(axes)
        ylabel += " (logarithmic)"
    if limits:
        axes.set_ylim(*limits)
    if xlabel == "epoch" and peaks:
        last = max(one.x_X.max() for one in series if len(one.x_X))
        axes.set_xlim(0.5, max(2.5, last + 0.5))  # of two whole numbers at least, or the ticks would be fractions
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(wrap_title(title, 6.5), fontsize=12)
    axes.grid(True, color="0.9")
    add_legend(figure, lines, names, below=False)
    return save_png(figure, path)
