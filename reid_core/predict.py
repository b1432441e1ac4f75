"""Name every query photograph, or call it new: `python -m reid_core.predict BUNDLE --data PATH --out submission.csv`.

bundle + photographs → submission.csv (`image_id,identity`) and candidates.csv (top 5 identities per query).
A routing bundle (`experiment/routing.py`) has a model for each group; a query is answered by its group's.
submission.csv has every name exactly as the data have it, for programs. candidates.csv is for people and their
spreadsheets: a name that one would take for a formula begins with an apostrophe there (`escape.escape_cell`).
"""

import argparse
import csv
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from reid_core import cli, command
from reid_core.data.animals import NEW
from reid_core.data.image_cache import ImageCache, build_cache
from reid_core.data.photograph_findings import find_in_files
from reid_core.data.splits.parts import Parts
from reid_core.data.table.findings import log_findings
from reid_core.data.table.metadata import load_metadata, load_submission_order
from reid_core.data.table.sides import parse_sides
from reid_core.errors import UserError
from reid_core.experiment.bundle import Bundle, read_bundle
from reid_core.experiment.evaluation import pair_scorer
from reid_core.experiment.routing import is_routing, read_routing
from reid_core.experiment.second_model import embed_second
from reid_core.files.atomic import new_file
from reid_core.files.escape import escape_cell
from reid_core.matching.extraction import build_features
from reid_core.matching.local_features import LocalFeatures
from reid_core.model.embed import embed
from reid_core.model.place import Place, local_place
from reid_core.scoring.decision import Answers, Outputs
from reid_core.scoring.evaluate import answer_queries

NUM_CANDIDATES = 5
NO_MODEL = "there is no model for this group"  # note


@dataclass(frozen=True)
class Prediction:
    """The answer for one query, with what a person needs to review it."""

    image_id: str
    group: str
    identity: str
    note: str  # why the answer is worth less than others; "" if it is not
    candidates: list[tuple[str, float]]  # most probable identities with their probabilities, best first


def predict(bundle: Bundle, root: Path, queries: pa.Table, cache_folder: Path) -> list[Prediction]:
    """Answer every query row; none is lost.

    Args:
        bundle: The exported model.
        root: Data folder.
        queries: Rows of `metadata.load_metadata`.
        cache_folder: Where decoded pixels and local features are kept.
    """
    config, place = bundle.config, local_place(bundle.config)

    @cache
    def open_images(image_px: int) -> ImageCache:
        return ImageCache(build_cache(cache_folder, root, queries["path"].to_pylist(), image_px))

    images, features = open_images(config.data.image_px), None
    log_findings(find_in_files(queries["path"].to_pylist(), images))
    if bundle.features is not None and config.predict.rule == "threshold":
        features = LocalFeatures.open(build_features(cache_folder, open_images(config.match.image_px), config.match))
    parts = _join_parts(bundle, queries)
    outputs = _join_outputs(bundle, parts, open_images, place)
    score_pairs = pair_scorer(config.match, features, place, gallery=bundle.features)
    rows = parts.rows("query")
    answers = answer_queries(config, bundle.decision, parts, outputs, rows, score_pairs, device=place.device)
    keypoints_Q = None if features is None else features.num_keypoints_N
    return _name(bundle, queries, answers, _notes(images, keypoints_Q, answers))


def predict_by_group(routes: Mapping[str, Path], root: Path, queries: pa.Table, cache_folder: Path) -> list[Prediction]:
    """Answer every query row by the model of its group, in the order of the rows; one model is held at a time.

    Args:
        routes: Folder of the bundle of each group (`routing.read_routing`). Who has none is called new, with a note.
        root: As of `predict`; so are the other arguments.
        queries: As above.
        cache_folder: As above.

    Raises:
        UserError: If a bundle that is needed is damaged.
    """
    found: dict[str, Prediction] = {}
    for group in dict.fromkeys(queries["group"].to_pylist()):
        rows = queries.filter(pa.compute.equal(queries["group"], group))
        if group in routes:
            predictions = predict(read_bundle(routes[group]), root, rows, cache_folder)
        else:
            predictions = [Prediction(name, group, NEW, NO_MODEL, []) for name in rows["image_id"].to_pylist()]
        found |= {prediction.image_id: prediction for prediction in predictions}
    return [found[image_id] for image_id in queries["image_id"].to_pylist()]


def open_model(folder: Path) -> Callable[[Path, pa.Table, Path], list[Prediction]]:
    """`predict` with the bundle of a folder, or `predict_by_group` with the routing bundle that is there.

    Raises:
        UserError: If it is none, or damaged.
    """
    if is_routing(folder):
        return partial(predict_by_group, read_routing(folder))
    return partial(predict, read_bundle(folder))


def _join_parts(bundle: Bundle, queries: pa.Table) -> Parts:
    """The queries and, behind them, the bundle's gallery, which plays the part of `training`."""
    num_queries, num_gallery = len(queries), len(bundle.group_G)
    return Parts(
        np.concatenate([np.full(num_queries, None, dtype=object), bundle.identity_G]),
        np.concatenate([np.array(queries["group"].to_pylist(), dtype=object), bundle.group_G]),
        np.array(["query"] * num_queries + ["training"] * num_gallery, dtype=object),
        np.concatenate([parse_sides(queries["orientation"].to_pylist()), bundle.sides_G6]),
    )


