"""Whole sweeps on small data: killed and resumed, exported, and equal to plain Python."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from repository import ROOT
from s3_server import s3_uri

from reid_core import predict
from reid_core.config.presets import tiny
from reid_core.config.values import override
from reid_core.config.yaml_files import read_config
from reid_core.data.test_set import read_uses
from reid_core.errors import UserError
from reid_core.experiment.bundle import read_bundle
from sweeps import metric
from sweeps.results.journal import Journal
from sweeps.results.mirror import open_out
from sweeps.results.result_folder import claim_out, read_records
from sweeps.stages.command_line import make_parser, make_sweep

SHORT = ["--set", "optim.epochs=2", "--set", "match.num_keypoints=32", "--set", "match.image_px=64"]


def command(data, out, *more):
    return [
        sys.executable,
        "sweeps/metric.py",
        "--preset",
        "tiny",
        "--data",
        str(data),
        "--out",
        str(out),
        *SHORT,
        *more,
    ]


def start(arguments, log):
    own = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}  # as in a new shell
    environment = own | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(arguments, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment)


def kill_everything(process):
    """SIGKILL to the driver and to every process of its Ray, all at once."""
    for victim in [*psutil.Process(process.pid).children(recursive=True), process]:
        try:
            os.kill(victim.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def wait_until(condition, process, log, timeout_s=600):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, Path(log.name).read_text()[-3000:]
        assert time.monotonic() < deadline, Path(log.name).read_text()[-3000:]
        time.sleep(0.2)


def run_until(condition, arguments, log_path):
    """Start a sweep, and kill everything of it as soon as the condition holds."""
    with log_path.open("w") as log:
        process = start(arguments, log)
        wait_until(condition, process, log)
        kill_everything(process)


def test_a_sweep_killed_twice_that_lost_its_machine_is_resumed_and_gives_a_model(moto, small_data, tmp_path):
    # Reports reach the journal seconds late and several at once: enough epochs for a kill in the middle of them.
    uri, work, epochs = s3_uri(moto, "bucket/killed"), tmp_path / "work", 4
    more = ["--trials", "2", "--confirm", "0", "--set", f"optim.epochs={epochs}", "--work", str(work)]
    arguments = command(small_data, uri, *more)

    def first_is_training():
        return any(json.loads(file.read_text())["reports"] for file in work.glob("trials/*.json"))

    def second_has_started():
        return (work / "trials" / "trial-0001" / "config.json").exists()

    def kept(folder):
        """The sweep as the storage has it, and the names of the files of its first trial, which hold the time."""
        options = make_parser("").parse_args(["--data", "x", "--out", uri, "--work", str(tmp_path / folder)])
        _, mirror = open_out(options)
        files = mirror.storage.list_files("trials/trial-0000")
        return Journal(tmp_path / folder / "trials").read(), [name for name in files if "checkpoint_" in name]

    run_until(first_is_training, arguments, tmp_path / "first.log")
    (killed,), _ = kept("after-first")
    assert killed.status == "running"
    assert len(killed.reports) < epochs

    run_until(second_has_started, arguments, tmp_path / "second.log")
    (finished, interrupted), written = kept("after-second")
    assert (finished.status, interrupted.status) == ("completed", "running")
    assert finished.reports[: len(killed.reports)] == killed.reports  # continued, not begun again
    assert [report["epoch"] for report in finished.reports] == list(range(1, epochs + 1))
    shutil.rmtree(work)  # the machine is gone, and all that it had

    with (tmp_path / "third.log").open("w") as log:
        assert start(arguments, log).wait(timeout=600) == 0, (tmp_path / "third.log").read_text()[-3000:]
    shown = (tmp_path / "third.log").read_text()
    assert "resuming: 1 of 2 trials have ended" in shown
    records, again = kept("after-third")
    assert records[0] == finished
    assert again == written
    assert (records[1].name, records[1].parameters) == ("trial-0001", interrupted.parameters)
    assert records[1].status in ("completed", "pruned")
    assert len(read_uses(tmp_path / "after-third")) == 1
    check_result(tmp_path / "after-third", records, shown)
    check_predictions(tmp_path / "after-third", small_data, tmp_path)


def check_result(out, records, shown):
    rows = pq.read_table(out / "trials.parquet").to_pylist()
    assert [row["trial_id"] for row in rows] == [record.name for record in records]
    best = max((row for row in rows if row["status"] == "completed"), key=lambda row: row["objective"])
    assert read_config(out / "best.yaml").optim.lr_head == best["config.optim.lr_head"]
    assert rows[0]["config.optim.lr_head"] == tiny().optim.lr_head
    for row in (row for row in rows if row["status"] == "completed"):
        assert row["pairs_hits"] + row["pairs_misses"] > 0
        assert row["pairs_scored"] == row["pairs_misses"]  # the store was there all the time
    metrics = json.loads((out / "best" / "metrics.json").read_text())
    assert metrics["thresholdSet"]["mean_of_groups"] == pytest.approx(best["objective"], abs=0.02)
    assert f"{metrics['testSet']['mean_of_groups']:.3f}" in shown.split("testSet  ")[1]
    assert json.loads((out / "environment.json").read_text())["packages"]["ray"].startswith("2.")


def check_predictions(out, data, tmp_path):
    submission = tmp_path / "submission.csv"
    assert predict.main([str(out / "best"), "--data", str(data), "--out", str(submission)]) == 0
    with submission.open() as file, (data / "sample_submission.csv").open() as sample:
        answers, order = list(csv.DictReader(file)), list(csv.DictReader(sample))
    assert [row["image_id"] for row in answers] == [row["image_id"] for row in order]
    with (data / "truth.csv").open() as file:
        truth = {row["image_id"]: row["identity"] for row in csv.DictReader(file)}
    right = sum(truth[row["image_id"]] == row["identity"] for row in answers)
    assert right / len(answers) > 0.1  # of some 40 animals, chance names 3 % rightly


def test_one_ray_worker_gives_the_losses_of_plain_python_and_the_sweep_confirms_and_refits(small_data, tmp_path):
    cosine_only = ["--set", "match.matcher=none"]  # the losses do not depend on it, and it is quicker
    more = ["--trials", "1", "--workers", "1", "--confirm", "1", "--confirm-runs", "2", "--refit"]
    sweep = command(small_data, tmp_path / "ray", *more, *cosine_only)
    plain = [sys.executable, "-m", "reid_core", "--preset", "tiny", "--data", str(small_data), *cosine_only]
    with (tmp_path / "log").open("w") as log:
        both = [start(sweep, log), start([*plain, "--out", str(tmp_path / "plain"), *SHORT], log)]
        assert [process.wait(timeout=600) for process in both] == [0, 0], (tmp_path / "log").read_text()[-3000:]
    with_ray = Journal(tmp_path / "ray" / "trials").read()[0].reports
    without = json.loads((tmp_path / "plain" / "reports.json").read_text())
    assert [report["loss"] for report in with_ray] == [report["loss"] for report in without]
    assert [report["geo_mean_cosine"] for report in with_ray] == [report["geo_mean_cosine"] for report in without]
    check_confirmation(tmp_path / "ray")


def check_confirmation(out):
    confirmed = json.loads((out / "result.json").read_text())["confirmation"]
    assert confirmed["winner"] == "trial-0000"
    runs = {record.name: record for record in Journal(out / "confirm" / "trials").read()}
    assert [runs[f"trial-0000-run{number}"].objective for number in (1, 2)] == confirmed["runs"]["trial-0000"]
    assert confirmed["score"] == pytest.approx(sum(confirmed["runs"]["trial-0000"]) / 2)
    searched = Journal(out / "trials").read()[0].objective
    assert confirmed["optimism"] == pytest.approx(searched - confirmed["score"])
    query_sets = set()
    for split in ("", "split-0001", "split-0002"):
        parts = pq.read_table(out / "cache" / split / "parts.parquet")
        query_sets.add(frozenset(parts.filter(pc.equal(parts["part"], "thresholdSet"))["image_id"].to_pylist()))
    assert len(query_sets) == 3
    evaluated, refitted = (read_bundle(out / name) for name in ("best", "refit"))
    assert refitted.refitted_epochs in (1, 2)
    assert refitted.decision.thresholds == evaluated.decision.thresholds
    assert len(read_uses(out)) == 2  # the score, and the refit
    result = json.loads((out / "result.json").read_text())
    assert (result["test_set_uses"], confirmed["status"]) == (2, "confirmed")
    everything = read_records(out, "", "confirm", "refit_trial")
    hours = sum(record.cpu_hours for record in everything)
    assert [record.name for record in everything][1:3] == ["trial-0000-run1", "trial-0000-run2"]
    assert float(pq.read_schema(out / "trials.parquet").metadata[b"cpu_hours"]) == pytest.approx(hours)


def test_a_dry_run_shows_everything_and_runs_nothing(small_data, tmp_path, capsys):
    status = metric.main(["--data", str(small_data), "--preset", "tiny", "--out", str(tmp_path / "out"), "--plan"])
    shown = capsys.readouterr().out
    assert status == 0
    assert "50 trials × 6 epochs" in shown
    assert "optim.lr_head" in shown
    assert "5 logical CPUs" in shown
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_if_gpus_are_missing(small_data, tmp_path, capsys):
    flags = ["--data", str(small_data), "--preset", "tiny", "--out", str(tmp_path), "--gpus-per-worker", "64", "--plan"]
    assert metric.main(flags) == 2
    assert "128 GPUs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--trials", "0"], "--trials 0"),
        (["--workers", "0", "--plan"], "--workers 0"),
        (["--set", "optim.lr=1"], "unknown key 'optim.lr'"),
        (["--set", "optim.epochs=many"], "wrong type"),
        (["--set", "optim.epochs"], "KEY=VALUE"),
        (["--config", "no-such.yaml"], "no-such.yaml"),
    ],
)
def test_wrong_flags_are_named(small_data, tmp_path, flags, message):
    preset = [] if "--config" in flags else ["--preset", "tiny"]
    with pytest.raises(UserError, match=message):
        metric.main(["--data", str(small_data), "--out", str(tmp_path / "out"), *preset, *flags])


def test_an_out_of_another_sweep_is_refused_by_what_differs(small_data, tmp_path):
    def settings(*more):
        flags = ["--data", str(small_data), "--preset", "tiny", "--out", str(tmp_path), *more]
        return make_sweep("metric", metric.metric_space, make_parser("").parse_args(flags)).settings()

    claim_out(tmp_path, settings(), resume="auto")
    claim_out(tmp_path, settings("--trials", "60", "--concurrent", "2"), resume="auto")
    with pytest.raises(UserError, match=r"optim.epochs: 6 before, 3 now"):
        claim_out(tmp_path, settings("--set", "optim.epochs=3"), resume="auto")
    with pytest.raises(UserError, match="seed: 0 before, 1 now"):
        claim_out(tmp_path, settings("--seed", "1"), resume="auto")
    with pytest.raises(UserError, match="--resume auto"):
        claim_out(tmp_path, settings(), resume="never")


def test_a_config_file_starts_the_sweep_from_there(small_data, tmp_path, capsys):
    from reid_core.config.yaml_files import write_config

    write_config(tmp_path / "best.yaml", override(tiny(), {"optim.lr_head": 5e-3}))
    flags = [
        "--data",
        str(small_data),
        "--config",
        str(tmp_path / "best.yaml"),
        "--out",
        str(tmp_path / "out"),
        "--plan",
    ]
    assert metric.main(flags) == 0
    assert "first trial: 0.005" in capsys.readouterr().out
