"""Draw docs/overview.png, the picture of the README: `python docs/draw_overview.py`; about a minute on two CPU cores.

drawn animals → one trained configuration → answers of `reid_core.predict` → a known and a new animal with their
candidates. Nothing in it is typed in: names, probabilities, threshold and matched keypoints are the program's own.
Letters: Q queries, G gallery, P pairs, K keypoints, A query and B gallery keypoints, M matched keypoints.
"""

import csv
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, Rectangle

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, only docs/ is on the path

from reid_core.__main__ import main as run_configuration
from reid_core.data.animals import NEW
from reid_core.data.image_cache import ImageCache, build_cache
from reid_core.data.photographs import open_photograph, read_photograph, to_square
from reid_core.data.synthetic import write_synthetic
from reid_core.data.table.metadata import load_metadata
from reid_core.experiment.bundle.folder import Bundle, read_bundle
from reid_core.matching.extraction import build_features
from reid_core.matching.feature_files import DESCRIPTOR_SCALE
from reid_core.matching.local_features import LocalFeatures
from reid_core.matching.matchers import make_matcher
from reid_core.matching.mutual_neighbours import MutualNearestNeighbours
from reid_core.prediction.answers import Prediction, predict
from sweeps.comparison.figure_parts import save_png

FILE = Path(__file__).with_name("overview.png")
GROUP = "SpotsID"
SEED = 4  # of the drawn animals: others were photographed in the dark
SHOWN = 2  # candidates of each query
SHOWN_PX = 256  # of a photograph in the picture; the drawn ones have 128
LINE, GREEN, RED, GREY = "#00a0d8", "#1d7a4f", "#b5442b", "#5f5f5f"
WIDTH_IN, ROW_IN = 8.0, 4.0


@dataclass(frozen=True)
class Candidate:
    """An animal that a query was compared with, by the photograph of it that has most keypoints in common."""

    identity: str
    probability: float
    image_HWC: np.ndarray
    keypoints_M2: np.ndarray  # (x, y) as a share of the side, in [0, 1]
    query_keypoints_M2: np.ndarray


@dataclass(frozen=True)
class Example:
    """A query photograph, whom it was compared with, and the answer."""

    image_HWC: np.ndarray
    candidates: list[Candidate]
    answer: str
    threshold: float


@dataclass(frozen=True)
class Run:
    """A trained model and its answers to the queries of one group."""

    root: Path
    bundle: Bundle
    queries: pa.Table
    predictions: list[Prediction]
    features: LocalFeatures  # of the queries
    gallery: pa.Table  # rows of metadata.csv, in the order of the bundle's gallery


def answer_queries(root: Path, model: Path, cache: Path) -> Run:
    """Answer the queries of the group with a bundle, as `python -m reid_core.predict` does."""
    bundle, records = read_bundle(model), load_metadata(root, needs="query")
    is_query = pa.compute.equal(records["split"], "query")
    queries = records.filter(pa.compute.and_(is_query, pa.compute.equal(records["group"], GROUP)))
    gallery = records.filter(pa.compute.invert(is_query))
    assert gallery["identity"].to_pylist() == list(bundle.identity_G)
    images = ImageCache(build_cache(cache, root, queries["path"].to_pylist(), bundle.config.match.image_px))
    features = LocalFeatures.open(build_features(cache, images, bundle.config.match))
    return Run(root, bundle, queries, predict(bundle, root, queries, cache), features, gallery)


def choose_examples(run: Run) -> list[Example]:
    """The clearest right answer of each kind: a known animal's name, and "new" for one that is not in the gallery.

    A known animal's answer is the clearer the higher its probability; a new one's the more its best candidate looks
    like it, for then the threshold decides.
    """
    truth = {row["image_id"]: row["identity"] for row in _read_csv(run.root / "truth.csv")}
    known = set(run.bundle.identity_G)
    found: dict[bool, list[tuple[float, int, int]]] = {True: [], False: []}
    for query, prediction in enumerate(run.predictions):
        identity = truth[prediction.image_id]
        if prediction.identity == (identity if identity in known else NEW) and len(prediction.candidates) >= SHOWN:
            lines = len(_candidate(run, query, *prediction.candidates[0]).keypoints_M2)
            found[identity in known].append((prediction.candidates[0][1], lines, query))
    return [_example(run, max(found[is_known])[2]) for is_known in (True, False)]


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def _example(run: Run, query: int) -> Example:
    prediction = run.predictions[query]
    candidates = [_candidate(run, query, *found) for found in prediction.candidates[:SHOWN]]
    image_HWC = _open(run.root / run.queries["path"][query].as_py())
    return Example(image_HWC, candidates, prediction.identity, run.bundle.decision.thresholds[GROUP])


def _candidate(run: Run, query: int, identity: str, probability: float) -> Candidate:
    gallery_features, matcher = run.bundle.features, make_matcher(run.bundle.config.match)
    assert gallery_features is not None
    assert isinstance(matcher, MutualNearestNeighbours)
    gallery_P = np.flatnonzero(run.bundle.identity_G == identity)
    score_P = matcher.scores(run.features, np.full(len(gallery_P), query), gallery_features, gallery_P)
    best = int(np.nan_to_num(score_P).argmax())
    row = int(gallery_P[best])
    match_M2 = match_keypoints(run.features, query, gallery_features, row, matcher.largest_ratio)
    assert len(match_M2) == np.nan_to_num(score_P)[best], "the lines drawn are those that were counted"
    return Candidate(
        identity,
        probability,
        _open(run.root / run.gallery["path"][row].as_py()),
        gallery_features.keypoints(np.array([row]))[0, match_M2[:, 1]] / gallery_features.image_px,
        run.features.keypoints(np.array([query]))[0, match_M2[:, 0]] / run.features.image_px,
    )


