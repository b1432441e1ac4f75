"""Values that no trial can have are left out of the search, and the lines say so; what was asked for is refused."""

from dataclasses import replace

import numpy as np
import pytest
from optuna.trial import FixedTrial

from reid_core.config.presets import tiny
from reid_core.config.values import flatten, override
from reid_core.data.splits.parts import Parts
from reid_core.errors import UserError
from sweeps.machines.resources import Resources
from sweeps.search.search_flag import parse_searched
from sweeps.search.space import SearchSpace, metric_space
from sweeps.stages.checks.values import Group, find_left_out, impossible_values

TWO = Resources(workers=2)


def herd(num_animals: int) -> Parts:
    """Each animal has four photographs in training."""
    animals = np.repeat([f"animal {number}" for number in range(num_animals)], 4).astype(object)
    parts = np.full(len(animals), "training", dtype=object)
    return Parts(animals, np.full(len(animals), "herd", dtype=object), parts)


def space_of(*search: str, **values) -> SearchSpace:
    triplets = {"loss.name": "triplet", "data.images_per_identity": 4, "optim.batch_size": 8}
    base = override(tiny(), triplets | {key.replace("__", "."): value for key, value in values.items()})
    return SearchSpace(metric_space, base, searched=parse_searched(list(search), base))


def test_batches_that_the_data_cannot_fill_are_left_out():
    """8 animals, 4 photographs of each in a batch: 32 images, and not 64."""
    space = space_of()
    assert space.all_distributions()["optim.batch_size"].choices == (16, 32, 64, 8)
    left_out, lines = find_left_out(space, herd(8), TWO)
    assert left_out == (("optim.batch_size", (64,)),)
    assert lines == [
        "not searched: optim.batch_size=64: optim.batch_size=64 with data.images_per_identity=4 needs 16 identities; "
        "training has 8"
    ]
    assert find_left_out(space, herd(16), TWO) == ((), [])


def test_a_value_stays_if_any_value_of_another_key_goes_with_it():
    space = space_of("data.images_per_identity=4,8")
    left_out, lines = find_left_out(space, herd(8), TWO)
    assert (left_out, lines) == ((), [])  # 64 images of 8 animals, 8 of each
    left_out, _ = find_left_out(space, herd(7), TWO)
    assert dict(left_out)["optim.batch_size"] == (64,)


def test_what_is_left_out_is_not_begun_and_changes_no_distribution():
    space = space_of()
    smaller = SearchSpace(metric_space, space.base, left_out=(("optim.batch_size", (64, 16)),))
    assert smaller.all_distributions() == space.all_distributions()
    assert "{32, 8}" in smaller.describe()
    assert smaller.base_point() == space.base_point()
    values = {**space.base_point(), "optim.batch_size": 64}
    assert smaller.suggest(FixedTrial(values))["optim.batch_size"] == 64
    assert (space.allows(values), smaller.allows(values)) == (True, False)
    assert space.restrict(flatten(space.base) | values) == values
    with pytest.raises(UserError, match=r"optim\.batch_size=64 is not searched"):
        smaller.restrict(flatten(space.base) | values)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (
            "optim.batch_size=8,64",
            r"--search optim\.batch_size: no trial can have optim\.batch_size=64: .*16 identities",
        ),
        ("optim.batch_size=7..9", r"optim\.batch_size=7: .* cannot be divided among 2 workers"),
        ("predict.rule", r"predict\.rule=softmax: .* needs a classifier"),
        ("model.unfrozen_stages=0,5", r"model\.unfrozen_stages=5: the backbone has 4 stages"),
        ("model.backbone=convnext_micro_64,nothing", r"model\.backbone=nothing: "),
    ],
)
def test_what_was_asked_for_is_refused(search, message):
    with pytest.raises(UserError, match=message):
        find_left_out(space_of(search), herd(8), TWO)


