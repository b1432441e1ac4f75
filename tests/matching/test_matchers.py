"""Pair scores: hand-worked cases, a slow oracle, and independence of batch-mates."""

import copy

import numpy as np
import pytest
import torch
from kornia.feature import LightGlue

from reid_core.config.parameters import MatchConfig
from reid_core.errors import UserError
from reid_core.matching.feature_files import DESCRIPTOR_SCALE
from reid_core.matching.lightglue import LightGlueMatcher, load_lightglue
from reid_core.matching.local_features import LocalFeatures
from reid_core.matching.matchers import make_matcher
from reid_core.matching.mutual_neighbours import MutualNearestNeighbours


def random_features(num_images: int, *, num_keypoints: int, seed: int, length: int = 128) -> LocalFeatures:
    """Images that share noisy copies of the same descriptors in another order; counts vary, image 0 has none."""
    rng = np.random.default_rng(seed)
    common_KD = rng.normal(size=(num_keypoints, length))
    count_N = rng.integers(1, num_keypoints + 1, size=num_images)
    count_N[0] = 0
    points_NK2 = np.zeros((num_images, num_keypoints, 2))
    descriptors_NKD = np.zeros((num_images, num_keypoints, length))
    for i, count in enumerate(count_N):
        noisy = common_KD + rng.normal(size=common_KD.shape) * rng.uniform(0.1, 2)
        noisy = rng.permutation(noisy)[:count]
        descriptors_NKD[i, :count] = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
        points_NK2[i, :count] = rng.uniform(0, 64, size=(count, 2))
    return LocalFeatures.from_arrays(count_N, points_NK2, descriptors_NKD, image_px=64)


def features_of(*images: list[list[float]]) -> LocalFeatures:
    """One image per list of descriptors, padded to four keypoints."""
    descriptors_NKD = np.zeros((len(images), 4, len(images[0][0])))
    for i, image in enumerate(images):
        descriptors_NKD[i, : len(image)] = image
    count_N = np.array([len(image) for image in images])
    return LocalFeatures.from_arrays(count_N, np.zeros((len(images), 4, 2)), descriptors_NKD, image_px=64)


def all_pairs(features: LocalFeatures) -> tuple[np.ndarray, np.ndarray]:
    rows = np.arange(len(features))
    return np.repeat(rows, len(rows)), np.tile(rows, len(rows))


def slow_score(first_AD: np.ndarray, second_BD: np.ndarray, largest_ratio: float) -> int:
    """The rule of MutualNearestNeighbours, pair of keypoints by pair of keypoints, from Euclidean distances."""

    def nearest(one: np.ndarray, others: np.ndarray) -> int | None:
        distance = [np.sqrt(max(0.0, 2 - 2 * float(one @ other))) for other in others]
        best, second = np.argsort([*distance, np.sqrt(2)], kind="stable")[:2]
        both = [*distance, np.sqrt(2)]
        return int(best) if best < len(others) and both[best] < largest_ratio * both[second] else None

    return sum(
        (j := nearest(one, second_BD)) is not None and nearest(second_BD[j], first_AD) == i
        for i, one in enumerate(first_AD)
    )


def test_mutual_nearest_neighbours_by_hand():
    x, y, z = np.eye(3).tolist()
    between = (np.array([1, 1, 0]) / np.sqrt(2)).tolist()
    features = features_of([x, y], [y, x, z], [x, x], [between, z], [x])
    pairs = {
        (0, 1): 2,  # x-x and y-y; z of image 1 has no partner
        (0, 2): 0,  # x has two equally near partners
        (0, 3): 0,  # `between` is as near to x as to y
        (1, 3): 1,  # z-z
        (0, 4): 1,  # one keypoint against two
        (4, 4): 1,  # no second keypoint at all
        (3, 4): 0,  # distance 0.77 of sqrt(2) for x, but ...
    }
    query_P, gallery_P = np.array(list(pairs)).T
    scores = MutualNearestNeighbours(0.5).scores(features, query_P, features, gallery_P)
    assert scores.tolist() == list(pairs.values())
    # ... with a ratio of 0.9 that is near enough, from both sides
    assert MutualNearestNeighbours(0.9).scores(features, [3], features, [4]).tolist() == [1]


