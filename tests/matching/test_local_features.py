"""Extraction of keypoints and descriptors, and the files they are kept in."""

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

from reid_core.config.parameters import MatchConfig
from reid_core.data.chunks import local_map
from reid_core.data.image_cache import ImageCache, build_cache
from reid_core.errors import UserError
from reid_core.matching.extraction import build_features
from reid_core.matching.extractors import Extractor, extract_features
from reid_core.matching.local_features import LocalFeatures

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


def one_by_one(done: list, *, limit: int | None = None):
    """A `map_chunks` that hands out one image at a time, notes it, and dies after `limit` of them."""

    def map_chunks(function, chunks):
        for row in [row for chunk in chunks for row in chunk]:
            if limit is not None and len(done) == limit:
                raise MemoryError("killed")
            done.append(row)
            yield function([row])

    return map_chunks


def assert_same_features(one: LocalFeatures, rows: list, other: LocalFeatures, other_rows: list) -> None:
    """The images of the one set have exactly the features that those of the other have."""
    np.testing.assert_array_equal(one.num_keypoints_N[rows], other.num_keypoints_N[other_rows])
    np.testing.assert_array_equal(one.keypoints(rows), other.keypoints(other_rows))
    np.testing.assert_array_equal(one.descriptor_codes(rows), other.descriptor_codes(other_rows))


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


def test_equal_responses_at_the_limit_are_ranked_by_position(tmp_path, cache):
    tiles = np.tile(cache.pixels([0])[0][:32, :32], (2, 2, 1))
    Image.fromarray(tiles).save(tmp_path / "tiles.png")
    tiled = ImageCache(build_cache(tmp_path, tmp_path, ["tiles.png"], 64))
    every = LocalFeatures(extract_features(tiled.pixels([0]), Extractor("sift", 500)))
    gray = cv2.cvtColor(tiles, cv2.COLOR_RGB2GRAY)
    responses = [point.response for point in cv2.SIFT_create(contrastThreshold=0.02).detect(gray)]
    assert len(set(responses)) < len(responses) == every.num_keypoints_N[0]
    for num_keypoints in range(1, 40, 3):
        few = LocalFeatures(extract_features(tiled.pixels([0]), Extractor("sift", num_keypoints)))
        np.testing.assert_array_equal(few.keypoints([0]), every.keypoints([0])[:, :num_keypoints])
        np.testing.assert_array_equal(few.descriptor_codes([0]), every.descriptor_codes([0])[:, :num_keypoints])


def test_a_second_call_computes_nothing(tmp_path, cache):
    calls: list = []
    first = build_features(tmp_path, cache, SIFT, map_chunks=counting(calls))
    assert [row for chunk in calls for row in chunk] == [0, 1, 2]  # the last one cannot be read
    files = {path: path.read_bytes() for path in first.parent.iterdir()}
    assert build_features(tmp_path, cache, SIFT, map_chunks=counting(calls)) == first
    assert len(calls) == 1
    for path in files:
        path.unlink()
    build_features(tmp_path, cache, SIFT)
    assert {path: path.read_bytes() for path in first.parent.iterdir()} == files


