"""The shortlist against sorting every similarity."""

import numpy as np
import pytest
import torch

from reid_core.scoring import shortlist
from reid_core.scoring.shortlist import find_most_similar


def random_embeddings(num_images: int, seed: int) -> np.ndarray:
    embedding_ND = np.random.default_rng(seed).normal(size=(num_images, 16)).astype(np.float32)
    return embedding_ND / np.linalg.norm(embedding_ND, axis=1, keepdims=True)


@pytest.mark.parametrize("size", [1, 5, 23])
def test_shortlist_equals_sorting_everything(size):
    query_QD, gallery_GD = random_embeddings(9, seed=0), random_embeddings(23, seed=1)
    index_QB, cosine_QB = find_most_similar(query_QD, gallery_GD, size)
    similarity_QG = query_QD.astype(np.float64) @ gallery_GD.T.astype(np.float64)
    order_QB = np.argsort(-similarity_QG, axis=1)[:, :size]
    assert index_QB.tolist() == order_QB.tolist()
    np.testing.assert_allclose(cosine_QB, np.take_along_axis(similarity_QG, order_QB, axis=1), atol=1e-6)


def near_copies(num_originals: int, seed: int) -> np.ndarray:
    """Five images of each original: two are equal, three differ from it by about float32's last place."""
    original_ND = np.repeat(random_embeddings(num_originals, seed), 5, axis=0)
    noise_ND = np.random.default_rng(seed).normal(size=original_ND.shape, scale=3e-8)
    noise_ND[::5] = noise_ND[1::5] = 0
    return np.random.default_rng(seed).permutation((original_ND + noise_ND).astype(np.float32))


def slow_shortlist(query_QD: np.ndarray, gallery_GD: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The whole matrix in float64, rounded to float32 and sorted row by row; equal ones in the gallery's order."""
    cosine_QG = (query_QD.astype(np.float64) @ gallery_GD.T.astype(np.float64)).astype(np.float32)
    index_QB = np.argsort(-cosine_QG, axis=1, kind="stable")[:, :size]
    return index_QB, np.take_along_axis(cosine_QG, index_QB, axis=1)


@pytest.mark.parametrize(("block_elements", "gallery_block"), [(1, 1), (2**9, 1), (2**11, 300), (2**24, 2**14)])
@pytest.mark.parametrize("size", [1, 3, 20])
def test_blocks_change_nothing_even_among_near_copies(monkeypatch, size, block_elements, gallery_block):
    monkeypatch.setattr(shortlist, "BLOCK_ELEMENTS", block_elements)
    monkeypatch.setattr(shortlist, "GALLERY_BLOCK", gallery_block)
    query_QD, gallery_GD = random_embeddings(11, seed=2), near_copies(203, seed=3)
    index_QB, cosine_QB = find_most_similar(query_QD, gallery_GD, size)
    slow_index_QB, slow_cosine_QB = slow_shortlist(query_QD, gallery_GD, size)
    assert index_QB.tolist() == slow_index_QB.tolist()
    assert cosine_QB.tolist() == slow_cosine_QB.tolist()


def test_no_product_is_larger_than_a_block_and_every_pair_is_in_one(monkeypatch):
    num_products, multiply = [], torch.mm
    monkeypatch.setattr(shortlist, "GALLERY_BLOCK", 100)
    monkeypatch.setattr(shortlist, "BLOCK_ELEMENTS", 1600)
    monkeypatch.setattr(torch, "mm", lambda *given, out: num_products.append(out.numel()) or multiply(*given, out=out))
    find_most_similar(random_embeddings(21, seed=5), random_embeddings(1000, seed=6), 2)
    assert max(num_products) <= 1600
    assert sum(num_products) == 21 * 1000


def test_equal_images_come_in_the_order_of_the_gallery():
    gallery_GD = np.repeat(np.eye(4, dtype="f"), 3, axis=0)[::-1].copy()  # three of each axis, the last axis first
    index_QB, cosine_QB = find_most_similar(np.eye(4, dtype="f"), gallery_GD, 5)
    assert index_QB[3].tolist() == [0, 1, 2, 3, 4]
    assert index_QB[0].tolist() == [9, 10, 11, 0, 1]
    assert cosine_QB[0].tolist() == [1, 1, 1, 0, 0]


def test_a_small_gallery_is_padded():
    index_QB, cosine_QB = find_most_similar(np.eye(3, dtype="f"), np.eye(3, dtype="f")[1:], 4)
    assert index_QB[1].tolist() == [0, 1, -1, -1]
    assert index_QB[2].tolist() == [1, 0, -1, -1]
    assert cosine_QB[2, :2].tolist() == [1, 0]
    assert np.isnan(cosine_QB[:, 2:]).all()
    assert not np.isnan(cosine_QB[:, :2]).any()


def test_an_empty_gallery_and_no_queries():
    index_QB, cosine_QB = find_most_similar(np.eye(3, dtype="f"), np.empty((0, 3), "f"), 2)
    assert index_QB.tolist() == [[-1, -1]] * 3
    assert np.isnan(cosine_QB).all()
    assert find_most_similar(np.empty((0, 3), "f"), np.eye(3, dtype="f"), 2)[0].tolist() == []


def test_an_image_is_most_similar_to_itself():
    embedding_ND = random_embeddings(30, seed=4)
    index_QB, cosine_QB = find_most_similar(embedding_ND, embedding_ND, 1)
    assert index_QB[:, 0].tolist() == list(range(30))
    np.testing.assert_allclose(cosine_QB, 1, atol=1e-6)