def _join_outputs(bundle: Bundle, parts: Parts, open_images: Callable[[int], ImageCache], place: Place) -> Outputs:
    """Outputs of the queries, with the gallery's embeddings behind them; the gallery needs no logits."""
    rows, images = parts.rows("query"), open_images(bundle.config.data.image_px)
    embedding_QD, logit_QK = embed(bundle.model.to(place.device), images, rows, place, sides_N6=parts.sides_N6)
    second_ND = None
    if bundle.second is not None:
        second, second_images = bundle.second, open_images(bundle.second.config.data.image_px)
        second_QD = embed_second(second.config, second.model, second_images, rows)
        second_ND = np.concatenate([second_QD, second.embedding_GD])
    return Outputs(
        np.concatenate([embedding_QD, bundle.embedding_GD]),
        logit_QK,
        second_ND,
        bundle.class_identity_K,
        bundle.class_group_K,
    )


def _notes(images: ImageCache, keypoints_Q: np.ndarray | None, answers: Answers) -> list[str]:
    notes = []
    for query, error in enumerate(images.error):
        if error is not None:
            notes.append(f"unreadable: {error}")
        elif np.isnan(answers.ranking.score_QB[query]).all():
            notes.append("the gallery has no image of this group (and side) to compare with")
        elif keypoints_Q is not None and keypoints_Q[query] == 0:
            notes.append("no keypoints: not matched locally")
        else:
            notes.append("")
    return notes


def _name(bundle: Bundle, queries: pa.Table, answers: Answers, notes: list[str]) -> list[Prediction]:
    # A group without gallery images has no threshold; it is never reached, for the score there is 0.
    thresholds = dict.fromkeys(answers.group_Q, 1.0) | bundle.decision.thresholds
    answer_Q, top = answers.name(thresholds), answers.ranking.top(NUM_CANDIDATES)
    predictions = []
    for query, image_id in enumerate(queries["image_id"].to_pylist()):
        unreadable = notes[query].startswith("unreadable")
        identity = NEW if unreadable else str(answer_Q[query])
        predictions.append(
            Prediction(image_id, str(answers.group_Q[query]), identity, notes[query], [] if unreadable else top[query])
        )
    return predictions


def write_submission(path: Path, predictions: list[Prediction], order: list[str] | None) -> None:
    """`image_id,identity`, in the given order of image_ids, else in that of the predictions."""
    identity_of = {prediction.image_id: prediction.identity for prediction in predictions}
    rows = [(image_id, identity_of.get(image_id, NEW)) for image_id in (order or identity_of)]
    _write_csv(path, ["image_id", "identity"], rows)


def write_candidates(path: Path, predictions: list[Prediction]) -> None:
    """One row per query: answer, note, and the most probable identities with their probabilities."""
    names = [f"{name}_{rank}" for rank in range(1, NUM_CANDIDATES + 1) for name in ("candidate", "probability")]
    rows = []
    for prediction in predictions:
        cells: list[str] = []
        for identity, probability in prediction.candidates:
            cells += [identity, f"{probability:.4f}"]
        cells += [""] * (len(names) - len(cells))
        about = (prediction.image_id, prediction.group, prediction.identity, prediction.note)
        rows.append(tuple(map(escape_cell, (*about, *cells))))
    _write_csv(path, ["image_id", "group", "identity", "note", *names], rows)


def _write_csv(path: Path, header: list[str], rows: list[tuple]) -> None:
    try:
        with new_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows(rows)
    except UserError as error:
        raise UserError(f"--out {error}") from error


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m reid_core.predict", description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder written as OUT/best by a sweep or by python -m reid_core")
    parser.add_argument("--data", required=True, type=Path, help="folder with metadata.csv and the photographs")
    parser.add_argument("--out", required=True, type=Path, help="submission.csv; candidates.csv is written beside it")
    parser.add_argument("--cache", type=Path, help="keep decoded photographs here for the next call")
    cli.add_reading_flags(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Answer all rows of metadata.csv with split=query."""
    options = make_parser().parse_args(arguments)
    answer = open_model(options.bundle)
    root = options.data.resolve()
    metadata = load_metadata(root, reading=cli.reading_of(options), needs="query")
    queries = metadata.filter(pa.compute.equal(metadata["split"], "query"))
    order = load_submission_order(root)
    command.make_out(options.out.parent)
    with tempfile.TemporaryDirectory() as scratch:
        predictions = answer(root, queries, options.cache or Path(scratch))
    write_submission(options.out, predictions, order)
    write_candidates(options.out.with_name("candidates.csv"), predictions)
    new = sum(prediction.identity == NEW for prediction in predictions)
    marked = sum(bool(prediction.note) for prediction in predictions)
    print(f"{len(predictions)} queries: {len(predictions) - new} named, {new} {NEW}, {marked} with a note")
    print(f"answers: {options.out}\nto review: {options.out.with_name('candidates.csv')}")
    return 0


if __name__ == "__main__":
    command.run(main)
