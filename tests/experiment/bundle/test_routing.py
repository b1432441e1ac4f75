"""A model for each group: every query is answered by its group's as by that model alone, and damage is an error."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from tiny_experiment import run_experiment

from reid_core.data.animals import NEW
from reid_core.data.table.metadata import load_metadata
from reid_core.errors import UserError
from reid_core.experiment.bundle.folder import read_bundle, read_model
from reid_core.experiment.bundle.routing import (
    FORMAT,
    README,
    ROUTING,
    is_routing,
    make_slugs,
    read_routing,
    write_routing,
)
from reid_core.files.checksums import CHECKSUMS, write_checksums
from reid_core.predict import main as predict_main
from reid_core.prediction.answers import NO_MODEL, predict
from reid_core.prediction.model import open_model
from reid_core.prediction.request import Request

SPOTS, SCALES, STRIPES = "SpotsID", "ScalesID", "StripesID"


@pytest.fixture(scope="module")
def bundles(experiment, tmp_path_factory) -> dict[str, Path]:
    """Two models of different kinds; none for the stripes."""
    out = tmp_path_factory.mktemp("second") / "out"
    second = run_experiment(experiment.data, out, "--seed", "2", "--set", "match.matcher=none")
    return {SPOTS: experiment.out / "best", SCALES: second.out / "best"}


@pytest.fixture
def routed(bundles, tmp_path) -> Path:
    """A routing bundle that a test may damage."""
    write_routing(tmp_path / "best", bundles)
    for file in (tmp_path / "best").rglob("*"):  # linked to the bundles of the other tests
        if file.is_file():
            data = file.read_bytes()
            file.unlink()
            file.write_bytes(data)
    return tmp_path / "best"


def queries_of(data: Path, *groups: str):
    metadata = load_metadata(data, needs="query")
    is_theirs = pc.is_in(metadata["group"], pa.array(groups))
    return metadata.filter(pc.and_(pc.equal(metadata["split"], "query"), is_theirs))


def ask(folder: Path, data: Path, queries: pa.Table, cache: Path):
    """The answers of a folder's model."""
    return open_model(folder).answer(Request(data, queries, queries.slice(0, 0)), cache)[0]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_query_is_answered_bit_by_bit_as_by_its_groups_model_alone(experiment, bundles, routed, tmp_path):
    queries = queries_of(experiment.data, SPOTS, SCALES, STRIPES)
    mixed = queries.take(np.random.default_rng(0).permutation(len(queries)))  # groups in turns
    found = ask(routed, experiment.data, mixed, tmp_path / "cache")
    assert [prediction.image_id for prediction in found] == mixed["image_id"].to_pylist()
    for group, bundle in bundles.items():
        rows = mixed.filter(pc.equal(mixed["group"], group))
        alone = predict(read_bundle(bundle), experiment.data, rows, tmp_path / "cache")
        assert [prediction for prediction in found if prediction.group == group] == alone
        (other,) = set(bundles.values()) - {bundle}
        assert predict(read_bundle(other), experiment.data, rows, tmp_path / "cache") != alone  # it matters who answers


def test_each_groups_gallery_is_extended_by_its_own_rows(experiment, bundles, routed, tmp_path):
    """Each bundle gets its group's further photograph, as by itself; rows on which no answer depends are counted."""
    queries = queries_of(experiment.data, SPOTS, SCALES)
    first = {group: queries_of(experiment.data, group).slice(0, 1) for group in (SPOTS, SCALES, STRIPES)}
    database = pa.concat_tables(rows.set_column(1, "identity", pa.array(["Ída"])) for rows in first.values())
    model = open_model(routed, extend=True)
    found, findings = model.answer(Request(experiment.data, queries, database), tmp_path)
    assert [(finding.where, finding.count) for finding in findings] == [
        ("gallery", 1),
        (f"gallery of {SPOTS}", 1),
        (f"gallery of {SCALES}", 1),
    ]
    assert f"1 database row(s) are of groups that the model does not know: not used: {STRIPES}" in str(findings[0])
    for group, folder in bundles.items():
        alone, _ = open_model(folder, extend=True).answer(
            Request(experiment.data, queries_of(experiment.data, group), database), tmp_path
        )
        assert [prediction for prediction in found if prediction.group == group] == alone
        assert alone[0].candidates[0][0] == "Ída"
    only, findings = open_model(routed).answer(
        Request(experiment.data, queries_of(experiment.data, SPOTS), database), tmp_path
    )
    assert f"1 database row(s) are of groups in which nothing is asked: not used: {SCALES}" in str(findings[1])
    assert only[0].candidates[0][0] != "Ída"


