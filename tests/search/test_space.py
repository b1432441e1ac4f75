"""The search spaces: ranges, conditions, fixed and added keys, and the base as their first point."""

import pickle

import optuna
import pytest
from optuna.trial import FixedTrial

from reid_core.config.presets import (
    batch32,
    batch64_complex_head,
    batch64_warmup,
    efficientnet_b4,
    efficientnet_b4_frozen,
    megadescriptor,
    shrink,
    tiny,
)
from reid_core.config.values import flatten, override
from reid_core.errors import UserError
from sweeps.search.candidates import Choices, Range, Suggester
from sweeps.search.space import SearchSpace, classification_space, efficientnet_space, metric_space

SPACES = {"metric": metric_space, "classification": classification_space, "efficientnet": efficientnet_space}


def suggested(function, base, searched=(), **values):
    """Searched values of a trial that has the base's, these keys excepted."""
    trial = FixedTrial(flatten(base) | {key.replace("__", "."): value for key, value in values.items()})
    return SearchSpace(function, base, searched=searched).suggest(trial)


def test_keys_and_ranges_of_the_metric_space():
    found = SearchSpace(metric_space, megadescriptor()).distributions(flatten(megadescriptor()))
    assert found["optim.batch_size"].choices == (16, 32, 64)
    assert found["model.unfrozen_stages"].choices == (0, 1, 2)
    assert found["model.embedding_dim"].choices == (256, 512, 1024)
    assert found["model.head"].choices == ("linear", "mlp")
    ranges = {key: (found[key].low, found[key].high) for key in found if key.startswith("optim.lr")}
    assert ranges == {"optim.lr_head": (1e-5, 1e-3), "optim.lr_stages": (1e-6, 1e-4), "optim.lr_norm": (1e-6, 1e-4)}
    assert all(found[key].log for key in ranges)
    assert (found["loss.margin_cosine"].low, found["loss.margin_cosine"].high) == (0.05, 0.5)


def test_head_hidden_is_asked_only_for_an_mlp_head():
    assert "model.head_hidden" not in suggested(metric_space, megadescriptor())
    assert suggested(metric_space, megadescriptor(), model__head="mlp")["model.head_hidden"] == 1024


def test_keys_and_ranges_of_the_classification_space():
    found = SearchSpace(classification_space, batch32()).all_distributions()
    assert set(found) == {
        "optim.batch_size",
        "optim.lr_head",
        "optim.lr_stages",
        "optim.lr_norm",
        "optim.schedule",
        "optim.warmup_epochs",
        "model.unfrozen_stages",
        "model.classifier",
        "model.head_hidden",
        "loss.label_smoothing",
    }
    assert found["optim.schedule"].choices == ("constant", "onecycle", "cosine")
    assert found["model.classifier"].choices == ("linear", "mlp")
    assert (found["optim.lr_head"].low, found["optim.lr_head"].high, found["optim.lr_head"].log) == (1e-6, 1e-3, True)
    assert (found["loss.label_smoothing"].low, found["loss.label_smoothing"].high) == (0.0, 0.2)


def test_a_warm_up_is_asked_only_of_a_cosine_schedule_and_units_only_of_a_complex_classifier():
    plain = suggested(classification_space, batch32())
    assert "optim.warmup_epochs" not in plain
    assert "model.head_hidden" not in plain
    assert suggested(classification_space, batch32(), optim__schedule="cosine")["optim.warmup_epochs"] == 0.0
    assert "optim.warmup_epochs" not in suggested(classification_space, batch32(), optim__schedule="onecycle")
    assert suggested(classification_space, batch32(), model__classifier="mlp")["model.head_hidden"] == 1024


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize(
    ("loss", "own"),
    [
        ("triplet", {"loss.margin_cosine"}),
        ("cross_entropy", {"loss.label_smoothing", "model.classifier"}),
        ("arcface", {"loss.margin_deg", "loss.scale"}),
        ("subcenter_arcface", {"loss.margin_deg", "loss.scale"}),
    ],
)
def test_every_loss_is_asked_for_its_own_values(space, loss, own):
    base = override(batch32(), {"loss.name": loss})
    answers = set(suggested(space, base))
    assert {key for key in answers if key.startswith("loss.") or key == "model.classifier"} == own
    losses = Choices(("triplet", "cross_entropy", "arcface", "subcenter_arcface"))
    searched = suggested(space, batch32(), (("loss.name", losses),), loss__name=loss)
    assert {key for key in searched if key.startswith("loss.")} == {key for key in own if "loss" in key} | {"loss.name"}


