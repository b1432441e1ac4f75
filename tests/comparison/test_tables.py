"""Tables 6.1 and 6.2 beside the paper's: numbers, intervals, improvements and names, read back from the files."""

import csv
import math

import numpy as np
import pytest

from reid_core.config.presets import PRESETS
from reid_core.metrics.geo_mean import Shares
from reid_core.metrics.summary import summarise
from sweeps.comparison.tables import write_table_61, write_table_62, write_tables
from sweeps.search.paper_numbers import PAPER_61, PAPER_62

NAN = float("nan")


def group_metrics(group, baks, baus, *, threshold=0.3):
    """As `summarise` gives them, with intervals of ± 0.1."""
    values = {"baks": baks, "baus": baus, "geo_mean": math.sqrt(baks * baus)}
    metrics = {f"threshold.{group}": threshold}
    for name, value in values.items():
        metrics |= {f"{name}.{group}": value, f"{name}_low.{group}": value - 0.1, f"{name}_high.{group}": value + 0.1}
    return metrics


def overall_metrics(baks, baus, **others):
    values = {"pooled_baks": baks, "pooled_baus": baus, "pooled": math.sqrt(baks * baus), "competition": 0.4} | others
    bounds = {f"{name}{end}": value + step for name, value in values.items() for end, step in BOUNDS}
    return values | bounds


BOUNDS = (("_low", -0.05), ("_high", 0.05))
ROWS = {
    "starter": {"thresholdSet": group_metrics("LynxID2025", 0.25, 0.25), "testSet": overall_metrics(0.25, 0.25)},
    "batch16": {"thresholdSet": group_metrics("LynxID2025", 0.36, 0.81), "testSet": overall_metrics(0.4, 0.9)},
    "metric": {"thresholdSet": group_metrics("LynxID2025", 0.49, 0.64), "testSet": overall_metrics(0.5, 0.8)},
}


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_markdown(text, heading):
    """Rows of the table under a heading, as lists of cells."""
    section = text.split(f"## {heading}")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.replace(r"\|", "¦")[1:-1].split("|")] for line in lines]
    assert len({len(row) for row in rows}) == 1, "every row has as many cells as the header"
    return [rows[0], *rows[2:]]


def test_the_papers_numbers_agree_with_each_other():
    assert set(PAPER_62) <= set(PRESETS)
    assert set(PAPER_61) < set(PAPER_62)
    for row, triple in PAPER_62.items():
        assert f"BAKS {triple[0]:.3f}".replace("0.", ".") in PRESETS[row].__doc__
    triples = [*PAPER_62.values(), *(triple for species in PAPER_61.values() for triple in species.values())]
    assert len(triples) == 7 + 5 * 3
    for baks, baus, geo_mean in triples:
        assert geo_mean == pytest.approx(math.sqrt(baks * baus), abs=0.002)


def test_each_number_has_its_interval_and_the_papers_beside_it(tmp_path):
    text = write_tables(ROWS, tmp_path).read_text(encoding="utf-8")
    header, starter, batch16, metric = read_markdown(text, "Table 6.1")
    assert header == ["row", "group", "threshold", "BAKS", "paper", "BAUS", "paper", "GEO_MEAN", "paper"]
    assert batch16[:5] == ["batch16", "LynxID2025", "0.300", "0.360 (0.260 … 0.460)", "0.318"]
    assert batch16[5:] == ["0.810 (0.710 … 0.910)", "0.922", "0.540 (0.440 … 0.640)", "0.542"]
    assert starter[4::2] == metric[4::2] == ["-", "-", "-"]  # the paper has no species numbers of these
    header, starter, batch16, metric = read_markdown(text, "Table 6.2")
    assert batch16[1:7:2] == ["0.400 (0.350 … 0.450)", "0.900 (0.850 … 0.950)", "0.600 (0.550 … 0.650)"]
    assert batch16[2:7:2] == ["0.518", "0.905", "0.684"]
    assert starter[2:7:2] == ["-", "-", "-"]
    assert metric[2:7:2] == ["0.579", "0.903", "0.723"]


