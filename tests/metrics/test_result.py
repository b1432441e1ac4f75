"""result.json: a trial is scored on `testSet` once, and what must be known of its score is kept with it."""

import json
import math

import pytest

from reid_core.config.presets import tiny
from reid_core.data.table.findings import make_finding
from reid_core.data.test_set import record_use
from reid_core.errors import UserError
from reid_core.metrics.result import RESULT, Result, read_result, write_result

METRICS = {"thresholdSet": {"pooled": 0.5}, "testSet": {"pooled": 0.4, "geo_mean.cow": math.nan}}
GAINS = {"testSet": {"epoch0": 0.25, "gain": 0.15, "gain.cow": math.nan}}
FINDING = make_finding("metadata.csv", "2 empty rows left out", ["line 7", "line 9"])


def test_a_result_is_read_again_for_the_same_trial_only(tmp_path):
    result = Result(
        trial="trial-0003", metrics=METRICS, gains=GAINS, findings=(FINDING,), confirmation={"status": "confirmed"}
    )
    assert read_result(tmp_path, "trial-0003") is None
    write_result(tmp_path, result)
    assert repr(read_result(tmp_path, "trial-0003")) == repr(result)  # nan is not equal to itself
    assert read_result(tmp_path, "trial-0000") is None


def test_the_file_says_for_people_how_often_the_test_set_was_used_and_what_was_noticed(tmp_path):
    for _ in range(2):
        record_use(tmp_path, trial="trial-0003", config=tiny())
    write_result(tmp_path, Result(trial="trial-0003", metrics=METRICS, findings=(FINDING,)))
    written = json.loads((tmp_path / RESULT).read_text("utf-8"))
    assert (written["test_set_uses"], written["test_set"].split(",")[0]) == (2, "testSet was used 2 times")
    assert written["findings"] == [
        {"where": "metadata.csv", "what": "2 empty rows left out", "count": 2, "examples": ["line 7", "line 9"]}
    ]


def test_a_damaged_result_is_named_with_the_remedy(tmp_path):
    write_result(tmp_path, Result(trial="trial-0003", metrics=METRICS))
    file = tmp_path / RESULT
    file.write_text(file.read_text("utf-8").replace("0.4", "0.9"), "utf-8")
    with pytest.raises(
        UserError, match=r"result\.json: damaged .* delete it, and the same command uses testSet once more"
    ):
        read_result(tmp_path, "trial-0003")
