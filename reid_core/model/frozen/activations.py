"""Kept activations: what the frozen part of a backbone makes of an image, on disk under the image's content.

content keys + activations (B, …) → a folder of Arrow files, one per batch; keys → activations, and which are held.
A file appears when it is complete, so a crash loses one batch and several processes can write at once.

Letters: B rows asked for, X shape of one activation, W bytes of one row.
"""

import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from reid_core.errors import UserError
from reid_core.files.atomic import write_arrow
from reid_core.files.checksums import digest_of

WEIGHT = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio
WORD_BYTES = 8  # rows are filled up to whole words, which the checksum adds up
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """How an activation becomes a row of bytes and back, with the strides that the network gave it.

    Attributes:
        shape: Of one image's activation.
        order: Its axes, that with the largest stride first: (1, 2, 0) for channels-last memory.
        computed: Type in which the network works on: "float32" or "bfloat16".
        kept: Type on disk: `computed`, which loses nothing, or "float16" for half of a float32.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    computed: str
    kept: str

    @classmethod
    def of(cls, activation_BX: torch.Tensor, *, half: bool) -> "Layout":
        """The layout of an activation; `half`: float32 is kept as float16."""
        strides = activation_BX.stride()[1:]
        order = sorted(range(len(strides)), key=lambda axis: -strides[axis])
        computed = str(activation_BX.dtype).removeprefix("torch.")
        kept = "float16" if half and computed == "float32" else computed
        return cls(tuple(activation_BX.shape[1:]), tuple(order), computed, kept)

    @property
    def value_bytes(self) -> int:
        """Bytes of one activation's values."""
        return math.prod(self.shape) * getattr(torch, self.kept).itemsize

    @property
    def row_bytes(self) -> int:
        """`value_bytes` filled up to whole words."""
        return -(-self.value_bytes // WORD_BYTES) * WORD_BYTES

    def encode(self, activation_BX: torch.Tensor) -> np.ndarray:
        """Rows of bytes; (B, W), uint8.

        Raises:
            UserError: If a value is too large for float16.
        """
        in_order = activation_BX.permute(0, *(1 + axis for axis in self.order))
        kept = in_order.to("cpu", getattr(torch, self.kept)).contiguous()
        if self.kept == "float16" and not bool(kept.isfinite().all()):
            raise UserError(
                "model.keep_activations: an activation is beyond 65504, the largest float16; "
                "set optim.precision=float32, which keeps them as float32, or model.keep_activations=false"
            )
        bytes_BW = np.zeros((len(kept), self.row_bytes), dtype=np.uint8)
        bytes_BW[:, : self.value_bytes] = kept.reshape(len(kept), -1).view(torch.uint8).numpy()
        return bytes_BW

    def decode(self, bytes_BW: np.ndarray) -> torch.Tensor:
        """The activations of `encode` as kept, with the strides that the network gave them; (B, …)."""
        values = torch.from_numpy(bytes_BW[:, : self.value_bytes]).contiguous().view(getattr(torch, self.kept))
        in_order = values.view(len(bytes_BW), *(self.shape[axis] for axis in self.order))
        back = (0, *(1 + self.order.index(axis) for axis in range(len(self.order))))
        return in_order.permute(back)


class Read(NamedTuple):
    """Some images' activations."""

    activation_BX: torch.Tensor  # on the CPU, of the type on disk; any values where not held
    held_B: np.ndarray  # whether each is kept and undamaged; bool
    computed: torch.dtype  # what the network takes


class _File(NamedTuple):
    path: Path
    checksum: np.ndarray  # of each row; uint64
    bytes_NW: np.ndarray  # mapped, uint8


class KeptActivations:
    """A folder of kept activations, opened; reads no activation until it is asked for.

    The folder belongs to one network, boundary and image size (`boundary.build_activations` names it so): the key
    of an image says the rest.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.folder, self.layout = Path(folder), layout
        self._files: dict[Path, _File] = {}
        self._row_of: dict[str, tuple[_File, int]] = {}
        self._warned = False
        self.refresh()

    def __contains__(self, key: str) -> bool:
        return key in self._row_of

    def __len__(self) -> int:
        return len(self._row_of)

    def refresh(self) -> None:
        """Find what other processes have written since; an incomplete file is removed with a warning."""
        for path in sorted(set(self.folder.glob("*.arrow")) - self._files.keys()):
            try:
                self._open(path)
            except (OSError, ValueError, pa.ArrowException) as error:
                logger.warning("%s is damaged, its activations are computed again: %s", path, error)
                path.unlink(missing_ok=True)

    def read(self, keys: Sequence[str]) -> Read:
        """Copy the activations of some images.

        A row that has changed since it was written counts as not held, and its file is removed with a warning, so that
        the next build computes it again.
        """
        bytes_BW = np.zeros((len(keys), self.layout.row_bytes), dtype=np.uint8)
        expected_B = np.zeros(len(keys), dtype=np.uint64)
        held_B = np.array([key in self._row_of for key in keys], dtype=bool)
        for i in np.flatnonzero(held_B).tolist():
            file, row = self._row_of[keys[i]]
            bytes_BW[i], expected_B[i] = file.bytes_NW[row], file.checksum[row]
        damaged_B = held_B & (_checksums(bytes_BW, keys) != expected_B)
        for i in np.flatnonzero(damaged_B).tolist():
            self._discard(keys[i])
        return Read(self.layout.decode(bytes_BW), held_B & ~damaged_B, getattr(torch, self.layout.computed))

    def write(self, keys: Sequence[str], activation_BX: torch.Tensor) -> None:
        """Keep some activations: all of them, or if the process dies none.

        Raises:
            UserError: If the folder cannot be written, the disk is full, or a value cannot be kept.
        """
        bytes_BW = self.layout.encode(activation_BX)
        rows = pa.FixedSizeListArray.from_arrays(pa.array(bytes_BW.reshape(-1)), self.layout.row_bytes)
        columns = [pa.array(list(keys), pa.string()), pa.array(_checksums(bytes_BW, keys)), rows]
        digest = digest_of("\n".join(keys))
        path = self.folder / f"{digest}.arrow"
        write_arrow(path, [pa.table(columns, schema=self._schema())], self._schema())
        self._open(path)

    def check_room(self, keys: Sequence[str], limit_gb: float, *, log: bool = True) -> None:
        """Log what these activations take on disk, and refuse what is too much, before anything is computed.

        Args:
            keys: Different images.
            limit_gb: Of the whole folder, in 10^9 bytes (`model.activations_gb`).
            log: Whether it is logged.

        Raises:
            UserError: If it is above the limit, or above the room on the disk.
        """
        num_new = sum(key not in self for key in keys)
        num_images, row_gb = len(self) + num_new, self.layout.row_bytes / 1e9
        new_gb, total_gb = num_new * row_gb, num_images * row_gb
        if log:
            text = (
                "activations of %d images in %s: %.3g GB on disk as %s, %.3g GB of them new (model.activations_gb=%g)"
            )
            logger.info(text, num_images, self.folder, total_gb, self.layout.kept, new_gb, limit_gb)
        refuse_too_many(self.folder, num_images, num_new, row_bytes=self.layout.row_bytes, limit_gb=limit_gb)

    def _schema(self) -> pa.Schema:
        row = pa.list_(pa.uint8(), self.layout.row_bytes)
        return pa.schema([("key", pa.string()), ("checksum", pa.uint64()), ("row", row)])

    def _open(self, path: Path) -> None:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        if not table.schema.equals(self._schema()):
            raise ValueError("other columns than expected")
        table = table.combine_chunks() if table["row"].num_chunks > 1 else table
        bytes_NW = table["row"].chunk(0).flatten().to_numpy().reshape(-1, self.layout.row_bytes)
        file = _File(path, table["checksum"].to_numpy(), bytes_NW)
        self._files[path] = file
        self._row_of |= {key: (file, row) for row, key in enumerate(table["key"].to_pylist())}

    def _discard(self, key: str) -> None:
        if key not in self._row_of:  # asked for twice in one batch
            return
        file, _ = self._row_of.pop(key)
        file.path.unlink(missing_ok=True)
        if not self._warned:
            logger.warning("%s is damaged: its checksum is wrong; such activations are computed again", file.path)
        self._warned = True


def refuse_too_many(folder: Path, num_images: int, num_new: int, *, row_bytes: int, limit_gb: float) -> None:
    """Refuse more activations than may be kept, or than the disk has room for.

    Args:
        folder: Of the activations; it need not exist.
        num_images: Images whose activations it shall hold.
        num_new: Those of them that it does not hold yet.
        row_bytes: Of one activation (`Layout.row_bytes`).
        limit_gb: Of the whole folder, in 10^9 bytes (`model.activations_gb`).

    Raises:
        UserError: If they are above the limit, or above the room on the disk.
    """
    new_gb, total_gb = num_new * row_bytes / 1e9, num_images * row_bytes / 1e9
    way_out = "lower data.variants or set model.keep_activations=false"
    if total_gb > limit_gb:
        need = f"the activations of {num_images} images need {total_gb:.3g} GB"
        raise UserError(f"model.activations_gb={limit_gb:g}: {need}; raise it, {way_out}")
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    if new_gb > free_gb:
        need = f"activations need {new_gb:.3g} GB more and {free_gb:.3g} GB are free"
        raise UserError(f"{folder}: {need} (model.activations_gb={limit_gb:g}); make room, {way_out}")


def _checksums(bytes_BW: np.ndarray, keys: Sequence[str]) -> np.ndarray:
    """Weighted sum of each row's words and of its key's digest, modulo 2^64; shape (B,), uint64.

    A word has the weight of its place, an odd one, so no changed word and no two words that change places are missed;
    its upper half is mixed into the lower, because products lose their upper bits.
    """
    words_BV = bytes_BW.view(np.uint64)
    weight_V = np.arange(words_BV.shape[1], dtype=np.uint64) * WEIGHT | np.uint64(1)
    mixed = (words_V ^ (words_V >> np.uint64(32)) for words_V in words_BV)  # a row at a time stays in the cache
    sum_B = np.array([words_V @ weight_V for words_V in mixed], dtype=np.uint64)
    return sum_B + np.array([int(digest_of(key, num_bytes=WORD_BYTES), base=16) for key in keys], dtype=np.uint64)
