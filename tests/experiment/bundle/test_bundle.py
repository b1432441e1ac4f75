"""The exported model: the same after a round trip, executes nothing, and an error names the file that is damaged."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from reid_core.config.parameters import TrialConfig
from reid_core.config.presets import tiny
from reid_core.config.values import override
from reid_core.config.yaml_files import read_config, write_config
from reid_core.data.table.findings import make_finding
from reid_core.errors import UserError
from reid_core.experiment.bundle.folder import (
    FILES,
    FORMAT,
    LOADED,
    MODEL_FILES,
    README,
    Bundle,
    Second,
    read_bundle,
    read_model,
    spell_as_read,
    write_bundle,
)
from reid_core.experiment.prepared import load_prepared
from reid_core.experiment.second_model import second_config
from reid_core.files.checksums import CHECKSUMS, write_checksums
from reid_core.matching.matchers import make_matcher
from reid_core.model.embed import embed
from reid_core.model.place import Place
from reid_core.scoring.candidates import find_candidates, match_candidates
from reid_core.scoring.decision import Outputs

ALL_FILES = (*MODEL_FILES, *FILES)


@pytest.fixture
def copy(experiment, tmp_path) -> Path:
    """A bundle that a test may damage."""
    return Path(shutil.copytree(experiment.out / "best", tmp_path / "best"))


def sign(bundle: Path) -> None:
    """New checksums for a bundle that a test has changed on purpose."""
    write_checksums(bundle, [name for name in LOADED if (bundle / name).exists()])


def predicted(bundle: Bundle) -> np.ndarray:
    """Answers and scores of every fifth gallery image against all others of the gallery."""
    queries = np.arange(0, len(bundle.identity_G), 5)
    gallery = np.setdiff1d(np.arange(len(bundle.identity_G)), queries)
    matcher = make_matcher(bundle.config.match)
    found = find_candidates(bundle.embedding_GD, bundle.group_G, queries, gallery, shortlist_size=5)
    scored = match_candidates(found, lambda q, g: matcher.scores(bundle.features, q, bundle.features, g))
    answers = bundle.decision.answer(scored, Outputs(bundle.embedding_GD), bundle.identity_G)
    return np.stack([answers.name(bundle.decision.thresholds), answers.score_Q])


def test_round_trip_is_exact(experiment, tmp_path):
    first = read_bundle(experiment.out / "best")
    write_bundle(tmp_path / "again", first)
    again = read_bundle(tmp_path / "again")
    assert again.config == first.config
    assert again.decision == first.decision
    assert again.embedding_GD.tobytes() == first.embedding_GD.tobytes()
    weights = zip(first.model.state_dict().items(), again.model.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in weights)
    answers = predicted(first)
    assert len(set(answers[0])) > 3
    assert (answers == predicted(again)).all()
    tables = [pq.read_table(folder / "gallery.parquet") for folder in (experiment.out / "best", tmp_path / "again")]
    assert tables[0].equals(tables[1], check_metadata=True)
    for name in set(ALL_FILES) - {"gallery.parquet"}:
        assert (tmp_path / "again" / name).read_bytes() == (experiment.out / "best" / name).read_bytes(), name


def test_the_loaded_model_gives_the_embeddings_of_the_gallery(experiment):
    bundle, prepared = read_bundle(experiment.out / "best"), load_prepared(experiment.out / "cache")
    again, logits = embed(bundle.model, prepared.images, np.arange(len(prepared.images)), Place())
    assert logits is None
    assert len(again) == len(bundle.embedding_GD) > 50
    assert again.tobytes() == bundle.embedding_GD.tobytes()


def test_the_bundle_holds_the_trained_weights_and_the_numbers_of_the_run(experiment):
    best = load_file(next((experiment.out / "checkpoints").iterdir()) / "best.safetensors")
    bundle = read_bundle(experiment.out / "best")
    assert best
    assert all(torch.equal(bundle.model.state_dict()[name], value) for name, value in best.items())
    metrics = bundle.metrics["thresholdSet"]
    assert {
        f"threshold.{group}": value for group, value in bundle.decision.thresholds.items()
    }.items() <= metrics.items()
    assert 0 <= metrics["mean_of_groups"] <= 1


def test_recorded_answers_are_those_of_the_recorded_thresholds(experiment):
    """predictions.parquet gives BAKS and BAUS again, counted by hand."""
    rows = pq.read_table(experiment.out / "predictions.parquet").to_pylist()
    bundle = read_bundle(experiment.out / "best")
    for part in ("thresholdSet", "testSet"):
        for group, threshold in bundle.decision.thresholds.items():
            shares: dict[tuple[bool, str], list[bool]] = {}
            for row in rows:
                if (row["part"], row["group"]) == (part, group):
                    named = row["probability"] >= np.float32(threshold)
                    assert row["answer"] == (row["candidate"] if named else "new_individual")
                    right = row["answer"] == (row["identity"] if row["known"] else "new_individual")
                    shares.setdefault((row["known"], row["identity"]), []).append(right)
            for name, side in (("baks", True), ("baus", False)):
                expected = [np.mean(hits) for (known, _), hits in shares.items() if known is side]
                found = bundle.metrics[part].get(f"{name}.{group}", np.nan)
                assert found == pytest.approx(np.mean(expected) if expected else np.nan, nan_ok=True)


def test_nothing_in_a_bundle_is_a_pickle(experiment):
    files = {path.name: path.read_bytes() for path in (experiment.out / "best").rglob("*") if path.is_file()}
    assert set(files) == {*ALL_FILES, README, CHECKSUMS}
    for name, content in files.items():
        assert not content.startswith((b"\x80", b"PK")), name  # pickle, and torch's zip of pickles
        is_known_form = {
            ".json": lambda data: json.loads(data) is not None,
            ".yaml": lambda data: data.decode().startswith("seed: "),
            ".md": lambda data: data.startswith(b"# "),
            "": lambda data: all(len(line.split("  ")[0]) == 64 for line in data.decode().splitlines()),
            ".parquet": lambda data: data[:4] == data[-4:] == b"PAR1",
            ".safetensors": lambda data: json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]),
        }[Path(name).suffix]
        assert is_known_form(content), name


@pytest.mark.parametrize("name", [*ALL_FILES, CHECKSUMS])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(UserError, match=name):
        read_bundle(copy)


@pytest.mark.parametrize("name", [*ALL_FILES, CHECKSUMS])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"\xff" * 99,
        lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],
    ],
    ids=["half", "empty", "other", "one bit"],
)
def test_a_damaged_file_is_named(copy, name, damage):
    file = copy / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=name):
        read_bundle(copy)
    if name in MODEL_FILES:
        with pytest.raises(UserError, match=name):
            read_model(copy)


@pytest.mark.parametrize("name", ALL_FILES)
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"\xff" * 99])
def test_a_damaged_file_whose_checksum_fits_is_named(copy, name, damage):
    """A bundle that was made by hand is checked too."""
    (copy / name).write_bytes(damage((copy / name).read_bytes()))
    sign(copy)
    if name == "config.yaml" and len((copy / name).read_bytes()) not in (0, 99):
        return  # half of the lines of a configuration are a configuration
    with pytest.raises(UserError, match=name):
        read_bundle(copy)


@pytest.mark.parametrize("name", sorted(set(LOADED) - set(ALL_FILES)))
def test_a_file_that_was_added_later_is_refused_where_loading_would_read_it(copy, name):
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_bytes((copy / "config.yaml").read_bytes())
    with pytest.raises(UserError, match=f"{name}: it is not listed in .*{CHECKSUMS}"):
        read_bundle(copy)


def test_two_files_that_change_places_are_refused(copy):
    metrics, thresholds = copy / "metrics.json", copy / "thresholds.json"
    metrics.rename(copy / "other")
    thresholds.rename(metrics)
    (copy / "other").rename(thresholds)
    with pytest.raises(UserError, match=r"thresholds\.json: damaged or changed"):
        read_bundle(copy)


def test_people_may_write_into_the_readme_and_beside_it(copy):
    (copy / README).write_text("# Ours, trained in May\n")
    (copy / "notes.txt").write_text("lynx only")
    assert len(read_bundle(copy).identity_G) > 50


def test_checksums_cover_the_second_model(experiment, tmp_path):
    first = read_bundle(experiment.out / "best")
    both = dataclasses.replace(first, second=Second(first.config, first.model, first.embedding_GD[:, :4]))
    write_bundle(tmp_path / "two", both)
    again = read_bundle(tmp_path / "two").second
    assert again is not None
    assert again.embedding_GD.tobytes() == first.embedding_GD[:, :4].tobytes()
    weights = tmp_path / "two" / "second" / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match=r"second/model\.safetensors: damaged or changed"):
        read_bundle(tmp_path / "two")
    weights.unlink()
    with pytest.raises(UserError, match=r"second/model\.safetensors: it is listed"):
        read_bundle(tmp_path / "two")


def test_a_refitted_model_is_no_second_model(experiment, tmp_path):
    first = read_bundle(experiment.out / "best")
    write_bundle(tmp_path / "refit", dataclasses.replace(first, refitted_epochs=2))
    for folder, config in ((experiment.out / "best", first.config), (tmp_path / "refit", None)):
        asked = override(tiny(), {"fusion.second_model": str(folder)})
        if config:
            assert second_config(asked) == config
        else:
            with pytest.raises(UserError, match=r"refit: a refitted model, trained on every image"):
                second_config(asked)


def test_weights_of_another_model_are_refused(copy):
    weights = load_file(copy / "model.safetensors")
    save_file({name: value for name, value in weights.items() if name != "head.bias"}, copy / "model.safetensors")
    sign(copy)
    with pytest.raises(UserError, match=r"model\.safetensors: the bundle is damaged"):
        read_bundle(copy)


def test_a_bundle_cannot_have_a_model_fetched(copy):
    about = json.loads((copy / "bundle.json").read_text())
    (copy / "bundle.json").write_text(json.dumps(about | {"architecture": "hf-hub:somebody/model"}))
    sign(copy)
    with pytest.raises(UserError, match="would be fetched"):
        read_bundle(copy)


def test_what_was_noticed_in_the_data_stands_in_the_readme(experiment, tmp_path):
    noticed = make_finding("metadata.csv", "2 values of orientation name no side", ["line 7: 'rigth|'", "line 9: 'x'"])
    write_bundle(tmp_path / "best", dataclasses.replace(read_bundle(experiment.out / "best"), findings=(noticed,)))
    shown = (tmp_path / "best" / README).read_text("utf-8")
    assert "## What was noticed\n\n* metadata.csv: 2 values of orientation name no side: line 7:" in shown
    assert r"'rigth\|'" in shown
    assert "noticed" not in (experiment.out / "best" / README).read_text("utf-8")


def test_names_of_groups_show_as_they_are_in_the_readme(experiment, tmp_path):
    bundle = read_bundle(experiment.out / "best")
    group = "a|b <script>`x`"
    decision = dataclasses.replace(bundle.decision, thresholds={group: 0.5})
    write_bundle(tmp_path / "best", dataclasses.replace(bundle, decision=decision))
    assert "| a\\|b \\<script\\>\\`x\\` | 0.500 | nan |" in (tmp_path / "best" / README).read_text()


@pytest.mark.parametrize("older", [1, 2])
def test_a_bundle_of_an_earlier_format_is_refused_before_its_files_are_looked_at(copy, older):
    about = json.loads((copy / "bundle.json").read_text())
    (copy / "bundle.json").write_text(json.dumps(about | {"format": older}))
    (copy / CHECKSUMS).unlink()
    with pytest.raises(UserError, match=f"bundle format {older}; this version reads {FORMAT}"):
        read_bundle(copy)


def test_a_bundle_of_a_later_format_is_refused(copy):
    about = json.loads((copy / "bundle.json").read_text())
    (copy / "bundle.json").write_text(json.dumps(about | {"format": FORMAT + 1}))
    with pytest.raises(UserError, match=f"bundle format {FORMAT + 1}; this version reads {FORMAT}"):
        read_bundle(copy)


def test_what_is_no_bundle_is_an_error(tmp_path):
    with pytest.raises(UserError, match="not a bundle"):
        read_bundle(tmp_path / "nowhere")


def test_a_bundle_replaces_the_former_one_as_a_whole(experiment, copy):
    (copy / "leftover").write_text("of a former run")
    bundle = read_bundle(experiment.out / "best")
    write_bundle(copy, dataclasses.replace(bundle, features=None))
    assert not (copy / "leftover").exists()
    assert read_bundle(copy).features is None
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_names_of_an_earlier_version_are_spelled_as_a_table_is_read(experiment):
    """Blanks at their ends, and accents as signs of their own; names that would become one are kept apart."""
    bundle = read_bundle(experiment.out / "best")
    group = bundle.group_G[0]
    old = {group: "Zoe\u0308 "}
    names = np.unique(bundle.identity_G[bundle.group_G == group])[:4]
    renamed = dict(zip(names, ("a ", "b", "b ", "e\u0301"), strict=True))
    group_G = np.array([old.get(name, name) for name in bundle.group_G], dtype=object)
    identity_G = np.array([renamed.get(name, name) for name in bundle.identity_G], dtype=object)
    fits = {"cosine": {"": "pooled", old[group]: "own"}}
    thresholds = {old.get(name, name): value for name, value in bundle.decision.thresholds.items()}
    decision = dataclasses.replace(bundle.decision, calibrators=fits, thresholds=thresholds)
    classes = {"class_group_K": group_G[::-1], "class_identity_K": identity_G[::-1]}
    read = spell_as_read(
        dataclasses.replace(bundle, group_G=group_G, identity_G=identity_G, decision=decision, **classes)
    )
    new = {"a ": "a", "e\u0301": "\u00e9"}
    assert set(read.group_G) == set(read.class_group_K) == set(read.decision.thresholds)
    assert (read.group_G == "Zo\u00eb").tolist() == (bundle.group_G == group).tolist()
    assert read.identity_G.tolist() == [new.get(name, name) for name in identity_G]
    assert (read.class_group_K[::-1].tolist(), read.class_identity_K[::-1].tolist()) == (
        read.group_G.tolist(),
        read.identity_G.tolist(),
    )
    assert read.decision.calibrators == {"cosine": {"": "pooled", "Zo\u00eb": "own"}}
    assert read.decision.thresholds["Zo\u00eb"] == bundle.decision.thresholds[group]
    assert {"a", "b", "b ", "\u00e9"} <= set(read.identity_G)


def test_configuration_round_trip(tmp_path):
    changes = {"optim.lr_head": 1e-5, "data.mean": [0.5, 0.25, 0.125], "optim.clip_norm": None, "seed": 7}
    config = override(TrialConfig(), changes)
    write_config(tmp_path / "config.yaml", config)
    assert read_config(tmp_path / "config.yaml") == config


def test_a_configuration_written_by_hand(tmp_path):
    (tmp_path / "mine.yaml").write_text("optim.lr_head: 1e-4\ndata.oversample_to: null\nmatch.matcher: none\n")
    assert read_config(tmp_path / "mine.yaml") == override(
        TrialConfig(), {"optim.lr_head": 1e-4, "data.oversample_to": None, "match.matcher": "none"}
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim.lr: 1", "unknown key 'optim.lr'"),
        ("optim: {lr_head: 1}", "expected `key: value` lines"),
        ("optim.epochs: many", "wrong type"),
        ("optim.epochs: -1", "outside"),
        ("just text", "expected `key: value` lines"),
        ("", "expected `key: value` lines"),
        ("a: [", "cannot be read as YAML"),
        ("3: 4", "unknown key"),
        ("optim.epochs: [[1]]", "expected `key: value` lines"),
        ("a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]", "expected `key: value` lines"),
        ("data.cutoff_date: 2020-02-31", "cannot be read as YAML"),
        ("data.cutoff_date: 2020-02-01", "wrong type"),
        ("a: " + "[" * 1200, "cannot be read as YAML"),
        ("optim.epochs: '" + "[" * 100_000 + "'", "wrong type; expected int"),
        ("optim.lr_head: " + "9" * 400, "too large"),
        ("optim.epochs: '" + "9" * 5000 + "'", "wrong type; expected int"),
        ("\x1b[2J: 1", "cannot be read as YAML"),
        ('"\\e[2J": 1', r"unknown key '\\x1b\[2J'"),
        ("# " + "x" * 1_000_000, "too large for a configuration"),
    ],
)
def test_a_wrong_configuration_file_is_named(tmp_path, text, message):
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_config(tmp_path / "wrong.yaml")
    assert "wrong.yaml" in str(caught.value)