def test_other_images_share_the_parts(tmp_path, cache):
    whole = LocalFeatures.open(build_features(tmp_path, cache, SIFT))
    (tmp_path / "twin.png").write_bytes((tmp_path / "pattern.png").read_bytes())
    noise = np.random.default_rng(1).integers(0, 256, size=(64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "new.png")
    names = ["broken.png", "mirrored.png", "new.png", "twin.png", "new.png", "pattern.png"]
    other = ImageCache(build_cache(tmp_path, tmp_path, names, 64))
    done: list = []
    features = LocalFeatures.open(build_features(tmp_path, other, SIFT, map_chunks=one_by_one(done)))
    assert done == [2]
    assert_same_features(features, [0, 1, 3, 5], whole, [3, 1, 0, 0])
    assert_same_features(features, [4], features, [2])
    assert features.table.num_rows == len(features) == 6
    fresh = LocalFeatures.open(build_features(tmp_path / "fresh", other, SIFT))
    assert features.table.equals(fresh.table)
    # a photograph that changed is another one
    Image.fromarray(noise[::-1]).save(tmp_path / "new.png")
    changed = ImageCache(build_cache(tmp_path, tmp_path, names, 64))
    build_features(tmp_path, changed, SIFT, map_chunks=one_by_one(done))
    assert done == [2, 2]


def test_a_crash_loses_what_was_under_way_only(tmp_path, cache):
    done: list = []
    with pytest.raises(MemoryError):
        build_features(tmp_path, cache, SIFT, map_chunks=one_by_one(done, limit=2))
    assert done == [0, 1]
    again: list = []
    features = LocalFeatures.open(build_features(tmp_path, cache, SIFT, map_chunks=one_by_one(again)))
    assert again == [2]
    whole = LocalFeatures.open(build_features(tmp_path / "whole", cache, SIFT))
    assert_same_features(features, [0, 1, 2, 3], whole, [0, 1, 2, 3])


@pytest.mark.parametrize("damage", ["cut off", "one bit", "empty"])
def test_a_damaged_part_is_noticed_and_only_its_images_are_computed_again(tmp_path, cache, caplog, damage):
    index = build_features(tmp_path, cache, SIFT, map_chunks=one_by_one([]))
    content = index.read_bytes()
    before = LocalFeatures.open(index).select(np.arange(4))
    part = index.with_name(pa.ipc.open_file(index).read_all()["part"][1].as_py())
    data = bytearray(part.read_bytes())
    data[-2000] ^= 4  # a descriptor
    part.write_bytes({"cut off": data[: len(data) // 2], "one bit": data, "empty": b""}[damage])
    done: list = []
    build_features(tmp_path, cache, SIFT, map_chunks=one_by_one(done))
    assert done == [1]
    assert [part.name in record.getMessage() for record in caplog.records] == [True]
    assert_same_features(LocalFeatures.open(index), [0, 1, 2, 3], before, [0, 1, 2, 3])
    assert index.read_bytes() == content


def test_a_damaged_index_is_written_again(tmp_path, cache, caplog):
    index = build_features(tmp_path, cache, SIFT)
    content = index.read_bytes()
    index.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=rf"{index.name}.*same command again"):
        LocalFeatures.open(index)
    done: list = []
    assert build_features(tmp_path, cache, SIFT, map_chunks=one_by_one(done)).read_bytes() == content
    assert not done
    assert "index" in caplog.text


def test_a_lost_part_is_named(tmp_path, cache):
    index = build_features(tmp_path, cache, SIFT)
    (part,) = index.parent.glob("part-*")
    part.unlink()
    with pytest.raises(UserError, match=rf"{part.name}.*same command again"):
        LocalFeatures.open(index)


def test_what_a_killed_write_left_is_removed_when_it_is_old(tmp_path, cache):
    index = build_features(tmp_path, cache, SIFT)
    old, young = (index.with_name(f".part-{age}.arrow.tmp") for age in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    build_features(tmp_path, cache, SIFT)
    assert (old.exists(), young.exists()) == (False, True)


def test_opening_keeps_no_file_open(tmp_path, cache):
    index = build_features(tmp_path, cache, SIFT, map_chunks=one_by_one([]))
    features = [LocalFeatures.open(index) for _ in range(3)]
    assert all(one.num_keypoints_N.tolist() == [32, 32, 0, 0] for one in features)
    opened = [path.resolve().parent for path in Path("/proc/self/fd").iterdir()]
    assert index.parent not in opened


def test_a_full_disk_is_a_user_error(tmp_path, cache, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pa, "OSFile", full)
    with pytest.raises(UserError, match="No space left"):
        build_features(tmp_path, cache, SIFT)


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
    together = LocalFeatures.open(build_features(tmp_path / "a", cache, SIFT))
    alone = LocalFeatures.open(build_features(tmp_path / "b", cache, SIFT, map_chunks=one_by_one([])))
    assert_same_features(alone, [3, 0, 2, 1, 0], together, [3, 0, 2, 1, 0])
    backwards = LocalFeatures(extract_features(cache.pixels([2, 1, 0]), Extractor("sift", 32)))
    assert_same_features(backwards, [0, 1, 2], together, [2, 1, 0])


def test_a_lost_chunk_is_an_error(tmp_path, cache):
    with pytest.raises(RuntimeError, match="0 of 3"):
        build_features(tmp_path, cache, SIFT, map_chunks=lambda function, chunks: iter([]))
    assert not list(tmp_path.glob("features-*/*"))


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
    assert_same_features(lone, [0], features, [1])


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