def match_keypoints(
    features: LocalFeatures, query: int, gallery_features: LocalFeatures, row: int, largest_ratio: float
) -> np.ndarray:
    """Which keypoints of two photographs `MutualNearestNeighbours` counts: int (M, 2), query's and gallery's."""
    codes_AD = features.descriptor_codes(np.array([query]))[0].astype(np.float32)
    codes_BD = gallery_features.descriptor_codes(np.array([row]))[0].astype(np.float32)
    similarity_AB, same = codes_AD @ codes_BD.T, np.float32(DESCRIPTOR_SCALE**2)
    matched_AB = np.ones(similarity_AB.shape, dtype=bool)
    for axis in (0, 1):
        best = similarity_AB.max(axis, keepdims=True)
        enough = same - (same - best).clip(min=0) * np.float32(largest_ratio**-2)
        reaches_AB = similarity_AB >= enough
        matched_AB &= reaches_AB & (reaches_AB.sum(axis, keepdims=True) == 1) & (enough > 0)
    return np.argwhere(matched_AB)


def _open(path: Path) -> np.ndarray:
    with open_photograph(read_photograph(path)) as image:
        return to_square(image, SHOWN_PX)


def draw(examples: Sequence[Example]) -> Figure:
    """One row per example: query, candidates with lines between matched keypoints, probabilities, answer."""
    figure = Figure(figsize=(WIDTH_IN, ROW_IN * len(examples)), facecolor="white")
    for index, example in enumerate(examples):
        _draw_example(figure, example, bottom_in=ROW_IN * (len(examples) - 1 - index))
    return figure


def _draw_example(figure: Figure, example: Example, *, bottom_in: float) -> None:
    def place(left: float, low: float, width: float, high: float) -> Axes:
        """Axes by inches from the row's lower left corner."""
        box = np.array((left, bottom_in + low, width, high)) / np.tile(figure.get_size_inches(), 2)
        axes = figure.add_axes(tuple(box))
        axes.set(xticks=[], yticks=[])
        return axes

    query_axes = place(0.1, 0.8, 2.7, 2.7)
    _show(query_axes, example.image_HWC, "query photograph")
    for rank, candidate in enumerate(example.candidates):
        low = 2.2 - 1.4 * rank
        axes = place(3.9, low, 1.3, 1.3)
        _show(axes, candidate.image_HWC, "" if rank else "known animals")
        _join(figure, query_axes, axes, candidate)
        _draw_probability(place(5.45, low, 2.45, 1.3), candidate, example.threshold, "" if rank else "probability")
    _draw_answer(place(0.1, 0.1, 7.8, 0.6), example)


def _show(axes: Axes, image_HWC: np.ndarray, caption: str) -> None:
    axes.imshow(image_HWC, extent=(0, 1, 1, 0), interpolation="bilinear")
    axes.set_title(caption, fontsize=17, color=GREY, pad=8)


def _join(figure: Figure, query_axes: Axes, axes: Axes, candidate: Candidate) -> None:
    for start, end in zip(candidate.query_keypoints_M2, candidate.keypoints_M2, strict=True):
        ends = {"xyA": start, "xyB": end, "coordsA": query_axes.transData, "coordsB": axes.transData}
        figure.add_artist(ConnectionPatch(**ends, color=LINE, linewidth=1.5))


def _draw_probability(axes: Axes, candidate: Candidate, threshold: float, caption: str) -> None:
    """A bar from 0 to 1 with the threshold as a mark."""
    axes.axis("off")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_title(caption, fontsize=17, color=GREY, pad=8)
    colour = GREEN if candidate.probability >= threshold else GREY
    axes.text(0, 0.8, candidate.identity, fontsize=17, va="center")
    axes.add_patch(Rectangle((0, 0.36), 1, 0.24, facecolor="0.88"))
    axes.add_patch(Rectangle((0, 0.36), candidate.probability, 0.24, facecolor=colour))
    axes.plot([threshold, threshold], [0.28, 0.68], color="black", linewidth=3)
    axes.text(0, 0.12, f"{candidate.probability:.2f}", fontsize=19, va="center", color=colour, weight="bold")
    if caption:
        axes.text(threshold, 0.12, "threshold", fontsize=16, va="center")


def _draw_answer(axes: Axes, example: Example) -> None:
    is_new = example.answer == NEW
    axes.set_facecolor(RED if is_new else GREEN)
    for spine in axes.spines.values():
        spine.set_visible(False)
    name = "a new individual" if is_new else example.answer
    axes.text(0.02, 0.47, f"It is {name}", fontsize=21, weight="bold", color="white", va="center")
    why = f"{'below' if is_new else 'above'} threshold {example.threshold:.2f}"
    axes.text(0.98, 0.47, why, fontsize=18, color="white", va="center", ha="right")


def main(scale: float = 0.5, flags: Sequence[str] = ("--preset", "tiny"), file: Path = FILE) -> Path:
    """Draw the animals, train one configuration, answer its queries, draw the picture.

    Args:
        scale: Of the drawn data set.
        flags: The configuration.
        file: The picture.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        root = write_synthetic(folder / "data", seed=SEED, scale=scale)
        run_configuration(["--data", str(root), "--out", str(folder / "out"), *flags])
        return save_png(draw(choose_examples(answer_queries(root, folder / "out/best", folder / "cache"))), file)


if __name__ == "__main__":
    print(main())
