"""The pair store as an actor: waiting, releasing, leases (without Ray), then two trials on a local Ray."""

import asyncio
import itertools
import logging
import time
from pathlib import Path

import numpy as np
import pytest

from reid_core.errors import UserError
from reid_core.matching.pairs.store import KNOWN, PENDING, YOURS, PairStore, store_name
from sweeps.trials.pair_actor import PairActor, release_pairs, start_pair_store
from sweeps.trials.shared_scorer import SharedScorer

DIGEST = store_name({"matcher": "sift-mnn"})
PAIRS = np.array([2**32 + 2, 2**32 + 3, 2**32 + 4], dtype=np.uint64)
KEYS = [f"{number:032x}" for number in range(1, 13)]
QUERY, GALLERY = np.array(list(itertools.combinations(range(12), 2))).T


async def open_actor(folder, *, lease_s: float = 3600.0) -> PairActor:
    actor = PairActor(str(folder), DIGEST, symmetric=True, lease_s=lease_s)
    await actor.open()
    return actor


async def begin(coroutine) -> asyncio.Task:
    """Run up to where it waits."""
    task = asyncio.create_task(coroutine)
    for _ in range(5):
        await asyncio.sleep(0)
    return task


def test_a_waiting_trial_gets_the_scores_once_all_are_there(tmp_path):
    async def run():
        actor = await open_actor(tmp_path)
        await actor.claim(PAIRS, "a")
        waiting = await begin(actor.claim(PAIRS, "b", wait=True))
        await actor.put(PAIRS[:2], np.array([1.0, 2.0]), "a")
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await actor.put(PAIRS[2:], np.array([3.0]), "a")
        score_P, state_P = await waiting
        assert (score_P.tolist(), state_P.tolist()) == ([1.0, 2.0, 3.0], [KNOWN] * 3)
        assert await actor.stats() == {"hits": 3, "misses": 3, "scored": 3, "stored": 3, "pending": 0}

    asyncio.run(run())


def test_what_a_trial_leaves_unscored_goes_to_one_that_waits(tmp_path):
    async def run():
        actor = await open_actor(tmp_path)
        await actor.claim(PAIRS[:1], "trial-1/0")
        await actor.claim(PAIRS[1:2], "trial-1/1")
        await actor.claim(PAIRS[2:], "trial-10/0")
        waiting = await begin(actor.claim(PAIRS, "trial-2/0", wait=True))
        assert not waiting.done()
        await actor.release("trial-1")
        assert (await waiting)[1].tolist() == [YOURS, YOURS, PENDING]

    asyncio.run(run())


def test_a_silent_owner_loses_its_pairs_when_another_waits_for_them(tmp_path, caplog):
    async def run():
        actor = await open_actor(tmp_path, lease_s=0.05)
        await actor.claim(PAIRS, "dead")
        assert (await actor.claim(PAIRS, "b"))[1].tolist() == [PENDING] * 3  # not before another waits
        state_P = (await asyncio.wait_for(actor.claim(PAIRS, "b", wait=True), 60))[1]
        assert state_P.tolist() == [YOURS] * 3

    asyncio.run(run())
    assert [record.message.split()[0] for record in caplog.records] == ["dead"]


def score(query_P: np.ndarray, gallery_P: np.ndarray) -> np.ndarray:
    """NaN for pairs with image 5."""
    value_P = ((query_P + 1) * (gallery_P + 1) / 7).astype(np.float32)
    return np.where((query_P == 5) | (gallery_P == 5), np.float32("nan"), value_P)


def shortlist(handle, owner: str, order: np.ndarray) -> tuple[np.ndarray, dict, list]:
    """What a trial does: scores, counts, and the pairs that it scored itself."""
    scored: list[tuple[int, int]] = []

    def score_and_note(query_P, gallery_P):
        scored.extend(zip(query_P.tolist(), gallery_P.tolist(), strict=True))
        time.sleep(0.01)  # long enough for another trial to ask meanwhile
        return score(query_P, gallery_P)

    scorer = SharedScorer(handle, KEYS, owner, block_pairs=5)
    score_P = scorer(QUERY[order], GALLERY[order], score_and_note)
    return score_P, vars(scorer.counts), scored


