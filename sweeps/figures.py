"""The figures of the paper as PNG files, readable in grayscale. No Ray, no torch, no pyplot and no global state.

arrays and reports per epoch → one picture each (paper §3.2, figures 6.1 to 6.4 and A.1 to A.7). Each function writes
one PNG file at `path`, whose folder it makes, and returns `path`; where there is nothing to draw the picture says so.
Shape letters: N images, B batch, V variants, H W C pixels, T thresholds, S steps, E epochs, X points of a line.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

DPI = 150
# From dark to light: grey levels that a black-and-white print tells apart, each at least 3:1 against white.
COLOURS = ("#000000", "#1f3a93", "#b5442b", "#2f9184")
MARK: dict[str, Any] = {"color": "black", "linewidth": 1.0, "linestyle": (0, (1, 1))}  # of the threshold in use
STROKES = ("-", "--", "-.", ":")
MARKERS = "os^vDP*Xp<>h"
# Twelve series before any pair of stroke and marker comes again.
STYLES: list[dict[str, Any]] = [
    {"color": COLOURS[i % 4], "linestyle": STROKES[(i + i // 4) % 4], "marker": marker}
    for i, marker in enumerate(MARKERS)
]
SCORE_LABEL = "threshold (smallest accepted probability or cosine)"
LOG_FROM = 10.0  # losses whose largest values differ by more than this factor are drawn on a logarithmic axis

Curve = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # thresholds, BAKS, BAUS, GEO_MEAN; each (T,)
Reports = Sequence[Mapping[str, Any]]  # one per epoch, as `Trainer.fit` yields them


class Series(NamedTuple):
    """A named line; undefined values are NaN and leave a gap."""

    name: str
    x_X: np.ndarray
    y_X: np.ndarray


def plot_images_per_individual(identity_N: np.ndarray, group_N: np.ndarray, path: Path) -> Path:
    """How unevenly images are spread over identities, a panel per group (paper §3.2).

    Args:
        identity_N: Identity of each image; shape (N,). Where it is None or empty the image is counted apart.
        group_N: Group of each image; shape (N,).
    """
    group_N = np.asarray(group_N, dtype=str)
    named_N = np.array([identity is not None and identity != "" for identity in identity_N], dtype=bool)
    groups = np.unique(group_N).tolist()
    figure, panels = _make_panels(len(groups), "Images per identity, most photographed first")
    for axes, group in zip(panels, groups, strict=False):
        chosen_N = group_N == group
        names = np.asarray(identity_N)[chosen_N & named_N].astype(str)
        _draw_counts(axes, group, np.unique(names, return_counts=True)[1], unnamed=int((chosen_N & ~named_N).sum()))
    if not groups:
        _say(panels[0], "no images")
    return _save(figure, path)


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
    _draw_images(left, before_BHWC, f"Before augmentation ({len(before_BHWC)} images)")
    _draw_images(right, after_BHWC, "After, each image at the same place")
    return _save(figure, path)


def plot_variants(image_HWC: np.ndarray, variants_VHWC: np.ndarray, path: Path) -> Path:
    """One image and what augmentation makes of it, many times (paper figure A.2).

    Args:
        image_HWC: The image; uint8, or floats in [0, 1].
        variants_VHWC: Its augmented variants.
    """
    figure = Figure(figsize=(11, 6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 2))
    _draw_images(left, np.asarray(image_HWC)[None], "One image")
    _draw_images(right, variants_VHWC, f"The same image augmented {len(variants_VHWC)} times")
    return _save(figure, path)


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
    figure, panels = _make_panels(len(curves_of_group), title)
    lines: list[Line2D] = []
    for axes, (group, curve) in zip(panels, curves_of_group.items(), strict=False):
        lines = _draw_curves(axes, group, curve)
        _mark_threshold(axes, chosen_of_group.get(group))
    if lines:
        mark = Line2D([], [], **MARK)
        _add_legend(figure, [*lines, mark], ["BAKS", "BAUS", "GEO_MEAN", "threshold in use"], below=True)
    else:
        _say(panels[0], "no groups")
    return _save(figure, path)


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
    longest = max((len(_clean(name)) for name in names), default=0)
    figure = Figure(figsize=(6.5 + 0.085 * longest, max(4.0, 0.8 + 0.23 * len(series))), layout="constrained")
    axes = figure.subplots()
    lines = _draw(axes, series)
    peaks = [y_X.max() for y_X in drawn if len(y_X)]
    if not peaks:
        _say(axes, "no values")
    elif may_log and all((y_X > 0).all() for y_X in drawn) and max(peaks) > LOG_FROM * min(peaks):
        _set_log(axes)
        ylabel += " (logarithmic)"
    if limits:
        axes.set_ylim(*limits)
    if xlabel == "epoch" and peaks:
        last = max(one.x_X.max() for one in series if len(one.x_X))
        axes.set_xlim(0.5, max(2.5, last + 0.5))  # of two whole numbers at least, or the ticks would be fractions
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(_wrap(title, 6.5), fontsize=12)
    axes.grid(True, color="0.9")
    _add_legend(figure, lines, names, below=False)
    return _save(figure, path)


def _draw(axes: Axes, series: Sequence[Series], *, wide: str = "") -> list[Line2D]:
    """One line per series, with some ten markers each, at other places than the other lines'."""
    lines = []
    for index, one in enumerate(series):
        finite_X = np.isfinite(one.y_X)
        lines += axes.plot(
            one.x_X,
            np.where(finite_X, one.y_X, np.nan),
            **STYLES[index % len(STYLES)],
            markevery=_marked(finite_X, index / len(series)),
            markersize=5,
            linewidth=2.2 if one.name == wide else 1.4,
        )
    return lines


