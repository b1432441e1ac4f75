"""The result folder before the work: found out without leaving anything behind."""

import pytest

from reid_core.command import check_out, make_out
from reid_core.errors import UserError


@pytest.mark.parametrize("prove", [check_out, make_out])
def test_a_folder_that_cannot_be_made_is_the_same_error_in_the_plan_and_in_the_run(tmp_path, prove):
    for name in ("x" * 300, "file/out"):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match=r"^--out .*: cannot be written: (File name too long|Not a directory)$"):
            prove(tmp_path / name)


def test_nothing_is_left_behind_by_the_plan(tmp_path):
    check_out(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
