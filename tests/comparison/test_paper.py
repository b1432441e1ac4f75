"""A small comparison from start to tables, and the same command once more."""

import csv
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from repository import ROOT

from sweeps.results.journal import Journal, Record


class Comparison(NamedTuple):
    """What a comparison left after its first run, and what the second one showed."""

    out: Path
    records: dict[str, Record]
    written_ns: int  # when the result of a row was written
    shown: str
    shown_again: str


def run(data: Path, out: Path) -> str:
    """What `paper.py` shows."""
    rows = ["--rows", "batch32", "--scale", "small", "--set", "optim.epochs=2", "--set", "match.matcher=none"]
    arguments = ["--data", str(data), "--out", str(out), *rows, "--workers", "1", "--concurrent", "2"]
    done = subprocess.run(
        [sys.executable, "sweeps/paper.py", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def time_of_result(out: Path) -> int:
    return (out / "rows" / "batch32" / "result.json").stat().st_mtime_ns


@pytest.fixture(scope="module")
def comparison(small_data, tmp_path_factory) -> Comparison:
    out = tmp_path_factory.mktemp("comparison")
    shown = run(small_data, out)
    records, written_ns = Journal(out / "trials").by_name(), time_of_result(out)
    return Comparison(out, records, written_ns, shown, run(small_data, out))


def test_the_tables_have_a_score_with_its_interval_beside_the_papers(comparison):
    with (comparison.out / "tables.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    overall = {(row["row"], row["metric"]): row for row in rows if row["table"] == "6.2"}
    assert {row for row, _ in overall} == {"starter", "batch32"}
    score = overall["batch32", "pooled"]
    assert float(score["paper"]) == 0.649
    assert float(score["low"]) <= float(score["value"]) <= float(score["high"])
    note = "swin_micro_patch4_window4_64 for hf-hub:BVRA/MegaDescriptor-L-384"
    assert note in (comparison.out / "tables.md").read_text()


def test_every_figure_is_drawn(comparison):
    pictures = {path.name for path in (comparison.out / "figures").glob("*.png")}
    assert {"3_2_images_per_individual.png", "A_1_augmentation.png", "A_2_one_image.png"} <= pictures
    assert {"6_1_training_loss_classification.png", "6_2_validation_loss_classification.png"} <= pictures
    assert {"accuracy_batch32.png", "thresholds_batch32.png", "thresholds_starter.png"} <= pictures


def test_each_row_is_trained_as_its_preset_says_and_exported(comparison):
    assert (comparison.out / "rows" / "batch32" / "best" / "model.safetensors").exists()
    reports = comparison.records["batch32"].reports
    assert [report["epoch"] for report in reports] == [1, 2]
    assert {"loss_validating", "classifier_accuracy_validating", "accuracy_training"} <= set(reports[0])
    assert comparison.records["starter"].reports == []


def test_the_same_command_repeats_nothing_and_shows_the_same_report(comparison):
    report = comparison.shown.index("# The paper's comparison")  # the lines before it are about the training
    assert comparison.shown_again == comparison.shown[report:]
    assert time_of_result(comparison.out) == comparison.written_ns
    assert Journal(comparison.out / "trials").by_name() == comparison.records
