"""The comparison: which keys make a row, what `--set` may change, and a small run from start to tables."""

import csv
import subprocess
import sys

import pytest
from repository import ROOT

from reid_core.config.presets import make_preset
from reid_core.config.values import flatten
from reid_core.errors import UserError
from sweeps import paper
from sweeps.results.journal import Journal
from sweeps.search.paper_numbers import PAPER_62


def configure(row, *, small=False, **fixed):
    return paper.configure_row(
        row, {key.replace("__", "."): value for key, value in fixed.items()}, small=small, seed=None
    )


def test_the_table_has_the_papers_rows():
    assert set(paper.TABLE_62) == set(PAPER_62)
    assert len(paper.TABLE_62) == 7


def test_rows_come_in_the_papers_order_with_the_baseline():
    assert paper.parse_rows("metric, batch16") == ["starter", "batch16", "metric"]
    assert paper.parse_rows(",".join(paper.ROWS)) == list(paper.ROWS)
    with pytest.raises(UserError, match="--rows batch128: no such row; there are: starter, batch16"):
        paper.parse_rows("batch128,metric")


def test_what_makes_a_row_is_kept_whatever_is_set(caplog):
    assert {"optim.batch_size", "optim.schedule"} <= paper.own_keys("batch64_warmup")
    caplog.set_level("INFO")
    config = configure("batch64_warmup", optim__schedule="constant", optim__epochs=3)
    assert (config.optim.schedule, config.optim.epochs) == ("onecycle", 3)
    assert "batch64_warmup keeps optim.schedule=onecycle" in caplog.text
    starter = configure("starter", optim__epochs=3, match__matcher="sift-mnn", model__backbone="mobilenetv2_100")
    assert (starter.optim.epochs, starter.match.matcher) == (0, "none")
    assert starter.model.backbone == "mobilenetv2_100"
    assert configure("batch32", model__backbone="mobilenetv2_100").model.backbone == "mobilenetv2_100"
    assert configure("efficientnet_b4", model__backbone="mobilenetv2_100").model.backbone == "efficientnet_b4"
    assert configure("metric", match__matcher="sift-mnn").match.matcher == "sift-mnn"
    assert configure("metric_512", model__embedding_dim=64).model.embedding_dim == 512


def test_every_row_differs_from_every_other():
    rows = [str(flatten(make_preset(row))) for row in paper.ROWS]
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize("row", paper.ROWS)
def test_small_rows_keep_their_recipe(row):
    full, small = make_preset(row), configure(row, small=True)
    for key in ("optim.batch_size", "optim.schedule", "loss.name", "model.head", "model.classifier", "predict.rule"):
        assert flatten(small)[key] == flatten(full)[key]
    family = "efficientnet" if "efficientnet" in full.model.backbone else "swin"
    assert family in small.model.backbone
    assert small.data.image_px == 64
    assert (small.model.unfrozen_stages == 0) == (full.model.unfrozen_stages == 0)
    assert "--scale small: tiny backbones" in paper.describe_scale({row: small}, small=True)
    assert paper.describe_scale({row: full}, small=False) == ""


def test_the_data_are_prepared_for_a_row_with_a_matcher():
    rows = {row: make_preset(row) for row in ("starter", "efficientnet_b4", "metric")}
    assert paper.choose_base(rows) is rows["metric"]
    assert paper.choose_base({"starter": rows["starter"]}) is rows["starter"]


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
