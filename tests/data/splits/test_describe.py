"""The table of a split: what is counted, and what it says of groups that lack something."""

import numpy as np
from herds import SHAPES, rows_of, split

from reid_core.data.splits.describe import describe_parts
from reid_core.data.splits.parts import Parts


def test_describe_parts_counts_and_says_what_is_lacking():
    parts = ["training"] * 3 + ["validating", "thresholdSet", "thresholdSet", "thresholdSet", "testSet", "query"]
    identities = ["ada", "ada", "bo", "ada", "ada", "cy", "cy", "bo", None]
    part_N, identity_N = np.array([*parts, "query"]), np.array([*identities, None], dtype=object)
    text = describe_parts(Parts(identity_N, np.array(["cow"] * 9 + ["pig"]), part_N))
    lines = text.splitlines()
    assert [name for name in lines[0].split("  ") if name] == [
        "images/identities",
        "training",
        "validating",
        "thresholdSet known",
        "thresholdSet new",
        "testSet known",
        "testSet new",
        "query",
    ]
    assert lines[1].split() == ["cow", "3/2", "1/1", "1/1", "2/1", "1/1", "0", "1"]
    assert lines[2].split() == ["pig", "0", "0", "0", "0", "0", "0", "1"]
    assert lines[3:] == [
        "cow: thresholdSet has only 1 new identity",
        "cow: testSet has no new identity: BAUS is undefined",
        "pig: no training images: its queries cannot be named",
    ]
    assert len({len(line) for line in lines[:3]}) == 1


def test_describe_parts_of_a_locked_test_set_and_of_unreadable_photographs():
    parts = ["training"] * 3 + ["validating"] + ["thresholdSet"] * 4 + ["testSet"] * 2 + ["query", "unreadable"]
    identity_N = np.array(["ada", "ada", "bo", "ada", "ada", "cy", "di", "ed", None, None, None, "bo"], dtype=object)
    lines = describe_parts(Parts(identity_N, np.array(["cow"] * 12), np.array(parts))).splitlines()
    names = [name.strip() for name in lines[0].split("  ") if name]
    assert names[3:] == ["thresholdSet known", "thresholdSet new", "query", "testSet", "unreadable"]
    assert lines[1].split() == ["cow", "3/2", "1/1", "1/1", "3/3", "1", "2", "1/1"]
    assert len(lines) == 2  # 1 of 10 images is a known query of thresholdSet; of testSet nothing can be said


def test_describe_parts_of_groups_too_small_to_split():
    for shape, lacking in {
        "singletons": ["no known query: BAKS is undefined", "validating is empty", "no positive pair"],
        "one": ["no new identity: BAUS is undefined"],
        "pairs": ["no known query: BAKS is undefined"],
    }.items():
        identity_N, group_N = rows_of(SHAPES[shape])
        part_N = split(identity_N, group_N, strategy="stratified", seed=0)
        text = describe_parts(Parts(identity_N, group_N, part_N))
        for words in lacking:
            assert words in text
    identity_N, group_N = rows_of(SHAPES["lynx"])
    part_N = split(identity_N, group_N, strategy="stratified", seed=0)
    assert len(describe_parts(Parts(identity_N, group_N, part_N)).splitlines()) == 2  # nothing lacking
