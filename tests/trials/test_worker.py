"""What a worker of a slot does with errors, and what it leaves for the next trial."""

import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reid_core.config.presets import tiny
from reid_core.errors import TrainingError, UserError
from reid_core.model.place import local_place
from reid_core.training.step.memory import TooLargeError
from sweeps.results.journal import OVER_GB
from sweeps.results.storage import StorageError
from sweeps.search.suggestion import FAILED
from sweeps.trials import worker
from sweeps.trials.worker import Line, run_alone, serve

SETTINGS = SimpleNamespace(config=tiny())


class Said(Line):
    """A line whose desk agrees, or does not, and remembers the last report."""

    def __init__(self, *, agrees):
        super().__init__(None, 1, local_place(tiny()))
        object.__setattr__(self, "agrees", agrees)
        object.__setattr__(self, "last", [])

    def give_up(self, error, status):
        if self.agrees:
            self.last.append({FAILED: str(error), "status": status})
        return self.agrees


def raising(error):
    def train_trial(settings, line):
        raise error

    return train_trial


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TrainingError("the loss is nan"), "failed"),
        (UserError("does not fit"), "infeasible"),
        (StorageError("the storage is away"), None),
        (UserError("x: No space left on device"), None),
        (RuntimeError("CUDA error: an illegal memory access"), None),
        (KeyError("sides"), None),
    ],
)
def test_what_is_wrong_for_all_ranks_is_reported_and_the_rest_ends_the_process(monkeypatch, error, status):
    monkeypatch.setattr(worker, "train_trial", raising(error))
    line = Said(agrees=True)
    if status is None:
        with pytest.raises(type(error)):
            run_alone(SETTINGS, line)
        assert line.last == []
    else:
        run_alone(SETTINGS, line)
        assert line.last == [{FAILED: str(error), "status": status}]


@pytest.mark.parametrize("error", [TrainingError("the loss is nan"), UserError("one image cannot be read")])
def test_what_only_one_rank_raises_ends_its_process(monkeypatch, error):
    monkeypatch.setattr(worker, "train_trial", raising(error))
    with pytest.raises(type(error)):
        run_alone(SETTINGS, Said(agrees=False))


def test_a_trial_that_fits_into_no_gpu_is_reported_with_what_is_missing(monkeypatch):
    sent = []
    answers = {"agree": lambda number, rank: True, "report": lambda number, report, is_last: sent.append(report)}
    slot = SimpleNamespace(**{name: SimpleNamespace(remote=answer) for name, answer in answers.items()})
    monkeypatch.setattr(worker, "ray", SimpleNamespace(get=lambda answer: answer))
    monkeypatch.setattr(worker, "train_trial", raising(TooLargeError("needs 40 GB", over_gb=2.5)))
    assert not run_alone(SETTINGS, Line(slot, 1, local_place(tiny())))
    assert sent == [{FAILED: "needs 40 GB", "status": "infeasible", OVER_GB: 2.5}]


def test_every_trial_begins_with_the_same_random_numbers(monkeypatch):
    drawn = []

    def train_trial(settings, line):
        drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))

    monkeypatch.setattr(worker, "train_trial", train_trial)
    for _ in range(2):
        run_alone(SETTINGS, Said(agrees=True))
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(("other_rank", "num_served"), [(0, 3), (1, 1)])
def test_workers_leave_together_once_one_has_grown(monkeypatch, other_rank, num_served):
    served, sizes = [], iter([100, 90, 111, 100])
    place = replace(local_place(tiny()), gather=lambda array: np.append(array, other_rank))
    slot = SimpleNamespace(take=SimpleNamespace(remote=lambda group, after: (after + 1, SETTINGS)))
    monkeypatch.setattr(worker, "ray", SimpleNamespace(get=lambda answer: answer))
    monkeypatch.setattr(worker, "settle", lambda: served.append("settled"))
    monkeypatch.setattr(worker, "join", lambda slot: 1)
    monkeypatch.setattr(worker, "train_place", lambda config: place)
    monkeypatch.setattr(worker, "run_alone", lambda settings, line: served.append(line.number))
    monkeypatch.setattr(worker, "measure_memory", lambda: next(sizes))
    serve(slot, most_growth=10)
    assert served == ["settled", *range(1, num_served + 1)]
