"""A trial that runs out of a GPU's memory is tried once more in smaller parts, and then it is infeasible."""

import asyncio
from types import SimpleNamespace

import pytest
import torch
from pyarrow.fs import LocalFileSystem
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import WorkerGroupError

from reid_core.config.presets import tiny
from sweeps.machines.resources import Resources
from sweeps.results.journal import OVER_GB
from sweeps.search.suggestion import FAILED, Suggestion
from sweeps.trials.driver import MAX_RETRIES, UNFORESEEN_GB, train_until_it_ends
from sweeps.trials.settings import WorkerSettings

FULL = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
LOST = RuntimeError("[gloo] Connection closed by peer")


class Desk:
    """Workers that fail of given errors, one in each attempt, and then succeed."""

    def __init__(self, errors, settings):
        self.errors, self.settings, self.halvings = list(errors), settings, []

    async def do(self, task):
        return self.settings

    async def work_on(self, settings):
        self.halvings.append(settings.halvings)
        if self.errors:
            error = UserExceptionWithTraceback(self.errors.pop(0), "Traceback ...")
            raise WorkerGroupError("it failed", {0: error})
        return {"objective": 0.5, "accumulate": 2}


def run(tmp_path, errors):
    settings = WorkerSettings(
        config=tiny(),
        name="trial-0000",
        cache="",
        filesystem=LocalFileSystem(),
        checkpoint_folder=str(tmp_path),
        folder=str(tmp_path),
        resources=Resources(),
    )
    desk, context = Desk(errors, settings), SimpleNamespace(check_storage=lambda: None)
    suggestion = Suggestion(name="trial-0000", parameters={})
    return asyncio.run(train_until_it_ends(suggestion, context, desk)), desk.halvings


@pytest.mark.parametrize(
    ("errors", "halvings"),
    [
        ([FULL], [0, 1]),
        ([LOST, FULL], [0, 0, 1]),
        ([FULL, LOST], [0, 1, 1]),
        ([LOST] * MAX_RETRIES + [FULL], [0] * (MAX_RETRIES + 1) + [1]),
        ([FULL] + [LOST] * MAX_RETRIES, [0] + [1] * (MAX_RETRIES + 1)),
    ],
)
def test_what_ran_out_of_memory_goes_on_in_smaller_parts(tmp_path, errors, halvings):
    final, seen = run(tmp_path, errors)
    assert seen == halvings
    assert final == {"objective": 0.5, "accumulate": 2, "retries": len(errors)}


def test_what_runs_out_of_memory_twice_is_infeasible(tmp_path):
    final, halvings = run(tmp_path, [FULL, FULL])
    assert halvings == [0, 1]
    assert final["status"] == "infeasible"
    assert final[FAILED] == "CUDA out of memory. Tried to allocate 2 GiB (tried 2 times)"
    assert final[OVER_GB] == UNFORESEEN_GB


def test_lost_workers_are_not_tried_for_ever(tmp_path):
    assert run(tmp_path, [LOST] * 5)[0]["status"] == "failed"
    final, halvings = run(tmp_path, [FULL] + [LOST] * 5)
    assert (final["status"], halvings) == ("failed", [0] + [1] * (MAX_RETRIES + 1))
