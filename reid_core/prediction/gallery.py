"""The gallery of one call: the bundle's, or the bundle's with the photographs of the data folder that it lacks.

bundle + database rows → bundle, and what of the rows is not used. Thresholds and calibrators stay the bundle's.
Letters: G gallery photographs, N database rows.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from reid_core.data.photograph_findings import find_in_files
from reid_core.data.photographs import file_key
from reid_core.data.table.findings import Finding, make_finding
from reid_core.data.table.names import fold_name
from reid_core.errors import UserError
from reid_core.experiment.bundle.folder import Bundle
from reid_core.matching.local_features import LocalFeatures
from reid_core.prediction.photographs import Described, describe_photographs

WHERE = "gallery"  # of findings


def check_extensible(bundle: Bundle) -> None:
    """Refuse to add photographs where that has no effect, or one that is not known.

    Raises:
        UserError: If a classifier answers, or the bundle does not say which photographs its gallery holds.
    """
    rule = bundle.config.predict.rule
    if rule != "threshold":
        raise UserError(
            f"--extend-gallery: this bundle answers by its classifier (predict.rule={rule}), which can only name the "
            "animals that it was trained on; train again with the new ones, or with predict.rule=threshold"
        )
    if bundle.key_G is None:
        raise UserError(
            "--extend-gallery: this bundle is of an earlier version and does not say which photographs its gallery "
            "holds, so that some would be in it twice; export it again with this version"
        )


def fit_gallery(
    bundle: Bundle, root: Path, database: pa.Table, cache_folder: Path, *, extend: bool
) -> tuple[Bundle, list[Finding]]:
    """The bundle that answers, and what is said of the database rows.

    Args:
        bundle: The exported model.
        root: Data folder.
        database: Its rows that name an animal, of the groups of the queries; rows of `metadata.read_metadata`.
        cache_folder: Where decoded pixels and local features are kept.
        extend: Whether photographs that the gallery lacks are added to it.

    Raises:
        UserError: If they cannot be added (`check_extensible`).
    """
    if extend:
        check_extensible(bundle)
    if not len(database):
        return bundle, []
    if bundle.key_G is None:
        what = (
            f"{len(database)} database row(s) are not used: this bundle, of an earlier version, does not say whether "
        )
        return bundle, [make_finding(WHERE, f"{what}its gallery holds them", _names(database))]
    unseen, findings = find_unseen(bundle, root, database)
    findings += _find_alike(bundle, unseen)
    if extend and len(unseen):
        bundle, more = extend_gallery(bundle, root, unseen, cache_folder)
        findings += more
    elif extend:
        findings.append(make_finding(WHERE, "nothing is added: no database row is new to it", [], 0))
    elif len(unseen):
        findings.append(_report_unused(bundle, unseen, len(database)))
    return bundle, findings


def find_unseen(bundle: Bundle, root: Path, database: pa.Table) -> tuple[pa.Table, list[Finding]]:
    """The rows whose photograph the gallery does not hold, by its content; and those that it holds by another name.

    Every photograph is read once, as it is for an image cache; one that cannot be read counts as not held.

    Args:
        bundle: One that knows the contents of its gallery (`Bundle.key_G`).
        root: Data folder.
        database: Rows of `metadata.read_metadata` with identities.
    """
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = pool.map(lambda path: file_key(root / path), database["path"].to_pylist())
        keys = list(tqdm(found, total=len(database), desc="database rows", unit="image", disable=None))
    assert bundle.key_G is not None
    names: dict[tuple[str, str], list[str]] = {}
    for group, key, identity in zip(bundle.group_G, bundle.key_G, bundle.identity_G, strict=True):
        names.setdefault((group, key), []).append(identity)
    held_N = [names.get(photograph) for photograph in zip(database["group"].to_pylist(), keys, strict=True)]
    renamed = [
        f"{image_id!r}: {identity!r}, in the bundle {held[0]!r}"
        for image_id, identity, held in zip(_names(database), database["identity"].to_pylist(), held_N, strict=True)
        if held is not None and identity not in held
    ]
    findings = []
    if renamed:
        what = f"{len(renamed)} database row(s) name a photograph otherwise than the bundle, whose name is used"
        findings.append(make_finding(WHERE, what, renamed))
    return database.filter(pa.array([held is None for held in held_N], pa.bool_())), findings


def extend_gallery(bundle: Bundle, root: Path, rows: pa.Table, cache_folder: Path) -> tuple[Bundle, list[Finding]]:
    """A bundle whose gallery also holds the readable photographs of some rows.

    Args:
        bundle: Is not changed.
        root: Data folder.
        rows: Rows of `metadata.read_metadata` with identities, at least one.
        cache_folder: Where decoded pixels and local features are kept.
    """
    described = describe_photographs(bundle, root, rows, cache_folder)
    readable = np.flatnonzero([error is None for error in described.images.error])
    findings = find_in_files(rows["path"].to_pylist(), described.images, consequence="are not added to the gallery")
    added = rows.take(pa.array(readable))
    new = _new_animals(bundle, added)
    what = (
        f"{len(added)} photograph(s) are added for this call, with {len(new)} animal(s) that the bundle does not "
        "know; its thresholds and calibrators were chosen without them"
    )
    return _join(bundle, added, described, readable), [*findings, make_finding(WHERE, what, [name for _, name in new])]


def _join(bundle: Bundle, added: pa.Table, described: Described, rows: np.ndarray) -> Bundle:
    """The bundle with some rows of what was described behind its gallery."""
    features, second = bundle.features, bundle.second
    if features is not None and described.features is not None:
        features = LocalFeatures.concatenate([features, described.features.select(rows)])
    if second is not None and described.second_ND is not None:
        second = replace(second, embedding_GD=np.concatenate([second.embedding_GD, described.second_ND[rows]]))
    return replace(
        bundle,
        identity_G=np.concatenate([bundle.identity_G, _column(added, "identity")]),
        group_G=np.concatenate([bundle.group_G, _column(added, "group")]),
        embedding_GD=np.concatenate([bundle.embedding_GD, described.embedding_ND[rows]]),
        sides_G6=np.concatenate([bundle.sides_G6, described.sides_N6[rows]]),
        key_G=np.concatenate([bundle.key_G, np.array(described.images.keys, dtype=object)[rows]]),
        features=features,
        second=second,
    )


def _report_unused(bundle: Bundle, unseen: pa.Table, num_rows: int) -> Finding:
    new = _new_animals(bundle, unseen)
    remedy = "--extend-gallery adds those that can be read, for this call"
    if bundle.config.predict.rule != "threshold":
        remedy = "this bundle's classifier names only the animals that it was trained on"
    what = (
        f"{len(unseen)} of {num_rows} database row(s) are not in it and are not used, with {len(new)} animal(s) that "
        f"the bundle does not know; {remedy}"
    )
    return make_finding(WHERE, what, _names(unseen))


def _find_alike(bundle: Bundle, unseen: pa.Table) -> list[Finding]:
    """What is said of new animals whose names people would take for those of animals that the bundle knows."""
    known = {(group, fold_name(name)): name for group, name in zip(bundle.group_G, bundle.identity_G, strict=True)}
    alike = [
        f"{identity!r} and {known[group, fold_name(identity)]!r}"
        for group, identity in _new_animals(bundle, unseen)
        if (group, fold_name(identity)) in known
    ]
    what = f"{len(alike)} new animal(s) have names like those of the bundle's, and are taken for others"
    return [make_finding(WHERE, what, alike)] if alike else []


def _new_animals(bundle: Bundle, rows: pa.Table) -> list[tuple[str, str]]:
    """Group and name of the animals of some rows that the gallery does not hold."""
    known = set(zip(bundle.group_G, bundle.identity_G, strict=True))
    animals = dict.fromkeys(zip(rows["group"].to_pylist(), rows["identity"].to_pylist(), strict=True))
    return [animal for animal in animals if animal not in known]


def _names(rows: pa.Table) -> Sequence[str]:
    return rows["image_id"].to_pylist()


def _column(table: pa.Table, name: str) -> np.ndarray:
    return np.array(table[name].to_pylist(), dtype=object)
