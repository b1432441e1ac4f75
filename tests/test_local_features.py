"""Extraction of keypoints and descriptors, and the file they are kept in."""

import functools
import os
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from kornia.feature import ALIKED
from PIL import Image

from reid_core.config import MatchConfig, UserError
from reid_core.images import ImageCache, build_cache, local_map
from reid_core.local_features import LocalFeatures, build_features, extract_chunk

SIFT = MatchConfig(matcher="sift-mnn", num_keypoints=32, image_px=64)


def write_photographs(folder: Path) -> list[str]:
    """A blob pattern, its mirror image, a smooth image, and a file that is no image; 64 px."""
    pattern = np.random.default_rng(0).integers(0, 256, size=(16, 16, 3), dtype=np.uint8)
    pattern = cv2.resize(pattern, (64, 64), interpolation=cv2.INTER_CUBIC)
    images = {"pattern": pattern, "mirrored": pattern[:, ::-1], "smooth": np.full_like(pattern, 127)}
    for name, pixels in images.items():
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return [f"{name}.png" for name in (*images, "broken")]


@pytest.fixture
def cache(tmp_path) -> ImageCache:
    return ImageCache(build_cache(tmp_path, tmp_path, write_photographs(tmp_path), 64))


def counting(calls: list):
    """A `map_chunks` that notes the chunks it is given."""

    def map_chunks(function, chunks):
        calls.extend(chunks)
        return local_map(function, chunks)

    return map_chunks


def aliked_weights(folder: Path) -> str:
    """Random weights, saved with the keys of the published file."""
    torch.manual_seed(0)
    state = ALIKED("aliked-n16").state_dict()
    del state["dkd.hw_grid"]
    torch.save(state, folder / "aliked-n16.pth")
    return str(folder)


def test_sift_keeps_the_strongest_keypoints(tmp_path, cache):
    features = LocalFeatures.open(build_features(tmp_path, cache, SIFT))
    assert features.image_px == 64
    assert features.num_keypoints_N.tolist() == [32, 32, 0, 0]
    few = LocalFeatures.open(build_features(tmp_path, cache, MatchConfig(matcher="sift-mnn", num_keypoints=8)))
    assert few.num_keypoints_N.tolist() == [8, 8, 0, 0]
    rows = np.array([1, 0, 2])
    np.testing.assert_array_equal(few.keypoints(rows), features.keypoints(rows)[:, :8])
    np.testing.assert_array_equal(few.descriptors(rows), features.descriptors(rows)[:, :8])
    assert features.keypoints([0]).min() >= 0
    assert features.keypoints([0]).max() < 64


def test_descriptors_are_root_sift_of_unit_length(tmp_path, cache):
    features = LocalFeatures.open(build_features(tmp_path, cache, SIFT))
    gray = cv2.cvtColor(cache.pixels([0])[0], cv2.COLOR_RGB2GRAY)
    points, histograms = cv2.SIFT_create(contrastThreshold=0.02).detectAndCompute(gray, None)
    strongest = max(range(len(points)), key=lambda i: points[i].response)
    expected = np.sqrt(histograms[strongest] / histograms[strongest].sum())
    np.testing.assert_allclose(features.descriptors([0])[0, 0], expected, atol=2e-4)
    np.testing.assert_allclose(features.keypoints([0])[0, 0], points[strongest].pt)
    descriptors = features.descriptors([0, 2])
    assert descriptors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(descriptors[0], axis=1), 1, atol=1e-6)
    assert not descriptors[1].any()


def test_a_second_call_finds_the_file(tmp_path, cache):
    calls: list = []
    first = build_features(tmp_path, cache, SIFT, map_chunks=counting(calls))
    assert [row for chunk in calls for row in chunk] == [0, 1, 2, 3]
    content = first.read_bytes()
    assert build_features(tmp_path, cache, SIFT, map_chunks=counting(calls)) == first
    assert len(calls) == 1
    first.unlink()
    build_features(tmp_path, cache, SIFT)
    assert first.read_bytes() == content


def test_a_damaged_file_is_built_again(tmp_path, cache):
    path = build_features(tmp_path, cache, SIFT)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert build_features(tmp_path, cache, SIFT).read_bytes() == content


