"""The desk of a slot: who waits for whom, and what is left of an attempt that is over."""

import asyncio

import pytest

from reid_core.errors import UserError
from sweeps.trials.slots.desk import AbandonedError, Desk, Task

GROUP = 1


def play(scene, num_workers=1):
    """Run a scene at a new desk whose patience is short; its first group of workers has come."""

    async def prepared():
        desk = Desk(num_workers, verdict_s=0.05, agree_s=0.05)
        assert await desk.new_group() == GROUP
        return await scene(desk)

    return asyncio.run(asyncio.wait_for(prepared(), timeout=5))


async def begin(desk, trial="a", work="work"):
    """A trial begins; the attempt at it, of which the workers know now."""
    await desk.begin(trial)
    attempt = asyncio.create_task(desk.work_on(work))
    await asyncio.sleep(0)
    return attempt


def is_waiting(task):
    return not task.done()


async def let_run():
    for _ in range(20):
        await asyncio.sleep(0)


def test_reports_come_one_by_one_and_the_last_one_is_the_attempts():
    async def scene(desk):
        attempt = await begin(desk)
        assert await desk.take(GROUP, 0) == (1, "work")
        first = asyncio.create_task(desk.report(1, {"epoch": 1}))
        assert await desk.next("a", 0) == {"epoch": 1}
        await let_run()
        assert is_waiting(first)  # nobody has said yet that the trial goes on
        second = asyncio.create_task(desk.next("a", 1))
        assert await first is True
        assert await desk.report(1, {"objective": 0.5}, is_last=True)
        assert await attempt == {"objective": 0.5}
        assert is_waiting(second)
        await desk.end({"final": True})
        assert await second == {"final": True}
        assert desk.is_free

    play(scene)


def test_a_trial_that_is_stopped_is_over_at_once():
    async def scene(desk):
        attempt = await begin(desk)
        report = asyncio.create_task(desk.report(1, {"epoch": 1}))
        await desk.next("a", 0)
        await desk.abandon("b")  # not at hand
        await let_run()
        assert is_waiting(report)
        await desk.abandon("a")
        assert await report is False
        with pytest.raises(AbandonedError):
            await attempt
        with pytest.raises(AbandonedError):  # nor is it tried again
            await desk.work_on("work")
        await desk.end(None)
        assert desk.is_free

    play(scene)


def test_workers_go_on_when_nobody_judges():
    async def scene(desk):
        await begin(desk)
        assert await desk.report(1, {"epoch": 1}) is True

    play(scene)


def test_who_asks_again_gets_all_reports_again():
    async def scene(desk):
        await begin(desk)
        for epoch in (1, 2):
            assert await desk.report(1, {"epoch": epoch})
        assert [(await desk.next("a", position))["epoch"] for position in (0, 1, 0, 1)] == [1, 2, 1, 2]

    play(scene)


def test_another_attempt_hears_nothing_of_the_one_before():
    async def scene(desk):
        first = await begin(desk)
        assert desk.fail(RuntimeError("a worker was lost"))
        with pytest.raises(RuntimeError, match="a worker was lost"):
            await first
        assert not desk.fail(RuntimeError("nobody was at work"))
        waiting = asyncio.create_task(desk.take(await desk.new_group(), 0))
        await let_run()
        assert is_waiting(waiting)  # for work: what failed is not handed out again by itself
        second = asyncio.create_task(desk.work_on("again"))
        assert await waiting == (2, "again")
        assert await desk.report(1, {"epoch": 7}) is False
        assert await desk.report(1, {"objective": 0.1}, is_last=True) is False
        assert not await desk.agree(1, 0)
        await desk.report(2, {"objective": 0.9}, is_last=True)
        assert await second == {"objective": 0.9}

    play(scene)


def test_a_worker_does_not_take_the_same_attempt_twice():
    async def scene(desk):
        attempt = await begin(desk)
        assert await desk.take(GROUP, 0) == (1, "work")
        again = asyncio.create_task(desk.take(GROUP, 1))
        await let_run()
        assert is_waiting(again)
        await desk.report(1, {}, is_last=True)
        await attempt
        await desk.end({})
        await begin(desk, "b", "more")
        assert await again == (2, "more")
        with pytest.raises(LookupError, match="a is not at hand, but b"):
            await desk.next("a", 0)

    play(scene)


async def take_together(desk, group=GROUP, after=0):
    """What each of two workers gets."""
    return await asyncio.gather(*(desk.take(group, after) for _ in range(2)))


@pytest.mark.parametrize("ranks", [(0,), (0, 1)])
def test_ranks_agree_only_if_all_give_up(ranks):
    async def scene(desk):
        await begin(desk)
        await take_together(desk)
        return await asyncio.gather(*(desk.agree(1, rank) for rank in ranks))

    assert play(scene, num_workers=2) == [len(ranks) == 2] * len(ranks)


def test_who_gave_up_in_vain_is_gone_and_who_comes_later_cannot_agree_with_it():
    async def scene(desk):
        await begin(desk)
        await take_together(desk)
        assert not await desk.agree(1, 0)  # its process ends now, and with it, soon, the other one
        assert not await desk.agree(1, 1)

    play(scene, num_workers=2)