def test_a_query_of_a_group_without_a_model_is_new_and_says_why(experiment, routed, tmp_path):
    out = tmp_path / "answers" / "submission.csv"
    assert predict_main([str(routed), "--data", str(experiment.data), "--out", str(out)]) == 0
    order = [row["image_id"] for row in read(experiment.data / "sample_submission.csv")]
    answers = read(out)
    assert [row["image_id"] for row in answers] == order
    identity_of = {row["image_id"]: row["identity"] for row in answers}
    candidates = read(out.with_name("candidates.csv"))
    rows = queries_of(experiment.data, SPOTS, SCALES, STRIPES)
    assert [row["image_id"] for row in candidates] == rows["image_id"].to_pylist()
    lost = [row for row in candidates if row["group"] == STRIPES]
    assert lost
    assert {(row["identity"], row["note"], row["candidate_1"]) for row in lost} == {(NEW, NO_MODEL, "")}
    assert {identity_of[row["image_id"]] for row in lost} == {NEW}
    assert any(row["candidate_1"] for row in candidates if row["group"] == SPOTS)


def test_a_folder_holds_whole_bundles_and_says_whose(bundles, routed):
    assert is_routing(routed)
    routes = read_routing(routed)
    assert routes == {SPOTS: routed / SPOTS, SCALES: routed / SCALES}
    for group, folder in routes.items():
        files = {file.relative_to(folder) for file in folder.rglob("*") if file.is_file()}
        assert {name: (folder / name).read_bytes() for name in files} == {
            file.relative_to(bundles[group]): file.read_bytes() for file in bundles[group].rglob("*") if file.is_file()
        }
    assert f"| {SCALES} | [{SCALES}]({SCALES}/README.md) |" in (routed / README).read_text()


def test_files_are_linked_and_copied_where_they_cannot_be(bundles, tmp_path, monkeypatch):
    write_routing(tmp_path / "linked", bundles)
    weights = bundles[SPOTS] / "model.safetensors"
    assert (tmp_path / "linked" / SPOTS / "model.safetensors").samefile(weights)

    def refuse(self, target):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    write_routing(tmp_path / "copied", bundles)
    copied = tmp_path / "copied" / SPOTS / "model.safetensors"
    assert not copied.samefile(weights)
    assert copied.read_bytes() == weights.read_bytes()


def test_what_was_routed_before_is_replaced(bundles, routed):
    write_routing(routed, {SCALES: bundles[SCALES]})
    assert list(read_routing(routed)) == [SCALES]
    assert not (routed / SPOTS).exists()
    assert [path.name for path in routed.parent.iterdir()] == ["best"]


def test_where_one_model_is_needed_the_error_names_the_ways_to_one(routed):
    for load in (read_bundle, read_model):
        with pytest.raises(UserError, match=rf"a model for each group, .*best/{SPOTS} \({SPOTS}\) or .*best/{SCALES} "):
            load(routed)
    assert len(read_bundle(routed / SPOTS).identity_G) > 50


@pytest.mark.parametrize("name", [ROUTING, CHECKSUMS, f"{SPOTS}/{CHECKSUMS}"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"\xff" * 99,
        lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],
        None,
    ],
    ids=["half", "empty", "other", "one bit", "missing"],
)
def test_a_damaged_file_is_named(routed, name, damage):
    file = routed / name
    data = file.read_bytes()
    file.unlink()
    if damage:
        file.write_bytes(damage(data))
    if name == ROUTING and not damage:  # then it is no routing bundle any more
        with pytest.raises(UserError, match="not a bundle, or an incomplete one"):
            open_model(routed)
    with pytest.raises(UserError, match=Path(name).name):
        read_routing(routed)


