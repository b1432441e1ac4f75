"""A slot keeps workers, whatever they end of; stand-ins in threads take the place of Ray Train runs."""

import asyncio
from types import SimpleNamespace

import pytest

from reid_core.config.presets import tiny
from sweeps.machines.resources import Resources
from sweeps.search.suggestion import FAILED, FINAL, Suggestion
from sweeps.trials.context import SweepContext
from sweeps.trials.driver import MAX_RETRIES
from sweeps.trials.settings import WorkerSettings
from sweeps.trials.slots import slot as slots
from sweeps.trials.slots.desk import Task
from sweeps.trials.slots.slot import Slot

LEAVES, LOST, FAULTY = "leaves", RuntimeError("a worker was lost"), KeyError("sides")
NO_START = (0, "cannot even be asked for")


@pytest.fixture
def make_slot(monkeypatch, tmp_path):
    """A slot whose workers, started one after the other, serve so many trials each and end as planned."""
    started = []
    monkeypatch.setattr(slots, "name_cluster", lambda: None)
    monkeypatch.setattr(slots.ray, "get_runtime_context", lambda: SimpleNamespace(current_actor=None))
    monkeypatch.setattr("sweeps.trials.slots.ready.ready_trial", _ready)

    def make(*plans):
        slot, loop = Slot(0, Resources(workers=1), str(tmp_path)), asyncio.get_running_loop()

        def make_torch_trainer(handle, name, resources, folder):
            started.append(plans[len(started)])
            if started[-1] == NO_START:
                raise LOST
            return SimpleNamespace(fit=lambda: _serve(slot, loop, *started[-1]))

        monkeypatch.setattr(slots, "make_torch_trainer", make_torch_trainer)
        return slot, started

    return make


def _ready(suggestion, context):
    return WorkerSettings(
        config=tiny(),
        name=suggestion.name,
        cache="",
        filesystem=None,
        checkpoint_folder="",
        folder="nowhere",  # a timeline that cannot be written costs nothing
        resources=Resources(),
    )


def _serve(slot, loop, num_trials, ending):
    """What workers do: `num_trials` are served; then they leave, or end in the middle of the next."""

    def call(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(timeout=5)

    group, number = call(slot.new_group()), 0
    for left in range(num_trials, -1, -1):
        if left == 0 and ending is LEAVES:
            return
        number, work = call(slot.take(group, number))
        while isinstance(work, Task):
            call(slot.report(number, work.run(), is_last=True))
            number, work = call(slot.take(group, number))
        if work is None:
            return
        if left == 0:
            raise ending
        report = {"objective": 0.5, "checkpoint_path": work.name, "metrics": {}, "history": []}
        call(slot.report(number, report, is_last=True))


async def run(slot, *names):
    """Trials one after the other; their final reports."""
    context, finals = SweepContext(tiny(), "out", "cache", Resources()), []
    for name in names:
        assert await slot.begin(name, "me", Suggestion(name=name, parameters={}), context)
        finals.append(await asyncio.wait_for(slot.next(name, 0), timeout=5))
    await slot.close()
    return finals


def test_workers_that_leave_between_trials_are_replaced(make_slot):
    async def scene():
        slot, started = make_slot((2, LEAVES), (9, LEAVES))
        finals = await run(slot, "a", "b", "c")
        assert [final["checkpoint_path"] for final in finals] == ["a", "b", "c"]
        assert all(final[FINAL] and final["retries"] == 0 for final in finals)
        assert len(started) == 2

    asyncio.run(scene())


@pytest.mark.parametrize(("lost_again", "num_retries"), [((0, LOST), 2), (NO_START, 1)])  # none was at work then
def test_a_trial_whose_workers_are_lost_is_tried_again_on_new_ones(make_slot, lost_again, num_retries):
    async def scene():
        slot, _ = make_slot((1, LOST), lost_again, (9, LEAVES))
        first, second = await run(slot, "a", "b")
        assert (first["retries"], second["retries"]) == (0, num_retries)
        assert second["objective"] == 0.5

    asyncio.run(scene())


@pytest.mark.parametrize(("ending", "num_tries"), [(LOST, MAX_RETRIES + 1), (FAULTY, 1)])
def test_a_trial_that_cannot_succeed_fails_and_the_next_one_does_not(make_slot, ending, num_tries):
    async def scene():
        slot, started = make_slot(*[(0, ending)] * num_tries, (9, LEAVES))
        failed, good = await run(slot, "a", "b")
        assert failed["status"] == "failed"
        assert str(ending) in failed[FAILED]
        assert good["objective"] == 0.5
        assert len(started) == num_tries + 1

    asyncio.run(scene())


def test_a_slot_does_what_is_no_trial_between_trials(make_slot):
    async def scene():
        slot, started = make_slot((9, LEAVES))
        assert await slot.do("a sum", Task(sum, ([1, 2],))) == {"value": 3}  # its workers start for it
        assert await slot.is_idle()
        context, trial = SweepContext(tiny(), "out", "cache", Resources()), Suggestion(name="a", parameters={})
        assert await slot.begin("a", "me", trial, context)
        assert (await slot.next("a", 0))["objective"] == 0.5
        assert await slot.do("a sum", Task(sum, ([3, 4],))) == {"value": 7}
        await slot.close()
        assert len(started) == 1

    asyncio.run(asyncio.wait_for(scene(), timeout=10))


def test_a_slot_has_one_trial_at_hand_and_the_last_who_came_for_it_can_abandon_it(make_slot):
    async def scene():
        slot, _ = make_slot((9, LEAVES))
        context = SweepContext(tiny(), "out", "cache", Resources())
        a, b = (Suggestion(name=name, parameters={}) for name in "ab")
        assert await asyncio.gather(*(slot.begin("a", claim, a, context) for claim in ("lost", "new"))) == [True, True]
        assert not await slot.begin("b", "other", b, context)
        await slot.abandon("lost")  # whoever lost it ends after the other one has taken it over
        assert not await slot.begin("b", "other", b, context)
        await slot.abandon("new")
        with pytest.raises(LookupError, match="a is not at hand"):
            await slot.next("a", 0)
        assert await slot.begin("a", "again", a, context)  # from its start
        assert (await slot.next("a", 0))["objective"] == 0.5
        assert await slot.begin("b", "other", b, context)
        with pytest.raises(LookupError, match="a is not at hand, but b"):
            await slot.next("a", 0)
        await slot.clear()
        await slot.close()

    asyncio.run(asyncio.wait_for(scene(), timeout=10))
