"""A disk that fills up while a cache is written: the folder and the remedy are named, and the next run continues."""

import errno
import itertools
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import override
from reid_core.data.image_cache import ImageCache, build_cache
from reid_core.data.pixel_source import PixelSource
from reid_core.errors import UserError
from reid_core.files.atomic import new_folder
from reid_core.matching.extraction import build_features
from reid_core.model.frozen.boundary import build_activations
from reid_core.model.place import Place
from reid_core.model.reid_model import make_model
from reid_core.training.batch_plan import make_pool
from reid_core.training.variants import build_variants

NUM, PX = 6, 64
PATHS = [f"{number}.png" for number in range(NUM)]
CONFIG = override(
    TrialConfig(),
    {
        "model.backbone": "swin_micro_patch4_window4_64",
        "model.weights": "random",
        "model.unfrozen_stages": 1,
        "model.embedding_dim": 16,
        "data.image_px": PX,
        "data.oversample_to": 4,
        "data.variants": 2,
        "match.matcher": "sift-mnn",
        "match.num_keypoints": 16,
        "match.image_px": PX,
    },
)


class FullDisk:
    """There is room for so many tables more in Arrow files; the end of a file counts as one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tables: int) -> None:
        self.left, self.open = tables, pa.ipc.new_file
        monkeypatch.setattr(pa.ipc, "new_file", self.new_file)

    def new_file(self, sink: Any, schema: pa.Schema) -> Any:
        writer = self.open(sink, schema)
        return Writer(self, writer) if isinstance(sink, pa.OSFile) else writer

    def use(self) -> None:
        if not self.left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.left -= 1


class Writer:
    """A writer of Arrow files on such a disk."""

    def __init__(self, disk: FullDisk, writer: Any) -> None:
        self.disk, self.writer = disk, writer

    def write_table(self, table: pa.Table) -> None:
        self.disk.use()
        self.writer.write_table(table)

    def close(self) -> None:
        self.disk.use()
        self.writer.close()


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> ImageCache:
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for path in PATHS:
        coarse = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        coarse.resize((PX, PX), Image.Resampling.BICUBIC).save(folder / path)
    return ImageCache(build_cache(folder, folder, PATHS, PX))


def write_images(folder: Path, images: ImageCache) -> None:
    build_cache(folder, images.path.parent, PATHS, PX)


def write_variants(folder: Path, images: ImageCache) -> None:
    pool = make_pool(CONFIG.data, np.repeat(["ada", "bo"], NUM // 2).astype(object), np.arange(NUM), NUM)
    build_variants(folder, images, pool, CONFIG)


def write_features(folder: Path, images: ImageCache) -> None:
    build_features(folder, images, CONFIG.match)


def write_activations(folder: Path, images: ImageCache) -> None:
    build_activations(
        folder, PixelSource(images), np.arange(NUM), make_model(CONFIG, num_identities=2), CONFIG, Place()
    )


def contents(folder: Path) -> dict[str, int]:
    """Size of every file: their content holds times and random names."""
    return {str(file.relative_to(folder)): file.stat().st_size for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("write", "num_tables"),
    [*itertools.product([write_images, write_variants, write_features], [0, 1]), (write_features, 2)],
)
def test_a_cache_on_a_full_disk_names_its_folder_and_the_remedy(images, tmp_path, monkeypatch, write, num_tables):
    whole, full = tmp_path / "whole", tmp_path / "full"
    write(whole, images)
    with monkeypatch.context() as patch:
        FullDisk(patch, num_tables)
        message = r"full.*: cannot write the cache: .*No space left on device; make room there, then the same command"
        with pytest.raises(UserError, match=message):
            write(full, images)
    assert len(contents(full)) == (num_tables == 2)  # features without their index: the next run finds them
    assert not any(name.endswith(".tmp") for name in contents(full))
    write(full, images)
    assert len(contents(full)) == len(contents(whole)) > 0
    assert sum(contents(full).values()) == sum(contents(whole).values())


def test_activations_on_a_full_disk_are_computed_and_kept_by_the_next_run(images, tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        FullDisk(patch, 1)
        write_activations(tmp_path, images)
    assert "No space left on device; make room there" in caplog.text
    assert not contents(tmp_path)
    write_activations(tmp_path, images)
    assert len(contents(tmp_path)) == 1


def test_a_folder_of_files_on_a_full_disk_is_named_and_what_was_there_stays(tmp_path):
    fill = partial(new_folder, tmp_path / "embeddings")
    with fill() as part:
        (part / "old").touch()
    with pytest.raises(UserError, match=r"embeddings: cannot be written: No space left .*; make room there"), fill():
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    assert list(contents(tmp_path)) == ["embeddings/old"]
