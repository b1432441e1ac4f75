"""A small comparison from start to tables."""

import csv
import subprocess
import sys

from repository import ROOT

from sweeps.results.journal import Journal


def run(data, out):
    arguments = ["--rows", "batch32", "--scale", "small", "--set", "optim.epochs=2", "--set", "match.matcher=none"]
    return subprocess.run(
        [
            sys.executable,
            "sweeps/paper.py",
            "--data",
            str(data),
            "--out",
            str(out),
            *arguments,
            "--workers",
            "1",
            "--concurrent",
            "2",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_a_comparison_from_start_to_tables(small_data, tmp_path):
    first = run(small_data, tmp_path)
    assert first.returncode == 0, first.stderr[-3000:]
    with (tmp_path / "tables.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    overall = {(row["row"], row["metric"]): row for row in rows if row["table"] == "6.2"}
    assert {row for row, _ in overall} == {"starter", "batch32"}
    score = overall["batch32", "pooled"]
    assert float(score["paper"]) == 0.649
    assert float(score["low"]) <= float(score["value"]) <= float(score["high"])
    assert "swin_micro_patch4_window4_64 for hf-hub:BVRA/MegaDescriptor-L-384" in (tmp_path / "tables.md").read_text()
    pictures = {path.name for path in (tmp_path / "figures").glob("*.png")}
    assert {"3_2_images_per_individual.png", "A_1_augmentation.png", "A_2_one_image.png"} <= pictures
    assert {"6_1_training_loss_classification.png", "6_2_validation_loss_classification.png"} <= pictures
    assert {"accuracy_batch32.png", "thresholds_batch32.png", "thresholds_starter.png"} <= pictures
    assert (tmp_path / "rows" / "batch32" / "best" / "model.safetensors").exists()
    records = {record.name: record for record in Journal(tmp_path / "trials").read()}
    assert [report["epoch"] for report in records["batch32"].reports] == [1, 2]
    assert {"loss_validating", "classifier_accuracy_validating", "accuracy_training"} <= set(
        records["batch32"].reports[0]
    )
    assert records["starter"].reports == []
    written = (tmp_path / "rows" / "batch32" / "result.json").stat().st_mtime_ns

    again = run(small_data, tmp_path)
    assert again.returncode == 0, again.stderr[-3000:]
    report = first.stdout.index("# The paper's comparison")  # the lines before it tell how the training went
    assert again.stdout == first.stdout[report:]
    assert (tmp_path / "rows" / "batch32" / "result.json").stat().st_mtime_ns == written
    assert Journal(tmp_path / "trials").read() == list(dict(sorted(records.items())).values())
