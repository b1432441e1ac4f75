"""One whole sweep that is killed twice and loses its machine: what it goes on from, and what it gives.

The results are kept in an S3 storage. The first kill comes in the middle of the first trial, the second when the second
trial has begun; then the working folder is deleted, and the same command runs to its end: the second trial, the
confirmation, `testSet`, the refit.
"""

import csv
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from s3_server import s3_uri
from sweep_process import command, run_until, start

from reid_core import predict
from reid_core.config.presets import tiny
from reid_core.config.yaml_files import read_config
from reid_core.data.test_set import read_uses
from reid_core.experiment.bundle.folder import read_bundle
from sweeps.results.journal import Journal, Record
from sweeps.results.mirror import open_out
from sweeps.results.result_folder import CONFIRM, REFIT_TRIAL, read_records
from sweeps.stages.command_line import make_parser

EPOCHS = 4  # reports reach the journal late and several at once: enough of them for a kill in the middle
PRESET = "trial-0000"


class Kept(NamedTuple):
    """A sweep as its storage has it."""

    out: Path  # a folder with all that the storage keeps
    records: dict[str, Record]
    checkpoints: list[str]  # files of the first trial's, whose names hold the time


class Killed(NamedTuple):
    """The sweep after each of its three sessions."""

    work: Path  # working folder of the last session
    first: Kept
    second: Kept
    third: Kept
    shown: str  # by the last session

    @property
    def confirmation(self) -> dict:
        """What result.json holds of it."""
        return json.loads((self.third.out / "result.json").read_text())["confirmation"]


def fetch(uri: str, folder: Path) -> Kept:
    """What the storage has, in a working folder of its own."""
    _, mirror = open_out(make_parser("").parse_args(["--data", "x", "--out", uri, "--work", str(folder)]))
    files = mirror.storage.list_files(f"trials/{PRESET}")
    return Kept(folder, Journal(folder / "trials").by_name(), [name for name in files if "checkpoint_" in name])


@pytest.fixture(scope="module")
def killed(moto, small_data, tmp_path_factory) -> Killed:
    folder = tmp_path_factory.mktemp("killed")
    uri, work = s3_uri(moto, "bucket/killed"), folder / "work"
    stages = ["--trials", "2", "--confirm", "1", "--confirm-runs", "2", "--refit"]
    arguments = command(small_data, uri, *stages, "--set", f"optim.epochs={EPOCHS}", "--work", str(work))

    def first_is_training():
        return any(json.loads(file.read_text())["reports"] for file in work.glob("trials/*.json"))

    def second_has_started():
        return (work / "trials" / "trial-0001" / "config.json").exists()

    run_until(first_is_training, arguments, folder / "first.log")
    first = fetch(uri, folder / "after-first")
    run_until(second_has_started, arguments, folder / "second.log")
    second = fetch(uri, folder / "after-second")
    shutil.rmtree(work)  # the machine is gone, and all that it had
    with (folder / "third.log").open("w") as log:
        assert start(arguments, log).wait(timeout=900) == 0, (folder / "third.log").read_text()[-3000:]
    return Killed(work, first, second, fetch(uri, folder / "after-third"), (folder / "third.log").read_text())


def test_a_trial_that_was_killed_continues_from_its_last_epoch(killed):
    (interrupted,), finished = killed.first.records.values(), killed.second.records[PRESET]
    assert interrupted.status == "running"
    assert len(interrupted.reports) < EPOCHS
    assert finished.status == "completed"
    assert finished.reports[: len(interrupted.reports)] == interrupted.reports
    assert [report["epoch"] for report in finished.reports] == list(range(1, EPOCHS + 1))


def test_a_trial_that_has_ended_is_not_run_again(killed):
    assert "resuming: 1 of 2 trials have ended" in killed.shown
    assert killed.third.records[PRESET] == killed.second.records[PRESET]
    assert killed.third.checkpoints == killed.second.checkpoints


def test_the_storage_alone_is_enough_to_go_on_with_the_trial_that_was_killed(killed):
    interrupted, ended = (kept.records["trial-0001"] for kept in (killed.second, killed.third))
    assert interrupted.status == "running"
    assert ended.parameters == interrupted.parameters
    assert ended.status in ("completed", "pruned")


