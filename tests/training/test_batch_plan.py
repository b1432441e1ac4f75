"""The plan of a run: pure, the same for any number of workers; M images of each identity, or every image once."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from pytorch_metric_learning.samplers import MPerClassSampler

from reid_core.config.parameters import DataConfig, TrialConfig
from reid_core.config.values import override
from reid_core.errors import UserError
from reid_core.training.batch_plan import (
    count_images,
    count_steps,
    draw_batch,
    make_plan,
    make_pool,
    oversample,
    undersample,
)

BATCH, PER_IDENTITY = 12, 3


def make_config(**changes) -> TrialConfig:
    given = {"optim.epochs": 3, "optim.batch_size": BATCH, "data.images_per_identity": PER_IDENTITY, "seed": 5}
    return override(TrialConfig(), given | {key.replace("__", "."): value for key, value in changes.items()})


def make_images(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Identity and cache row of 70 images of eight animals, in random order; animal 0 has one image, animal 7 many."""
    rng = np.random.default_rng(seed)
    animal_N = rng.permutation(np.repeat(np.arange(8), [1, 2, 3, 5, 8, 11, 15, 25]))
    return np.array([f"animal {k}" for k in animal_N], dtype=object), rng.permutation(200)[:70]


def plan_of(config: TrialConfig, identity_N: np.ndarray, row_N: np.ndarray, *, world_size: int = 1) -> pa.Table:
    """The plan of images in an image cache of 200."""
    return make_plan(config, make_pool(config.data, identity_N, row_N, 200), world_size=world_size)


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
    plan = plan_of(make_config(), identity_N, row_N)
    np.random.seed(99)  # the global generator has no part in it
    assert plan_of(make_config(), identity_N, row_N).equals(plan)
    assert np.array_equal(before[0], identity_N)
    assert np.array_equal(before[1], row_N)


def test_seed_and_epoch_change_the_batches():
    identity_N, row_N = make_images()
    batches, other = (batches_of(plan_of(make_config(seed=seed), identity_N, row_N)) for seed in (5, 6))
    assert all(batches[key] != other[key] for key in batches)
    assert len({tuple(batch) for batch in batches.values()}) == len(batches)