def test_all_ranks_get_the_same_attempt_whatever_happens_between_their_coming():
    async def scene(desk):
        first = asyncio.create_task(desk.take(GROUP, 0))
        attempt = await begin(desk, "a", "work on a")
        await let_run()
        await desk.abandon("a")
        with pytest.raises(AbandonedError):
            await attempt
        await desk.end(None)
        await begin(desk, "b", "work on b")
        await let_run()
        assert is_waiting(first)
        assert [await desk.take(GROUP, 0), await first] == [(2, "work on b")] * 2

    play(scene, num_workers=2)


def test_an_error_in_a_trial_that_was_left_does_not_fail_the_next_one():
    async def scene(desk):
        left = await begin(desk, "a", "work on a")
        await desk.take(GROUP, 0)
        await desk.abandon("a")
        with pytest.raises(AbandonedError):
            await left
        await desk.end(None)
        attempt = await begin(desk, "b", "work on b")
        assert desk.fail(ValueError("in the middle of a"))  # others are to come at once
        await let_run()
        assert is_waiting(attempt)
        group = await desk.new_group()
        assert await desk.take(group, 0) == (2, "work on b")
        desk.fail(ValueError("in the middle of b"))
        with pytest.raises(ValueError, match="in the middle of b"):
            await attempt

    play(scene)


def test_a_trial_that_was_left_can_be_given_up_by_all_and_costs_no_process():
    async def scene(desk):
        await begin(desk)
        await desk.take(GROUP, 0)
        await desk.abandon("a")
        await desk.end(None)
        await begin(desk, "b", "more")
        assert await desk.agree(1, 0)
        assert not await desk.report(1, {"failed": "the loss is nan"}, is_last=True)
        assert await desk.take(GROUP, 1) == (2, "more")

    play(scene)


@pytest.mark.parametrize("num_groups", [1, 2])
def test_workers_that_cannot_start_fail_the_trial_that_waits_for_them(num_groups):
    async def scene(desk):
        for _ in range(num_groups - 1):
            await desk.new_group()
        attempt = await begin(desk)
        assert desk.fail(RuntimeError("no place"))
        with pytest.raises(RuntimeError, match="no place"):
            await attempt

    play(scene)


def test_workers_whose_place_others_have_taken_are_sent_home_and_not_counted():
    async def scene(desk):
        lost = asyncio.create_task(desk.take(GROUP, 0))
        await let_run()
        group = await desk.new_group()
        assert await lost == (0, None)
        assert await desk.take(GROUP, 0) == (0, None)
        await begin(desk)
        assert not await desk.is_idle(timeout_s=0.01)
        waiting = asyncio.create_task(desk.take(group, 0))
        await let_run()
        assert is_waiting(waiting)
        assert [await desk.take(group, 0), await waiting] == [(1, "work")] * 2

    play(scene, num_workers=2)


def test_workers_are_idle_when_all_wait_for_work():
    async def scene(desk):
        waiting = [asyncio.create_task(desk.take(GROUP, 0))]
        assert not await desk.is_idle(timeout_s=0.01)
        waiting.append(asyncio.create_task(desk.take(GROUP, 0)))
        assert await desk.is_idle(timeout_s=1)
        await begin(desk)
        assert await asyncio.gather(*waiting) == [(1, "work")] * 2
        assert not await desk.is_idle(timeout_s=0.01)

    play(scene, num_workers=2)


def test_a_closed_desk_lets_all_go():
    async def scene(desk):
        await begin(desk)
        waiting = [asyncio.create_task(each) for each in (desk.take(GROUP, 1), desk.next("a", 0), desk.wait_for_work())]
        await desk.close()
        assert await asyncio.gather(*waiting) == [(1, None), None, None]
        assert await desk.take(GROUP, 0) == (0, None)

    play(scene)


def test_what_one_worker_does_alone_gives_its_result_or_says_what_is_wrong():
    def divide(number, *, by):
        if by == 0:
            raise UserError("by 0")
        return number / by

    async def scene(desk):
        await desk.begin("a")
        for number, (by, expected) in enumerate([(4, 2.5), (0, None)], 1):
            doing = asyncio.create_task(desk.do(Task(divide, (10,), {"by": by})))
            await asyncio.sleep(0)
            attempt, task = await desk.take(GROUP, number - 1)
            assert await desk.report(attempt, task.run(), is_last=True)
            if expected is None:
                with pytest.raises(UserError, match="by 0"):
                    await doing
            else:
                assert await doing == expected
        doing = asyncio.create_task(desk.do(Task(divide, ("ten",), {"by": 1})))
        await asyncio.sleep(0)
        _, task = await desk.take(GROUP, 2)
        with pytest.raises(TypeError):  # no mistake of the user's: it ends the worker, and the desk hears of that
            task.run()
        assert desk.fail(RuntimeError("lost"))
        with pytest.raises(RuntimeError, match="lost"):
            await doing

    play(scene)
