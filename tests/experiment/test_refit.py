"""The refitted model: every image trains it, the evaluated one's decision stays, and the bundle says what it is."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from reid_core.config.parameters import PredictConfig
from reid_core.data.test_set import record_use
from reid_core.errors import UserError
from reid_core.experiment.bundle.folder import read_bundle
from reid_core.experiment.prepare import read_truth
from reid_core.experiment.prepared import UNREADABLE, load_prepared
from reid_core.experiment.refit import check_refittable, choose_epochs, export_refit, prepare_refit
from reid_core.experiment.training_setup import make_trainer, training_data_of
from reid_core.metrics.epoch_report import SCORE
from reid_core.model.place import Place
from reid_core.training.batches import local_batches
from sweeps.results.journal import Journal
from sweeps.search.fixed_search import FixedSearch
from sweeps.search.suggestion import FINAL, UNSCORED, Suggestion


@pytest.mark.parametrize("rule", ["softmax", "openmax"])
def test_a_classifier_that_answers_itself_is_not_refitted(rule):
    check_refittable(PredictConfig())
    with pytest.raises(UserError, match=f"--refit needs predict.rule=threshold: with {rule}"):
        check_refittable(PredictConfig(rule=rule))


def test_the_median_best_epoch_is_the_lower_of_two():
    def history(*scores):
        return [{"epoch": epoch, SCORE: score} for epoch, score in enumerate(scores, start=1)]

    assert choose_epochs([history(0.1, 0.3), history(0.5, 0.5), history(0.1, 0.2, 0.3, 0.9)]) == 2
    assert choose_epochs([history(0.9), history(0.1, 0.2, 0.3)]) == 1


def test_every_image_trains_the_refitted_model_and_the_decision_stays(experiment, tmp_path):
    experiment = experiment._replace(out=Path(shutil.copytree(experiment.out, tmp_path / "out")))
    evaluated, folder = read_bundle(experiment.out / "best"), experiment.out / "cache"
    config, prepared = evaluated.config, load_prepared(folder)
    use = record_use(experiment.out, trial="refit", config=config)
    truth = read_truth(experiment.data, prepared, use=use)

    whole = load_prepared(prepare_refit(folder, truth))
    assert set(whole.parts.part_N) <= {"training", UNREADABLE}
    assert None not in whole.parts.identity_N.tolist()
    assert whole.image_cache == prepared.image_cache
    data = training_data_of(config, whole)
    trainer = make_trainer(config, whole, data.plan, Place())
    seen = {row for rows in data.plan["rows"].to_pylist() for row in rows if row < len(truth.part_N)}
    assert set(truth.rows("testSet")) & seen
    list(trainer.fit(local_batches(data.plan, data.source), lambda model: {SCORE: 1.0}))

    written = export_refit(experiment.out / "best", tmp_path / "refit", whole, trainer.model, Place(), epochs=1)
    refitted = read_bundle(tmp_path / "refit")
    assert (evaluated.refitted_epochs, refitted.refitted_epochs) == (None, 1)
    assert refitted.decision.thresholds == evaluated.decision.thresholds
    assert refitted.metrics == evaluated.metrics
    assert list(refitted.identity_G) == list(evaluated.identity_G)
    assert np.array_equal(refitted.embedding_GD, written.embedding_GD)
    assert not np.allclose(refitted.embedding_GD, evaluated.embedding_GD)
    assert "This is a refitted model: trained for 1 epochs" in (tmp_path / "refit" / "README.md").read_text()
    assert "This is the evaluated model" in (experiment.out / "best" / "README.md").read_text()


def test_a_trial_that_only_trains_completes_without_a_score(tmp_path):
    search = FixedSearch([Suggestion(name="refit", parameters={})], Journal(tmp_path))
    search.suggest("a")
    report = {"epoch": 1, "loss": 0.5, SCORE: 1.0}
    search.on_trial_result("a", report)
    search.on_trial_complete("a", {FINAL: True, UNSCORED: True, "history": [report], "checkpoint_path": "here"})
    (record,) = Journal(tmp_path).read()
    assert (record.status, record.objective, record.checkpoint, len(record.reports)) == ("completed", None, "here", 1)
