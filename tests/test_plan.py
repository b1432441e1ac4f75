"""The plan of a run: pure, the same for any number of workers, M images of each identity."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from pytorch_metric_learning.samplers import MPerClassSampler

from reid_core.config import TrialConfig, UserError, override
from reid_core.plan import count_steps, draw_batch, make_plan, oversample

BATCH, PER_IDENTITY = 12, 3


def make_config(**changes) -> TrialConfig:
    given = {"optim.epochs": 3, "optim.batch_size": BATCH, "data.images_per_identity": PER_IDENTITY, "seed": 5}
    return override(TrialConfig(), given | {key.replace("__", "."): value for key, value in changes.items()})


def make_images(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Identity and cache row of 70 images of eight animals, in random order; animal 0 has one image, animal 7 many."""
    rng = np.random.default_rng(seed)
    animal_N = rng.permutation(np.repeat(np.arange(8), [1, 2, 3, 5, 8, 11, 15, 25]))
    return np.array([f"animal {k}" for k in animal_N], dtype=object), rng.permutation(200)[:70]


def batches_of(plan: pa.Table) -> dict[tuple[int, int], list[int]]:
    """Rows of each global batch by (epoch, step), the ranks' parts joined in order."""
    joined: dict[tuple[int, int], list[int]] = {}
    for row in plan.to_pylist():
        joined.setdefault((row["epoch"], row["step"]), []).extend(row["rows"])
    return joined


def check_m_per_identity(batch: list[int], identity_of: dict[int, str], num_images: Counter) -> None:
    """M images of each of B / M animals; no image twice, unless its animal has fewer than M."""
    drawn = Counter(identity_of[row] for row in batch)
    assert set(drawn.values()) == {PER_IDENTITY}
    assert len(drawn) == BATCH // PER_IDENTITY
    repeated = {identity_of[row] for row, count in Counter(batch).items() if count > 1}
    assert all(num_images[identity] < PER_IDENTITY for identity in repeated)


def test_plan_is_pure():
    identity_N, row_N = make_images()
    before = identity_N.copy(), row_N.copy()
    plan = make_plan(make_config(), identity_N, row_N)
    np.random.seed(99)  # the global generator has no part in it
    assert make_plan(make_config(), identity_N, row_N).equals(plan)
    assert np.array_equal(before[0], identity_N)
    assert np.array_equal(before[1], row_N)


def test_seed_and_epoch_change_the_batches():
    identity_N, row_N = make_images()
    batches, other = (batches_of(make_plan(make_config(seed=seed), identity_N, row_N)) for seed in (5, 6))
    assert all(batches[key] != other[key] for key in batches)
    assert len({tuple(batch) for batch in batches.values()}) == len(batches)


def test_more_epochs_only_append():
    identity_N, row_N = make_images()
    short = make_plan(make_config(), identity_N, row_N)
    long = make_plan(make_config(optim__epochs=5), identity_N, row_N)
    assert long.slice(0, len(short)).equals(short)


@pytest.mark.parametrize("world_size", [2, 4])
def test_global_batches_are_the_same_for_any_world_size(world_size):
    identity_N, row_N = make_images()
    alone = make_plan(make_config(), identity_N, row_N)
    shared = make_plan(make_config(), identity_N, row_N, world_size=world_size)
    assert batches_of(shared) == batches_of(alone)
    assert {len(row["rows"]) for row in shared.to_pylist()} == {BATCH // world_size}
    first_rows = {(row["epoch"], row["position"]): row["rows"][0] for row in shared.to_pylist()}
    for row in alone.to_pylist():  # positions count images within the epoch, over all ranks
        for offset in range(0, BATCH, BATCH // world_size):
            assert first_rows[row["epoch"], row["position"] + offset] == row["rows"][offset]


def test_batches_follow_the_rule_of_the_librarys_sampler():
    identity_N, row_N = make_images()
    identity_of, num_images = dict(zip(row_N.tolist(), identity_N, strict=True)), Counter(identity_N)
    ours = batches_of(make_plan(make_config(data__oversample_to=None), identity_N, row_N)).values()
    sampler = MPerClassSampler(identity_N, m=PER_IDENTITY, batch_size=BATCH, length_before_new_iter=BATCH * 15)
    drawn = row_N[list(sampler)].reshape(-1, BATCH).tolist()
    assert len(ours) == len(drawn) == 15  # 70 // 12 steps in each of 3 epochs
    for batch in [*ours, *drawn]:
        check_m_per_identity(batch, identity_of, num_images)


def test_every_identity_is_drawn_equally_often_in_the_long_run():
    identity_N, row_N = make_images()
    identity_of = dict(zip(row_N.tolist(), identity_N, strict=True))
    batches = batches_of(make_plan(make_config(optim__epochs=60), identity_N, row_N)).values()
    share = Counter(identity_of[row] for batch in batches for row in batch)
    expected = BATCH * len(batches) / 8
    assert all(0.85 * expected < count < 1.15 * expected for count in share.values())


def test_oversampling_repeats_in_turn_and_never_drops():
    rows_of = oversample(np.array(["b", "a", "a", "b", "b", "c"], dtype=object), np.arange(10, 16), 3)
    assert {name: rows.tolist() for name, rows in rows_of.items()} == {
        "a": [11, 12, 11],
        "b": [10, 13, 14],
        "c": [15, 15, 15],
    }
    unchanged = oversample(np.array(["a", "a", "b"]), np.arange(3), None)
    assert {name: rows.tolist() for name, rows in unchanged.items()} == {"a": [0, 1], "b": [2]}


def test_oversampling_lengthens_the_epoch():
    identity_N, row_N = make_images()
    num_steps = {
        at_least: len(make_plan(make_config(optim__epochs=1, data__oversample_to=at_least), identity_N, row_N))
        for at_least in (None, 5, 15)
    }
    # 70 images; 70 + (4 + 3 + 2) images; 7 animals × 15 + 25 images
    assert num_steps == {None: 70 // 12, 5: 79 // 12, 15: 130 // 12}


def test_an_epoch_has_at_least_one_batch():
    assert [count_steps(num_images, 32) for num_images in (1, 31, 32, 63, 64)] == [1, 1, 1, 1, 2]


def test_a_drawn_batch_repeats_images_only_where_it_must():
    rows_of = {"few": np.array([1, 2]), "enough": np.array([3, 4, 5])}
    rng = np.random.default_rng(0)
    for _ in range(20):
        batch = draw_batch(rows_of, 6, 3, rng).tolist()
        assert sorted(batch)[3:] == [3, 4, 5]
        assert set(sorted(batch)[:3]) <= {1, 2}


@pytest.mark.parametrize(
    ("changes", "world_size", "message"),
    [
        ({}, 5, "optim.batch_size=12 cannot be divided among 5 workers"),
        ({"data__images_per_identity": 5}, 1, "no multiple of data.images_per_identity=5"),
        ({"optim__batch_size": 27}, 1, "needs 9 identities; training has 8"),
    ],
)
def test_impossible_batches_are_refused_by_name(changes, world_size, message):
    with pytest.raises(UserError, match=message):
        make_plan(make_config(**changes), *make_images(), world_size=world_size)