@pytest.mark.parametrize("largest_ratio", [0.7, 0.9, 0.97])
def test_mutual_nearest_neighbours_equal_a_slow_oracle(largest_ratio):
    features = random_features(9, num_keypoints=24, seed=1)
    query_P, gallery_P = all_pairs(features)
    scores = MutualNearestNeighbours(largest_ratio).scores(features, query_P, features, gallery_P)
    count_N = features.num_keypoints_N
    expected = []
    for query, gallery in zip(query_P, gallery_P, strict=True):
        codes = [features.descriptor_codes(np.array([row]))[0, : count_N[row]] for row in (query, gallery)]
        one, other = (c.astype(np.float64) / DESCRIPTOR_SCALE for c in codes)
        expected.append(slow_score(one, other, largest_ratio) if len(one) and len(other) else np.nan)
    np.testing.assert_array_equal(scores, np.array(expected, dtype=np.float32))
    assert np.nanmax(scores[query_P != gallery_P]) >= 5


def test_scores_depend_on_the_two_images_only():
    features = random_features(12, num_keypoints=40, seed=2)
    query_P, gallery_P = all_pairs(features)
    expected = MutualNearestNeighbours(0.95).scores(features, query_P, features, gallery_P)
    order = np.random.default_rng(0).permutation(len(query_P))
    for block_pairs in (None, 1, 7, 1000):
        matcher = MutualNearestNeighbours(0.95, block_pairs=block_pairs)
        np.testing.assert_array_equal(
            matcher.scores(features, query_P[order], features, gallery_P[order]), expected[order]
        )
    # the other way round, and with each side in a set of its own
    np.testing.assert_array_equal(matcher.scores(features, gallery_P, features, query_P), expected)
    reversed_features = features.select(np.arange(12)[::-1])
    np.testing.assert_array_equal(matcher.scores(features, query_P, reversed_features, 11 - gallery_P), expected)


@pytest.mark.parametrize("num_images", [2, 3, 7, 11])
def test_scores_do_not_depend_on_how_many_images_fit_on_the_device(monkeypatch, num_images):
    features = random_features(12, num_keypoints=40, seed=2)
    rng = np.random.default_rng(1)
    query_P, gallery_P = rng.integers(0, 12, size=(2, 300))  # some of them more than once
    matcher = MutualNearestNeighbours(0.95)
    expected = matcher.scores(features, query_P, features, gallery_P)
    reads = []
    read = LocalFeatures.descriptor_codes
    monkeypatch.setattr(
        LocalFeatures, "descriptor_codes", lambda self, rows: reads.append(len(rows)) or read(self, rows)
    )
    np.testing.assert_array_equal(matcher.scores(features, query_P, features, gallery_P), expected)
    assert reads == [11, 11]  # every image with keypoints once, for each side
    reads.clear()
    monkeypatch.setattr("reid_core.matching.blocks._LOADED_BYTES", num_images * 40 * 128 * 2)
    np.testing.assert_array_equal(matcher.scores(features, query_P, features, gallery_P), expected)
    assert max(map(sum, zip(reads[::2], reads[1::2], strict=True))) <= num_images


