"""Configuration: what is accepted, what is refused by name, and when two are equal."""

import dataclasses
import json
import math

import pytest

from reid_core.config.parameters import TrialConfig
from reid_core.config.presets import PRESETS, make_preset
from reid_core.config.values import NEWER_KEYS, fingerprint, flatten, get, override, parse_value
from reid_core.config.yaml_files import read_config, write_config
from reid_core.errors import UserError

DEFAULT = TrialConfig()


def test_override_changes_what_is_named_and_nothing_else():
    changed = override(DEFAULT, {"optim.lr_head": 1e-4, "optim.epochs": 3, "seed": 9})
    before, after = flatten(DEFAULT), flatten(changed)
    assert {key: value for key, value in after.items() if value != before[key]} == {
        "optim.lr_head": 1e-4,
        "optim.epochs": 3,
        "seed": 9,
    }
    assert TrialConfig() == DEFAULT


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("optim.lr", "'optim' has: epochs, batch_size"),
        ("optim", "known: seed"),
        ("sed", "known: seed"),
        ("", "unknown key"),
        ("seed.x", "the parts are"),
        ("optim.lr_head.x", "'optim' has"),
        ("nothing.at_all", "the parts are"),
        ("optim.", "unknown key"),
        ("seed.", "unknown key"),
    ],
)
def test_unknown_keys_are_refused_by_name(key, message):
    with pytest.raises(UserError, match=f"unknown key '{key}'") as caught:
        override(DEFAULT, {key: 1})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optim.epochs", 3.0),
        ("optim.epochs", "3"),
        ("optim.epochs", True),
        ("optim.epochs", None),
        ("optim.lr_head", "1e-4"),
        ("optim.lr_head", True),
        ("optim.lr_head", math.nan),
        ("augment.flip", 1),
        ("augment.flip", None),
        ("loss.miner", "soft"),
        ("loss.miner", True),
        ("loss.miner", ["hard"]),
        ("model.backbone", 3),
        ("data.mean", [0.5, 0.5]),
        ("data.mean", [0.5, 0.5, "0.5"]),
        ("data.mean", {"r": 0.5}),
        ("optim.clip_norm", "off"),
    ],
)
def test_values_of_the_wrong_type_are_refused_by_name(key, value):
    with pytest.raises(UserError, match=f"{key}=.*has the wrong type; expected"):
        override(DEFAULT, {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optim.batch_size", 1),
        ("optim.epochs", -1),
        ("augment.probability", 1.01),
        ("optim.lr_head", -1e-9),
        ("optim.lr_head", math.inf),
        ("optim.patience_epochs", 0),
        ("data.images_per_identity", 1),
        ("threshold.largest", 1.1),
    ],
)
def test_values_out_of_range_are_refused_by_name(key, value):
    with pytest.raises(UserError, match=f"{key}=.* is outside"):
        override(DEFAULT, {key: value})
    part, name = key.split(".")
    with pytest.raises(UserError, match=f"{key}=.* is outside"):  # construction checks as well
        dataclasses.replace(DEFAULT, **{part: dataclasses.replace(getattr(DEFAULT, part), **{name: value})})


def test_an_empty_range_of_thresholds_is_refused():
    with pytest.raises(UserError, match=r"threshold\.smallest=0\.9 is above threshold\.largest=0\.2"):
        override(DEFAULT, {"threshold.smallest": 0.9, "threshold.largest": 0.2})
    assert override(DEFAULT, {"threshold.smallest": 0.4, "threshold.largest": 0.4}).threshold.largest == 0.4


def test_whole_numbers_pass_as_floats_and_lists_as_tuples():
    changed = override(DEFAULT, {"optim.warmup_epochs": 2, "data.mean": [0, 0.5, 1], "data.std": 1})
    assert repr(changed.optim.warmup_epochs) == "2.0"
    assert repr(changed.data.mean) == "(0.0, 0.5, 1.0)"
    assert repr(changed.data.std) == "1.0"


def test_off_is_none_where_it_is_allowed():
    changed = override(DEFAULT, {"optim.clip_norm": None, "data.oversample_to": None, "data.mean": None})
    assert [get(changed, key) for key in ("optim.clip_norm", "data.oversample_to", "data.mean")] == [None] * 3


def test_no_part_can_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DEFAULT.optim.epochs = 3


def test_equal_configurations_have_equal_fingerprints():
    one = override(DEFAULT, {"optim.warmup_epochs": 2, "data.mean": [0.5, 0.5, 0.5]})
    other = override(override(DEFAULT, {"data.mean": (0.5, 0.5, 0.5)}), {"optim.warmup_epochs": 2.0})
    assert one == other
    assert fingerprint(one) == fingerprint(other) != fingerprint(DEFAULT)


