"""The log of uses of `testSet`: nothing is lost, damage is an error, and no log means no use."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import fingerprint, override
from reid_core.data.test_set import USES, describe_uses, read_uses, record_use
from reid_core.errors import UserError


def test_uses_are_counted_in_order(tmp_path):
    assert read_uses(tmp_path) == []
    first, second = TrialConfig(), override(TrialConfig(), {"seed": 7})
    before = datetime.now(UTC).replace(microsecond=0)
    uses = [record_use(tmp_path, trial="trial-0003", config=first), record_use(tmp_path, trial="b", config=second)]
    assert [use.number for use in uses] == [1, 2]
    assert [use.fingerprint for use in uses] == [fingerprint(first), fingerprint(second)]
    assert before <= datetime.fromisoformat(uses[0].time) <= datetime.fromisoformat(uses[1].time) <= datetime.now(UTC)
    assert read_uses(tmp_path) == uses
    written = json.loads((tmp_path / USES).read_text())["uses"]
    assert written[0] == {"time": uses[0].time, "trial": "trial-0003", "fingerprint": fingerprint(first)}
    assert len(written) == 2


def test_uses_of_several_processes_at_once_are_all_recorded(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        uses = list(pool.map(lambda k: record_use(tmp_path, trial=f"t{k}", config=TrialConfig()), range(40)))
    assert sorted(use.number for use in uses) == list(range(1, 41))
    assert {use.trial for use in read_uses(tmp_path)} == {f"t{k}" for k in range(40)}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[",
        b"{}",
        b"null",
        b"[1]",
        b"[[]]",
        b'[{"time": "x"}]',
        b'[{"time": 1, "trial": "a", "fingerprint": "b"}]',
        b'[{"time": "x", "trial": "a", "fingerprint": "b", "number": 3}]',
        b"\xff\xfe",
    ],
)
def test_a_damaged_log_is_an_error_and_kept(tmp_path, content):
    (tmp_path / USES).write_bytes(content)
    for use in (lambda: read_uses(tmp_path), lambda: record_use(tmp_path, trial="a", config=TrialConfig())):
        with pytest.raises(UserError, match=rf"{USES}: damaged \(.*how often testSet was used"):
            use()
    assert (tmp_path / USES).read_bytes() == content


def test_a_use_that_cannot_be_recorded_is_an_error(tmp_path):
    with pytest.raises(UserError, match=rf"nowhere/{USES}: a use of testSet cannot be recorded: No such file"):
        record_use(tmp_path / "nowhere", trial="a", config=TrialConfig())
    (tmp_path / USES).mkdir()
    with pytest.raises(UserError, match=rf"{USES}: damaged"):
        record_use(tmp_path, trial="a", config=TrialConfig())


def test_a_second_use_is_named_with_what_it_means(tmp_path):
    assert describe_uses(read_uses(tmp_path)) == "testSet was not used."
    for trial, seed, sentence in (
        ("a", 0, "testSet was used once."),
        ("a", 0, "2 times, for the same configuration (a): nothing was chosen by it."),
        ("b", 1, "3 times, for 2 configurations (a, b): whoever chooses"),
    ):
        record_use(tmp_path, trial=trial, config=override(TrialConfig(), {"seed": seed}))
        assert sentence in describe_uses(read_uses(tmp_path))
