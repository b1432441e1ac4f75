"""The files that keep local features: parts with the features of some images each, and an index that finds an image.

features of images with their content keys → parts; content keys (N,) → index → one table of features, and the row of
each image in it (N,). Paper §5.1. Letters: N images, B images of one part, K keypoints per image, D descriptor length.
"""

import contextlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from reid_core.errors import UserError
from reid_core.files.atomic import remove_leftovers, write_arrow
from reid_core.files.checksums import digest_of

DESCRIPTOR_LENGTH = 128
# A unit vector times 4000, rounded to integers: any dot product of two such vectors stays below 2**24, so float32
# sums it exactly, in whatever order and batch size, and pair scores come out bit-identical everywhere.
DESCRIPTOR_SCALE = 4000
FOUND = pa.schema([("key", pa.string()), ("part", pa.string()), ("row", pa.int64())])
logger = logging.getLogger(__name__)


def features_schema(image_px: int, num_keypoints: int, length: int = DESCRIPTOR_LENGTH) -> pa.Schema:
    """Columns of features: keypoints in use, their positions (K x 2), their descriptors as stored (K x D)."""
    fields = {
        "num_keypoints": pa.int32(),
        "keypoints": pa.list_(pa.float32(), num_keypoints * 2),
        "descriptors": pa.list_(pa.int16(), num_keypoints * length),
    }
    return pa.schema(fields, metadata={"image_px": str(image_px)})


def encode_descriptors(descriptors_BKD: np.ndarray) -> np.ndarray:
    """Unit-length descriptors as they are stored, int16."""
    return np.rint(descriptors_BKD * DESCRIPTOR_SCALE).astype(np.int16)


def features_table(count_B: np.ndarray, keypoints_BK2: np.ndarray, codes_BKD: np.ndarray, image_px: int) -> pa.Table:
    """Arrays as a table of features; codes are int16."""
    schema = features_schema(image_px, *codes_BKD.shape[1:])
    points, descriptors = (
        pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=kind)
        for values, kind in ((keypoints_BK2.astype(np.float32), schema.types[1]), (codes_BKD, schema.types[2]))
    )
    return pa.table([pa.array(count_B, pa.int32()), points, descriptors], schema=schema)


def write_part(folder: Path, keys: Sequence[str], features: pa.Table) -> pa.Table:
    """Keep the features of some images in a file of their own, named after the checksum of its content.

    Args:
        folder: Of all parts with the same settings.
        keys: Content key of each image.
        features: Table of `features_schema`, one row per key.

    Returns:
        The rows that `find_parts` gives for this file: `key, part, row`.

    Raises:
        UserError: If the folder cannot be written, or the disk is full.
    """
    part = features.add_column(0, "key", pa.array(keys, pa.string()))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, part.schema) as writer:
        writer.write_table(part)
    path = Path(folder) / f"part-{digest_of(sink.getvalue(), num_bytes=16)}.arrow"
    write_arrow(path, [part], part.schema)
    return _found(path, part["key"])


def find_parts(folder: Path) -> pa.Table:
    """Which images have features in the intact parts of a folder.

    A part whose content does not fit its checksum is deleted with a warning: its images count as missing.

    Returns:
        Table `key, part, row`: content key of an image, file name, row in that file.
    """
    remove_leftovers(folder, "part-*")
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = pool.map(_read_keys, sorted(folder.glob("part-*.arrow")))
        return pa.concat_tables([FOUND.empty_table(), *found])


def locate(keys: Sequence[str | None], found: pa.Table) -> pa.Table:
    """Part and row of each image; null where no part has it.

    Args:
        keys: Content keys; None for an image that has none.
        found: From `find_parts` and `write_part`.

    Returns:
        Table `part, row`, one row per key.
    """
    position_N = pa.compute.index_in(pa.array(keys, pa.string()), value_set=found["key"], skip_nulls=True)
    return found.select(["part", "row"]).take(position_N)


def write_index(path: Path, located: pa.Table, *, image_px: int, num_keypoints: int) -> None:
    """Write what `locate` found, unless the file says the same already; parts lie beside it."""
    settings = {"image_px": str(image_px), "num_keypoints": str(num_keypoints)}
    index = located.combine_chunks().replace_schema_metadata(settings)
    try:
        if _map(path).equals(index, check_metadata=True):
            return
    except FileNotFoundError:
        pass
    except (OSError, pa.ArrowException) as problem:
        logger.warning("%s is damaged and is written again: %s", path, problem)
    write_arrow(path, [index], index.schema)


def open_index(path: Path) -> tuple[pa.Table, np.ndarray]:
    """Memory-map the parts that an index names.

    Returns:
        Their rows as one table of `features_schema`, and the row of each image in it, int64 (N,); -1 for an image
        without features.

    Raises:
        UserError: If the index or a part is missing or cut off.
    """
    with _naming_remedy(path):
        index = _map(path)
        settings = {name.decode(): int(value) for name, value in index.schema.metadata.items()}
    part_N = index["part"].combine_chunks().dictionary_encode()
    tables = []
    for name in part_N.dictionary.to_pylist():
        with _naming_remedy(path.with_name(name)):
            tables.append(_map(path.with_name(name)).drop_columns("key"))
    starts = np.cumsum([0, *(table.num_rows for table in tables)])
    has_features_N = part_N.is_valid().to_numpy(zero_copy_only=False)
    row_N = np.full(len(index), -1, dtype=np.int64)
    row_N[has_features_N] = starts[part_N.indices.drop_null().to_numpy()] + index["row"].drop_null().to_numpy()
    return pa.concat_tables([features_schema(**settings).empty_table(), *tables]), row_N


@contextlib.contextmanager
def _naming_remedy(path: Path):
    try:
        yield
    except (OSError, pa.ArrowException) as problem:
        raise UserError(
            f"{path}: these local features are missing or damaged; give the same command again to compute them again "
            f"({problem})"
        ) from problem


def _read_keys(path: Path) -> pa.Table:
    try:
        data = path.read_bytes()
        if path.stem == f"part-{digest_of(data, num_bytes=16)}":
            return _found(path, pa.ipc.open_file(pa.BufferReader(data)).read_all()["key"])
        problem = "its content does not fit its checksum"
    except FileNotFoundError:  # another process found it damaged
        return FOUND.empty_table()
    except OSError as error:
        problem = str(error)
    logger.warning("%s is damaged and its images are computed again: %s", path, problem)
    with contextlib.suppress(OSError):
        path.unlink()
    return FOUND.empty_table()


def _found(path: Path, keys: pa.ChunkedArray) -> pa.Table:
    part = pa.repeat(path.name, len(keys))
    return pa.table([keys, part, pa.array(np.arange(len(keys)))], schema=FOUND)


def _map(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as file:  # the mapping stays while its rows are used, the open file does not
        return pa.ipc.open_file(file).read_all()
