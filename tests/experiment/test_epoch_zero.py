"""Epoch 0: the backbone's own features through the same chain, computed once, whoever asks and however often."""

import copy
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from reid_core.config.presets import tiny
from reid_core.config.values import override
from reid_core.experiment import epoch_zero
from reid_core.experiment.epoch_zero import (
    answer_epoch_zero,
    freeze,
    frozen_outputs,
    gain_over_epoch_zero,
    report_epoch_zero,
)
from reid_core.experiment.evaluation import evaluate_fully
from reid_core.experiment.prepare import prepare, prepare_fresh_split
from reid_core.experiment.prepared import load_prepared
from reid_core.model.place import Place
from reid_core.model.reid_model import make_model
from reid_core.scoring.evaluate import shares_of

CONFIG = override(tiny(), {"data.image_px": 32, "match.matcher": "none", "model.weights": "random"})
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, where a backbone names none
LOSSES = ("triplet", "cross_entropy")
CLASSIFIER = override(CONFIG, {"loss.name": "cross_entropy", "predict.rule": "softmax"})


@pytest.fixture(scope="module")
def folder(small_data, tmp_path_factory):
    """Prepared data. No test writes into it."""
    folder = tmp_path_factory.mktemp("prepared") / "cache"
    prepare(small_data, folder, CONFIG)
    return folder


@pytest.fixture
def prepared(folder, tmp_path):
    """A copy, in which nothing of epoch 0 is kept yet."""
    copy = shutil.copytree(folder, tmp_path / "cache")
    text = (copy / "prepared.json").read_text("utf-8")
    (copy / "prepared.json").write_text(text.replace(str(folder), str(copy)), "utf-8")
    return load_prepared(copy)


def prepared_folder(prepared):
    return Path(prepared.image_cache).parent


@pytest.fixture
def calls(monkeypatch):
    """Names of what was computed."""
    made = []

    def counting(name):
        compute = getattr(epoch_zero, name)

        def count(*args, **options):
            made.append(name)
            return compute(*args, **options)

        monkeypatch.setattr(epoch_zero, name, count)

    for name in ("embed", "report_outputs", "decide_outputs"):
        counting(name)
    return made


@pytest.mark.parametrize("changes", [{}, {"model.drop_path": 0.2, "model.head": "mlp", "model.orientation": "input"}])
def test_the_frozen_backbone_is_the_one_that_the_trial_starts_from(changes):
    trial, frozen = (make_model(each, num_identities=5) for each in (override(CONFIG, changes), freeze(CONFIG)))
    start, own = trial.backbone.state_dict(), frozen.backbone.state_dict()
    assert start.keys() == own.keys()
    assert all(torch.equal(start[name], own[name]) for name in own)


def slow_features(prepared):
    """Photograph by photograph."""
    backbone = make_model(CONFIG).backbone.eval()
    rows = []
    with torch.inference_mode():
        for row in range(len(prepared.images)):
            pixels = torch.from_numpy(prepared.images.pixels(np.array([row]))).permute(0, 3, 1, 2).float() / 255
            mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
            feature = backbone((pixels - mean) / std)[0].numpy()
            rows.append(feature / np.linalg.norm(feature))
    return np.stack(rows)


def test_features_and_report_are_those_of_a_slow_computation(prepared):
    embedding_ND, parts = slow_features(prepared), prepared.parts
    np.testing.assert_allclose(frozen_outputs(CONFIG, prepared, Place()).embedding_ND, embedding_ND, atol=1e-5)
    right, gallery = [], parts.rows("training")
    for query in parts.rows("validating"):
        own_group = gallery[parts.group_N[gallery] == parts.group_N[query]]
        nearest = own_group[np.argmax(embedding_ND[own_group] @ embedding_ND[query])]
        right.append(parts.identity_N[nearest] == parts.identity_N[query])
    report = report_epoch_zero(CONFIG, prepared, Place())
    assert report["accuracy_validating"] == pytest.approx(np.mean(right))
    assert 0 < report["geo_mean_cosine"] < 1


def test_the_full_chain_is_that_of_a_trial_that_trains_nothing_and_has_no_head(prepared):
    bare = override(CONFIG, {"model.head": "none", "model.unfrozen_stages": 0})
    decided = evaluate_fully(bare, prepared, make_model(bare), Place())
    expected = shares_of(decided.answers, decided.decision, prepared.parts)
    found = answer_epoch_zero(CONFIG, prepared, Place())
    assert {group: [s.tolist() for s in both] for group, both in found.items()} == {
        group: [s.tolist() for s in both] for group, both in expected.items()
    }
    gain = gain_over_epoch_zero(CONFIG, prepared, decided, Place())
    assert gain["epoch0"] == pytest.approx(decided.metrics["mean_of_groups"])
    assert (gain["gain"], gain["gain_low"], gain["gain_high"]) == (0, 0, 0)


