"""Sides: what each orientation word of the known data sets names, and which pairs may be compared."""

import numpy as np
import pytest

from reid_core.data.table.sides import SIDES, compatible, parse_sides


@pytest.mark.parametrize(
    ("word", "sides"),
    [
        ("left", {"left"}),
        ("Right", {"right"}),
        ("topright", {"top", "right"}),
        ("TOP_LEFT", {"top", "left"}),
        ("front-left", {"front", "left"}),
        ("back / right", {"back", "right"}),
        ("down", {"bottom"}),
        ("ventral", {"bottom"}),
        ("dorsal left", {"top", "left"}),
        ("upleft", {"top", "left"}),
        ("left.up", {"top", "left"}),
        ("downright", {"bottom", "right"}),
        ("face", {"front"}),
        ("head", {"front"}),
        ("rear", {"back"}),
        ("left,right", {"left", "right"}),
        ("unknown", set()),
        ("", set()),
        (" ", set()),
        (None, set()),
        ("pup", set()),  # "up" within another word
        ("surface", set()),  # so is "face"
        ("bright", set()),
        ("rightful", set()),
        ("forefront", set()),
        ("not left", set()),
        ("left or right", set()),
        ("left?", set()),
        ("l'arrière", set()),
        ("left слева", set()),
        ("upright", {"top", "right"}),  # a viewpoint of Wildbook
        ("leftside", {"left"}),
        ("left flank 2", {"left"}),
        ("Frontal view", {"front"}),
        ("left and right", {"left", "right"}),
        ("vorne", set()),
    ],
)
def test_the_sides_that_a_word_names(word: str | None, sides: set[str]):
    row_6 = parse_sides([word])[0]
    assert {side for side, there in zip(SIDES, row_6.tolist(), strict=True) if there == 1} == sides
    assert row_6.sum() == len(sides)


def test_sides_are_float32_also_of_no_image():
    assert parse_sides([]).shape == (0, 6)
    assert parse_sides(np.array(["left", None], dtype=object)).dtype == np.float32


def test_compatible_is_sharing_a_side_or_silence():
    words = ["left", "right", "topleft", "top", "bottom", "unknown", None, "front", "leftright"]
    sides_N6 = parse_sides(words)
    named = [{side for side, there in zip(SIDES, row, strict=True) if there} for row in sides_N6]
    slow = [[not first or not second or bool(first & second) for second in named] for first in named]
    np.testing.assert_array_equal(compatible(sides_N6, sides_N6), slow)
    assert compatible(sides_N6[:2], sides_N6[2:7]).tolist() == [
        [True, False, False, True, True],
        [False, False, False, True, True],
    ]


def test_compatible_with_nothing():
    assert compatible(parse_sides([]), parse_sides(["left"])).shape == (0, 1)
    assert compatible(parse_sides(["left"]), parse_sides([])).shape == (1, 0)
