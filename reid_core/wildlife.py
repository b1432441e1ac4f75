"""wildlife-datasets and wildlife-tools: a dataset of theirs as our data folder, our model in their `DeepFeatures`.

dataset (`df`, `root`) → metadata.csv in AnimalCLEF25's layout (paper §3.1); bundle → PIL image to (3, H, W).
`python -m reid_core.wildlife DATASET ROOT` is the only part that imports wildlife-datasets, and nothing imports
wildlife-tools: `DeepFeatures(bundle.model)` needs no adapter, only images that went through `transform(bundle)`.

Shape letters: C H W channels, height, width.
"""

import argparse
import difflib
import functools
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from reid_core import command
from reid_core.data.animals import NEW
from reid_core.data.photographs import to_square
from reid_core.data.table.metadata import COLUMNS, STRICT, Reading, load_metadata
from reid_core.data.table.metadata_file import Row, first_difference, read_rows, write_rows
from reid_core.errors import UserError
from reid_core.experiment.bundle.folder import Bundle
from reid_core.files.atomic import new_file

INSTALL = "pip install --constraint constraints.txt --editable '.[wildlife]'"

logger = logging.getLogger(__name__)


class Dataset(Protocol):
    """What is read of a wildlife-datasets dataset (0.3 to 1.0.8).

    Also read where they exist: `unknown_name`, `col_path`, `col_label`, `img_load`.
    """

    df: Any  # pandas.DataFrame: image_id, identity, path; optionally date, orientation, species, dataset
    root: Any  # folder that `path` is relative to


def load_wildlife(
    dataset: Dataset, *, group: str | None = None, folder: Path | None = None, reading: Reading = STRICT
) -> pa.Table:
    """The metadata of a dataset, as `metadata.load_metadata` gives them; writes its metadata.csv (`write_metadata`)."""
    return load_metadata(write_metadata(dataset, group=group, folder=folder), reading=reading)


def write_metadata(dataset: Dataset, *, group: str | None = None, folder: Path | None = None) -> Path:
    """Write a dataset's `metadata.csv` where `--data` finds it; one that says the same already stays as it is.

    Args:
        dataset: See `Dataset`. Rows without identity, or with `unknown_name`, become queries.
        group: Species group of every row; None: the dataframe's column `dataset`, else the name of the class.
        folder: Data folder to be made, for a root that cannot be written or whose own metadata.csv has another layout:
            photographs are hard-linked into it, or copied to another file system. None: the dataset's own root.

    Returns:
        The data folder, for `--data`.

    Raises:
        UserError: If a column is missing, a value is wrong, a path leads out of the root, metadata.csv holds something
            else, or a file cannot be written.
    """
    root = _root_of(dataset)
    target = root if folder is None else Path(folder)
    rows = make_rows(dataset, group=group)
    file = target / "metadata.csv"
    if file.exists():
        _refuse_other(file, rows)
        return target
    remedy = "folder= (--folder) makes a data folder elsewhere"
    try:
        if folder is not None:
            _link_photographs(root, target, [row["path"] for row in rows])
        write_rows(file, rows)
    except OSError as error:
        raise UserError(f"{file}: cannot be written: {error.strerror}; {remedy}") from error
    except UserError as error:
        raise UserError(f"{error}; {remedy}") from error
    return target


def make_rows(dataset: Dataset, *, group: str | None = None) -> list[Row]:
    """Rows of metadata.csv, in the order of the dataframe; see `write_metadata`.

    Example:
        >>> import pandas
        >>> from types import SimpleNamespace
        >>> df = pandas.DataFrame({"image_id": [7, 8], "identity": [3, "unknown"], "path": ["a.jpg", "./b.jpg"]})
        >>> for row in make_rows(SimpleNamespace(df=df, root="photos"), group="Lynx"):
        ...     print(",".join(row.values()))
        7,3,a.jpg,,,,database,Lynx
        8,,b.jpg,,,,query,Lynx
    """
    name, df, root = type(dataset).__name__, dataset.df, _root_of(dataset)
    renamed = {"path": getattr(dataset, "col_path", "path"), "identity": getattr(dataset, "col_label", "identity")}
    _check_frame(df, ("image_id", *renamed.values()), name, img_load=getattr(dataset, "img_load", "full"))
    values = {column: _texts(df, renamed.get(column, column)) for column in COLUMNS}
    unknown = {"", getattr(dataset, "unknown_name", "unknown")}
    values["identity"] = ["" if identity in unknown else identity for identity in values["identity"]]
    values["split"] = ["database" if identity else "query" for identity in values["identity"]]
    values["path"] = [_relative(path, root, name) for path in values["path"]]
    values["date"] = _days(values["date"], name)
    if group is not None or "dataset" not in df.columns:
        values["dataset"] = [name if group is None else group] * len(df)
    _check(values, name)
    return [dict(zip(COLUMNS, row, strict=True)) for row in zip(*values.values(), strict=True)]