def test_a_classifiers_frozen_backbone_answers_by_similarity_and_has_no_loss(prepared):
    assert freeze(CLASSIFIER).predict.rule == "threshold"
    assert "loss_validating" not in report_epoch_zero(CLASSIFIER, prepared, Place())
    answers = [answer_epoch_zero(config, prepared, Place()) for config in (CLASSIFIER, CONFIG)]
    assert repr(answers[0]) == repr(answers[1])


def ask(config, prepared):
    return report_epoch_zero(config, prepared, Place()), answer_epoch_zero(config, prepared, Place())


def test_trials_of_a_sweep_share_it_and_features_are_shared_whatever_decides(prepared, calls):
    trials = [override(CONFIG, {"optim.lr_head": rate, "loss.name": loss}) for rate in (1e-3, 1e-4) for loss in LOSSES]
    found = [ask(config, load_prepared(prepared_folder(prepared)))[0]["geo_mean_cosine"] for config in trials]
    assert sorted(calls) == ["decide_outputs", "embed", "report_outputs"]
    assert len(set(found)) == 1
    ask(override(CONFIG, {"match.shortlist": 3}), prepared)  # the report of an epoch does not depend on it
    assert sorted(calls) == ["decide_outputs", "decide_outputs", "embed", "report_outputs"]
    ask(override(CONFIG, {"seed": 1}), prepared)  # other random weights
    assert calls.count("embed") == 2


def test_fresh_splits_share_the_features_and_nothing_else(prepared, calls):
    fresh = load_prepared(prepare_fresh_split(prepared_folder(prepared), 1, CONFIG))
    ask(CONFIG, prepared)
    ask(CONFIG, fresh)
    assert sorted(calls) == ["decide_outputs", "decide_outputs", "embed", "report_outputs", "report_outputs"]


def test_concurrent_trials_wait_for_the_one_that_computes(prepared, calls, monkeypatch):
    started, release, embed = threading.Event(), threading.Event(), epoch_zero.embed

    def slow_embed(*args, **options):
        started.set()
        assert release.wait(30)
        return embed(*args, **options)

    monkeypatch.setattr(epoch_zero, "embed", slow_embed)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, CONFIG, prepared)
        assert started.wait(30)
        second = pool.submit(ask, CONFIG, prepared)
        assert not second.done()
        release.set()
        assert first.result(30)[0] == second.result(30)[0]
    assert sorted(calls) == ["decide_outputs", "embed", "report_outputs"]


def test_damage_is_logged_and_computed_again(prepared, calls, caplog):
    before = ask(CONFIG, prepared)[0]
    folder = prepared_folder(prepared)
    (report,) = folder.glob("epoch0-report-*.json")
    (features,) = folder.glob("frozen-*/embeddings.npy")
    report.write_text(report.read_text("utf-8").replace("0.", "1."), "utf-8")
    features.write_bytes(features.read_bytes()[:-1])
    calls.clear()
    assert ask(CONFIG, prepared)[0] == before
    assert sorted(calls) == ["embed", "report_outputs"]
    assert f"{report}: damaged or changed" in caplog.text
    assert "epoch 0 is computed again" in caplog.text
    assert "all photographs are embedded again" in caplog.text
    calls.clear()
    ask(CONFIG, prepared)
    assert calls == []


def test_what_cannot_be_kept_is_computed_all_the_same(prepared, monkeypatch, caplog):
    def full(*args, **options):
        raise epoch_zero.UserError("No space left on device")

    expected = ask(CONFIG, prepared)[0]
    shutil.rmtree(next(prepared_folder(prepared).glob("frozen-*")))
    for file in prepared_folder(prepared).glob("epoch0-*.json"):
        file.unlink()
    monkeypatch.setattr(epoch_zero, "write_sealed", full)
    monkeypatch.setattr(epoch_zero, "keep_embeddings", full)
    assert ask(CONFIG, prepared)[0] == expected
    assert "No space left on device; every trial computes epoch 0 for itself" in caplog.text


def test_two_ranks_share_the_work_and_know_the_same(prepared, calls, monkeypatch):
    model = make_model(freeze(CONFIG))  # threads have one generator: two that draw at once draw other weights
    monkeypatch.setattr(epoch_zero, "make_model", lambda config: copy.deepcopy(model))
    barrier, pieces = threading.Barrier(2), [None, None]

    def ask_as(rank):
        def gather(array):
            pieces[rank] = array
            barrier.wait(60)
            both = np.concatenate(pieces)
            barrier.wait(60)
            return both

        place = Place(rank=rank, world_size=2, gather=gather)
        return report_epoch_zero(CONFIG, prepared, place), frozen_outputs(CONFIG, prepared, place).embedding_ND

    with ThreadPoolExecutor(2) as pool:
        (report, one_ND), (other_report, other_ND) = pool.map(ask_as, range(2))
    assert report == other_report
    np.testing.assert_array_equal(one_ND, other_ND)
    np.testing.assert_allclose(one_ND, slow_features(prepared), atol=1e-5)
    assert calls.count("embed") == 2  # one half each
