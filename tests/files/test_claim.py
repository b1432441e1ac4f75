"""A claim: one holder at a time, and none after it, however it ended."""

import subprocess
import sys

import pytest

from reid_core.files.claim import claim

HOLD = """
import sys, time
from pathlib import Path
from reid_core.files.claim import claim
with claim(Path(sys.argv[1])) as is_mine:
    print(is_mine, flush=True)
    time.sleep(60)
"""


def test_one_at_a_time_and_nothing_is_left(tmp_path):
    file = tmp_path / "cache" / "report.json"
    with claim(file) as first, claim(file) as second, claim(file.with_name("other.json")) as other:
        assert (first, second, other) == (True, False, True)
    with pytest.raises(KeyError), claim(file):
        raise KeyError
    with claim(file) as again:
        assert again
    assert list(file.parent.iterdir()) == []


def test_a_process_that_is_killed_lets_go(tmp_path):
    file = tmp_path / "report.json"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(file)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "True\n"
        with claim(file) as is_mine:
            assert not is_mine
    finally:
        holder.kill()
        holder.communicate()
    with claim(file) as is_mine:
        assert is_mine