def test_more_epochs_only_append():
    identity_N, row_N = make_images()
    short = plan_of(make_config(), identity_N, row_N)
    long = plan_of(make_config(optim__epochs=5), identity_N, row_N)
    assert long.slice(0, len(short)).equals(short)


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize(
    "changes",
    [{}, {"data__images_per_identity": None, "data__undersample_to": 4}, {"data__variants": 2}],
    ids=["m_per_identity", "shuffled_undersampled", "offline"],
)
def test_global_batches_are_the_same_for_any_world_size(world_size, changes):
    identity_N, row_N = make_images()
    alone = plan_of(make_config(**changes), identity_N, row_N)
    shared = plan_of(make_config(**changes), identity_N, row_N, world_size=world_size)
    assert batches_of(shared) == batches_of(alone)
    assert {len(row["rows"]) for row in shared.to_pylist()} == {BATCH // world_size}
    first_rows = {(row["epoch"], row["position"]): row["rows"][0] for row in shared.to_pylist()}
    for row in alone.to_pylist():  # positions count images within the epoch, over all ranks
        for offset in range(0, BATCH, BATCH // world_size):
            assert first_rows[row["epoch"], row["position"] + offset] == row["rows"][offset]


def test_batches_follow_the_rule_of_the_librarys_sampler():
    identity_N, row_N = make_images()
    identity_of, num_images = dict(zip(row_N.tolist(), identity_N, strict=True)), Counter(identity_N)
    ours = batches_of(plan_of(make_config(data__oversample_to=None), identity_N, row_N)).values()
    sampler = MPerClassSampler(identity_N, m=PER_IDENTITY, batch_size=BATCH, length_before_new_iter=BATCH * 15)
    drawn = row_N[list(sampler)].reshape(-1, BATCH).tolist()
    assert len(ours) == len(drawn) == 15  # 70 // 12 steps in each of 3 epochs
    for batch in [*ours, *drawn]:
        check_m_per_identity(batch, identity_of, num_images)


def test_every_identity_is_drawn_equally_often_in_the_long_run():
    identity_N, row_N = make_images()
    identity_of = dict(zip(row_N.tolist(), identity_N, strict=True))
    batches = batches_of(plan_of(make_config(optim__epochs=60), identity_N, row_N)).values()
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
        at_least: len(plan_of(make_config(optim__epochs=1, data__oversample_to=at_least), identity_N, row_N))
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


def test_the_papers_offline_oversampling_fills_up_with_different_variants():
    identity_N = np.array(["one", "two", "two", "six", "six", "six", "six", "six", "six"], dtype=object)
    pool = make_pool(DataConfig(oversample_to=5, variants=5), identity_N, np.arange(9), 100)
    assert {name: rows.tolist() for name, rows in pool.rows_of.items()} == {
        "one": [0, 100, 101, 102, 103],
        "six": [3, 4, 5, 6, 7, 8],
        "two": [1, 2, 104, 105, 106],
    }
    assert list(zip(pool.source_E.tolist(), pool.variant_E.tolist(), strict=True)) == [
        *((0, 1), (0, 2), (0, 3), (0, 4)),
        *((1, 1), (2, 1), (1, 2)),
    ]


def test_one_variant_is_the_photograph_itself():
    pool = make_pool(DataConfig(oversample_to=3, variants=1), np.array(["a", "b", "b"]), np.array([7, 8, 9]), 20)
    assert {name: rows.tolist() for name, rows in pool.rows_of.items()} == {"a": [7, 7, 7], "b": [8, 9, 8]}
    assert len(pool.source_E) == 0


def test_oversampling_stops_where_undersampling_begins():
    config = DataConfig(oversample_to=5, undersample_to=3, variants=9)
    pool = make_pool(config, np.array(["a", "b", "b", "b", "b"]), np.arange(5), 5)
    assert {name: rows.tolist() for name, rows in pool.rows_of.items()} == {"a": [0, 5, 6], "b": [1, 2, 3, 4]}
    assert count_images(pool, 3) == 6
    assert count_images(pool, None) == 7


@pytest.mark.parametrize("per_identity", [PER_IDENTITY, None])
def test_offline_and_online_take_the_same_photographs_in_the_same_order(per_identity):
    identity_N, row_N = make_images()
    online, offline = (make_config(data__images_per_identity=per_identity, data__variants=v) for v in (None, 3))
    pool = make_pool(offline.data, identity_N, row_N, 200)
    photograph_of = np.concatenate([np.arange(200), pool.source_E])
    plan = plan_of(offline, identity_N, row_N)
    photographs = [photograph_of[row["rows"]].tolist() for row in plan.to_pylist()]
    assert photographs == [row["rows"] for row in plan_of(online, identity_N, row_N).to_pylist()]
    assert max(row for rows in plan["rows"].to_pylist() for row in rows) == 200 + len(pool.source_E) - 1


def test_undersampling_draws_anew_each_epoch_and_every_image_gets_its_turn():
    rows_of = {"few": np.arange(3), "many": np.arange(10, 30)}
    epochs = [undersample(rows_of, 4, seed, epoch) for seed in (0, 1) for epoch in range(500)]
    assert all(rows["few"].tolist() == [0, 1, 2] for rows in epochs)
    assert all(len(rows["many"]) == len(set(rows["many"].tolist())) == 4 for rows in epochs)
    assert not np.array_equal(epochs[0]["many"], epochs[1]["many"])  # another epoch
    assert not np.array_equal(epochs[0]["many"], epochs[500]["many"])  # another seed
    turns = Counter(row for rows in epochs for row in rows["many"].tolist())
    assert sorted(turns) == list(range(10, 30))
    assert all(150 < count < 250 for count in turns.values())  # 200 ± 13 (binomial)
    assert undersample(rows_of, 4, 1, 7)["many"].tolist() == epochs[507]["many"].tolist()


@pytest.mark.parametrize("per_identity", [PER_IDENTITY, None])
def test_an_undersampled_epoch_uses_at_most_m_images_of_an_identity(per_identity):
    identity_N, row_N = make_images()
    identity_of = dict(zip(row_N.tolist(), identity_N, strict=True))
    config = make_config(data__images_per_identity=per_identity, data__undersample_to=4, optim__epochs=8)
    plan = plan_of(config, identity_N, row_N)
    used_by_epoch = []
    for epoch in range(8):
        batches = [row["rows"] for row in plan.to_pylist() if row["epoch"] == epoch]
        assert len(batches) == 32 // 12  # 8 animals, each filled up or cut down to 4
        used = {row for batch in batches for row in batch}
        assert max(Counter(identity_of[row] for row in used).values()) <= 4
        used_by_epoch.append({row for row in used if identity_of[row] == "animal 7"})
    assert len(set(map(frozenset, used_by_epoch))) > 4
    assert len(set.union(*used_by_epoch)) > 10  # of its 25 images


def test_a_shuffled_epoch_uses_every_image_at_most_once():
    identity_N, row_N = make_images()
    config = make_config(data__images_per_identity=None, data__oversample_to=None, optim__epochs=6)
    batches = batches_of(plan_of(config, identity_N, row_N))
    epochs = [[row for (at, _), batch in batches.items() if at == epoch for row in batch] for epoch in range(6)]
    for rows in epochs:
        assert len(rows) == len(set(rows)) == 70 // 12 * 12
        assert set(rows) <= set(row_N.tolist())
    assert len(set(map(tuple, epochs))) == 6
    assert set().union(*epochs) == set(row_N.tolist())  # another image is left over each time


def test_a_shuffled_epoch_uses_repeated_images_as_often_as_the_pool_has_them():
    identity_N = np.array(["a", "b", "b", "c", "c", "c"], dtype=object)
    config = make_config(data__images_per_identity=None, data__oversample_to=3, optim__batch_size=3)
    for epoch in range(3):
        plan = plan_of(config, identity_N, np.arange(6))
        rows = [row for entry in plan.to_pylist() if entry["epoch"] == epoch for row in entry["rows"]]
        assert sorted(rows) == [0, 0, 0, 1, 1, 2, 3, 4, 5]


def test_a_pool_smaller_than_a_shuffled_batch_is_repeated():
    config = make_config(data__images_per_identity=None, data__oversample_to=None, optim__epochs=1)
    (row,) = plan_of(config, np.array(["a", "a", "b", "b", "b"]), np.arange(5)).to_pylist()
    assert sorted(Counter(row["rows"]).values()) == [2, 2, 2, 3, 3]
    assert sorted(row["rows"][:5]) == [0, 1, 2, 3, 4]


SINGLETONS = np.array([f"animal {k}" for k in range(8)], dtype=object), np.arange(8)


@pytest.mark.parametrize(
    "changes",
    [
        {"data__oversample_to": None},
        {"data__oversample_to": 1},
        {"data__variants": 1},  # five times the same pixels
        {"data__oversample_to": None, "data__images_per_identity": None},
    ],
)
def test_triplets_of_singletons_are_refused(changes):
    with pytest.raises(UserError, match=r"loss.name=triplet needs two images.* raise data.oversample_to"):
        plan_of(make_config(**changes), *SINGLETONS)
    for other in ({"loss__name": "cross_entropy"}, {"optim__epochs": 0}):
        plan_of(make_config(**changes | other), *SINGLETONS)


def test_triplets_of_animals_cut_down_to_one_image_are_refused():
    with pytest.raises(UserError, match=r"data.undersample_to=1.* lift the other limits"):
        plan_of(make_config(data__undersample_to=1), *make_images())


@pytest.mark.parametrize("variants", [None, 2])
def test_oversampled_singletons_make_triplets(variants):
    plan = plan_of(make_config(data__variants=variants), *SINGLETONS)
    assert len(plan) == 3 * (8 * 5 // 12)


def test_without_epochs_there_is_nothing_to_refuse():
    plan = plan_of(make_config(optim__epochs=0, optim__batch_size=27), *make_images(), world_size=2)
    assert plan.num_rows == 0


def test_no_images_are_refused():
    with pytest.raises(UserError, match="training has no images"):
        plan_of(make_config(data__images_per_identity=None), np.array([], dtype=object), np.array([], dtype=int))


@pytest.mark.parametrize(
    ("changes", "world_size", "message"),
    [
        ({}, 5, "optim.batch_size=12 cannot be divided among 5 workers"),
        ({"data__images_per_identity": 5}, 1, "not a multiple of data.images_per_identity=5"),
        ({"optim__batch_size": 27}, 1, "needs 9 identities; training has 8"),
    ],
)
def test_impossible_batches_are_refused_by_name(changes, world_size, message):
    with pytest.raises(UserError, match=message):
        plan_of(make_config(**changes), *make_images(), world_size=world_size)