def test_of_a_range_what_is_possible_is_searched():
    """8 to 32 of 8 animals, 4 photographs of each, for two workers: multiples of 4."""
    left_out, lines = find_left_out(space_of("optim.batch_size=8..34"), herd(8), TWO)
    assert left_out == (("optim.batch_size", tuple(size for size in range(8, 35) if size % 4)),)
    (line,) = lines
    assert line.startswith("not searched: optim.batch_size=9, 10, 11 and 17 other value(s): ")


@pytest.mark.parametrize(
    ("search", "values"),
    [
        (
            ["model.block_groups=4,12", "model.unfrozen_stages=1,6"],
            {"model__backbone": "vit_tiny_patch16_224", "data__image_px": 64, "model__block_groups": 4},
        ),
        (
            ["loss.name=triplet,cross_entropy", "predict.rule"],
            {"loss__name": "cross_entropy", "predict__rule": "softmax"},
        ),
        (
            ["loss.name=triplet,cross_entropy", "model.head=none,linear"],
            {"loss__name": "cross_entropy", "model__head": "none", "optim__head_only_epochs": 1},
        ),
        (
            ["model.keep_activations", "model.orientation=none,input"],
            {"model__orientation": "input", "model__unfrozen_stages": 0},
        ),
        (["optim.batch_size=8,64", "optim.epochs=0,6"], {}),
    ],
)
def test_a_value_that_another_searched_value_makes_possible_is_not_refused(search, values):
    parts = replace(herd(8), sides_N6=np.eye(32, 6, dtype=np.float32))
    left_out, _ = find_left_out(space_of(*search, **values), parts, TWO)
    assert not dict(left_out).keys() & {each.partition("=")[0] for each in search}


def test_variants_of_photographs_make_pairs():
    """One photograph of each animal: a pair needs variants or copies of it."""
    values = {"loss__name": "cross_entropy", "data__oversample_to": 2, "data__variants": 1}
    names = np.array([f"animal {number}" for number in range(32)], dtype=object)
    alone = Parts(names, *(np.full(32, text, dtype=object) for text in ("herd", "training")))
    with pytest.raises(UserError, match=r"loss\.name=triplet: .*two images of one identity"):
        find_left_out(space_of("loss.name=triplet,cross_entropy", **values), alone, TWO)
    space = space_of("loss.name=triplet,cross_entropy", "data.variants=1,2", **values)
    assert "loss.name" not in dict(find_left_out(space, alone, TWO)[0])


@pytest.mark.parametrize("search", ["match.same_side", "model.orientation", "model.orientation=none,input"])
def test_sides_are_not_searched_where_no_photograph_has_one(search):
    key = search.partition("=")[0]
    nowhere, left = np.zeros((32, 6), dtype=np.float32), np.eye(32, 6, dtype=np.float32)
    with pytest.raises(UserError, match=rf"--search {key}: no trial can have .*no labelled row says"):
        find_left_out(space_of(search), replace(herd(8), sides_N6=nowhere), TWO)
    assert key not in dict(find_left_out(space_of(search), replace(herd(8), sides_N6=left), TWO)[0])


def test_impossible_values_by_a_slow_oracle():
    """Every pair of values is tried: a value is impossible if each pair with it fails."""
    rng = np.random.default_rng(0)
    base = tiny()
    keys = ("optim.batch_size", "data.images_per_identity")
    candidates = {keys[0]: (8, 16, 24, base.optim.batch_size), keys[1]: (2, 3, 5, base.data.images_per_identity)}
    for _ in range(50):
        allowed = {(a, b) for a in candidates[keys[0]] for b in candidates[keys[1]] if rng.random() < 0.3}

        def check(config, allowed=allowed):
            if (config.optim.batch_size, config.data.images_per_identity) not in allowed:
                raise UserError("no")

        found = {value for value, _ in impossible_values(base, Group(keys, check), candidates, keys[0])}
        expected = {value for value in candidates[keys[0]] if not any(a == value for a, _ in allowed)}
        assert found == expected - {base.optim.batch_size}
