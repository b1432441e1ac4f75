"""Keypoints and descriptors of a set of photographs, as arrays.

features in files or in memory → `LocalFeatures`: keypoints float32 (B, K, 2), descriptors float32 (B, K, D), counts
int32 (N,). Paper §5.1.
Letters: N images, B rows asked for, K keypoints per image (fixed; unused ones zero), D descriptor length.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from reid_core.matching.feature_files import encode_descriptors, features_table, open_index


class LocalFeatures:
    """Local features of N images: rows of a table (memory-mapped, or in memory)."""

    def __init__(self, table: pa.Table, row_N: np.ndarray | None = None) -> None:
        """Wrap a table.

        Args:
            table: Columns and schema metadata of `feature_files.features_schema`.
            row_N: Row of each image in the table, -1 for one without features; None: image i is row i.
        """
        self._table = table
        self._row_N = np.arange(table.num_rows) if row_N is None else row_N
        self._is_table = row_N is None
        self.image_px = int(table.schema.metadata[b"image_px"])
        self.num_keypoints = table.schema.field("keypoints").type.list_size // 2  # per image, unused ones included
        count_of_row = np.append(table["num_keypoints"].to_numpy(), np.int32(0))  # the last one is row -1
        self.num_keypoints_N: np.ndarray = count_of_row[self._row_N]
        batches = [batch for batch in table.to_batches() if batch.num_rows]
        self._chunks = [{name: _view(batch[name]) for name in ("keypoints", "descriptors")} for batch in batches]
        self._starts = np.cumsum([0, *(len(chunk["keypoints"]) for chunk in self._chunks)])

    @classmethod
    def open(cls, path: Path) -> "LocalFeatures":
        """Memory-map what `build_features` returned.

        Raises:
            UserError: If a file is missing or cut off.
        """
        return cls(*open_index(Path(path)))

    @classmethod
    def from_arrays(
        cls, num_keypoints_N: np.ndarray, keypoints_NK2: np.ndarray, descriptors_NKD: np.ndarray, *, image_px: int
    ) -> "LocalFeatures":
        """Features from arrays: positions (x, y) in pixels of the squashed image, unit-length descriptors."""
        return cls(features_table(num_keypoints_N, keypoints_NK2, encode_descriptors(descriptors_NKD), image_px))

    @classmethod
    def concatenate(cls, parts: Iterable["LocalFeatures"]) -> "LocalFeatures":
        """Images of several sets, one after the other.

        Raises:
            ValueError: If they differ in image size, keypoints per image or descriptor length.
        """
        tables = [part.table for part in parts]
        if any(not table.schema.equals(tables[0].schema, check_metadata=True) for table in tables):
            raise ValueError("local features of different settings cannot be joined")
        return cls(pa.concat_tables(tables))

    def __len__(self) -> int:
        return len(self._row_N)

    @property
    def table(self) -> pa.Table:
        """One row per image, in order; copied where the images lie scattered over files."""
        return self._table if self._is_table else self.select(np.arange(len(self)))._table

    def select(self, rows: np.ndarray) -> "LocalFeatures":
        """The given rows, in that order, as a set of their own, in memory."""
        rows_B = np.asarray(rows, dtype=np.int64)
        arrays = self.num_keypoints_N[rows_B], self.keypoints(rows_B), self.descriptor_codes(rows_B)
        return LocalFeatures(features_table(*arrays, self.image_px))

    def keypoints(self, rows: np.ndarray) -> np.ndarray:
        """Positions (x, y) in pixels, strongest keypoint first, zero beyond the count; float32 (B, K, 2)."""
        return self._gather("keypoints", rows)

    def descriptor_codes(self, rows: np.ndarray) -> np.ndarray:
        """Descriptors as stored: int16 (B, K, D), `DESCRIPTOR_SCALE` times a unit vector, zero beyond the count."""
        return self._gather("descriptors", rows)

    def descriptors(self, rows: np.ndarray) -> np.ndarray:
        """Unit-length descriptors, zero beyond the count; float32 (B, K, D)."""
        codes = self.descriptor_codes(rows).astype(np.float32)
        length = np.linalg.norm(codes, axis=2, keepdims=True)
        return codes / np.maximum(length, 1)

    def _gather(self, column: str, rows: np.ndarray) -> np.ndarray:
        rows_B = np.asarray(rows, dtype=np.int64)
        if len(rows_B) and not 0 <= rows_B.min() <= rows_B.max() < len(self):
            raise IndexError(f"rows {rows_B.min()} … {rows_B.max()} of local features of {len(self)} images")
        field = self._table.schema.field(column).type
        shape = (self.num_keypoints, field.list_size // self.num_keypoints)
        found = np.zeros((len(rows_B), *shape), dtype=field.value_type.to_pandas_dtype())
        in_table_B = self._row_N[rows_B]
        chunk_B = np.searchsorted(self._starts, in_table_B, side="right") - 1  # -1 where there are no features
        order = np.argsort(chunk_B, kind="stable")
        for at in np.split(order, np.flatnonzero(np.diff(chunk_B[order])) + 1):
            if len(at) and (chunk := chunk_B[at[0]]) >= 0:
                values = self._chunks[chunk][column][in_table_B[at] - self._starts[chunk]]
                found[at] = values.reshape(-1, *shape)
        return found


def _view(lists: pa.FixedSizeListArray) -> np.ndarray:
    """View (rows, list size) of a fixed-size-list array, without copying."""
    return lists.flatten().to_numpy().reshape(len(lists), -1)
