"""Damaged files: a short round of benchmarks/mutations.py, and that it would see a reader that trusts its files."""

import json
import random
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.mutations import GOOD, KINDS, attempt, damage, run_mutations
from benchmarks.subjects import Subject, make_subjects
from reid_core.errors import UserError


@pytest.mark.filterwarnings("ignore")  # Pillow's about damaged photographs
def test_each_damaged_file_gives_a_message_or_an_equal_result(tmp_path):
    subjects = make_subjects(tmp_path / "whole")
    runs = list(run_mutations(subjects, tmp_path, len(subjects) * len(KINDS), seed=1))
    assert [f"{outcome}: {story}" for _, _, outcome, story in runs if outcome not in GOOD] == []
    assert Counter(kind for _, kind, _, _ in runs) == dict.fromkeys(KINDS, len(subjects))
    assert Counter(name for name, _, _, _ in runs) == dict.fromkeys((each.name for each in subjects), len(KINDS))
    assert {outcome for _, _, outcome, _ in runs} == set(GOOD)


def write_numbers(folder: Path) -> Subject:
    """A reader that trusts its file."""
    folder.mkdir()
    (folder / "numbers.json").write_text(json.dumps(list(range(100))))
    return Subject("numbers", folder, ("numbers.json",), lambda at: json.loads((at / "numbers.json").read_text()))


def test_a_reader_that_trusts_its_files_is_seen(tmp_path):
    runs = list(run_mutations([write_numbers(tmp_path / "whole")], tmp_path, 60, seed=0))
    outcomes = Counter(outcome for _, _, outcome, _ in runs)
    assert outcomes["traceback"] > 20
    assert outcomes["another result, unseen"] > 5
    assert any("JSONDecodeError" in story for _, _, outcome, story in runs if outcome == "traceback")


def test_what_a_user_sees_is_judged(tmp_path):
    def say(error: Exception) -> tuple[str, str]:
        def use(folder: Path) -> None:
            raise error

        return attempt(Subject("x", tmp_path, (), use), tmp_path, None)

    assert say(UserError("file: damaged"))[0] == "message"
    assert say(UserError("file:\n  damaged"))[0] == "message"
    assert say(ValueError("damaged"))[0] == "traceback"
    assert say(UserError("file: damaged"))[1] == "error: file: damaged\n"


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_damage_and_nothing_else_changes(tmp_path, kind):
    contents = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        for name in ("a", "b", "c"):
            (folder / name).write_bytes(random.Random(name).randbytes(300))
        damage(kind, folder, ("a", "b"), random.Random(3))
        contents.append([(folder / name).read_bytes() for name in ("a", "b", "c")])
    whole = [random.Random(name).randbytes(300) for name in ("a", "b", "c")]
    assert contents[0] == contents[1]
    assert contents[0][2] == whole[2]
    assert contents[0][:2] != whole[:2]
    if kind == "swap":
        assert sorted(b"".join(contents[0])) == sorted(b"".join(whole))
    assert len(contents[0][0] + contents[0][1]) <= 600