def transform(bundle: Bundle) -> Callable[[Image.Image], torch.Tensor]:
    """PIL image → input of `bundle.model`: what the image cache and `ReidModel.normalise` do, pixel by pixel.

    The same pixels as the cache's, with one exception. A JPEG of at least 4 × image_px on both sides is decoded smaller
    at once by the cache, but read in full by wildlife-datasets, and its pixels then differ: the embeddings' cosine was
    0.989 to 1 (MobileNetV2, 48 px). `dataset.load_image = PIL.Image.open` gives this function the unread file instead.

    Returns:
        A function that can be pickled (for a DataLoader's workers); its result has shape (3, image_px, image_px).
    """
    mean_C11, std_C11 = (buffer[0].cpu().clone() for buffer in (bundle.model.mean, bundle.model.std))
    return functools.partial(_to_tensor, image_px=bundle.config.data.image_px, mean_C11=mean_C11, std_C11=std_C11)


def _to_tensor(image: Image.Image, *, image_px: int, mean_C11: torch.Tensor, std_C11: torch.Tensor) -> torch.Tensor:
    pixels_HWC = np.array(to_square(image, image_px))
    return (torch.from_numpy(pixels_HWC).permute(2, 0, 1).float() / 255 - mean_C11) / std_C11


def _root_of(dataset: Dataset) -> Path:
    if not dataset.root:
        raise UserError(f"{type(dataset).__name__}: it has no root; give the folder that holds its photographs")
    return Path(dataset.root)


def _check_frame(df: Any, needed: tuple[str, ...], name: str, *, img_load: str) -> None:
    missing = [column for column in needed if column not in df.columns]
    if missing:
        raise UserError(f"{name}: df lacks column(s) {', '.join(missing)}; it has: {', '.join(map(str, df.columns))}")
    if not len(df):
        raise UserError(f"{name}: df has no rows")
    if img_load != "full":
        raise UserError(
            f"{name}: img_load={img_load!r} changes photographs when they are read, and here they are read as they "
            "lie; save the crops to files, or make the dataset with img_load='full'"
        )
    if "bbox" in df.columns and df["bbox"].notna().any():
        logger.warning("%s: df has bounding boxes; photographs are read whole", name)


def _texts(df: Any, column: str) -> list[str]:
    """Values of a column as metadata.csv writes them; "" where one is missing."""
    if column not in df.columns:
        return [""] * len(df)
    pairs = zip(df[column].tolist(), df[column].isna().tolist(), strict=True)
    return ["" if is_missing else _text(value) for value, is_missing in pairs]


