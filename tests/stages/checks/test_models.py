"""What a step needs of a GPU's memory is said before the sweep, and refused where it cannot be had."""

import numpy as np
import pytest

from reid_core.config.presets import tiny
from reid_core.config.values import override
from reid_core.data.splits.parts import Parts
from reid_core.training.step.memory import TooLargeError, predict
from sweeps.machines.resources import Resources
from sweeps.stages.checks.models import check_gpu_memory, describe_gpu_memory

BASE = override(tiny(), {"data.image_px": 64, "optim.batch_size": 16, "model.unfrozen_stages": 4})
PARTS = Parts(
    np.array([f"animal {number % 4}" for number in range(16)], dtype=object),
    np.full(16, "herd", dtype=object),
    np.full(16, "training", dtype=object),
)


def test_a_base_that_no_gpu_holds_is_refused_and_one_that_fits_in_parts_is_not():
    def check(memory_bytes):
        check_gpu_memory(BASE, PARTS, Resources(workers=1, gpus_per_worker=1, gpu_bytes_per_worker=memory_bytes))

    check(None)  # a cluster, whose workers look for themselves
    check(predict(override(BASE, {"optim.accumulate": 2}), num_identities=4).needed)
    with pytest.raises(TooLargeError, match=r"optim\.batch_size=16 .* a worker gets 0\.3 GB"):
        check(300_000_000)


def test_the_plan_says_what_a_step_takes():
    memory = predict(BASE, num_identities=4, world_size=2, device="cpu")
    line = describe_gpu_memory(BASE, PARTS, Resources(workers=2))
    assert line.startswith(f"a step takes {memory.tensors / 1e9:.2f} GB per worker, as predicted: weights ")
    half = predict(override(BASE, {"optim.accumulate": 2}), num_identities=4)
    resources = Resources(workers=1, gpus_per_worker=1, gpu_bytes_per_worker=half.needed)
    line = describe_gpu_memory(BASE, PARTS, resources)
    assert f"{half.tensors / 1e9:.2f} GB per worker of {half.needed / 1e9:.1f} GB (8 images at a time)" in line
