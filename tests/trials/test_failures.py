"""What becomes of a trial by what it failed of."""

import errno
import os

import pytest
import ray
import torch
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2._internal.execution.failure_handling.default import DefaultFailurePolicy
from ray.train.v2._internal.execution.failure_handling.failure_policy import FailureDecision
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from reid_core.errors import UserError
from reid_core.files.atomic import replace_file
from sweeps.results.storage import CONTINUES, StorageError
from sweeps.trials.failures import continue_when_freed, describe_failure, judge
from sweeps.trials.slots.slot import FAILURES

assert ray


def failed(*causes):
    wrapped = [UserExceptionWithTraceback(cause, "Traceback ...") for cause in causes]
    return WorkerGroupError("it failed", dict(enumerate(wrapped)))


def test_a_preempted_node_counts_as_no_failure():
    policy = DefaultFailurePolicy(FAILURES)
    died = ActorDiedError()
    died._preempted = True
    preempted = WorkerGroupError("its node was taken away", {0: died})
    assert all(policy.make_decision(preempted) == FailureDecision.RETRY for _ in range(100))
    assert policy.make_decision(failed(ActorDiedError())) == FailureDecision.RAISE  # `judge` decides


@pytest.mark.parametrize(
    ("cause", "verdict"),
    [
        (UserError("match.same_side=true needs sides"), "infeasible"),
        (RayTaskError("a task", "Traceback ...", UserError("raised in a task")).as_instanceof_cause(), "infeasible"),
        (RuntimeError("its text names a UserError"), "again"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "too large"),
        (OutOfMemoryError("Task was killed due to the node running low on memory: out of memory"), "again"),
        (RuntimeError("[gloo] Connection closed by peer"), "again"),
        (ConnectionResetError("reset"), "again"),
        (TypeError("got an unexpected keyword"), "failed"),
        (IndexError("rows 3 … 9 of an image cache of 5"), "failed"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "stop"),
    ],
)
def test_a_cause_decides(cause, verdict):
    assert judge(failed(cause)) == verdict


def test_a_lost_worker_is_tried_again_and_the_fault_of_another_rank_decides():
    assert judge(WorkerGroupError("lost", {1: ActorDiedError()})) == "again"
    assert judge(ControllerError(RuntimeError("the controller was lost"))) == "again"
    assert judge(failed(RuntimeError("[gloo] timed out"), KeyError("sides"))) == "failed"


def test_the_reason_is_the_last_line_of_the_first_cause():
    assert describe_failure(failed(RuntimeError("first\nsecond\n"), ValueError("other"))) == "second"
    assert describe_failure(failed(RuntimeError())) == "RuntimeError"
    assert len(describe_failure(failed(RuntimeError("x" * 10_000)))) == 500


def test_the_message_about_a_full_disk_says_how_to_continue(tmp_path):
    (tmp_path / "x.part").symlink_to("/dev/full")
    message = r"x: cannot be written: No space left on device; make room there, then the same command continues$"
    with pytest.raises(StorageError, match=message), continue_when_freed():
        replace_file(tmp_path / "x", b"content")
    with pytest.raises(UserError, match="another") as other, continue_when_freed():
        raise UserError("another")
    assert not isinstance(other.value, StorageError)
    with (
        pytest.raises(StorageError, match=r"left on device; once there is, the same command continues$"),
        continue_when_freed(),
        continue_when_freed(),
    ):
        raise UserError("No space left on device")
    # What other code and Ray's tasks raise is no text for people.
    for raw in (
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError(f"RayTaskError: {os.strerror(errno.ENOSPC)}"),
    ):
        with pytest.raises(StorageError, match=r"^no space is left on the device; once"), continue_when_freed():
            raise raw
    with pytest.raises(OSError, match="denied"), continue_when_freed():
        raise OSError(errno.EACCES, "denied")
    with pytest.raises(StorageError, match=rf"once it can, {CONTINUES}$"), continue_when_freed():
        raise UserError(f"x: No space left on device; once it can, {CONTINUES}")