def test_every_trial_is_in_the_table_once_with_its_values_and_its_pairs(killed):
    rows = pq.read_table(killed.third.out / "trials.parquet").to_pylist()
    assert [row["trial_id"] for row in rows] == list(killed.third.records) == [PRESET, "trial-0001"]
    assert rows[0]["config.optim.lr_head"] == tiny().optim.lr_head
    for row in (row for row in rows if row["status"] == "completed"):
        assert row["pairs_hits"] + row["pairs_misses"] > 0
        assert row["pairs_scored"] == row["pairs_misses"]  # the store was there all the time


def test_the_winner_is_exported_with_its_scores(killed):
    out = killed.third.out
    winner = killed.third.records[killed.confirmation["winner"]]
    config = read_config(out / "best.yaml")
    assert config.optim.lr_head == (winner.parameters or {"optim.lr_head": tiny().optim.lr_head})["optim.lr_head"]
    metrics = json.loads((out / "best" / "metrics.json").read_text())
    assert metrics["thresholdSet"]["mean_of_groups"] == pytest.approx(winner.objective, abs=0.02)
    assert f"{metrics['testSet']['mean_of_groups']:.3f}" in killed.shown.split("testSet  ")[1]
    assert json.loads((out / "environment.json").read_text())["packages"]["ray"].startswith("2.")


def test_the_exported_model_names_new_photographs(killed, small_data, tmp_path):
    submission = tmp_path / "submission.csv"
    assert predict.main([str(killed.third.out / "best"), "--data", str(small_data), "--out", str(submission)]) == 0
    with submission.open() as file, (small_data / "sample_submission.csv").open() as sample:
        answers, order = list(csv.DictReader(file)), list(csv.DictReader(sample))
    assert [row["image_id"] for row in answers] == [row["image_id"] for row in order]
    with (small_data / "truth.csv").open() as file:
        truth = {row["image_id"]: row["identity"] for row in csv.DictReader(file)}
    right = sum(truth[row["image_id"]] == row["identity"] for row in answers)
    assert right / len(answers) > 0.1  # of some 40 animals, chance names 3 % rightly


def test_the_confirmed_score_is_that_of_runs_that_did_not_choose(killed):
    found, runs = killed.confirmation, Journal(killed.third.out / CONFIRM / "trials").by_name()
    assert found["status"] == "confirmed"
    assert PRESET in found["runs"]
    for name, scores in found["runs"].items():
        assert [runs[f"{name}-run{number}"].objective for number in (1, 2)] == scores
    assert min(map(min, found["runs"].values())) <= found["score"] <= max(map(max, found["runs"].values()))
    searched = killed.third.records[found["winner"]].objective
    assert found["optimism"] == pytest.approx(searched - found["score"])


def test_each_confirming_run_has_a_split_of_its_own(killed):
    query_sets = set()
    for split in ("", "split-0001", "split-0002"):
        parts = pq.read_table(killed.work / "cache" / split / "parts.parquet")
        query_sets.add(frozenset(parts.filter(pc.equal(parts["part"], "thresholdSet"))["image_id"].to_pylist()))
    assert len(query_sets) == 3


def test_the_refitted_model_decides_as_the_evaluated_one(killed):
    evaluated, refitted = (read_bundle(killed.third.out / name) for name in ("best", "refit"))
    assert 1 <= refitted.refitted_epochs <= EPOCHS
    assert refitted.decision.thresholds == evaluated.decision.thresholds


def test_each_use_of_the_test_set_is_recorded(killed):
    assert len(read_uses(killed.third.out)) == 2  # the score, and the refit
    assert json.loads((killed.third.out / "result.json").read_text())["test_set_uses"] == 2


def test_the_hours_of_everything_are_counted(killed):
    everything = read_records(killed.third.out, "", CONFIRM, REFIT_TRIAL)
    hours = pq.read_schema(killed.third.out / "trials.parquet").metadata[b"cpu_hours"]
    assert float(hours) == pytest.approx(sum(record.cpu_hours for record in everything))
    assert len(everything) >= 2 + 2 + 1  # the search, the preset's runs, the refit
