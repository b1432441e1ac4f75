"""Every query is answered, in the order asked for, and what makes an answer worth less is noted."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_experiment import Experiment

from reid_core import predict
from reid_core.data.animals import NEW
from reid_core.errors import UserError
from reid_core.experiment.bundle.folder import read_bundle
from reid_core.prediction.answer_files import write_candidates, write_submission
from reid_core.prediction.answers import Prediction


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def run(experiment: Experiment, data: Path, out: Path) -> tuple[list[dict[str, str]], dict[str, dict[str, str]]]:
    """Rows of submission.csv, and of candidates.csv by image_id."""
    bundle = experiment.out / "best"
    assert predict.main([str(bundle), "--data", str(data), "--out", str(out / "submission.csv")]) == 0
    return read(out / "submission.csv"), {row["image_id"]: row for row in read(out / "candidates.csv")}


@pytest.fixture(scope="module")
def plain(experiment, tmp_path_factory):
    return run(experiment, experiment.data, tmp_path_factory.mktemp("plain"))


@pytest.fixture
def data(experiment, tmp_path) -> Path:
    """A data folder that a test may change."""
    return Path(shutil.copytree(experiment.data, tmp_path / "data"))


def test_the_submission_has_the_rows_of_the_sample_in_its_order(experiment, plain):
    submission, candidates = plain
    sample = read(experiment.data / "sample_submission.csv")
    assert list(submission[0]) == ["image_id", "identity"]
    assert [row["image_id"] for row in submission] == [row["image_id"] for row in sample]
    assert set(candidates) == {row["image_id"] for row in sample}


def test_answers_stay_in_their_group_and_some_are_named(experiment, plain):
    submission, _ = plain
    metadata = {row["image_id"]: row for row in read(experiment.data / "metadata.csv")}
    known = {(row["dataset"], row["identity"]) for row in metadata.values() if row["split"] == "database"}
    named = [row for row in submission if row["identity"] != NEW]
    assert 0 < len(named) < len(submission)
    assert all((metadata[row["image_id"]]["dataset"], row["identity"]) in known for row in named)


def test_candidates_explain_the_answers(experiment, plain):
    submission, candidates = plain
    thresholds = read_bundle(experiment.out / "best").decision.thresholds
    for row in submission:
        review = candidates[row["image_id"]]
        names = [review[f"candidate_{rank}"] for rank in range(1, 6) if review[f"candidate_{rank}"]]
        values = [float(review[f"probability_{rank}"]) for rank in range(1, len(names) + 1)]
        assert len(set(names)) == len(names) > 0
        assert values == sorted(values, reverse=True)
        assert review["note"] == ""
        threshold = thresholds[review["group"]]
        if abs(values[0] - threshold) > 1e-4:  # they are written with four decimals
            assert row["identity"] == review["identity"] == (names[0] if values[0] > threshold else NEW)


def test_a_photograph_of_the_gallery_is_recognised(experiment, data, tmp_path):
    """Known photographs are asked again: the gallery holds the very same pixels."""
    rows = read(data / "metadata.csv")
    asked = [row for row in rows if row["split"] == "database"][:12]
    again = [row | {"image_id": f"again {i}", "split": "query", "identity": ""} for i, row in enumerate(asked)]
    write(data / "metadata.csv", [*rows, *again])
    (data / "sample_submission.csv").unlink()
    submission, candidates = run(experiment, data, tmp_path)
    assert [row["image_id"] for row in submission][-12:] == [f"again {i}" for i in range(12)]  # order of metadata.csv
    first = [candidates[f"again {i}"]["candidate_1"] for i in range(12)]
    assert np.mean([name == row["identity"] for name, row in zip(first, asked, strict=True)]) > 0.9


def test_no_query_is_lost_and_the_worse_ones_are_noted(experiment, data, plain, tmp_path):
    rows = read(data / "metadata.csv")
    queries = [row for row in rows if row["split"] == "query"]
    broken, flat, truncated, foreign = queries[:4]
    (data / broken["path"]).write_bytes(b"no photograph")
    Image.new("RGB", (100, 80), (120, 110, 100)).save(data / flat["path"])
    (data / truncated["path"]).write_bytes((data / truncated["path"]).read_bytes()[:400])
    foreign["dataset"] = "YakID"
    write(data / "metadata.csv", rows)
    order = [row["image_id"] for row in reversed(queries)]
    write(data / "sample_submission.csv", [{"image_id": image_id, "identity": NEW} for image_id in order])
    submission, candidates = run(experiment, data, tmp_path)
    answers = {row["image_id"]: row["identity"] for row in submission}
    assert [row["image_id"] for row in submission] == order
    for row, note in ((broken, "unreadable: "), (truncated, "unreadable: "), (foreign, "the gallery has no image")):
        assert candidates[row["image_id"]]["note"].startswith(note)
        assert candidates[row["image_id"]]["candidate_1"] == ""
        assert answers[row["image_id"]] == NEW
    assert candidates[flat["image_id"]]["note"] == "no keypoints: not matched locally"
    assert candidates[flat["image_id"]]["candidate_1"] != ""
    # The others are answered as if nothing had happened.
    untouched = [row["image_id"] for row in queries[4:]]
    before = {row["image_id"]: row["identity"] for row in plain[0]}
    assert {i: answers[i] for i in untouched} == {i: before[i] for i in untouched}


def test_the_same_call_gives_the_same_bytes_with_and_without_a_kept_cache(experiment, tmp_path):
    outputs = []
    for name, more in (("one", []), ("two", ["--cache", str(tmp_path / "cache")]), ("three", [])):
        out = tmp_path / name / "submission.csv"
        arguments = [str(experiment.out / "best"), "--data", str(experiment.data), "--out", str(out)]
        predict.main([*arguments, *more])
        outputs.append(out.read_bytes() + out.with_name("candidates.csv").read_bytes())
    assert outputs[0] == outputs[1] == outputs[2]
    assert list((tmp_path / "cache").iterdir())


def test_gallery_photographs_are_not_needed(experiment, data, plain, tmp_path):
    rows = [row for row in read(data / "metadata.csv") if row["split"] == "query"]
    write(data / "metadata.csv", rows)
    for folder in data.glob("images/*/database"):
        shutil.rmtree(folder)
    assert run(experiment, data, tmp_path) == plain


def test_a_bare_folder_is_answered_as_its_table_is(experiment, data, plain, tmp_path, capsys):
    """The photographs of one group, without metadata.csv: the same answers under other ids."""
    rows = [row for row in read(data / "metadata.csv") if row["split"] == "query" and row["dataset"] == "SpotsID"]
    bare = tmp_path / "bare"
    for row in rows:
        (bare / row["path"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data / row["path"], bare / row["path"])
    with pytest.raises(UserError, match=r"give --group NAME, one of ScalesID, SpotsID, StripesID"):
        run(experiment, bare, tmp_path)
    arguments = [str(experiment.out / "best"), "--data", str(bare), "--out", str(tmp_path / "out" / "submission.csv")]
    assert predict.main([*arguments, "--group", "SpotsID"]) == 0
    before = {row["image_id"]: row["identity"] for row in plain[0]}
    answers = {row["image_id"]: row["identity"] for row in read(tmp_path / "out" / "submission.csv")}
    assert answers == {row["path"]: before[row["image_id"]] for row in rows}
    (finding,) = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert f"{len(rows)} photograph(s) are to be named, as group SpotsID" in finding["what"]
    assert f"noticed in the data: 1, in {tmp_path / 'out' / 'findings.json'}" in capsys.readouterr().out


def test_without_findings_the_file_says_so_and_the_summary_is_short(experiment, tmp_path, capsys):
    (tmp_path / "findings.json").write_text("of a former call")
    run(experiment, experiment.data, tmp_path)
    assert json.loads((tmp_path / "findings.json").read_text()) == []
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"answers: {tmp_path / 'submission.csv'}",
        f"to review: {tmp_path / 'candidates.csv'}",
    ]


def test_the_columns_that_a_query_does_not_need_may_be_missing(experiment, data, plain, tmp_path):
    rows = [row for row in read(data / "metadata.csv") if row["split"] == "query"]
    write(
        data / "metadata.csv", [{name: row[name] for name in ("path", "image_id", "split", "dataset")} for row in rows]
    )
    assert run(experiment, data, tmp_path) == plain


def test_a_gallery_is_extended_only_where_that_is_asked_for(experiment, data, plain, tmp_path, caplog):
    """One photograph of an animal that nobody knows is a new row; the query is a smaller copy of it."""
    rows = read(data / "metadata.csv")
    shown, asked = [row for row in rows if row["split"] == "query" and row["dataset"] == "SpotsID"][:2]
    with Image.open(data / shown["path"]) as image:
        image.resize((90, 90)).save(data / asked["path"], quality=95)
    write(data / "metadata.csv", [*rows, shown | {"image_id": "more", "split": "database", "identity": "Ída"}])
    submission, _ = run(experiment, data, tmp_path / "one")
    assert "with 1 animal(s) that the bundle does not know; --extend-gallery adds" in caplog.text
    before, now = ({row["image_id"]: row["identity"] for row in answers} for answers in (plain[0], submission))
    assert {image_id for image_id in now if now[image_id] != before[image_id]} <= {asked["image_id"]}
    out = tmp_path / "two" / "submission.csv"
    arguments = [str(experiment.out / "best"), "--data", str(data), "--out", str(out), "--extend-gallery"]
    assert predict.main(arguments) == 0
    candidates = {row["image_id"]: row for row in read(out.with_name("candidates.csv"))}
    assert candidates[asked["image_id"]]["candidate_1"] == "Ída"
    assert candidates[shown["image_id"]]["note"] == "the same file as a gallery photograph of Ída"
    (finding,) = json.loads(out.with_name("findings.json").read_text())
    assert (finding["where"], finding["examples"]) == ("gallery", ["Ída"])
    assert "1 photograph(s) are added for this call, with 1 animal(s)" in finding["what"]


def test_extending_by_nothing_is_an_error(experiment, data, tmp_path):
    write(data / "metadata.csv", [row for row in read(data / "metadata.csv") if row["split"] == "query"])
    arguments = [str(experiment.out / "best"), "--data", str(data), "--out", str(tmp_path / "s.csv")]
    with pytest.raises(UserError, match=r"--extend-gallery: .*data has no database rows"):
        predict.main([*arguments, "--extend-gallery"])


def test_a_folder_without_queries_is_an_error(experiment, data, tmp_path):
    write(data / "metadata.csv", [row for row in read(data / "metadata.csv") if row["split"] == "database"])
    with pytest.raises(UserError, match="there is nothing to name"):
        run(experiment, data, tmp_path)


def test_an_error_names_what_cannot_be_written(experiment, tmp_path):
    (tmp_path / "submission.csv").mkdir()
    with pytest.raises(UserError, match=r"^--out .*submission\.csv: cannot be written"):
        run(experiment, experiment.data, tmp_path)


def test_names_stay_exact_in_the_submission_and_are_safe_to_open_in_the_candidates(tmp_path):
    name = '=HYPERLINK("http://x","ada")'
    predictions = [Prediction("-7", "@Cows", name, "", [(name, 0.75), ("bo\x1b[2J", 0.5)])]
    write_submission(tmp_path / "submission.csv", predictions, None)
    write_candidates(tmp_path / "candidates.csv", predictions)
    assert read(tmp_path / "submission.csv") == [{"image_id": "-7", "identity": name}]
    (row,) = read(tmp_path / "candidates.csv")
    assert [row["image_id"], row["group"], row["identity"]] == ["-7", "'@Cows", f"'{name}"]
    assert [row["candidate_1"], row["probability_1"], row["candidate_2"]] == [f"'{name}", "0.7500", "bo\\x1b[2J"]


def test_the_note_of_an_unreadable_query_is_the_same_in_every_run(experiment, data, tmp_path):
    rows = [row for row in read(data / "metadata.csv") if row["split"] == "query"][:2]
    write(data / "metadata.csv", rows)
    (data / "sample_submission.csv").unlink()
    (data / rows[0]["path"]).write_bytes(b"no photograph")
    runs = [run(experiment, data, tmp_path / name) for name in ("one", "two")]
    assert runs[0] == runs[1]
    assert "no photograph that can be identified" in runs[0][1][rows[0]["image_id"]]["note"]
    (finding,) = json.loads((tmp_path / "one" / "findings.json").read_text())
    assert finding["what"].startswith(f"1 of 2 cannot be read and are answered {NEW} (")
