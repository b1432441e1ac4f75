"""What a sweep needs of disk and memory, worked out by hand, and when that is too much."""

import shutil

import numpy as np
import pytest

from reid_core.config.presets import tiny
from reid_core.config.values import override
from reid_core.data.splits.parts import Parts
from reid_core.errors import UserError
from reid_core.model.reid_model import outline_model
from sweeps.machines.connect import Machines
from sweeps.machines.resources import Resources
from sweeps.search.space import metric_space
from sweeps.stages.checks import room
from sweeps.stages.checks.models import check_activations
from sweeps.stages.checks.room import (
    PROCESS_BYTES,
    Sizes,
    batch_sizes_of,
    check_disk,
    check_memory,
    check_object_store,
    measure_disk,
)
from sweeps.stages.command_line import make_parser, make_sweep

BASE = override(
    tiny(),
    {"data.image_px": 32, "match.image_px": 64, "match.num_keypoints": 10, "optim.epochs": 3, "optim.batch_size": 8},
)


def parts_of(num_images: int) -> Parts:
    names = np.array([f"animal {number % 4}" for number in range(num_images)], dtype=object)
    return Parts(names, np.full(num_images, "herd", dtype=object), np.full(num_images, "training", dtype=object))


def machines_of(*nodes: dict, **resources) -> Machines:
    return Machines(Resources(**resources), tuple(nodes))


def test_sizes_of_what_is_written():
    model = outline_model(BASE)
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    sizes = measure_disk(BASE, parts_of(40), model, num_trials=5)
    assert sizes == Sizes(
        caches=40 * 3 * (32**2 + 64**2),
        features=40 * 10 * (2 * 4 + 128 * 2),
        checkpoint=16 * trained,
        num_checkpoints=5 * 2,
    )
    once = override(BASE, {"match.matcher": "none", "optim.epochs": 1, "data.variants": 3, "data.oversample_to": 20})
    sizes = measure_disk(once, parts_of(40), model, num_trials=5)
    # Four animals with ten photographs, each filled up to twenty by one variant of every photograph.
    assert (sizes.caches, sizes.features, sizes.num_checkpoints) == ((40 + 40) * 3 * 32**2, 0, 5)


def test_a_disk_with_a_hair_too_little_is_refused_and_what_is_there_already_counts(tmp_path, monkeypatch):
    sizes = Sizes(caches=600e6, features=100e6, checkpoint=400e6, num_checkpoints=4)
    usage = shutil.disk_usage(tmp_path)

    def give(free):
        monkeypatch.setattr(room.shutil, "disk_usage", lambda path: usage._replace(free=int(free)))

    give(1000e6 - 1)
    with pytest.raises(UserError, match=r"needs 1 GB \(2\.3 GB on disk if no trial .*\), and 1 GB are free; make ro"):
        check_disk(sizes, tmp_path / "new" / "out")
    give(1000e6)
    assert "IT MAY BECOME FULL" in check_disk(sizes, tmp_path / "new" / "out")[0]
    give(2300e6)
    assert "FULL" not in check_disk(sizes, tmp_path / "new" / "out")[0]
    give(1000e6 - 1)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "images-32-all.arrow").write_bytes(b"x")
    assert check_disk(sizes, tmp_path)


def test_memory_that_is_certainly_too_little_is_refused():
    model = outline_model(override(BASE, {"model.unfrozen_stages": 0}))
    weights = sum(each.numel() for each in model.parameters())
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    worker = PROCESS_BYTES + 4 * weights + 3 * 4 * trained
    needed = 2 * (PROCESS_BYTES + 3 * worker)
    wanted = {"concurrent": 2, "workers": 3}
    with pytest.raises(UserError, match=r"at least 3\.21 GB of memory, 402 MB for each worker .*; lower --concurrent"):
        check_memory(model, machines_of({"memory": needed - 2, "object_store_memory": 1}, **wanted))
    (line,) = check_memory(model, machines_of({"memory": needed - 1, "object_store_memory": 1}, **wanted))
    assert "RAY MAY END PROCESSES" in line
    (line,) = check_memory(model, machines_of({"memory": needed}, **wanted))
    assert "RAY MAY" not in line
    small = {"memory": worker - 1}
    with pytest.raises(UserError, match="largest node"):
        check_memory(model, machines_of(*[small] * 20, **wanted))
    assert check_memory(model, machines_of({"CPU": 8}, **wanted))  # of which nothing is known


def test_an_object_store_without_room_for_one_batch_is_refused_and_a_tight_one_is_named():
    batch = 4 * 3 * 32**2  # a worker's four images
    block = 4 * batch  # what one task makes
    assert check_object_store(BASE, [8], machines_of({"object_store_memory": 2 * block}, workers=2)) == []
    tight = machines_of({"object_store_memory": batch}, workers=2)
    (line,) = check_object_store(BASE, [8], tight)
    assert line.startswith("4 batches of 4 images for each worker take 0.0492 MB of Ray's object store, which has 0.01")
    (line,) = check_object_store(BASE, [8, 32], machines_of({"object_store_memory": 2 * block}, workers=2))
    assert "batches of 16 images" in line  # of the largest that is searched
    with pytest.raises(UserError, match=r"a batch of 4 images takes 0\.0123 MB; .*--object-store-memory"):
        check_object_store(BASE, [8], machines_of({"object_store_memory": batch - 1}, workers=2))


def test_batch_sizes_that_are_searched():
    def sizes(*flags: str) -> list[int]:
        flags = ("--data", "synthetic", "--preset", "tiny", "--out", "unused", *flags)
        return batch_sizes_of(make_sweep("metric", metric_space, make_parser("").parse_args(flags)))

    assert set(sizes("--search", "optim.batch_size=32,64")) == {tiny().optim.batch_size, 32, 64}
    assert max(sizes("--search", "optim.batch_size=8..64")) == 64
    assert sizes("--set", "optim.batch_size=32") == [32]


def test_activations_that_are_kept_are_not_needed_again_and_are_no_photographs(tmp_path, monkeypatch):
    config = override(BASE, {"model.keep_activations": True, "model.unfrozen_stages": 0})
    usage, sizes = shutil.disk_usage(tmp_path), Sizes(caches=1e6, features=0, checkpoint=0, num_checkpoints=0)

    def check(*, free: int, device: str = "cpu") -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
        check_activations(config, parts_of(40), tmp_path / "cache", device=device)

    row_bytes = 4 * 128  # the last stage's channels, of one place of the map
    with pytest.raises(UserError, match="activations need"):
        check(free=40 * row_bytes - 1)
    check(free=40 * row_bytes)
    check(free=20 * row_bytes, device="cuda")  # where half the bits are computed
    (tmp_path / "cache" / "activations-32-abc").mkdir(parents=True)
    (tmp_path / "cache" / "activations-32-abc" / "1.arrow").write_bytes(bytes(30 * row_bytes))
    check(free=10 * row_bytes)
    with pytest.raises(UserError, match="activations need"):
        check(free=10 * row_bytes - 1)
    with pytest.raises(UserError, match="the first trial needs 1 MB"):
        check_disk(sizes, tmp_path)