def test_improvement_is_over_the_baselines_pooled_score(tmp_path):
    write_tables(ROWS, tmp_path)
    gains = {line["row"]: line["improvement_percent"] for line in read_csv(tmp_path / "table_6_2.csv")}
    assert float(gains["batch16"]) == pytest.approx(140)  # 0.60 over 0.25
    assert float(gains["starter"]) == 0
    header, _, batch16, metric = read_markdown((tmp_path / "tables.md").read_text(encoding="utf-8"), "Table 6.2")
    assert batch16[header.index("improvement")] == "+140.0 %"
    assert metric[header.index("improvement") + 1] == "+140.0 %"  # what the paper claims
    section = write_table_62(ROWS, tmp_path, baseline="batch16")
    gains = {line["row"]: float(line["improvement_percent"]) for line in read_csv(tmp_path / "table_6_2.csv")}
    assert gains["starter"] == pytest.approx(100 * (0.25 / 0.6 - 1))
    assert "-58.3 %" in section


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        ({"testSet": overall_metrics(0.0, 1.0)}, "starter has a pooled GEO_MEAN of 0"),
        ({"testSet": {"pooled": NAN}}, "starter has no GEO_MEAN"),
        ({}, "starter has no GEO_MEAN"),
        (None, "starter was not run"),
    ],
)
def test_no_improvement_without_a_baseline_and_it_says_why(tmp_path, base, reason):
    rows = {"batch16": ROWS["batch16"]} | ({} if base is None else {"starter": base})
    section = write_table_62(rows, tmp_path)
    assert f'Improvement is "-": the baseline row {reason}' in section
    header, batch16, *_ = read_markdown(section, "Table 6.2")
    assert batch16[header.index("improvement")] == "-"
    assert "Improvement is" not in write_table_62(ROWS, tmp_path)


def test_what_is_undefined_is_a_dash_and_an_empty_field(tmp_path):
    lynx = group_metrics("LynxID2025", 0.5, 0.5)
    holes = {"baus.LynxID2025": NAN, "geo_mean.LynxID2025": None, "baks_low.LynxID2025": NAN}
    rows = {"batch16": {"thresholdSet": {**lynx, **holes}}, "batch32": {"thresholdSet": {}, "testSet": {}}}
    text = write_tables(rows, tmp_path).read_text(encoding="utf-8")
    _, batch16, batch32 = read_markdown(text, "Table 6.1")
    assert batch16[2:] == ["0.300", "0.500", "0.318", "-", "0.922", "-", "0.542"]
    assert batch32[2:] == ["-", "-", "0.364", "-", "0.949", "-", "0.588"]
    assert "nan" not in text.lower()
    line = read_csv(tmp_path / "table_6_1.csv")[0]
    assert (line["baks"], line["baus"], line["geo_mean"], line["baks_low"]) == ("0.5", "", "", "")
    assert line["baus_paper"] == "0.922"


def test_the_papers_species_stand_beside_the_same_species_only(tmp_path):
    metrics = group_metrics("Lynx", 0.5, 0.5) | group_metrics("SalamanderID2025", 0.5, 0.5)
    section = write_table_61({"batch16": {"thresholdSet": metrics}}, tmp_path)
    _, lynx, salamander = read_markdown(section, "Table 6.1")
    assert lynx[4::2] == ["-", "-", "-"]
    assert salamander[4::2] == ["0.603", "0.931", "0.750"]
    assert "other animals are measured" in write_table_62({"batch16": {"thresholdSet": metrics}}, tmp_path)
    assert "other animals are measured" not in write_table_62(ROWS, tmp_path)


def test_the_long_form_holds_every_number_of_the_tables(tmp_path):
    rows = ROWS | {"metric_512": {"testSet": overall_metrics(0.1, 0.4)}}
    write_tables(rows, tmp_path, "tiny")
    long = read_csv(tmp_path / "tables.csv")
    assert list(long[0]) == ["table", "row", "group", "metric", "value", "low", "high", "paper", "note"]
    assert {line["note"] for line in long} == {"tiny"}
    keys = {(line["table"], line["row"], line["group"], line["metric"]): line for line in long}
    assert len(keys) == len(long) == 4 * 4 + 4 * 6 + 2 * 4
    for name, table in (("6.1", "table_6_1.csv"), ("6.2", "table_6_2.csv")):
        wide = read_csv(tmp_path / table)
        for line in wide:
            for metric in ("threshold", "baks", "baus", "geo_mean", "pooled", "improvement_percent", "competition"):
                if metric in line:
                    number = keys[name, line["row"], line.get("group", ""), metric]
                    ends = [line[f"{metric}{end}"] for end in ("", "_low", "_high", "_paper")]
                    assert [number[field] for field in ("value", "low", "high", "paper")] == ends
    assert float(keys["6.2", "batch16", "", "pooled"]["value"]) == math.sqrt(0.4 * 0.9)
    assert float(keys["6.2", "batch16", "", "competition"]["high"]) == 0.45