def test_other_settings_or_images_make_another_file(tmp_path, cache):
    paths = [build_features(tmp_path, cache, SIFT)]
    paths.append(build_features(tmp_path, cache, MatchConfig(matcher="sift-mnn", num_keypoints=16)))
    for names, px in ((["smooth.png", "pattern.png"], 64), (["pattern.png", "smooth.png"], 64), (["smooth.png"], 48)):
        other = ImageCache(build_cache(tmp_path, tmp_path, names, px))
        paths.append(build_features(tmp_path, other, SIFT))
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        aliked_weights(folder)
        state = torch.load(folder / "aliked-n16.pth", weights_only=True)
        state["conv1.weight"] += seed
        torch.save(state, folder / "aliked-n16.pth")
        paths.append(build_features(tmp_path, other, MatchConfig(matcher="aliked-mnn", weights=str(folder))))
    assert len(set(paths)) == len(paths) == 7
    # the shortlist and the matcher on top of the same keypoints change nothing
    again = MatchConfig(matcher="aliked-lightglue", weights=str(folder), shortlist=3)
    assert build_features(tmp_path, other, again) == paths[-1]


def test_features_do_not_depend_on_how_chunks_are_mapped(tmp_path, cache):
    backwards = build_features(tmp_path / "a", cache, SIFT, map_chunks=lambda f, chunks: map(f, list(chunks)))
    assert backwards.read_bytes() == build_features(tmp_path / "b", cache, SIFT).read_bytes()
    extract = functools.partial(extract_chunk, cache_path=str(cache.path), extractor="sift", num_keypoints=32)
    alone = [extract([row], weights=None, weights_digest=None) for row in range(4)]
    together = LocalFeatures.open(backwards)
    joined = LocalFeatures(pa.concat_tables(alone))
    rows = np.array([3, 0, 2, 1, 0])
    np.testing.assert_array_equal(joined.descriptors(rows), together.descriptors(rows))
    np.testing.assert_array_equal(joined.keypoints(rows), together.keypoints(rows))


def test_a_lost_chunk_is_an_error(tmp_path, cache):
    with pytest.raises(RuntimeError, match="0 of 4"):
        build_features(tmp_path, cache, SIFT, map_chunks=lambda function, chunks: iter([]))
    assert not list(tmp_path.glob("features-*"))


def test_select_concatenate_and_parquet(tmp_path, cache):
    features = LocalFeatures.open(build_features(tmp_path, cache, SIFT))
    picked = features.select(np.array([1, 2]))
    joined = LocalFeatures.concatenate([picked, features])
    assert len(joined) == 6
    assert joined.num_keypoints_N.tolist() == [32, 0, 32, 32, 0, 0]
    np.testing.assert_array_equal(joined.descriptors([0, 2]), features.descriptors([1, 0]))
    pq.write_table(joined.table, tmp_path / "gallery.parquet")
    kept = LocalFeatures(pq.read_table(tmp_path / "gallery.parquet"))
    assert kept.image_px == 64
    np.testing.assert_array_equal(kept.descriptor_codes(np.arange(6)), joined.descriptor_codes(np.arange(6)))
    with pytest.raises(IndexError, match="6"):
        kept.keypoints([6])
    other = LocalFeatures.from_arrays(np.array([1]), np.zeros((1, 32, 2)), np.zeros((1, 32, 128)), image_px=32)
    with pytest.raises(ValueError, match="different settings"):
        LocalFeatures.concatenate([features, other])


def test_from_arrays_round_trip():
    descriptors_NKD = np.zeros((2, 3, 4))
    descriptors_NKD[0, 0], descriptors_NKD[0, 1] = [0.6, 0.8, 0, 0], [0, 0, -1, 0]
    keypoints_NK2 = np.arange(12).reshape(2, 3, 2)
    features = LocalFeatures.from_arrays(np.array([2, 0]), keypoints_NK2, descriptors_NKD, image_px=16)
    np.testing.assert_allclose(features.descriptors([0, 1]), descriptors_NKD, atol=1e-7)
    np.testing.assert_array_equal(features.keypoints([1, 0]), keypoints_NK2[::-1])
    assert features.num_keypoints_N.tolist() == [2, 0]


