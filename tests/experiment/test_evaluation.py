"""What is kept between epochs and trials changes no number: activations of the frozen stages, scores of pairs."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_experiment import run_experiment

from reid_core.config.presets import tiny
from reid_core.errors import UserError
from reid_core.experiment.evaluation import evaluate_fully, pair_scorer
from reid_core.experiment.prepare import prepare
from reid_core.experiment.prepared import load_prepared
from reid_core.metrics.epoch_report import CLOCKED
from reid_core.model.place import Place
from reid_core.model.reid_model import make_model

ONE_STAGE = ["--set", "model.unfrozen_stages=1", "--set", "optim.epochs=2", "--set", "optim.lr_stages=1e-2"]


def run(data, out, *more):
    """Reports of each epoch without their times, and the answers."""
    experiment = run_experiment(data, out, *ONE_STAGE, *more)
    _, *reports = json.loads((experiment.out / "reports.json").read_text())  # without epoch 0
    reports = [{key: value for key, value in report.items() if key not in CLOCKED} for report in reports]
    return reports, pq.read_table(experiment.out / "predictions.parquet"), experiment


@pytest.mark.parametrize("augmentation", ["data.variants=3", "data.variants=null"])
def test_kept_activations_change_no_number(small_data, tmp_path, augmentation):
    reports, answers, _ = run(small_data, tmp_path / "recomputed", "--set", augmentation)
    kept_reports, kept_answers, experiment = run(
        small_data, tmp_path / "kept", "--set", augmentation, "--set", "model.keep_activations=true"
    )
    assert len(reports) == 2
    assert reports[0]["loss"] != reports[1]["loss"]
    for report, kept in zip(reports, kept_reports, strict=True):
        assert kept == pytest.approx(report, abs=1e-5)
    assert kept_answers["answer"].equals(answers["answer"])
    assert list((experiment.out / "cache").glob("activations-*"))


def test_activations_of_two_trained_stages_are_refused(small_data, tmp_path):
    with pytest.raises(UserError, match=r"saves only 1.07× of the training FLOPs"):
        run_experiment(
            small_data, tmp_path / "out", "--set", "model.unfrozen_stages=2", "--set", "model.keep_activations=true"
        )


def test_shared_scores_are_those_of_the_matcher(small_data, tmp_path):
    config = tiny()
    prepared = prepare(small_data, tmp_path, config)
    rows, asked = prepared.parts.rows("thresholdSet"), []

    def share(query_P, gallery_P, score):
        asked.append(len(query_P))
        return score(query_P, gallery_P)

    query_P, gallery_P = np.repeat(rows[:5], 4), np.tile(prepared.parts.rows("training")[:4], 5)
    alone = pair_scorer(config.match, prepared.local_features, Place())(query_P, gallery_P)
    shared = pair_scorer(config.match, load_prepared(tmp_path).local_features, Place(share_pairs=share))(
        query_P, gallery_P
    )
    assert asked == [20]
    assert alone.tobytes() == shared.tobytes()
    assert np.nanmax(alone) > 0
    features = prepared.local_features
    apart = pair_scorer(config.match, features.select(rows[:5]), Place(), gallery=features)
    assert apart(np.repeat(np.arange(5), 4), 5 + gallery_P).tobytes() == alone.tobytes()  # as the exported model does


def test_two_ranks_find_the_numbers_of_one(small_data, tmp_path):
    config = tiny()
    prepared = prepare(small_data, tmp_path, config)
    model = make_model(config, num_identities=0).eval()
    barrier, parts, matched = threading.Barrier(2), [None, None], [0, 0]

    def evaluate(rank):
        def gather(array):
            parts[rank] = array
            barrier.wait(60)
            both = np.concatenate(parts)
            barrier.wait(60)
            return both

        def share(query_P, gallery_P, score):
            matched[rank] += len(query_P)
            return score(query_P, gallery_P)

        place = Place(rank=rank, world_size=2, gather=gather, share_pairs=share)
        return evaluate_fully(config, prepared, model, place).metrics

    alone = evaluate_fully(config, prepared, model, Place()).metrics
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(evaluate, range(2)))
    assert found[0] == pytest.approx(alone, abs=1e-9, nan_ok=True)
    assert found[1] == found[0]
    assert abs(alone["mean_of_groups"]) > 0
    assert abs(matched[0] - matched[1]) <= 2
    assert min(matched) > 0