def test_dimensions_are_compared_when_both_rows_are_there(tmp_path):
    assert "512 against 1024" not in write_tables(ROWS, tmp_path).read_text(encoding="utf-8")
    rows = ROWS | {"metric_512": {"testSet": overall_metrics(0.25, 0.64)}}
    text = write_tables(rows, tmp_path).read_text(encoding="utf-8")
    _, small, large = read_markdown(text, "512 against 1024 dimensions")
    assert [small[0], large[0]] == ["metric_512", "metric"]
    assert [small[3], large[3]] == ["0.400 (0.350 … 0.450)", "0.632 (0.582 … 0.682)"]
    assert "GEO_MEAN of metric less that of metric_512: +0.232." in text
    text = write_tables(rows | {"metric_512": {}}, tmp_path).read_text(encoding="utf-8")
    assert "GEO_MEAN of metric less that of metric_512: -." in text


def test_failed_rows_are_listed_with_the_reason_and_the_papers_numbers(tmp_path):
    text = write_tables(ROWS, tmp_path, failures={"batch64": "the loss is nan\nin epoch 1 | `x`"}).read_text("utf-8")
    assert r"* batch64: the loss is nan in epoch 1 \| \`x\`" in text
    *_, batch64 = read_markdown(text, "Table 6.2")
    assert batch64[:7] == ["batch64", "-", "0.497", "-", "0.862", "-", "0.654"]
    assert "Rows that failed" not in write_tables(ROWS, tmp_path).read_text(encoding="utf-8")


def test_the_note_stands_above_the_numbers_and_in_every_file(tmp_path):
    text = write_tables(ROWS, tmp_path / "new", "tiny backbones\nof the same families").read_text(encoding="utf-8")
    assert text.index("> tiny backbones\n> of the same families") < text.index("Table 6.1")
    for name in ("tables.csv", "table_6_1.csv", "table_6_2.csv"):
        assert all(line["note"] == "tiny backbones\nof the same families" for line in read_csv(tmp_path / "new" / name))


@pytest.mark.parametrize("name", ["a|b", "`rm`", "_x_", "$y$", 'say "hi", you', "two\nlines", "<b>&amp;", "a.b"])
def test_names_survive_markdown_and_csv(tmp_path, name):
    rows = {name: {"thresholdSet": group_metrics(name, 0.5, 0.5), "testSet": overall_metrics(0.5, 0.5)}}
    text = write_tables(rows, tmp_path).read_text(encoding="utf-8")
    _, (row, group, *numbers) = read_markdown(text, "Table 6.1")
    assert row == group
    assert row.replace("\\", "").replace("¦", "|") == " ".join(name.split())
    assert numbers[1] == "0.500 (0.400 … 0.600)"
    line = read_csv(tmp_path / "table_6_1.csv")[0]
    assert (line["row"], line["group"]) == (name, name)


def test_no_row_at_all_is_said(tmp_path):
    text = write_tables({}, tmp_path).read_text(encoding="utf-8")
    assert text.count("No row has a result.") == 2
    assert read_csv(tmp_path / "tables.csv") == []


def test_the_tables_read_the_names_that_summarise_gives(tmp_path):
    shares = {"a": Shares(np.array([1.0, 0.0]), np.array([1.0])), "b": Shares(np.array([1.0]), np.array([0.0, 1.0]))}
    metrics = summarise(shares)
    write_tables({"starter": {"thresholdSet": metrics, "testSet": metrics}}, tmp_path)
    first, second = read_csv(tmp_path / "table_6_1.csv")
    assert [float(first[name]) for name in ("baks", "baus", "geo_mean")] == [0.5, 1.0, math.sqrt(0.5)]
    assert [float(second[name]) for name in ("baks", "baus", "geo_mean")] == [1.0, 0.5, math.sqrt(0.5)]
    (overall,) = read_csv(tmp_path / "table_6_2.csv")
    assert [float(overall[name]) for name in ("pooled_baks", "pooled_baus")] == pytest.approx([2 / 3, 2 / 3])
    for line in (first, second, overall):
        bounded = [name for name in line if f"{name}_low" in line and name not in ("threshold", "improvement_percent")]
        assert len(bounded) == (5 if line is overall else 3)
        for name in bounded:
            assert 0 <= float(line[f"{name}_low"]) <= float(line[name]) <= float(line[f"{name}_high"]) <= 1