def _text(value: Any) -> str:
    """A column of integers with a gap is one of floats to pandas; species may be a list."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return ", ".join(map(str, value)) if isinstance(value, list | tuple | set) else str(value)


def _relative(path: str, root: Path, name: str) -> str:
    """A path relative to the root; `load_metadata` follows symbolic links and looks whether the file exists."""
    below = os.path.relpath(path, root) if Path(path).is_absolute() else os.path.normpath(path)
    if not path or Path(below).parts[:1] in ((), ("..",)):
        raise UserError(f"{name}: path {path!r} is not a file within root {root}")
    return Path(below).as_posix()


def _days(dates: list[str], name: str) -> list[str]:
    """Dates as YYYY-MM-DD, time of day dropped; empty where one names no day (a year alone, or -1)."""
    found = [re.match(r"(\d{4})[-:/.](\d{1,2})[-:/.](\d{1,2})(?!\d)", date) for date in dates]
    dropped = [date for date, match in zip(dates, found, strict=True) if date and not match]
    if dropped:
        logger.warning("%s: %d date(s) name no day and are left empty, such as %r", name, len(dropped), dropped[0])
    return [f"{match[1]}-{match[2]:0>2}-{match[3]:0>2}" if match else "" for match in found]


def _check(values: dict[str, list[str]], name: str) -> None:
    """Refuse what `load_metadata` would refuse, before anything is written."""
    for column in ("image_id", "dataset"):
        if "" in values[column]:
            raise UserError(f"{name}: {column} is empty in row {values[column].index('')} of df")
    image_id, count = Counter(values["image_id"]).most_common(1)[0]
    if count > 1:
        raise UserError(f"{name}: image_id {image_id!r} is given {count} times in df")
    if NEW in values["identity"]:
        raise UserError(f"{name}: identity {NEW!r} is reserved; rename it, or make it unknown_name")


def _refuse_other(file: Path, rows: list[Row]) -> None:
    """Raise UserError if metadata.csv is not about the same images, in any order; date and orientation may differ."""
    problem = first_difference(read_rows(file), rows, source="the dataset")
    if problem:
        raise UserError(
            f"{file}: exists and does not describe this dataset ({problem}); it is left as it is. "
            "Remove it if it is of no use, or give folder= (--folder), where a data folder with links is made"
        )


def _link_photographs(root: Path, folder: Path, paths: list[str]) -> None:
    """Hard links, because the reader refuses symbolic ones that lead out of the data folder."""
    for path in paths:
        source, target = (root / path).resolve(), folder / path
        if target.exists() or not source.is_file():  # load_metadata names the photographs that are missing
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.hardlink_to(source)
        except OSError:  # another file system, or one without links
            with new_file(target) as part:
                shutil.copyfile(source, part)


def open_dataset(name: str, root: Path) -> Dataset:
    """A dataset of wildlife-datasets by the name of its class.

    Raises:
        UserError: If the package is missing, the name is unknown, or the folder is not that dataset's.
    """
    try:
        from wildlife_datasets import datasets
    except ImportError as error:
        raise UserError(f"wildlife-datasets cannot be imported ({error}); install the extra: {INSTALL}") from error
    kinds = {key: kind for key, kind in vars(datasets).items() if hasattr(kind, "create_catalogue")}
    if name not in kinds:
        alike = difflib.get_close_matches(name, kinds, n=5, cutoff=0.4)
        raise UserError(f"wildlife-datasets has no dataset {name!r}; alike: {', '.join(alike) or 'none'}")
    if not root.is_dir():
        raise UserError(
            f"{root}: no such folder; wildlife_datasets.datasets.{name}.get_data({str(root)!r}) downloads it"
        )
    try:
        return kinds[name](str(root))
    except Exception as error:  # each dataset reads files of its own, and raises what it likes
        raise UserError(f"{root}: {name} cannot be read from this folder: {type(error).__name__}: {error}") from error


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m reid_core.wildlife", description=__doc__)
    parser.add_argument("dataset", help="class of wildlife_datasets.datasets, such as DogFaceNet")
    parser.add_argument("root", type=Path, help="folder with that dataset, as its get_data() leaves it")
    parser.add_argument("--group", help="species group of all photographs (default: column dataset, else DATASET)")
    parser.add_argument("--folder", type=Path, help="make a data folder here instead of writing into ROOT")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Write metadata.csv of a downloaded dataset and say what is in it."""
    options = make_parser().parse_args(arguments)
    dataset = open_dataset(options.dataset, options.root)
    data = write_metadata(dataset, group=options.group, folder=options.folder)
    rows = make_rows(dataset, group=options.group)
    animals = {(row["dataset"], row["identity"]) for row in rows if row["identity"]}
    num_queries = sum(row["split"] == "query" for row in rows)
    print(f"{len(rows) - num_queries} photographs of {len(animals)} animals, {num_queries} queries")
    print(f"use: --data {data}")
    return 0


if __name__ == "__main__":
    command.run(main)