def test_no_images(tmp_path):
    empty = ImageCache(build_cache(tmp_path, tmp_path, [], 64))
    features = LocalFeatures.open(build_features(tmp_path, empty, SIFT))
    assert len(features) == 0
    assert features.keypoints(np.array([], dtype=int)).shape == (0, 32, 2)
    assert features.descriptors(np.array([], dtype=int)).shape == (0, 32, 128)


def test_aliked_extracts_unit_length_descriptors(tmp_path, cache):
    config = MatchConfig(matcher="aliked-mnn", num_keypoints=24, image_px=64, weights=aliked_weights(tmp_path))
    features = LocalFeatures.open(build_features(tmp_path, cache, config))
    count_N = features.num_keypoints_N
    assert count_N[0] == 24
    assert count_N[3] == 0
    assert not features.descriptors([3]).any()
    for row in range(3):
        descriptors, points = features.descriptors([row])[0], features.keypoints([row])[0]
        np.testing.assert_allclose(np.linalg.norm(descriptors[: count_N[row]], axis=1), 1, atol=1e-6)
        assert not descriptors[count_N[row] :].any()
        assert np.all((points >= 0) & (points <= 63))
    # each image the same as when it is alone in its batch
    alone = ImageCache(build_cache(tmp_path, tmp_path, ["mirrored.png"], 64))
    lone = LocalFeatures.open(build_features(tmp_path, alone, config))
    np.testing.assert_allclose(lone.keypoints([0]), features.keypoints([1]), atol=1e-3)


def test_missing_weights_name_the_file_and_the_alternatives(tmp_path, cache, monkeypatch):
    message = r"aliked-n16\.pth.*match\.weights.*match\.matcher=sift-mnn or none"
    with pytest.raises(UserError, match=message):
        build_features(tmp_path, cache, MatchConfig(matcher="aliked-mnn", weights=str(tmp_path)))
    tried = []

    def no_network(url, path):
        tried.append(url)
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(UserError, match=message):
        build_features(tmp_path, cache, MatchConfig(matcher="aliked-mnn"))
    assert len(tried) == 2
    hub = tmp_path / "torch" / "hub" / "checkpoints"
    aliked_weights(hub)
    assert build_features(tmp_path, cache, MatchConfig(matcher="aliked-mnn", num_keypoints=8)).exists()


def test_a_broken_checkpoint_and_no_matcher_are_user_errors(tmp_path, cache):
    (tmp_path / "aliked-n16.pth").write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match=r"aliked-n16\.pth is not a checkpoint"):
        build_features(tmp_path, cache, MatchConfig(matcher="aliked-mnn", weights=str(tmp_path)))
    with pytest.raises(UserError, match=r"match\.matcher=none"):
        build_features(tmp_path, cache, MatchConfig(matcher="none"))


@pytest.mark.realdata
@pytest.mark.skipif("REID_WEIGHTS" not in os.environ, reason="REID_WEIGHTS names no folder of real weights")
def test_real_aliked_matches_a_shifted_image(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, size=(24, 24, 3), dtype=np.uint8)
    large = cv2.resize(noise, (160, 160), interpolation=cv2.INTER_CUBIC)
    for name, shift in (("a", 0), ("b", 8)):
        Image.fromarray(large[shift : shift + 128, shift : shift + 128]).save(tmp_path / f"{name}.png")
    config = MatchConfig(matcher="aliked-mnn", num_keypoints=64, weights=os.environ["REID_WEIGHTS"])
    cache = ImageCache(build_cache(tmp_path, tmp_path, ["a.png", "b.png"], 128))
    features = LocalFeatures.open(build_features(tmp_path, cache, config))
    similarity_AB = features.descriptors([0])[0] @ features.descriptors([1])[0].T
    best = similarity_AB.argmax(axis=1)
    shift_A2 = features.keypoints([0])[0] - features.keypoints([1])[0][best]
    assert (np.abs(shift_A2 - 8).max(axis=1) < 1).mean() > 0.5
