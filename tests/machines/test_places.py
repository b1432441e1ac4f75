"""A place that is held, and what of a cluster shared with another job counts as this sweep's wait; on Ray."""

import subprocess
import sys
import time

import pytest

from sweeps.machines import waiting
from sweeps.machines.looking import Seen, look_at_ray
from sweeps.machines.places import hold_place
from sweeps.machines.waiting import WaitedTooLongError, wait_for

OTHER_JOB = """
import sys, time
import ray
from ray.util import placement_group
ray.init(sys.argv[1], log_to_driver=False)
task = ray.remote(num_cpus=77)(str).remote()
group = placement_group([{"CPU": 55}])
print("waiting", flush=True)
time.sleep(600)
"""


@pytest.fixture
def neighbour(local_ray):
    """Another job of the cluster, which asks for what nobody has."""
    address = local_ray.get_runtime_context().gcs_address
    other = subprocess.Popen([sys.executable, "-c", OTHER_JOB, address], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "waiting\n"
    yield
    other.kill()
    other.wait()


def look_until(expected) -> Seen:
    """Look at Ray until what is seen is as expected: what its State API says comes late."""
    deadline_s = time.monotonic() + 60
    while not expected(seen := look_at_ray()) and time.monotonic() < deadline_s:
        time.sleep(0.2)
    return seen


def test_a_place_is_had_before_its_task_and_only_what_is_asked_for_here_is_waited_for(
    local_ray, neighbour, monkeypatch, caplog
):
    monkeypatch.setattr(waiting, "LOOK_S", 0.2)
    monkeypatch.setattr(waiting, "QUIET_S", 1.0)
    ray, begun = local_ray, []
    idle = look_until(lambda seen: not seen.is_at_work)
    assert idle.asked == ()
    with hold_place("half", num_gpus=0.5, patience_s=60) as place:
        at_work = look_until(lambda seen: seen.is_at_work)
        assert (at_work.asked, at_work.is_at_work) == ((), True)
        assert place.run(lambda a, *, b: (a, b, ray.get_gpu_ids() != []), 1, b=2) == (1, 2, True)
    assert not look_until(lambda seen: not seen.is_at_work).is_at_work
    refused = pytest.raises(WaitedTooLongError, match=r"waiting for . s: much, by a task of 1 CPU and 8 GPU")
    with refused, hold_place("much", num_gpus=8, patience_s=2):
        begun.append(True)
    assert begun == []
    assert look_until(lambda seen: not seen.asked).asked == ()  # it is not asked for any more
    too_large = ray.remote(num_cpus=100, num_gpus=0.5)(lambda: 7)
    with pytest.raises(WaitedTooLongError, match=r"the rest; not to be had: 1 × 100 CPU, 0\.5 GPU; free: 4 CPU, 1 GPU"):
        wait_for(too_large.remote(), "the rest", patience_s=3)
    assert any("waiting for" in line for line in caplog.messages)
