"""The search space: ranges, conditions, fixed keys, and the base as its first point."""

import optuna
import pytest
from optuna.trial import FixedTrial

from reid_core.config import UserError, flatten, override
from reid_core.presets import megadescriptor, tiny
from sweeps.space import base_point, describe_space, distributions, metric_space

NOTHING: frozenset[str] = frozenset()


def test_the_issue_s_keys_are_searched_in_the_design_s_ranges():
    found = distributions(metric_space, megadescriptor(), NOTHING, flatten(megadescriptor()))
    assert found["optim.batch_size"].choices == (16, 32, 64)
    assert found["model.unfrozen_stages"].choices == (0, 1, 2)
    assert found["model.embedding_dim"].choices == (256, 512, 1024)
    assert found["model.head"].choices == ("linear", "mlp")
    ranges = {key: (found[key].low, found[key].high) for key in found if key.startswith("optim.lr")}
    assert ranges == {"optim.lr_head": (1e-5, 1e-3), "optim.lr_stages": (1e-6, 1e-4), "optim.lr_norm": (1e-6, 1e-4)}
    assert all(found[key].log for key in ranges)
    assert (found["loss.margin_cosine"].low, found["loss.margin_cosine"].high) == (0.05, 0.5)


def test_head_hidden_is_asked_only_for_an_mlp_head():
    values = flatten(megadescriptor())
    assert "model.head_hidden" not in metric_space(FixedTrial(values), megadescriptor())
    assert metric_space(FixedTrial(values | {"model.head": "mlp"}), megadescriptor())["model.head_hidden"] == 1024


def test_a_fixed_key_is_not_searched_and_decides_conditions():
    base = override(megadescriptor(), {"model.head": "mlp"})
    asked = metric_space(FixedTrial(flatten(base)), base, frozenset({"model.head", "optim.lr_head"}))
    assert "model.head" not in asked
    assert "optim.lr_head" not in asked
    assert "model.head_hidden" in asked


@pytest.mark.parametrize("preset", [megadescriptor, tiny])
def test_the_base_lies_in_its_own_space(preset):
    base = preset()
    point = base_point(metric_space, base, NOTHING)
    assert override(base, point) == base
    assert point["optim.lr_head"] == base.optim.lr_head


def test_a_base_outside_a_range_moves_it_one_decade_around():
    base = override(megadescriptor(), {"optim.lr_stages": 1e-2})
    found = distributions(metric_space, base, NOTHING, flatten(base))["optim.lr_stages"]
    assert (found.low, found.high) == (1e-3, 1e-1)


def test_every_sampled_point_is_a_valid_configuration():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(50):
        values = metric_space(study.ask(), tiny())
        assert flatten(override(tiny(), values)) == flatten(tiny()) | values


def test_values_of_another_space_are_refused_by_name():
    values = flatten(megadescriptor())
    with pytest.raises(UserError, match=r"loss.margin_cosine=1.5"):
        distributions(metric_space, megadescriptor(), NOTHING, values | {"loss.margin_cosine": 1.5})
    with pytest.raises(UserError, match=r"optim\.batch_size"):
        distributions(metric_space, megadescriptor(), NOTHING, {"optim.lr_head": 1e-4})


def test_the_description_names_conditional_keys_too():
    told = describe_space(metric_space, megadescriptor(), NOTHING)
    assert "model.head_hidden" in told
    assert "{16, 32, 64}" in told
    everything = frozenset(flatten(megadescriptor()))
    assert "nothing is searched" in describe_space(metric_space, megadescriptor(), everything)