def test_a_configuration_keeps_the_fingerprint_that_it_had_before_a_key_came():
    assert fingerprint(DEFAULT) == "41055d90969d"
    assert fingerprint(override(DEFAULT, {"model.block_groups": 4})) != fingerprint(DEFAULT)
    assert all(get(DEFAULT, key) == value for key, value in NEWER_KEYS.items())


def test_every_value_is_part_of_the_fingerprint():
    base = override(DEFAULT, {"loss.name": "arcface", "match.matcher": "none"})  # goes with every single value
    seen = {fingerprint(base)}
    choices = {
        "data.split": "paper",
        "data.cutoff_date": "2020-01-31",
        "data.undersample_to": 7,
        "data.variants": 5,
        "data.mean": 0.5,
        "data.std": 0.5,
        "model.head": "mlp",
        "model.classifier": "mlp",
        "model.orientation": "input",
        "loss.name": "triplet",
        "loss.miner": "all",
        "optim.lr_head_scaling": "linear",
        "optim.schedule": "cosine",
        "optim.precision": "float32",
        "optim.patience_epochs": 3,
        "optim.patience_on": "loss_validating",
        "match.matcher": "sift-mnn",
        "match.weights": "folder",
        "fusion.calibration": "logistic",
        "fusion.weights": "fitted",
        "fusion.second_model": "swin_tiny",
        "predict.rule": "openmax",
        "predict.aggregate": "mean",
        "threshold.search": "grid",
        "threshold.per": "all",
        "threshold.fixed": 0.6,
        "threshold.objective": "pooled",
        "model.head_dropout": 0.2,
        "model.block_groups": 3,
        "model.checkpointing": "always",
        "optim.accumulate": 2,
    }
    for key, value in flatten(base).items():
        if key in choices:
            other = choices[key]
        elif isinstance(value, bool):
            other = not value
        elif isinstance(value, str):
            other = value + "x"
        else:
            other = value + 1 if isinstance(value, int) else value / 2 + 0.01
        seen.add(fingerprint(override(base, {key: other})))
    assert len(seen) == 1 + len(flatten(base))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predict.rule": "openmax"}, "predict.rule=openmax needs a classifier; loss.name=triplet trains none"),
        ({"predict.rule": "softmax"}, "predict.rule=softmax needs a classifier"),
        ({"fusion.calibration": "none"}, "set match.matcher=none and no second model"),
        ({"fusion.calibration": "none", "match.matcher": "none", "fusion.second_model": "a"}, "no second model"),
        ({"optim.head_only_epochs": 1, "model.head": "none"}, "would train nothing"),
    ],
)
def test_what_contradicts_itself_is_refused_and_the_other_half_alone_is_not(changes, message):
    with pytest.raises(UserError, match=message):
        override(DEFAULT, changes)
    agreeable = {"loss.name": "cross_entropy", "match.matcher": "none", "fusion.second_model": None}
    assert override(DEFAULT, changes | agreeable).loss.name == "cross_entropy"


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_flatten_and_override_are_a_round_trip(name):
    config = override(make_preset(name), {"data.mean": [0.1, 0.2, 0.3]})
    assert override(TrialConfig(), flatten(config)) == config
    assert override(TrialConfig(), json.loads(json.dumps(flatten(config)))) == config


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_written_and_read_is_the_same(name, tmp_path):
    config = override(make_preset(name), {"optim.lr_norm": 3e-7, "data.std": [0.1, 0.2, 0.3], "match.weights": "a: b"})
    write_config(tmp_path / "config.yaml", config)
    assert read_config(tmp_path / "config.yaml") == config


def test_presets_are_chosen_by_name():
    assert {"megadescriptor", "tiny"} <= set(PRESETS)
    assert len({fingerprint(make_preset(name)) for name in PRESETS}) == len(PRESETS)
    with pytest.raises(
        UserError, match=r"--preset big: no such preset; there are: batch16, batch32, .*megadescriptor, tiny"
    ):
        make_preset("big")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("3", 3),
        ("null", None),
        ("true", True),
        ("[0.5, 1, 2]", [0.5, 1, 2]),
        ("none", "none"),
        ("True", "True"),
        ("", ""),
        ("a/b.safetensors", "a/b.safetensors"),
        (None, None),
        (0.5, 0.5),
    ],
)
def test_values_as_a_person_types_them(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)