def test_a_damaged_bundle_within_is_an_error_when_it_is_needed(experiment, routed, tmp_path):
    weights = routed / SPOTS / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert ask(routed, experiment.data, queries_of(experiment.data, SCALES), tmp_path)
    with pytest.raises(UserError, match=rf"{SPOTS}/model\.safetensors: damaged or changed"):
        ask(routed, experiment.data, queries_of(experiment.data, SPOTS), tmp_path)


def test_two_bundles_that_change_places_are_refused(routed):
    (routed / SPOTS).rename(routed / "other")
    (routed / SCALES).rename(routed / SPOTS)
    (routed / "other").rename(routed / SCALES)
    with pytest.raises(UserError, match=rf"{SPOTS}/{CHECKSUMS}: damaged or changed"):
        open_model(routed)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("[]", "damaged"),
        ("{}", "damaged"),
        ('{"format": 1}', "damaged"),
        ('{"format": 1, "groups": {}}', "damaged"),
        ('{"format": 1, "groups": ["SpotsID"]}', "damaged"),
        ('{"format": 1, "groups": {"SpotsID": 3}}', "damaged"),
        ('{"format": 1, "groups": {"SpotsID": "../SpotsID"}}', "damaged"),
        ('{"format": 1, "groups": {"SpotsID": "/etc"}}', "damaged"),
        ('{"format": 1, "groups": {"SpotsID": ""}}', "damaged"),
        ("[" * 100_000, "damaged"),
        ('{"format": "\\u001b[2J", "groups": {}}', r"format \\x1b\[2J; this version reads 1"),
        (f'{{"format": {FORMAT + 1}, "groups": {{"SpotsID": "SpotsID"}}}}', "format 2; this version reads 1"),
    ],
)
def test_what_was_written_by_hand_is_checked_too(routed, written, message):
    (routed / ROUTING).write_text(written)
    write_checksums(routed, [ROUTING, f"{SPOTS}/{CHECKSUMS}", f"{SCALES}/{CHECKSUMS}"])
    with pytest.raises(UserError, match=rf"routing\.json: .*{message}"):
        open_model(routed)


def test_a_bundle_that_was_added_later_is_refused(routed):
    shutil.copytree(routed / SPOTS, routed / "More")
    groups = {SPOTS: SPOTS, STRIPES: "More"}
    (routed / ROUTING).write_text(json.dumps({"format": FORMAT, "groups": groups}))
    write_checksums(routed, [ROUTING, f"{SPOTS}/{CHECKSUMS}"])
    with pytest.raises(UserError, match=f"More/{CHECKSUMS}: it is not listed"):
        read_routing(routed)


def test_groups_of_an_earlier_version_are_spelled_as_a_table_is_read(bundles, tmp_path):
    write_routing(tmp_path / "old", {"Lynx ": bundles[SPOTS], "Zoe\u0308": bundles[SCALES]})
    assert list(read_routing(tmp_path / "old")) == ["Lynx", "Zo\u00eb"]


def test_slugs_are_safe_different_and_do_not_change_when_names_are_added():
    rng = np.random.default_rng(0)
    letters = [*"aAbB01 ./\\-_~*鹿é\x1b\u202e", "..", "SHA256SUMS", "x" * 50]
    for _ in range(200):
        names = list(dict.fromkeys("".join(rng.choice(letters, rng.integers(1, 5))) for _ in range(12)))
        slugs = make_slugs(names)
        assert list(slugs) == names
        assert len({slug.lower() for slug in slugs.values()} | {"sha256sums"}) == len(names) + 1
        assert all(slug.isascii() and slug.replace("-", "").isalnum() and slug[0] != "-" for slug in slugs.values())
        assert max(map(len, slugs.values())) <= 43
        assert make_slugs(names[:5]) == {name: slugs[name] for name in names[:5]}
