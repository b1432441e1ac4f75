"""Everything that is done once, before the first trial: records, image caches, local features, parts.

data folder + configuration → files in one folder, and `Prepared`, which any process can open again from there.
`testSet` identities are left out of those files: no trial can read them (`read_truth` is for the final step), and the
fresh splits that confirm a result are made without them.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reid_core.checksums import read_sealed, write_sealed
from reid_core.config import TrialConfig, UserError, override
from reid_core.evaluate import Parts
from reid_core.fresh_splits import resplit
from reid_core.images import ImageCache, MapChunks, build_cache, local_map
from reid_core.local_features import LocalFeatures, build_features
from reid_core.records import digest_records, load_records
from reid_core.second import build_second
from reid_core.sides import SIDES, parse_sides
from reid_core.splits import assign_parts, describe_parts
from reid_core.synthetic import write_synthetic
from reid_core.uses import Use

SYNTHETIC = "synthetic"
UNREADABLE = "unreadable"
DATA = "data.json"  # in the folder: which data it was prepared from
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """The prepared data set. Row i of every array is row i of the image caches and of the local features."""

    image_cache: str
    match_cache: str
    features: str | None  # None where no local matcher is used
    image_id_N: np.ndarray
    parts: Parts
    date_N: np.ndarray  # as in metadata.csv; None where it is empty
    second: dict[str, str] = field(default_factory=dict)  # embeddings of second global models, by `fusion.second_model`
    group: str | None = None  # whose rows alone were prepared; None: every group's

    @cached_property
    def images(self) -> ImageCache:
        """Pixels for the backbone, memory-mapped."""
        return ImageCache(Path(self.image_cache))

    @cached_property
    def local_features(self) -> LocalFeatures | None:
        """Keypoints and descriptors, memory-mapped."""
        return LocalFeatures.open(Path(self.features)) if self.features else None

    @property
    def sides_N6(self) -> np.ndarray:
        """Photographed sides: multi-hot over `sides.SIDES`, float32; all 0 where the orientation names none."""
        assert self.parts.sides_N6 is not None
        return self.parts.sides_N6

    def second_ND(self, name: str | None) -> np.ndarray | None:
        """Embeddings of a second global model, memory-mapped; None without a name."""
        return np.load(self.second[name], mmap_mode="r", allow_pickle=False) if name else None

    @property
    def num_unreadable(self) -> int:
        """Photographs that were left out because they cannot be read."""
        return int(np.sum(self.parts.part_N == UNREADABLE))

    def codes(self) -> np.ndarray:
        """Integer per animal with an image in `training`, by its sorted name; -1 for all others; shape (N,), int64."""
        names = animal_names(self.parts)
        code_of = {name: code for code, name in enumerate(np.unique(names[self.parts.rows("training")]))}
        return np.array([code_of.get(name, -1) for name in names], dtype=np.int64)

    def classes(self) -> tuple[np.ndarray, np.ndarray]:
        """Identity and group of the animal of each code; each of shape (K,)."""
        rows = self.parts.rows("training")
        first_K = rows[np.unique(animal_names(self.parts)[rows], return_index=True)[1]]
        return self.parts.identity_N[first_K], self.parts.group_N[first_K]


def animal_names(parts: Parts) -> np.ndarray:
    """One name per animal, different for equal identities of two groups; "" where it is unknown; shape (N,)."""
    pairs = zip(parts.group_N, parts.identity_N, strict=True)
    return np.array([f"{group}\0{identity}" if identity is not None else "" for group, identity in pairs], dtype=str)


def resolve_data(data: str, folder: Path) -> Path:
    """The data folder; `synthetic` is drawn into `folder` first."""
    return write_synthetic(folder / "synthetic") if data == SYNTHETIC else Path(data).resolve()


def load_database(root: Path, *, skip_missing: bool = False, group: str | None = None) -> pa.Table:
    """The labelled rows of a data folder, or of one `group` of it; row i is row i of everything that is prepared."""
    records = load_records(root, skip_missing=skip_missing)
    database = records.filter(pa.compute.equal(records["split"], "database"))
    return database if group is None else database.filter(pa.compute.equal(database["group"], group))


def prepare(
    root: Path,
    folder: Path,
    config: TrialConfig,
    *,
    skip_missing: bool = False,
    group: str | None = None,
    second_models: Sequence[str] = (),
    map_chunks: MapChunks = local_map,
    map_networks: MapChunks = local_map,
) -> Prepared:
    """Read, check, decode, extract and split; what is already there and unchanged is not done again.

    Args:
        root: Data folder.
        folder: Where caches and the table of parts are kept; on a cluster, a folder that every node sees.
        config: Of the trials; `seed`, `data` and `match` are used.
        skip_missing: Leave out rows without a photograph.
        group: Whose rows alone are prepared; None: every group's.
        second_models: Values of `fusion.second_model` that trials may have, besides that of `config`.
        map_chunks: How decoding is spread, and what else needs no network.
        map_networks: How chunks are spread that go through a network, and are faster where a GPU is.

    Raises:
        UserError: If the data are wrong or cannot be split as asked, or no group can have both known and new animals
            in `thresholdSet`; or if metadata.csv or a photograph is no longer what the folder was prepared from.
    """
    database = load_database(root, skip_missing=skip_missing, group=group)
    paths = database["path"].to_pylist()
    image_cache = build_cache(folder, root, paths, config.data.image_px, map_chunks=map_chunks)
    _check_same_data(folder, root, database, ImageCache(image_cache).keys)
    match_cache, features = image_cache, None
    if config.match.matcher != "none":
        match_cache = build_cache(folder, root, paths, config.match.image_px, map_chunks=map_chunks)
        spread = map_chunks if config.match.matcher == "sift-mnn" else map_networks
        features = build_features(folder, ImageCache(match_cache), config.match, map_chunks=spread)
    second = {}
    for name in {config.fusion.second_model, *second_models} - {None, ""}:
        of_name = override(config, {"fusion.second_model": name})
        second[name] = build_second(folder, root, paths, of_name, map_chunks=map_networks)
    parts = split_database(database, ImageCache(image_cache).error, config)
    logger.info("%s", describe_parts(parts.part_N, parts.identity_N, parts.group_N))
    _check_objective(parts, root)
    prepared = Prepared(
        str(image_cache),
        str(match_cache),
        str(features) if features else None,
        image_id_N=_column(database, "image_id"),
        parts=parts,
        date_N=_column(database, "date"),
        second={str(name): str(path) for name, path in second.items()},
        group=group,
    )
    save_prepared(prepared, folder)
    return load_prepared(folder)


def _check_same_data(folder: Path, root: Path, database: pa.Table, keys: list[str]) -> None:
    """Refuse data that changed since the folder was prepared: trials before and after it could not be compared."""
    file, photographs = folder / DATA, hashlib.blake2b("".join(keys).encode(), digest_size=8).hexdigest()
    now = {"metadata.csv": digest_records(database), "photographs": photographs}
    before = read_sealed(file) if file.exists() else now
    changed = [name for name in now if now[name] != before.get(name)]
    if changed:
        raise UserError(
            f"{root}: changed since {folder} was prepared from it: {', '.join(changed)}; bring back the former files, "
            "or begin with a new result folder"
        )
    write_sealed(file, now)


def prepare_fresh_split(folder: Path, number: int, config: TrialConfig) -> Path:
    """Divide availableSet anew (`fresh_splits.resplit`); caches, features and second models are shared, not copied.

    It needs no identity of `testSet` and reads nothing but the prepared folder. Given again, it writes the same.

    Args:
        folder: Of `prepare`.
        number: Of the fresh split, from 1 on.
        config: That `folder` was prepared with; `seed` and `data` are used.

    Returns:
        A folder in `folder` for `load_prepared`. Its `testSet` is not to be scored: see `fresh_splits.resplit`.

    Raises:
        UserError: If the number is below 1, or no group has both known and new animals in `thresholdSet`.
    """
    prepared = load_prepared(folder)
    parts = prepared.parts
    part_N = resplit(
        parts.part_N,
        parts.identity_N,
        parts.group_N,
        number=number,
        date_N=prepared.date_N,
        **_split_settings(config),
    )
    fresh = replace(prepared, parts=replace(parts, part_N=part_N))
    target = folder / f"split-{number:04d}"
    logger.info("fresh split %d\n%s", number, describe_parts(part_N, parts.identity_N, parts.group_N))
    _check_objective(fresh.parts, target)
    target.mkdir(exist_ok=True)
    save_prepared(fresh, target)
    return target


def split_database(database: pa.Table, error_N: list[str | None], config: TrialConfig) -> Parts:
    """Who plays which part; unreadable photographs play none."""
    identity_N, group_N = _column(database, "identity"), _column(database, "group")
    readable = np.array([error is None for error in error_N])
    part_N = np.full(len(identity_N), UNREADABLE, dtype=object)
    part_N[readable] = assign_parts(
        identity_N[readable],
        group_N[readable],
        date_N=_column(database, "date")[readable],
        **_split_settings(config),
    )
    return Parts(identity_N, group_N, part_N, parse_sides(_column(database, "orientation")))


def _split_settings(config: TrialConfig) -> dict[str, Any]:
    """What `assign_parts` and `resplit` take from a configuration."""
    return {
        "strategy": config.data.split,
        "seed": config.seed,
        "cutoff_date": config.data.cutoff_date,
        "whole_encounters": config.data.whole_encounters,
    }


def read_truth(root: Path, prepared: Prepared, *, use: Use, skip_missing: bool = False) -> Parts:
    """The parts with every identity, those of `testSet` too. Only the final step may call this.

    Args:
        root: Data folder.
        prepared: What the trials saw.
        use: From `uses.record_use`: the proof that this look at `testSet` was written down first.
        skip_missing: As the data were prepared.

    Raises:
        UserError: If the data folder no longer says what was prepared.
    """
    logger.info("testSet: use %d, by %s", use.number, use.trial)
    database = load_database(root, skip_missing=skip_missing, group=prepared.group)
    identity_N, parts = _column(database, "identity"), prepared.parts
    same = np.array_equal(_column(database, "image_id"), prepared.image_id_N)
    if not same or (identity_N != parts.identity_N)[parts.part_N != "testSet"].any():
        raise UserError(
            f"{root / 'metadata.csv'}: its rows or identities are no longer those that the trials saw; "
            "bring back the former file, or begin with a new result folder"
        )
    return replace(parts, identity_N=identity_N)


def load_prepared(folder: Path) -> Prepared:
    """Open what `prepare` left in a folder."""
    table = pq.read_table(folder / "parts.parquet")
    paths = json.loads((folder / "prepared.json").read_text())
    sides_N6 = table["sides"].combine_chunks().flatten().to_numpy().reshape(-1, len(SIDES))
    parts = Parts(_column(table, "identity"), _column(table, "group"), _column(table, "part"), sides_N6)
    return Prepared(
        **paths,
        image_id_N=_column(table, "image_id"),
        parts=parts,
        date_N=_column(table, "date"),
    )


def save_prepared(prepared: Prepared, folder: Path) -> None:
    """Write what `load_prepared` reads, without the identities of `testSet`."""
    parts = prepared.parts
    unlocked = [None if part == "testSet" else name for part, name in zip(parts.part_N, parts.identity_N, strict=True)]
    columns = [prepared.image_id_N.tolist(), unlocked, parts.group_N.tolist(), parts.part_N.tolist()]
    arrays = [pa.array(values, pa.string()) for values in [*columns, prepared.date_N.tolist()]]
    arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(prepared.sides_N6.ravel()), len(SIDES)))
    table = pa.table(arrays, names=["image_id", "identity", "group", "part", "date", "sides"])
    pq.write_table(table, folder / "parts.parquet.part")
    (folder / "parts.parquet.part").replace(folder / "parts.parquet")
    names = ("image_cache", "match_cache", "features", "second", "group")
    (folder / "prepared.json.part").write_text(json.dumps({name: getattr(prepared, name) for name in names}))
    (folder / "prepared.json.part").replace(folder / "prepared.json")


def _column(table: pa.Table, name: str) -> np.ndarray:
    return np.array(table[name].to_pylist(), dtype=object)


def _check_objective(parts: Parts, where: Path) -> None:
    queries = parts.rows("thresholdSet")
    known_Q, group_Q = parts.known(queries), parts.group_N[queries]
    if not any(0 < known_Q[group_Q == group].mean() < 1 for group in set(group_Q)):
        raise UserError(
            f"{where}: no group has both known and new animals in thresholdSet, so GEO_MEAN is undefined everywhere; "
            "a group needs several identities, some of them with at least 3 photographs. The split:\n"
            + describe_parts(parts.part_N, parts.identity_N, parts.group_N)
        )