def test_products_are_exact_whatever_precision_models_have(monkeypatch):
    features = random_features(6, num_keypoints=40, seed=2)
    query_P, gallery_P = all_pairs(features)
    matcher = MutualNearestNeighbours(0.95)
    expected = matcher.scores(features, query_P, features, gallery_P)
    seen, count = set(), matcher._count_matches

    def noted(similarity_PAB):
        seen.add(torch.get_float32_matmul_precision())
        return count(similarity_PAB)

    monkeypatch.setattr(matcher, "_count_matches", noted)
    torch.set_float32_matmul_precision("medium")
    try:
        np.testing.assert_array_equal(matcher.scores(features, query_P, features, gallery_P), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == {"highest"}


def test_scores_do_not_depend_on_the_padding():
    features = random_features(6, num_keypoints=16, seed=3)
    rows = np.arange(6)
    wider = LocalFeatures.from_arrays(
        features.num_keypoints_N,
        np.pad(features.keypoints(rows), ((0, 0), (0, 9), (0, 0))),
        np.pad(features.descriptors(rows), ((0, 0), (0, 9), (0, 0))),
        image_px=64,
    )
    query_P, gallery_P = all_pairs(features)
    matcher = MutualNearestNeighbours(0.95)
    np.testing.assert_array_equal(
        matcher.scores(features, query_P, features, gallery_P), matcher.scores(wider, query_P, wider, gallery_P)
    )


def test_products_of_stored_descriptors_are_exact():
    features = random_features(20, num_keypoints=64, seed=4)
    codes = features.descriptor_codes(np.arange(20)).astype(np.int64)
    assert (codes**2).sum(axis=2).max() < 2**24
    exact = codes[1] @ codes[2].T
    np.testing.assert_array_equal(codes[1].astype(np.float32) @ codes[2].T.astype(np.float32), exact)


def test_no_keypoints_is_not_scored_and_no_pairs_is_no_score(dual_softmax):
    features = random_features(3, num_keypoints=16, seed=5)
    for matcher in (MutualNearestNeighbours(0.9), LightGlueMatcher(dual_softmax)):
        scores = matcher.scores(features, [0, 0, 1, 1], features, [0, 1, 0, 1])
        assert np.isnan(scores).tolist() == [True, True, True, False]
        assert scores.dtype == np.float32
        empty = np.array([], dtype=np.int64)
        assert matcher.scores(features, empty, features, empty).shape == (0,)


def test_make_matcher():
    assert make_matcher(MatchConfig(matcher="none")) is None
    ratios = [make_matcher(MatchConfig(matcher=name)).largest_ratio for name in ("sift-mnn", "aliked-mnn")]
    assert all(0.5 < ratio < 1 for ratio in ratios)


def published_layout(model: LightGlue) -> dict[str, torch.Tensor]:
    """The state of a model under the names of the released file."""
    state = {}
    for key, value in model.state_dict().items():
        parts = key.split(".")
        if parts[0] == "transformers":
            parts = [parts[2], parts[1], *parts[3:]]
        state[".".join(parts)] = value
    return state


def dual_softmax_weights() -> dict[str, torch.Tensor]:
    """Weights that turn LightGlue into plain dual softmax of 40 x cosine: every attention block adds nothing."""
    model = LightGlue(features=None, input_dim=128)
    state = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
    state["posenc.Wr.weight"] = model.posenc.Wr.weight.detach()
    state["input_proj.weight"] = torch.eye(256, 128)
    state["log_assignment.8.final_proj.weight"] = torch.eye(256) * (40 * 16) ** 0.5  # divided by 256 ** 0.5 inside
    state["log_assignment.8.matchability.bias"] = torch.full((1,), 20.0)
    model.load_state_dict(state)
    return published_layout(model)


@pytest.fixture(scope="module")
def dual_softmax(tmp_path_factory) -> LightGlue:
    folder = tmp_path_factory.mktemp("weights")
    torch.save(dual_softmax_weights(), folder / "aliked_lightglue.pth")
    return load_lightglue(str(folder))


def test_lightglue_with_known_weights_equals_dual_softmax(dual_softmax):
    features = random_features(5, num_keypoints=40, seed=6)
    query_P, gallery_P = all_pairs(features)
    scores = LightGlueMatcher(dual_softmax).scores(features, query_P, features, gallery_P)
    expected = np.full(len(query_P), np.nan, dtype=np.float32)
    for p, (query, gallery) in enumerate(zip(query_P, gallery_P, strict=True)):
        counts = features.num_keypoints_N[[query, gallery]]
        if counts.min() > 0:
            used = [32 if count > 32 else count for count in counts]
            logit_AB = (
                40 * features.descriptors([query])[0, : used[0]] @ features.descriptors([gallery])[0, : used[1]].T
            )
            exp_AB = np.exp(logit_AB - 40.0)
            confidence_AB = exp_AB**2 / exp_AB.sum(axis=0) / exp_AB.sum(axis=1, keepdims=True)
            expected[p] = (confidence_AB > 0.5).sum()
    np.testing.assert_array_equal(scores, expected)
    assert 1 < np.nanmean(scores[query_P != gallery_P]) < 30


def test_lightglue_counts_what_the_whole_network_finds(dual_softmax):
    torch.manual_seed(0)
    model = copy.deepcopy(dual_softmax)
    with torch.no_grad():
        for parameter in model.transformers.parameters():  # small enough that matches remain
            parameter += torch.randn_like(parameter) * 0.02
    features = random_features(6, num_keypoints=32, seed=8)
    query_P, gallery_P = np.array([[1, 2, 3, 4, 5, 1], [2, 3, 4, 5, 1, 1]])
    scores = LightGlueMatcher(model).scores(features, query_P, features, gallery_P)

    def side(row):
        used = features.num_keypoints_N[row]
        return {
            "keypoints": torch.from_numpy(features.keypoints([row])[:, :used]),
            "descriptors": torch.from_numpy(features.descriptors([row])[:, :used]),
            "image_size": torch.full((1, 2), 64.0),
        }

    with torch.inference_mode():
        found = [
            model({"image0": side(query), "image1": side(gallery)})["matching_scores0"]
            for query, gallery in zip(query_P, gallery_P, strict=True)
        ]
    assert scores.tolist() == [(confidence > 0.5).sum().item() for confidence in found]
    plain = LightGlueMatcher(dual_softmax).scores(features, query_P, features, gallery_P)
    assert scores.max() > 5
    assert scores.tolist() != plain.tolist()


def test_lightglue_scores_depend_on_the_two_images_only(dual_softmax, monkeypatch):
    features = random_features(4, num_keypoints=40, seed=7)
    query_P, gallery_P = all_pairs(features)
    expected = LightGlueMatcher(dual_softmax).scores(features, query_P, features, gallery_P)
    order = np.random.default_rng(0).permutation(len(query_P))
    for block_pairs in (2, 3):
        matcher = LightGlueMatcher(dual_softmax, block_pairs=block_pairs)
        scores = matcher.scores(features, query_P[order], features, gallery_P[order])
        np.testing.assert_array_equal(scores, expected[order])
    monkeypatch.setattr("reid_core.matching.blocks._LOADED_BYTES", 3 * 40 * 128 * 2)  # three images at a time
    np.testing.assert_array_equal(matcher.scores(features, query_P, features, gallery_P), expected)


def test_lightglue_loads_what_kornia_loads(tmp_path):
    torch.manual_seed(0)
    model = LightGlue(features=None, input_dim=128)
    torch.save(published_layout(model), tmp_path / "aliked_lightglue.pth")
    loaded = load_lightglue(str(tmp_path))
    assert not loaded.training
    assert loaded.conf.depth_confidence == loaded.conf.width_confidence == -1
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    assert any(key.startswith("self_attn.8") for key in published_layout(model))


def test_missing_lightglue_weights_name_the_file_and_the_alternatives(tmp_path):
    with pytest.raises(UserError, match=r"aliked_lightglue\.pth.*match\.weights.*sift-mnn.*none"):
        make_matcher(MatchConfig(matcher="aliked-lightglue", weights=str(tmp_path)))


def test_weights_of_another_network_are_refused(tmp_path):
    state = dual_softmax_weights()
    state.pop("input_proj.weight")
    torch.save(state, tmp_path / "aliked_lightglue.pth")
    with pytest.raises(UserError, match=r"aliked_lightglue\.pth.*input_proj\.weight"):
        load_lightglue(str(tmp_path))
