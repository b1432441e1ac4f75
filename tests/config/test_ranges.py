"""What stands beside a field: limits that are checked by name, candidates that hold the base's value."""

import ast
import dataclasses
import inspect
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Literal, get_type_hints

import pytest

from reid_core.config import parameters
from reid_core.config.parameters import TrialConfig
from reid_core.config.ranges import Between, Choices, Range, annotations_of, check_limits
from reid_core.errors import UserError
from sweeps.search.candidates import DEFAULTS

PARTS = [kind for kind in get_type_hints(TrialConfig).values() if is_dataclass(kind)]


@dataclass(frozen=True)
class Herd:
    """Fields of every kind."""

    size: Annotated[int, Between(1, 9), Choices((2, 4))] = 2
    speed: Annotated[float | tuple[float, float] | None, Between(0, 0.5)] = None
    weight: Annotated[float, Range(1.0, 3.0), Between(0, 10)] = 1.0
    name: str = "cows"


def test_what_stands_beside_the_fields_comes_in_their_order():
    assert annotations_of(Herd, Between) == {"size": Between(1, 9), "speed": Between(0, 0.5), "weight": Between(0, 10)}
    assert list(annotations_of(Herd, (Choices, Range)).items()) == [
        ("size", Choices((2, 4))),
        ("weight", Range(1.0, 3.0)),
    ]


@pytest.mark.parametrize(
    "values",
    [{"size": 1}, {"size": 9}, {"speed": None}, {"speed": 0.5}, {"speed": (0.0, 0.5)}, {"weight": 10.0}],
)
def test_limits_belong_to_what_they_allow(values):
    check_limits("herd", Herd(**values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 0}, "herd.size=0 is outside 1 … 9"),
        ({"speed": 0.51}, "herd.speed=0.51 is outside 0 … 0.5"),
        ({"speed": (0.1, -0.1)}, "herd.speed=(0.1, -0.1) is outside 0 … 0.5"),
        ({"weight": float("nan")}, "herd.weight=nan is outside 0 … 10"),
    ],
)
def test_a_value_outside_its_limits_is_named_with_its_key(values, message):
    with pytest.raises(UserError) as error:
        check_limits("herd", Herd(**values))
    assert str(error.value) == message


def test_choices_get_the_base_as_their_last():
    assert Choices((2, 4)).including(4) == Choices((2, 4))
    assert Choices((2, 4)).including(3) == Choices((2, 4, 3))
    assert Choices((None, 5)).including(None) == Choices((None, 5))


@pytest.mark.parametrize(
    ("before", "base", "after"),
    [
        (Range(0.1, 0.5), 0.1, Range(0.1, 0.5)),
        (Range(0.1, 0.5), 0.7, Range(0.1, 0.7)),
        (Range(0.1, 0.5), 0.0, Range(0.0, 0.5)),
        (Range(1, 5), 9, Range(1, 9)),
        (Range(1e-3, 1e-1, log=True), 1e-3, Range(1e-3, 1e-1, log=True)),
        (Range(1e-3, 1e-1, log=True), 10.0, Range(1.0, 100.0, log=True)),
    ],
)
def test_ranges_are_stretched_or_moved_to_hold_the_base(before, base, after):
    assert before.including(base) == after


def test_a_logarithmic_range_is_stretched_where_that_is_wanted():
    assert Range(1e-3, 1e-1, log=True).stretched(10.0) == Range(1e-3, 10.0, log=True)


def test_candidates_are_printed_as_a_person_types_them():
    printed = [str(each) for each in (Choices(("a", 2, None, True)), Range(1, 5), Range(1e-5, 0.1, log=True))]
    assert printed == ["a,2,null,true", "1..5", "log:1e-05..0.1"]


def test_what_a_search_tries_and_in_which_order():
    """The order is that of the questions to the optimiser: another one would draw other trials."""
    assert {key: str(candidates) for key, candidates in DEFAULTS.items()} == EXPECTED
    assert list(DEFAULTS) == list(EXPECTED)


EXPECTED = {
    "data.images_per_identity": "2,4,8",
    "data.oversample_to": "null,5,10",
    "data.undersample_to": "null,10,30",
    "data.variants": "null,5",
    "augment.probability": "0.0..0.8",
    "augment.rotation_deg": "0.0..45.0",
    "augment.clahe_clip": "1.0..8.0",
    "augment.blur_px": "3,5,7",
    "augment.brightness": "0.0..0.5",
    "augment.noise_std": "0.0..0.1",
    "augment.erase_fraction": "0.0..0.4",
    "model.unfrozen_stages": "0,1,2",
    "model.head_hidden": "512,1024,2048",
    "model.head_dropout": "0.0..0.5",
    "model.embedding_dim": "256,512,1024",
    "model.drop_path": "0.0..0.3",
    "loss.margin_cosine": "0.05..0.5",
    "loss.label_smoothing": "0.0..0.2",
    "loss.margin_deg": "5.0..45.0",
    "loss.scale": "16.0,32.0,64.0",
    "loss.sub_centers": "2,3,5",
    "optim.batch_size": "16,32,64",
    "optim.lr_head": "log:1e-05..0.001",
    "optim.lr_stages": "log:1e-06..0.0001",
    "optim.lr_norm": "log:1e-06..0.0001",
    "optim.weight_decay": "log:0.001..0.5",
    "optim.warmup_epochs": "0.0,1.0,2.0",
    "optim.head_only_epochs": "0,1,2",
    "optim.clip_norm": "null,0.5,1.0,5.0",
    "match.shortlist": "10,20,50,100",
    "predict.top_images": "2,3,5",
    "predict.votes": "5,10,20",
    "predict.openmax_tail": "10,20,40",
    "predict.openmax_top": "3,5,10",
}


@pytest.mark.parametrize("part", PARTS)
def test_every_number_has_limits_that_hold_its_default(part):
    limits, hints = annotations_of(part, Between), get_type_hints(part)
    for field in dataclasses.fields(part):
        is_word = hints[field.name] in (str, bool, str | None) or Literal in (
            getattr(hints[field.name], "__origin__", None),
        )
        assert is_word != (field.name in limits), field.name
        assert is_word or limits[field.name].holds(field.default)


@pytest.mark.parametrize("part", [*PARTS, TrialConfig])
def test_every_field_is_described(part):
    lines = inspect.getsource(parameters).splitlines()
    tree = ast.parse("\n".join(lines))
    (definition,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == part.__name__]
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and not ast.unparse(node.annotation).endswith("Config"):
            after, above = lines[node.end_lineno - 1][node.end_col_offset :], lines[node.lineno - 2]
            comment = after.strip() or above.strip()
            assert comment.startswith("# "), f"{part.__name__}.{ast.unparse(node.target)}"
            assert len(comment) > 12