def shortlist_together(handle, owner: str, order: np.ndarray, folder: Path) -> tuple[np.ndarray, dict, list]:
    """`shortlist`, begun when two have come this far."""
    (folder / owner.replace("/", "-")).touch()
    while len(list(folder.glob("trial-*"))) < 2:
        time.sleep(0.01)
    return shortlist(handle, owner, order)


def test_two_trials_score_each_pair_once_and_a_third_none(local_ray, tmp_path):
    handle = start_pair_store(tmp_path, DIGEST, symmetric=True)
    assert start_pair_store(tmp_path, DIGEST, symmetric=True) == handle
    orders = [np.arange(len(QUERY)), np.random.default_rng(0).permutation(len(QUERY))]
    task = local_ray.remote(num_cpus=1)(shortlist_together)
    answers = local_ray.get([task.remote(handle, f"trial-{t}/0", order, tmp_path) for t, order in enumerate(orders)])
    answers.append(shortlist(handle, "trial-2/0", orders[0]))
    for (score_P, counts, scored), order in zip(answers, [*orders, orders[0]], strict=True):
        assert score_P.tobytes() == score(QUERY[order], GALLERY[order]).tobytes()
        assert counts == {"hits": len(QUERY) - len(scored), "misses": len(scored), "scored": len(scored)}
    assert sorted(pair for _, _, scored in answers for pair in scored) == list(zip(QUERY, GALLERY, strict=True))
    assert answers[2][2] == []
    stats = local_ray.get(handle.stats.remote())
    assert stats == {"hits": 2 * 66, "misses": 66, "scored": 66, "stored": 66, "pending": 0}


def test_a_failing_trial_frees_its_pairs_and_a_trial_survives_the_store(local_ray, tmp_path, caplog):
    handle = start_pair_store(tmp_path, DIGEST, symmetric=True)
    calls = []

    def fail_later(query_P, gallery_P):
        calls.append(len(query_P))
        if len(calls) == 3:
            raise RuntimeError("no memory")
        return score(query_P, gallery_P)

    with pytest.raises(RuntimeError, match="no memory"):
        SharedScorer(handle, KEYS, "trial-0/0", block_pairs=5)(QUERY, GALLERY, fail_later)
    release_pairs(handle, "trial-0")
    stats = local_ray.get(handle.stats.remote())
    assert (stats["stored"], stats["pending"]) == (10, 0)

    scorer = SharedScorer(handle, KEYS, "trial-1/0", block_pairs=5)
    calls.clear()

    def is_alive():
        try:
            return bool(local_ray.get(handle.stats.remote(), timeout=60))
        except local_ray.exceptions.RayError:
            return False

    def kill_store(query_P, gallery_P):
        if not calls:
            local_ray.kill(handle)
            while is_alive():  # for a moment it lives on, and would take a block more
                pass
        calls.append(len(query_P))
        return score(query_P, gallery_P)

    np.testing.assert_array_equal(scorer(QUERY, GALLERY, kill_store), score(QUERY, GALLERY))
    assert sum(calls) == 56  # the ten pairs from before were served
    np.testing.assert_array_equal(scorer(QUERY[:3], GALLERY[:3], score), score(QUERY[:3], GALLERY[:3]))
    release_pairs(handle, "trial-1")
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "all pairs are scored here" in caplog.text
    assert vars(scorer.counts) == {"hits": 10, "misses": 5, "scored": 59}

    # What the killed store had written is there for the next one.
    again = PairStore(tmp_path / f"pairs-{DIGEST}.log", symmetric=True, digest=DIGEST, lock_wait_s=60)
    assert again.stats()["stored"] == 10


def test_a_file_that_is_no_store_is_the_users_error(local_ray, tmp_path):
    (tmp_path / f"pairs-{DIGEST}.log").write_text("notes")
    with pytest.raises(UserError, match=r"^.*\.log: this is not the pair store of this matcher"):
        start_pair_store(tmp_path, DIGEST, symmetric=True)
