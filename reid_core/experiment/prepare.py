"""Everything that is done once, before the first trial: metadata, image caches, local features, parts.

data folder + configuration → files in one folder, and `Prepared`, which any process can open again from there.
`testSet` identities are left out of those files: no trial can read them (`read_truth` is for the final step), and the
fresh splits that confirm a result are made without them.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import override
from reid_core.data.animals import positions_by_group
from reid_core.data.chunks import MapChunks, local_map
from reid_core.data.image_cache import ImageCache, build_cache
from reid_core.data.near_duplicates import take_fingerprints
from reid_core.data.photograph_findings import find_in_photographs
from reid_core.data.requested import check_requests, notice_requests
from reid_core.data.splits.assign import assign_parts
from reid_core.data.splits.describe import describe_parts
from reid_core.data.splits.fresh import resplit
from reid_core.data.splits.parts import Parts
from reid_core.data.splits.rule import SplitRule
from reid_core.data.table.findings import Finding, log_findings, logged_with_error
from reid_core.data.table.metadata import METADATA, STRICT, Metadata, Reading, digest_metadata, read_metadata
from reid_core.data.table.sides import parse_sides
from reid_core.data.test_set import Use
from reid_core.errors import UserError
from reid_core.experiment.prepared import UNREADABLE, Prepared, column_of, load_prepared, save_prepared
from reid_core.experiment.second_model import build_second
from reid_core.files.checksums import digest_of, read_sealed, write_sealed
from reid_core.matching.extraction import build_features

DATA = "data.json"  # in the folder: which data it was prepared from
logger = logging.getLogger(__name__)


class Spread(NamedTuple):
    """How work on many images is spread over threads or machines; no result depends on it."""

    chunks: MapChunks = local_map  # decoding, and what else needs no network
    networks: MapChunks = local_map  # what goes through a network, and is faster where a GPU is


LOCAL = Spread()


def load_database(root: Path, *, reading: Reading = STRICT, group: str | None = None) -> pa.Table:
    """The labelled rows of a data folder, or of one `group` of it; row i is row i of everything that is prepared."""
    return read_database(root, reading, group).rows


def read_database(root: Path, reading: Reading = STRICT, group: str | None = None) -> Metadata:
    """`load_database` with what was noticed in the whole file.

    Raises:
        UserError: If the data are wrong, or the group has no labelled row.
    """
    metadata, findings = read_metadata(root, reading)
    database = metadata.filter(pa.compute.equal(metadata["split"], "database"))
    if group is None:
        return Metadata(database, findings)
    rows = database.filter(pa.compute.equal(database["group"], group))
    if not len(rows):
        with logged_with_error(findings):
            others = ", ".join(sorted({repr(name) for name in database["group"].to_pylist()}))
            raise UserError(f"{root / METADATA}: group {group!r} has no labelled row (split=database); {others} have")
    return Metadata(rows, findings)


def prepare(
    root: Path,
    folder: Path,
    config: TrialConfig,
    *,
    reading: Reading = STRICT,
    group: str | None = None,
    second_models: Sequence[str] = (),
    spread: Spread = LOCAL,
) -> Prepared:
    """Read, check, decode, extract and split; what is already there and unchanged is not done again.

    Args:
        root: Data folder.
        folder: Where caches and the table of parts are kept; on a cluster, a folder that every node sees.
        config: Of the trials; `seed`, `data` and `match` are used.
        reading: Which rows and files are taken.
        group: Whose rows alone are prepared; None: every group's.
        second_models: Values of `fusion.second_model` that trials may have, besides that of `config`.
        spread: Where decoding, local features and second models are computed.

    Raises:
        UserError: If the data are wrong or cannot be split as asked, or no group can have both known and new animals
            in `thresholdSet`; or if metadata.csv or a photograph is no longer what the folder was prepared from.
    """
    database, findings = read_database(root, reading, group)
    log_findings(findings)
    check_requests(database, config)
    paths = database["path"].to_pylist()
    images = ImageCache(build_cache(folder, root, paths, config.data.image_px, map_chunks=spread.chunks))
    _check_same_data(folder, root, database, images.keys)
    in_photographs = _notice_photographs(root, database, images)
    match_cache, features = _extract_features(folder, root, paths, config, spread)
    second = _embed_second_models(folder, root, paths, config, second_models, spread)
    parts, requested = _split(root, database, images, config)
    prepared = Prepared(
        str(images.path),
        str(match_cache or images.path),
        str(features) if features else None,
        image_id_N=column_of(database, "image_id"),
        parts=parts,
        date_N=column_of(database, "date"),
        path_N=column_of(database, "path"),
        second=second,
        group=group,
        findings=(*findings, *in_photographs, *requested),
    )
    save_prepared(prepared, folder)
    return load_prepared(folder)


def _split(root: Path, database: pa.Table, images: ImageCache, config: TrialConfig) -> tuple[Parts, list[Finding]]:
    """The parts, logged, and groups in which something that is asked for does nothing."""
    parts = split_database(database, images.error, config)
    findings = notice_requests(database.filter(pa.array(parts.part_N != UNREADABLE)), config)
    log_findings(findings)
    logger.info("%s", describe_parts(parts))
    check_objective(parts, root)
    return parts, findings


def _notice_photographs(root: Path, database: pa.Table, images: ImageCache) -> tuple[Finding, ...]:
    """What is noticed in the decoded photographs, logged; an error where none can be read."""
    findings = find_in_photographs(database, images, take_fingerprints(images))
    log_findings(findings)
    if all(images.error):
        raise UserError(f"{root}: none of the {len(images)} photographs can be read: {images.error[0]}")
    return findings


def _extract_features(
    folder: Path, root: Path, paths: list[str], config: TrialConfig, spread: Spread
) -> tuple[Path | None, Path | None]:
    """The photographs at the matcher's size, and their local features; None where nothing is matched."""
    if config.match.matcher == "none":
        return None, None
    match_cache = build_cache(folder, root, paths, config.match.image_px, map_chunks=spread.chunks)
    map_features = spread.chunks if config.match.matcher == "sift-mnn" else spread.networks
    return match_cache, build_features(folder, ImageCache(match_cache), config.match, map_chunks=map_features)


