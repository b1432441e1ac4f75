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
from sweeps.stages.checks import room
from sweeps.stages.checks.room import PROCESS_BYTES, Sizes, check_disk, check_memory, check_object_store, measure_disk

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
    (tmp_path / "cache" / "images.arrow").write_bytes(b"x")
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


def test_an_object_store_without_room_for_the_batches_of_one_task_is_refused():
    block = 4 * 4 * 3 * 32**2  # four batches of a worker's four images
    check_object_store(BASE, machines_of({"object_store_memory": block}, workers=2))
    with pytest.raises(UserError, match=r"4 batches of 4 images take 0\.0492 MB; .*--object-store-memory"):
        check_object_store(BASE, machines_of({"object_store_memory": block - 1}, workers=2))
