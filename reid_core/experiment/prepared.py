"""The prepared data set: what every process of every trial opens, and how it is kept in a folder.

folder of `prepare` ↔ `Prepared`: caches, local features, parts. It holds no identity of `testSet`, nor an example that
tells something of one.
"""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reid_core.data.animals import name_animals
from reid_core.data.image_cache import ImageCache
from reid_core.data.near_duplicates import Fingerprints, take_fingerprints
from reid_core.data.splits.parts import Parts
from reid_core.data.table.findings import Finding, findings_from_json, findings_to_json, keep_known
from reid_core.data.table.sides import SIDES
from reid_core.files.atomic import new_file, replace_file
from reid_core.matching.local_features import LocalFeatures

UNREADABLE = "unreadable"
SEEN = ("training", "validating", "thresholdSet")  # parts that a trial may look at


@dataclass(frozen=True)
class Prepared:
    """The prepared data set. Row i of every array is row i of the image caches and of the local features."""

    image_cache: str
    match_cache: str
    features: str | None  # None where no local matcher is used
    image_id_N: np.ndarray
    parts: Parts
    date_N: np.ndarray  # as in metadata.csv; None where it is empty
    path_N: np.ndarray  # as in metadata.csv; None in `testSet`: a folder's name may be an identity
    second: dict[str, str] = field(default_factory=dict)  # embeddings of second global models, by `fusion.second_model`
    group: str | None = None  # whose rows alone were prepared; None: every group's
    findings: tuple[Finding, ...] = ()  # what of the data was dropped, changed, or read as missing

    @property
    def name_N(self) -> list[str]:
        """Each photograph as a person finds it: by its path, or where that is not known by its image_id."""
        return [path or f"image_id {one}" for path, one in zip(self.path_N, self.image_id_N, strict=True)]

    @cached_property
    def images(self) -> ImageCache:
        """Pixels for the backbone, memory-mapped."""
        return ImageCache(Path(self.image_cache))

    @cached_property
    def fingerprints(self) -> Fingerprints:
        """What the photographs look like, computed anew: seconds for 15,000."""
        return take_fingerprints(self.images)

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
        names = name_animals(self.parts.group_N, self.parts.identity_N)
        code_of = {name: code for code, name in enumerate(np.unique(names[self.parts.rows("training")]))}
        return np.array([code_of.get(name, -1) for name in names], dtype=np.int64)

    def classes(self) -> tuple[np.ndarray, np.ndarray]:
        """Identity and group of the animal of each code; each of shape (K,)."""
        rows = self.parts.rows("training")
        first_K = rows[np.unique(self.parts.animals(rows), return_index=True)[1]]
        return self.parts.identity_N[first_K], self.parts.group_N[first_K]


def load_prepared(folder: Path) -> Prepared:
    """Open what `prepare` left in a folder."""
    table = pq.read_table(folder / "parts.parquet")
    paths = json.loads((folder / "prepared.json").read_text(encoding="utf-8"))
    findings = findings_from_json(paths.pop("findings", []))
    sides_N6 = table["sides"].combine_chunks().flatten().to_numpy().reshape(-1, len(SIDES))
    parts = Parts(column_of(table, "identity"), column_of(table, "group"), column_of(table, "part"), sides_N6)
    return Prepared(
        **paths,
        image_id_N=column_of(table, "image_id"),
        parts=parts,
        date_N=column_of(table, "date"),
        path_N=column_of(table, "path"),
        findings=findings,
    )


def save_prepared(prepared: Prepared, folder: Path) -> None:
    """Write what `load_prepared` reads, without the identities of `testSet`, and what tells of them."""
    parts = prepared.parts
    is_locked = parts.part_N == "testSet"
    identity_N, path_N = parts.identity_N.copy(), prepared.path_N.copy()
    identity_N[is_locked] = path_N[is_locked] = None
    columns = [prepared.image_id_N, identity_N, parts.group_N, parts.part_N, prepared.date_N, path_N]
    arrays = [pa.array(values.tolist(), pa.string()) for values in columns]
    arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(prepared.sides_N6.ravel()), len(SIDES)))
    table = pa.table(arrays, names=["image_id", "identity", "group", "part", "date", "path", "sides"])
    with new_file(folder / "parts.parquet") as part:
        pq.write_table(table, part)
    names = ("image_cache", "match_cache", "features", "second", "group")
    values = {name: getattr(prepared, name) for name in names}
    known = prepared.image_id_N[~is_locked].tolist()
    values["findings"] = findings_to_json(keep_known(prepared.findings, known))
    replace_file(folder / "prepared.json", json.dumps(values).encode())


def column_of(table: pa.Table, name: str) -> np.ndarray:
    """A column of strings; object array, None where a cell is empty."""
    return np.array(table[name].to_pylist(), dtype=object)
