"""The rows of the comparison: which keys make a row, and what `--set` may change."""

import pytest

from reid_core.config.presets import make_preset
from reid_core.config.values import flatten
from reid_core.errors import UserError
from sweeps.comparison.rows import (
    ROWS,
    TABLE_62,
    choose_base,
    configure_row,
    describe_scale,
    own_keys,
    parse_rows,
)
from sweeps.search.paper_numbers import PAPER_62


def configure(row, *, small=False, **fixed):
    return configure_row(row, {key.replace("__", "."): value for key, value in fixed.items()}, small=small, seed=None)


def test_the_table_has_the_papers_rows():
    assert set(TABLE_62) == set(PAPER_62)
    assert len(TABLE_62) == 7


def test_rows_come_in_the_papers_order_with_the_baseline():
    assert parse_rows("metric, batch16") == ["starter", "batch16", "metric"]
    assert parse_rows(",".join(ROWS)) == list(ROWS)
    with pytest.raises(UserError, match="--rows batch128: no such row; choose from starter, batch16"):
        parse_rows("batch128,metric")


def test_what_makes_a_row_is_kept_whatever_is_set(caplog):
    assert {"optim.batch_size", "optim.schedule"} <= own_keys("batch64_warmup")
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
    rows = [str(flatten(make_preset(row))) for row in ROWS]
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize("row", ROWS)
def test_small_rows_keep_their_recipe(row):
    full, small = make_preset(row), configure(row, small=True)
    for key in ("optim.batch_size", "optim.schedule", "loss.name", "model.head", "model.classifier", "predict.rule"):
        assert flatten(small)[key] == flatten(full)[key]
    family = "efficientnet" if "efficientnet" in full.model.backbone else "swin"
    assert family in small.model.backbone
    assert small.data.image_px == 64
    assert (small.model.unfrozen_stages == 0) == (full.model.unfrozen_stages == 0)
    assert "--scale small: tiny backbones" in describe_scale({row: small}, small=True)
    assert describe_scale({row: full}, small=False) == ""


def test_the_data_are_prepared_for_a_row_with_a_matcher():
    rows = {row: make_preset(row) for row in ("starter", "efficientnet_b4", "metric")}
    assert choose_base(rows) is rows["metric"]
    assert choose_base({"starter": rows["starter"]}) is rows["starter"]
