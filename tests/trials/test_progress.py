"""What is shown of a running sweep, and how often its table is written."""

from types import SimpleNamespace

import pyarrow.parquet as pq

from reid_core.config.presets import tiny
from sweeps.results.journal import Journal, Record
from sweeps.search.suggestion import Suggestion
from sweeps.trials import progress as shown
from sweeps.trials.progress import TABLE_PAUSE, Progress


def trial(name):
    """Of Ray Tune."""
    return SimpleNamespace(config=Suggestion(name=name, parameters={}).to_tune())


def test_the_table_costs_a_twentieth_of_the_time_and_is_whole_in_the_end(tmp_path, monkeypatch):
    journal, clock, written = Journal(tmp_path / "trials"), [100.0], []
    progress = Progress(9, tiny(), journal, tmp_path)

    def write_trials(path, records, base):
        write_table(path, records, base)
        written.append([record.status for record in records])
        clock[0] += 1.0

    def end(name):
        journal.write(Record(name, {}, "pruned"))
        progress.on_trial_complete(0, [], trial(name))

    write_table = shown.write_trials
    monkeypatch.setattr(shown, "write_trials", write_trials)
    monkeypatch.setattr(shown.time, "monotonic", lambda: clock[0])
    journal.write(Record("a", {}))
    progress.on_trial_start(0, [], trial("a"))
    end("a")
    assert written == [["running"]]  # a moment ago
    progress.on_trial_result(0, [], trial("b"), {"epoch": 1})
    clock[0] += TABLE_PAUSE
    progress.on_trial_result(0, [], trial("b"), {"epoch": 2})  # it is behind, and that is made good
    progress.on_trial_result(0, [], trial("b"), {"epoch": 3})
    assert written == [["running"], ["pruned"]]
    end("b")
    clock[0] += 2 * TABLE_PAUSE
    end("c")
    assert written[2:] == [["pruned"] * 3]
    end("d")
    progress.on_experiment_end([])
    assert pq.read_table(tmp_path / "trials.parquet")["trial_id"].to_pylist() == ["a", "b", "c", "d"]