def test_efficientnet_is_unfrozen_no_further_than_the_attempt():
    direct, frozen = efficientnet_b4(), efficientnet_b4_frozen()
    most = direct.model.unfrozen_stages
    found = SearchSpace(efficientnet_space, direct).distributions(flatten(direct))
    assert found["model.unfrozen_stages"].choices == (0, most // 2, most)
    assert "model.drop_path" in found
    for values in (
        suggested(efficientnet_space, frozen),
        suggested(efficientnet_space, direct, model__unfrozen_stages=0),
    ):
        assert not {"optim.lr_stages", "model.drop_path"} & set(values)
    assert not {"model.unfrozen_stages", "optim.lr_norm"} & set(suggested(efficientnet_space, frozen))  # 0 stays 0
    assert "model.embedding_dim" in suggested(efficientnet_space, frozen)
    assert "model.embedding_dim" not in found


def test_a_fixed_key_is_not_searched_and_decides_conditions():
    base = override(megadescriptor(), {"model.head": "mlp"})
    answers = SearchSpace(metric_space, base, frozenset({"model.head", "optim.lr_head"})).suggest(
        FixedTrial(flatten(base))
    )
    assert "model.head" not in answers
    assert "optim.lr_head" not in answers
    assert "model.head_hidden" in answers


BASES = [
    (metric_space, megadescriptor()),
    (metric_space, tiny()),
    (classification_space, batch32()),
    (classification_space, batch64_warmup()),
    (classification_space, batch64_complex_head()),
    (classification_space, shrink(batch32())),
    (efficientnet_space, efficientnet_b4()),
    (efficientnet_space, shrink(efficientnet_b4_frozen())),
]


@pytest.mark.parametrize(("space", "base"), BASES)
def test_the_base_lies_in_its_own_space(space, base):
    point = SearchSpace(space, base).base_point()
    assert override(base, point) == base
    assert point["optim.lr_head"] == base.optim.lr_head


def test_a_base_outside_a_range_moves_it_one_decade_around():
    base = override(megadescriptor(), {"optim.lr_stages": 1e-2})
    found = SearchSpace(metric_space, base).distributions(flatten(base))["optim.lr_stages"]
    assert (found.low, found.high) == (1e-3, 1e-1)


@pytest.mark.parametrize(("space", "base"), BASES)
def test_every_sampled_point_is_a_valid_configuration(space, base):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        values = SearchSpace(space, base).suggest(study.ask())
        assert flatten(override(base, values)) == flatten(base) | values


def test_an_added_key_is_asked_first_and_replaces_the_space_s_own_question():
    extras = (("model.head", Choices(("none", "linear"))), ("optim.lr_head", Range(1e-4, 2e-4, log=True)))
    without_head = suggested(metric_space, megadescriptor(), extras, model__head="none", optim__lr_head=1.5e-4)
    assert without_head["model.head"] == "none"
    assert "model.embedding_dim" not in without_head
    narrow = (("optim.lr_head", Range(2e-5, 6e-5)),)
    found = SearchSpace(metric_space, tiny(), searched=narrow).all_distributions()
    assert (found["optim.lr_head"].low, found["optim.lr_head"].high) == (2e-5, tiny().optim.lr_head)
    assert not found["optim.lr_head"].log


def test_a_space_with_added_keys_survives_pickling():
    space = SearchSpace(metric_space, tiny(), searched=(("match.shortlist", Choices((10, 20))),))
    copy = pickle.loads(pickle.dumps(space))
    assert copy == space
    assert copy.base_point() == space.base_point()
    assert copy.base_point()["match.shortlist"] == 20
    suggest = pickle.loads(pickle.dumps(space.suggest))  # what OptunaSearch holds
    assert suggest(FixedTrial(flatten(tiny()))) == space.base_point()


def test_whole_numbers_stay_whole():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        searched = (("match.shortlist", Range(10, 40)), ("model.drop_path", Range(0, 0.3)))
        values = Suggester(study.ask(), tiny(), frozenset(), searched).values
        assert type(values["match.shortlist"]) is int
        assert type(values["model.drop_path"]) is float


def test_the_longest_trial_is_known_to_the_scheduler():
    assert SearchSpace(metric_space, tiny()).most_epochs() == tiny().optim.epochs
    for candidates, most in ((Choices((3, 30, 10)), 30), (Range(1, 12), 12), (Choices((2, 3)), tiny().optim.epochs)):
        space = SearchSpace(metric_space, tiny(), searched=(("optim.epochs", candidates),))
        assert space.most_epochs() == most


def test_values_of_another_space_are_refused_by_name():
    values, space = flatten(megadescriptor()), SearchSpace(metric_space, megadescriptor())
    with pytest.raises(UserError, match=r"loss.margin_cosine=1.5"):
        space.distributions(values | {"loss.margin_cosine": 1.5})
    with pytest.raises(UserError, match=r"optim\.batch_size"):
        space.distributions({"optim.lr_head": 1e-4})


def test_the_description_names_conditional_and_added_keys_too():
    text = SearchSpace(metric_space, megadescriptor()).describe()
    assert "model.head_hidden" in text
    assert "{16, 32, 64}" in text
    everything = frozenset(flatten(megadescriptor()))
    assert "nothing is searched" in SearchSpace(metric_space, megadescriptor(), everything).describe()
    extras = (("loss.name", Choices(("triplet", "arcface"))), ("predict.aggregate", Choices(("max", "mean"))))
    text = SearchSpace(metric_space, megadescriptor(), searched=extras).describe()
    assert "loss.margin_deg" in text  # only arcface has it
    assert "{max, mean}" in text