def _embed_second_models(
    folder: Path, root: Path, paths: list[str], config: TrialConfig, names: Sequence[str], spread: Spread
) -> dict[str, str]:
    """Files with the embeddings of the second models that trials may have, by name."""
    files = {}
    for name in {config.fusion.second_model, *names} - {None, ""}:
        of_name = override(config, {"fusion.second_model": name})
        files[str(name)] = str(build_second(folder, root, paths, of_name, map_chunks=spread.networks))
    return files


def _check_same_data(folder: Path, root: Path, database: pa.Table, keys: list[str]) -> None:
    """Refuse data that changed since the folder was prepared: trials before and after it could not be compared."""
    now = {"metadata.csv": digest_metadata(database), "photographs": digest_of("".join(keys))}
    _check_unchanged(folder, root, now)
    write_sealed(folder / DATA, now)


def check_same_table(folder: Path, root: Path, database: pa.Table) -> None:
    """Find out, without reading a photograph, whether a folder was prepared from this table, if it was from any.

    Raises:
        UserError: If it was prepared from another one.
    """
    _check_unchanged(folder, root, {"metadata.csv": digest_metadata(database)})


def _check_unchanged(folder: Path, root: Path, now: dict[str, str]) -> None:
    file = folder / DATA
    before = read_sealed(file) if file.exists() else now
    changed = [name for name in now if now[name] != before.get(name)]
    if changed:
        raise UserError(
            f"{root}: changed since {folder} was prepared from it: {', '.join(changed)}; bring back the former files, "
            "or begin with a new result folder"
        )


def prepare_fresh_split(folder: Path, number: int, config: TrialConfig) -> Path:
    """Divide availableSet anew (`fresh.resplit`); caches, features and second models are shared, not copied.

    It needs no identity of `testSet` and reads nothing but the prepared folder. A second call writes the same.

    Args:
        folder: Of `prepare`.
        number: Of the fresh split, from 1 on.
        config: That `folder` was prepared with; `seed` and `data` are used.

    Returns:
        A folder in `folder` for `load_prepared`. Its `testSet` is not to be scored: see `fresh.resplit`.

    Raises:
        UserError: If the number is below 1, or no group has both known and new animals in `thresholdSet`.
    """
    prepared = load_prepared(folder)
    parts = resplit(prepared.parts, number=number, rule=SplitRule.of(config), date_N=prepared.date_N)
    target = folder / f"split-{number:04d}"
    logger.info("fresh split %d\n%s", number, describe_parts(parts))
    check_objective(parts, target)
    target.mkdir(exist_ok=True)
    save_prepared(replace(prepared, parts=parts), target)
    return target


def split_database(database: pa.Table, error_N: list[str | None], config: TrialConfig) -> Parts:
    """Who plays which part; unreadable photographs play none.

    Raises:
        UserError: If the groups cannot be split.
    """
    identity_N, group_N = column_of(database, "identity"), column_of(database, "group")
    readable = np.array([error is None for error in error_N])
    part_N = np.full(len(identity_N), UNREADABLE, dtype=object)
    date_N, rule = column_of(database, "date"), SplitRule.of(config)
    part_N[readable] = assign_parts(identity_N[readable], group_N[readable], rule=rule, date_N=date_N[readable])
    return Parts(identity_N, group_N, part_N, parse_sides(column_of(database, "orientation")))


def read_truth(root: Path, prepared: Prepared, *, use: Use, reading: Reading = STRICT) -> Parts:
    """The parts with every identity, those of `testSet` too. Only the final step may call this.

    Args:
        root: Data folder.
        prepared: What the trials saw.
        use: From `test_set.record_use`: the proof that this look at `testSet` was written down first.
        reading: As the data were prepared.

    Raises:
        UserError: If the data folder no longer says what was prepared.
    """
    logger.info("testSet: use %d, by %s", use.number, use.trial)
    database = load_database(root, reading=reading, group=prepared.group)
    identity_N, parts = column_of(database, "identity"), prepared.parts
    same = np.array_equal(column_of(database, "image_id"), prepared.image_id_N)
    if not same or (identity_N != parts.identity_N)[parts.part_N != "testSet"].any():
        raise UserError(
            f"{root / 'metadata.csv'}: its rows or identities are no longer those that the trials saw; "
            "bring back the former file, or begin with a new result folder"
        )
    return replace(parts, identity_N=identity_N)


def check_objective(parts: Parts, where: Path | str) -> None:
    """Find out whether there is anything to maximise.

    Raises:
        UserError: If no group has both known and new animals in `thresholdSet`.
    """
    queries = parts.rows("thresholdSet")
    known_Q, group_Q = parts.known(queries), parts.group_N[queries]
    if not any(0 < known_Q[rows].mean() < 1 for _, rows in positions_by_group(group_Q)):
        raise UserError(
            f"{where}: no group has both known and new animals in thresholdSet, so GEO_MEAN is undefined everywhere; "
            "a group needs several identities, some of them with at least 3 photographs. The split:\n"
            + describe_parts(parts)
        )
