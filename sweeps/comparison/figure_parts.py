"""The parts that plots are made of: lines, counts, images, panels, legends, names. No Ray, no torch, no pyplot.

arrays and names → artists on matplotlib axes, in styles readable in grayscale → PNG (pictures of paper §3.2, §6 and A).
Shape letters: K identities, B batch, H W C pixels, T thresholds, X points of a line.
"""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

DPI = 150
# From dark to light: grey levels that differ in a black-and-white print, each at least 3:1 against white.
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

Curve = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # thresholds, BAKS, BAUS, GEO_MEAN; each (T,)


class Series(NamedTuple):
    """A named line; undefined values are NaN and leave a gap."""

    name: str
    x_X: np.ndarray
    y_X: np.ndarray


def draw_lines(axes: Axes, series: Sequence[Series], *, wide: str = "") -> list[Line2D]:
    """One line per series (that named `wide` is bold), with some ten markers each, at other places than the others'."""
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


def draw_counts(axes: Axes, group: str, count_K: np.ndarray, *, unnamed: int) -> None:
    """Images per identity, shape (K,), descending, on a logarithmic axis; the title counts the `unnamed` images."""
    edges = np.arange(len(count_K) + 1) + 0.5
    if len(count_K):
        axes.stairs(np.sort(count_K)[::-1], edges, baseline=0.7, fill=True, color="0.6")
        axes.stairs(np.sort(count_K)[::-1], edges, baseline=0.7, color="black", linewidth=0.8)
    else:
        show_note(axes, "no image with a known identity")
    set_log(axes)
    axes.set_ylim(bottom=0.7)
    axes.set_xlim(0, len(count_K) + 1)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set(xlabel="identity, by number of images", ylabel="images (logarithmic)")
    singles = int((count_K == 1).sum())
    title = f"{clean_name(group)}\nidentities {len(count_K)}, images {count_K.sum()}, singletons {singles}"
    axes.set_title(title + (f"\n(and {unnamed} images without a name)" if unnamed else ""), fontsize=9)


def draw_images(axes: Axes, images_BHWC: np.ndarray, title: str) -> None:
    """Images, uint8 or floats in [0, 1], in a near-square sheet, row by row, with white between them."""
    axes.axis("off")
    axes.set_title(title, fontsize=10)
    if len(images_BHWC) == 0:
        return show_note(axes, "no images")
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


def set_log(axes: Axes) -> None:
    """Logarithmic y with plain numbers at 1, 2, 3 and 5 of each decade."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def draw_curves(axes: Axes, group: str, curve: Curve) -> list[Line2D]:
    """BAKS, BAUS and GEO_MEAN of a group against the threshold; the title names those that are undefined everywhere."""
    threshold_T, *metrics = (np.asarray(values, dtype=float) for values in curve)
    series = [
        Series(name, threshold_T, metric_T)
        for name, metric_T in zip(("BAKS", "BAUS", "GEO_MEAN"), metrics, strict=True)
    ]
    undefined = ", ".join(one.name for one in series if not np.isfinite(one.y_X).any())
    axes.set(xlabel=SCORE_LABEL, ylabel="BAKS, BAUS, GEO_MEAN (0 to 1)", ylim=(-0.03, 1.03))
    axes.set_title(clean_name(group) + (f"\n{undefined} undefined" if undefined else ""), fontsize=9, pad=16)
    axes.grid(True, color="0.9")
    return draw_lines(axes, series, wide="GEO_MEAN")


def mark_threshold(axes: Axes, threshold: float | None) -> None:
    """A vertical line with its value above the panel; none where the threshold is None or not finite."""
    if threshold is None or not math.isfinite(threshold):
        return
    axes.axvline(threshold, **MARK, zorder=1)
    above = axes.get_xaxis_transform()
    axes.text(threshold, 1.01, f"{threshold:.3f}", transform=above, ha="center", va="bottom", fontsize=8)


def make_panels(count: int, title: str) -> tuple[Figure, list[Axes]]:
    """At least one panel, three in a row, with one scale of y; places left over are blank."""
    columns, rows = min(3, max(1, count)), max(1, math.ceil(count / 3))
    figure = Figure(figsize=(max(6.0, 4.2 * columns), 3.7 * rows + 0.7), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel().tolist()
    for index, axes in enumerate(panels):
        axes.tick_params(labelleft=True)
        axes.set_visible(index < max(1, count))
    figure.suptitle(wrap_title(title, figure.get_figwidth()), fontsize=12)
    return figure, panels


def show_note(axes: Axes, text: str) -> None:
    """A note in place of what the panel would show."""
    axes.axis("off")
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="0.3")


def add_legend(figure: Figure, lines: Sequence[Line2D], names: Sequence[str], *, below: bool) -> None:
    """Names of the lines outside the panels."""
    if not lines:
        return
    place = {"loc": "outside lower center", "ncols": len(lines)} if below else {"loc": "outside right upper"}
    legend = figure.legend(lines, [str(index) for index in range(len(lines))], fontsize=9, handlelength=4, **place)
    for text, name in zip(legend.get_texts(), names, strict=True):  # matplotlib would hide a name that begins with _
        text.set_text(clean_name(name))


def clean_name(text: str, longest: int = 44) -> str:
    """A name from data as matplotlib shows it unchanged: one line, no mathematics, the middle left out if it is long.

    Example:
        >>> print(clean_name("a$b$_c\\n"), clean_name("0123456789", 5))
        a\\$b\\$_c 01…89
    """
    text = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    if len(text) > longest:
        text = f"{text[: longest // 2]}…{text[len(text) - (longest - 1) // 2 :]}"
    return text.replace("$", r"\$")


def wrap_title(title: str, width_in: float) -> str:
    """A title in lines of that width in inches."""
    return "\n".join(clean_name(line, 200) for line in textwrap.wrap(title, int(9 * width_in)))


def save_png(figure: Figure, path: Path) -> Path:
    """Write the figure at `path`, whose folder is made, and return `path`; the same figure gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=DPI, format="png")
    return path