def _marked(finite_X: np.ndarray, offset: float) -> list[int]:
    """Points that get a marker: all of a short line, every so many of a long one, and each that stands alone.

    Example:
        >>> _marked(np.array([True, False, True]), 0.0)
        [0, 1, 2]
        >>> len(_marked(np.ones(1000, dtype=bool), 0.5))
        10
    """
    every = max(1, len(finite_X) // 10) if len(finite_X) > 25 else 1
    before_X, after_X = np.append(False, finite_X[:-1]), np.append(finite_X[1:], False)
    alone = np.flatnonzero(finite_X & ~before_X & ~after_X).tolist()
    return sorted({*range(int(offset * every), len(finite_X), every), *alone})


def _draw_counts(axes: Axes, group: str, count_K: np.ndarray, *, unnamed: int) -> None:
    """Images per identity in descending order, on a logarithmic axis."""
    edges = np.arange(len(count_K) + 1) + 0.5
    if len(count_K):
        axes.stairs(np.sort(count_K)[::-1], edges, baseline=0.7, fill=True, color="0.6")
        axes.stairs(np.sort(count_K)[::-1], edges, baseline=0.7, color="black", linewidth=0.8)
    else:
        _say(axes, "no image with a known identity")
    _set_log(axes)
    axes.set_ylim(bottom=0.7)
    axes.set_xlim(0, len(count_K) + 1)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set(xlabel="identity, by number of images", ylabel="images (logarithmic)")
    singles = int((count_K == 1).sum())
    title = f"{_clean(group)}\nidentities {len(count_K)}, images {count_K.sum()}, singletons {singles}"
    axes.set_title(title + (f"\n(and {unnamed} images without a name)" if unnamed else ""), fontsize=9)


def _draw_images(axes: Axes, images_BHWC: np.ndarray, title: str) -> None:
    """Images in a near-square sheet, row by row, with white between them."""
    axes.axis("off")
    axes.set_title(title, fontsize=10)
    if len(images_BHWC) == 0:
        return _say(axes, "no images")
    images_BHWC = np.asarray(images_BHWC)
    if images_BHWC.dtype != np.uint8:
        images_BHWC = np.rint(255 * np.clip(images_BHWC, 0, 1)).astype(np.uint8)
    count, height, width, _ = images_BHWC.shape
    gap, columns = max(1, width // 24), math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + gap), columns * (width + gap), 3), 255, dtype=np.uint8)
    for index, image_HWC in enumerate(images_BHWC):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image_HWC
    axes.imshow(sheet[:-gap, :-gap])


def _set_log(axes: Axes) -> None:
    """Logarithmic y with plain numbers at 1, 2, 3 and 5 of each decade."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _draw_curves(axes: Axes, group: str, curve: Curve) -> list[Line2D]:
    threshold_T, *metrics = (np.asarray(values, dtype=float) for values in curve)
    series = [
        Series(name, threshold_T, metric_T)
        for name, metric_T in zip(("BAKS", "BAUS", "GEO_MEAN"), metrics, strict=True)
    ]
    undefined = ", ".join(one.name for one in series if not np.isfinite(one.y_X).any())
    axes.set(xlabel=SCORE_LABEL, ylabel="BAKS, BAUS, GEO_MEAN (0 to 1)", ylim=(-0.03, 1.03))
    axes.set_title(_clean(group) + (f"\n{undefined} undefined" if undefined else ""), fontsize=9, pad=16)
    axes.grid(True, color="0.9")
    return _draw(axes, series, wide="GEO_MEAN")


def _mark_threshold(axes: Axes, threshold: float | None) -> None:
    """A vertical line with its value above the panel."""
    if threshold is None or not math.isfinite(threshold):
        return
    axes.axvline(threshold, **MARK, zorder=1)
    above = axes.get_xaxis_transform()
    axes.text(threshold, 1.01, f"{threshold:.3f}", transform=above, ha="center", va="bottom", fontsize=8)


def _make_panels(count: int, title: str) -> tuple[Figure, list[Axes]]:
    """At least one panel, three in a row, with one scale of y; places left over are blank."""
    columns, rows = min(3, max(1, count)), max(1, math.ceil(count / 3))
    figure = Figure(figsize=(max(6.0, 4.2 * columns), 3.7 * rows + 0.7), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel().tolist()
    for index, axes in enumerate(panels):
        axes.tick_params(labelleft=True)
        axes.set_visible(index < max(1, count))
    figure.suptitle(_wrap(title, figure.get_figwidth()), fontsize=12)
    return figure, panels


def _say(axes: Axes, text: str) -> None:
    """A note in place of a panel."""
    axes.axis("off")
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="0.3")


def _add_legend(figure: Figure, lines: Sequence[Line2D], names: Sequence[str], *, below: bool) -> None:
    """Names of the lines outside the panels."""
    if not lines:
        return
    place = {"loc": "outside lower center", "ncols": len(lines)} if below else {"loc": "outside right upper"}
    legend = figure.legend(lines, [str(index) for index in range(len(lines))], fontsize=9, handlelength=4, **place)
    for text, name in zip(legend.get_texts(), names, strict=True):  # matplotlib would hide a name that begins with _
        text.set_text(_clean(name))


def _clean(text: str, longest: int = 44) -> str:
    """A name from data as matplotlib shows it unchanged: one line, no mathematics, the middle left out if it is long.

    Example:
        >>> print(_clean("a$b$_c\\n"), _clean("0123456789", 5))
        a\\$b\\$_c 01…89
    """
    text = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    if len(text) > longest:
        text = f"{text[: longest // 2]}…{text[len(text) - (longest - 1) // 2 :]}"
    return text.replace("$", r"\$")


def _wrap(title: str, width_in: float) -> str:
    """A title in lines of that width in inches."""
    return "\n".join(_clean(line, 200) for line in textwrap.wrap(title, int(9 * width_in)))


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=DPI, format="png")
    return path
