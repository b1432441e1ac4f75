"""trials.parquet, and the leaderboard."""

import pyarrow.parquet as pq

from reid_core.config.parameters import TrialConfig
from reid_core.config.presets import tiny
from reid_core.config.values import flatten, override
from sweeps.results.journal import Record
from sweeps.results.trial_table import (
    best_record,
    describe_hours,
    describe_online,
    format_failures,
    format_leaderboard,
    write_trials,
)

METRICS = {"objective": 0.5, "geo_mean.cow": 0.5, "baks.cow": 0.4, "baus.cow": 0.625, "threshold.cow": 0.3}


def records():
    return [
        Record("trial-0000", {"optim.lr_head": 1e-3}, "completed", reports=[{}, {}], metrics=METRICS, seconds=3.0),
        Record("trial-0001", {"optim.lr_head": 1e-4}, "pruned", reports=[{}]),
        Record("trial-0002", {"optim.lr_head": 1e-5}, "failed", reason="the loss is nan in epoch 1"),
        Record("trial-0003", {"optim.lr_head": 2e-3}, "completed", metrics=METRICS | {"objective": 0.7}),
    ]


def test_a_stopped_trial_is_shown_as_unfinished(tmp_path):
    found = [Record("trial-0000", {}, "stopped", reason="No space left"), Record("trial-0001", {}, "running")]
    assert "2 unfinished" in format_leaderboard(found, "pooled")
    write_trials(tmp_path / "trials.parquet", found, tiny())
    table = pq.read_table(tmp_path / "trials.parquet")
    assert table["status"].to_pylist() == ["running", "running"]
    assert table["reason"].to_pylist() == ["No space left", ""]


def test_trials_parquet_has_a_row_per_trial_and_a_column_per_key(tmp_path):
    write_trials(tmp_path / "trials.parquet", records(), tiny())
    rows = pq.read_table(tmp_path / "trials.parquet").to_pylist()
    assert [row["trial_id"] for row in rows] == [record.name for record in records()]
    assert [row["status"] for row in rows] == ["completed", "pruned", "failed", "completed"]
    assert [row["objective"] for row in rows] == [0.5, None, None, 0.7]
    assert [row["epochs"] for row in rows] == [2, 1, 0, 0]
    assert rows[0]["baus.cow"] == 0.625
    assert rows[0]["threshold.cow"] == 0.3
    assert rows[2]["reason"] == "the loss is nan in epoch 1"
    config = {key.removeprefix("config."): value for key, value in rows[1].items() if key.startswith("config.")}
    assert config == flatten(override(tiny(), {"optim.lr_head": 1e-4}))


def test_values_of_several_types_become_text(tmp_path):
    mixed = [Record("trial-0000", {"data.mean": 0.5}), Record("trial-0001", {"data.mean": [0.1, 0.2, 0.3]})]
    write_trials(tmp_path / "trials.parquet", mixed, tiny())
    assert pq.read_table(tmp_path / "trials.parquet")["config.data.mean"].to_pylist() == ["0.5", "[0.1, 0.2, 0.3]"]


def test_the_best_is_the_completed_trial_with_the_largest_objective():
    assert best_record(records()).name == "trial-0003"
    assert best_record(records()[1:3]) is None


def test_a_trial_whose_values_contradict_each_other_has_its_row(tmp_path):
    record = Record("trial-0000", {"predict.rule": "openmax"}, "infeasible", reason="it needs a classifier")
    write_trials(tmp_path / "trials.parquet", [record], override(tiny(), {"loss.name": "triplet"}))
    (row,) = pq.read_table(tmp_path / "trials.parquet").to_pylist()
    assert (row["config.predict.rule"], row["config.loss.name"]) == ("openmax", "triplet")


def test_the_additional_training_wins_or_not():
    best, more = records()[0], Record("online-0000", {}, "completed", metrics={"objective": 0.6})
    assert describe_online(best, more).endswith("online-0000: 0.6000; online-0000 is the best")
    assert best_record([best, more]) is more
    worse = Record("online-0000", {}, "completed", metrics={"objective": 0.5})
    assert describe_online(best, worse).endswith("0.5000; trial-0000 is the best")
    assert best_record([best, worse]) is best  # equal is not better
    failed = Record("online-0000", {}, "failed", reason="the loss is nan")
    assert describe_online(best, failed).endswith("failed (the loss is nan); trial-0000 stays the best")
    assert best_record([best, failed]) is best


