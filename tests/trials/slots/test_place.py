"""A worker of an open slot is held without Ray being asked for a place; what is lost is tried as often as allowed."""

from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError

from reid_core.config.presets import tiny
from reid_core.errors import UserError
from sweeps.machines.resources import Resources
from sweeps.trials.context import SweepContext
from sweeps.trials.slots import place as places
from sweeps.trials.slots.place import hold_worker


@pytest.fixture
def context(monkeypatch):
    """Of a sweep with one slot, whose worker is this process; `lost` says how often it will be lost first."""
    slot = SimpleNamespace(lost=0)

    def do(what, task):
        if slot.lost:
            slot.lost -= 1
            return ActorDiedError()
        return task.run()

    slot.is_idle, slot.do = SimpleNamespace(remote=lambda: True), SimpleNamespace(remote=do)
    monkeypatch.setattr(places, "wait_for", wait_for)
    return SweepContext(tiny(), "out", "cache", Resources(), pool=SimpleNamespace(slots=[slot]))


def wait_for(answer, what, *, patience_s):
    if isinstance(answer, Exception):
        raise answer
    return answer


def refuse(reason):
    raise UserError(reason)


def test_a_function_runs_in_the_slots_worker(context):
    with hold_worker("a sum", context, num_gpus=1.0) as worker:
        assert worker.run(sorted, [2, 1, 3], reverse=True) == [3, 2, 1]
        with pytest.raises(UserError, match=r"^no such file$"):  # without Ray's traceback
            worker.run(refuse, "no such file")


@pytest.mark.parametrize(("num_lost", "max_retries"), [(2, 2), (0, 0)])
def test_a_lost_worker_is_replaced_as_often_as_is_allowed(context, num_lost, max_retries):
    context.pool.slots[0].lost = num_lost
    with hold_worker("a sum", context) as worker:
        assert worker.run(sum, [1, 2], max_retries=max_retries) == 3
        context.pool.slots[0].lost = num_lost + 1
        with pytest.raises(ActorDiedError):
            worker.run(sum, [1, 2], max_retries=max_retries)


@pytest.mark.parametrize("pool", [None, SimpleNamespace(slots=[])])
def test_without_an_open_slot_a_place_is_held(monkeypatch, context, pool):
    asked = []
    monkeypatch.setattr(places, "hold_place", lambda what, **options: asked.append((what, options)) or _Here())
    with hold_worker("a sum", SweepContext(tiny(), "out", "cache", Resources(), pool=pool), num_gpus=0.5) as place:
        assert place == "here"
    assert asked == [("a sum", {"num_gpus": 0.5, "patience_s": Resources().patience_s})]


class _Here:
    def __enter__(self):
        return "here"

    def __exit__(self, *error):
        return None
