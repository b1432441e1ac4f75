"""Classifier rules and a second global model, from training to bundle to prediction."""

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_experiment import run_experiment

from reid_core import predict
from reid_core.data.animals import NEW
from reid_core.errors import UserError
from reid_core.experiment.bundle.folder import read_bundle, write_bundle
from reid_core.experiment.prepare import prepare
from reid_core.experiment.prepared import load_prepared
from reid_core.experiment.second_model import second_config
from reid_core.model.embed import embed
from reid_core.model.place import Place

CLASSIFIER = [
    *("--set", "loss.name=cross_entropy"),
    *("--set", "data.images_per_identity=null"),
    *("--set", "model.unfrozen_stages=4"),
    *("--set", "optim.epochs=2"),
]


@pytest.fixture(scope="module", params=["softmax", "openmax"])
def by_classifier(request, small_data, tmp_path_factory):
    rule = ["--set", f"predict.rule={request.param}", "--set", "predict.openmax_top=1", "--set", "match.matcher=none"]
    return run_experiment(small_data, tmp_path_factory.mktemp(request.param) / "out", *CLASSIFIER, *rule)


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_classifier_survives_the_round_trip(by_classifier, tmp_path):
    bundle, prepared = read_bundle(by_classifier.out / "best"), load_prepared(by_classifier.out / "cache")
    write_bundle(tmp_path / "again", bundle)
    again = read_bundle(tmp_path / "again")
    assert again.decision == bundle.decision
    assert (bundle.decision.openmax is not None) == (bundle.config.predict.rule == "openmax")
    identity_K, group_K = prepared.classes()
    assert bundle.class_identity_K.tolist() == identity_K.tolist()
    assert bundle.class_group_K.tolist() == group_K.tolist()
    rows = prepared.parts.rows("validating")
    logits = [embed(each.model, prepared.images, rows, Place())[1][rows] for each in (bundle, again)]
    assert logits[0].tobytes() == logits[1].tobytes()
    assert logits[0].shape == (len(rows), len(identity_K))


def test_a_classifier_names_only_whom_it_knows(by_classifier, tmp_path):
    bundle = by_classifier.out / "best"
    assert predict.main([str(bundle), "--data", str(by_classifier.data), "--out", str(tmp_path / "out.csv")]) == 0
    loaded = read_bundle(bundle)
    known = set(zip(loaded.class_group_K, loaded.class_identity_K, strict=True))
    reviewed = read(tmp_path / "candidates.csv")
    assert len(reviewed) == len(read(by_classifier.data / "sample_submission.csv"))
    for row in reviewed:
        assert row["identity"] == NEW or (row["group"], row["identity"]) in known
        assert (row["group"], row["candidate_1"]) in known


def test_recorded_answers_of_a_classifier_follow_from_its_logits(by_classifier):
    bundle, prepared = read_bundle(by_classifier.out / "best"), load_prepared(by_classifier.out / "cache")
    answers = {row["image_id"]: row for row in pq.read_table(by_classifier.out / "predictions.parquet").to_pylist()}
    rows = prepared.parts.rows("thresholdSet")
    _, logit_NK = embed(bundle.model, prepared.images, rows, Place())
    for row in rows:
        mine = bundle.class_group_K == prepared.parts.group_N[row]
        best = bundle.class_identity_K[mine][logit_NK[row][mine].argmax()]
        recorded = answers[prepared.image_id_N[row]]
        if bundle.config.predict.rule == "softmax":
            power = np.exp(logit_NK[row][mine] - logit_NK[row][mine].max())
            assert recorded["candidate"] == best
            assert recorded["probability"] == pytest.approx(power.max() / power.sum(), abs=1e-5)
        else:
            assert 0 <= recorded["probability"] <= 1


@pytest.fixture(scope="module")
def with_second(experiment, tmp_path_factory):
    """A run whose second global model is the bundle of another run."""
    settings = ["--set", f"fusion.second_model={experiment.out / 'best'}", "--set", "fusion.weights=fitted"]
    out = tmp_path_factory.mktemp("second") / "out"
    return experiment, run_experiment(experiment.data, out, *settings, "--set", "data.image_px=32")


def test_a_second_model_is_fused_and_travels_with_the_bundle(with_second, tmp_path):
    first, second = with_second
    bundle, theirs = read_bundle(second.out / "best"), read_bundle(first.out / "best")
    assert set(bundle.decision.calibrators) == {"cosine", "match", "second"}
    assert sum(bundle.decision.fusion_weights.values()) == pytest.approx(1)
    # the same photographs, at the second model's own size, in the same order
    assert bundle.second.config.data.image_px == theirs.config.data.image_px != bundle.config.data.image_px
    np.testing.assert_allclose(bundle.second.embedding_GD, theirs.embedding_GD, atol=1e-5)
    weights = bundle.second.model.state_dict()
    assert all((weights[name] == value).all() for name, value in theirs.model.state_dict().items())
    assert predict.main([str(second.out / "best"), "--data", str(second.data), "--out", str(tmp_path / "s.csv")]) == 0
    assert {row["identity"] for row in read(tmp_path / "s.csv")} - {NEW}


def test_second_models_that_are_searched_are_all_prepared(with_second, tmp_path):
    first, second = with_second
    names, base = [str(first.out / "best"), str(second.out / "best")], read_bundle(first.out / "best").config
    prepared = prepare(second.data, tmp_path, base, second_models=names)
    assert prepared.second_ND(None) is None
    embeddings = [prepared.second_ND(name) for name in names]
    np.testing.assert_allclose(embeddings[0], read_bundle(first.out / "best").embedding_GD, atol=1e-5)
    np.testing.assert_allclose(embeddings[1], read_bundle(second.out / "best").embedding_GD, atol=1e-5)


def test_a_second_model_that_cannot_be_had_is_an_error(with_second):
    config = read_bundle(with_second[1].out / "best").config
    fusion = config.fusion.__class__(second_model="/nowhere/at/all")
    with pytest.raises(UserError, match=r"fusion.second_model=/nowhere/at/all: no such folder"):
        second_config(config.__class__(fusion=fusion))


def test_a_bundle_tells_how_many_it_classifies(by_classifier):
    about = json.loads((by_classifier.out / "best" / "bundle.json").read_text())
    assert about["num_identities"] == len(load_prepared(by_classifier.out / "cache").classes()[0])