def test_the_leaderboard_ranks_and_counts():
    text = format_leaderboard(records(), "mean_of_groups")
    assert text.index("trial-0003") < text.index("trial-0000")
    assert text.endswith("2 completed, 1 failed, 1 pruned; 0 hours of logical CPUs")
    bounds = {"pooled_low": 0.25, "pooled_high": 0.5, "mean_of_groups_low": 0.1, "mean_of_groups_high": 0.9}
    trial = Record("trial-0000", {}, "completed", metrics={"objective": 0.375, **bounds})
    assert format_leaderboard([trial], "pooled").splitlines()[1].split()[1:5] == ["0.3750", "0.250", "…", "0.500"]


def test_hours_are_given_per_trial_and_in_all(tmp_path):
    given = [Record("trial-0000", {}, cpu_hours=1.5, gpu_hours=0.5), Record("trial-0001", {}, cpu_hours=1.0, retries=2)]
    write_trials(tmp_path / "trials.parquet", given, TrialConfig())
    table = pq.read_table(tmp_path / "trials.parquet")
    assert table["cpu_hours"].to_pylist() == [1.5, 1.0]
    assert table["retries"].to_pylist() == [0, 2]
    assert table.schema.metadata[b"cpu_hours"] == b"2.5"
    assert table.schema.metadata[b"gpu_hours"] == b"0.5"
    assert describe_hours(given) == "0.5 GPU-hours, 2.5 CPU-hours"
    assert "2 unfinished" in format_leaderboard(given, "pooled")
    assert format_failures(records()) == "trial-0002 failed: the loss is nan in epoch 1"


GAIN = {"epoch0": 0.375, "gain": 0.125, "gain_low": -0.25, "gain_high": 0.5, "epoch0.cow": 0.25, "gain.cow": 0.25}


def test_every_trial_says_what_it_gained_over_epoch_zero(tmp_path):
    reports = [{"geo_mean_cosine": score} for score in (0.25, 0.5, 0.375)]
    low, high = ({"geo_mean_cosine": score} for score in (0.125, 0.5))
    trials = [
        Record("trial-0000", {}, "completed", reports=reports, epoch_zero=low, metrics=METRICS | GAIN),
        Record("trial-0001", {}, "pruned", reports=reports[:1], epoch_zero=high),
        Record("trial-0002", {}, "completed", reports=reports, metrics=METRICS),  # of an earlier version
    ]
    write_trials(tmp_path / "trials.parquet", trials, tiny())
    rows = pq.read_table(tmp_path / "trials.parquet").to_pylist()
    assert [rows[0][name] for name in ("epoch0", "gain", "gain_low", "gain_high")] == [0.375, 0.125, -0.25, 0.5]
    assert (rows[0]["epoch0.cow"], rows[0]["gain.cow"]) == (0.25, 0.25)
    assert [row["gain"] for row in rows[1:]] == [None, None]
    assert [row["epoch0_cosine"] for row in rows] == [0.125, 0.5, None]
    assert [row["gain_cosine"] for row in rows] == [0.375, -0.25, None]  # the best epoch less epoch 0


def test_the_leaderboard_has_the_gain_and_says_that_it_is_optimistic():
    trials = [Record(f"trial-000{number}", {}, "completed", metrics=METRICS | GAIN) for number in range(2)]
    title, first, _, note, _ = format_leaderboard(trials, "pooled").splitlines()
    assert title.index("gain") < title.index("epochs")
    assert first.split()[1:6] == ["0.5000", "+0.1250", "-0.250", "…", "+0.500"]
    assert note.startswith("epoch 0, the frozen backbone: 0.3750; ")
    assert note.endswith("gains are optimistic as well")
    trials[1].metrics = trials[1].metrics | {"epoch0": 0.25}
    assert "0.2500 … 0.3750" in format_leaderboard(trials, "pooled")
    assert "epoch 0" not in format_leaderboard(records(), "pooled")
