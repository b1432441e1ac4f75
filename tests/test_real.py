"""Real photographs and weights, where they are (`make test-real`)."""

import os
from pathlib import Path

import numpy as np
import pytest

from reid_core.config.presets import tiny
from reid_core.config.values import override
from reid_core.data.image_cache import ImageCache
from reid_core.experiment.evaluation import epoch_evaluation, pair_scorer
from reid_core.experiment.prepare import prepare
from reid_core.model.place import local_place
from reid_core.model.reid_model import make_model

pytestmark = pytest.mark.realdata


def folder(variable):
    if variable not in os.environ:
        pytest.skip(f"{variable} is not set; make test-real sets it")
    path = Path(os.environ[variable]).resolve()
    if not path.exists():
        pytest.skip(f"{variable}={path} does not exist")
    return path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    photos, weights = folder("REID_PHOTOS"), folder("REID_WEIGHTS")
    config = override(
        tiny(),
        {
            "model.backbone": "mobilenetv2_100",
            "model.weights": str(weights / "mobilenetv2_100.safetensors"),
            "model.unfrozen_stages": 0,
            "model.head": "none",
            "data.mean": 0.5,
            "data.std": 0.5,
            "data.image_px": 96,
            "match.image_px": 96,
        },
    )
    return config, prepare(photos, tmp_path_factory.mktemp("cache"), config)


def test_every_photograph_is_read_and_every_group_has_both_kinds_of_queries(prepared):
    _, data = prepared
    assert data.num_unreadable == 0
    assert len(set(ImageCache(Path(data.image_cache)).keys)) == len(data.image_id_N)  # no photograph twice
    for part in ("thresholdSet", "testSet"):
        rows = data.parts.rows(part)
        group_Q = data.parts.group_N[rows]
        assert set(group_Q) == {"DogFaceNet", "FaroPigReID33", "OpenCows2020"}
        if part == "thresholdSet":
            known_Q = data.parts.known(rows)
            assert all(0 < known_Q[group_Q == group].mean() < 1 for group in set(group_Q))


def test_the_identities_of_the_test_set_are_locked(prepared):
    _, data = prepared
    assert all(data.parts.identity_N[row] is None for row in data.parts.rows("testSet"))
    assert all(data.parts.identity_N[row] is not None for row in data.parts.rows("thresholdSet"))


def test_imagenet_features_know_animals_better_than_random_ones(prepared):
    config, data = prepared
    evaluate = epoch_evaluation(config, data, local_place(config))
    pretrained = evaluate(make_model(config))
    random = evaluate(make_model(override(config, {"model.weights": "random"})))
    assert pretrained["accuracy_validating"] > random["accuracy_validating"] + 0.1
    assert pretrained["geo_mean_cosine"] > random["geo_mean_cosine"] + 0.1


def test_two_photographs_of_one_animal_match_better(prepared):
    config, data = prepared
    rows, rng = data.parts.rows("training"), np.random.default_rng(0)
    identity_N, group_N = data.parts.identity_N, data.parts.group_N
    same, different = [], []
    for row in rng.permutation(rows)[:300]:
        alike = rows[(identity_N[rows] == identity_N[row]) & (rows != row)]
        others = rows[(group_N[rows] == group_N[row]) & (identity_N[rows] != identity_N[row])]
        if len(alike):
            same.append((row, alike[0]))
            different.append((row, rng.choice(others)))
    score = pair_scorer(config.match, data.local_features, local_place(config))
    means = [np.nanmean(score(*np.array(pairs).T)) for pairs in (same, different)]
    assert means[0] > 1.5 * means[1]
