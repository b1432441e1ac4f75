"""The shortlist against sorting every similarity."""

import numpy as np
import pytest

from reid_core import similarity
from reid_core.similarity import shortlist


def random_embeddings(num_images: int, seed: int) -> np.ndarray:
    embedding_ND = np.random.default_rng(seed).normal(size=(num_images, 16)).astype(np.float32)
    return embedding_ND / np.linalg.norm(embedding_ND, axis=1, keepdims=True)


@pytest.mark.parametrize("size", [1, 5, 23])
def test_shortlist_equals_sorting_everything(size):
    query_QD, gallery_GD = random_embeddings(9, seed=0), random_embeddings(23, seed=1)
    index_QB, cosine_QB = shortlist(query_QD, gallery_GD, size)
    similarity_QG = query_QD.astype(np.float64) @ gallery_GD.T.astype(np.float64)
    order_QB = np.argsort(-similarity_QG, axis=1)[:, :size]
    assert index_QB.tolist() == order_QB.tolist()
    np.testing.assert_allclose(cosine_QB, np.take_along_axis(similarity_QG, order_QB, axis=1), atol=1e-6)


def test_blocks_of_queries_change_nothing(monkeypatch):
    query_QD, gallery_GD = random_embeddings(11, seed=2), random_embeddings(17, seed=3)
    whole_index, whole_cosine = shortlist(query_QD, gallery_GD, 4)
    for block_elements in (1, 17 * 3, 17 * 11):  # one query at a time, three, all
        monkeypatch.setattr(similarity, "BLOCK_ELEMENTS", block_elements)
        index_QB, cosine_QB = shortlist(query_QD, gallery_GD, 4)
        assert index_QB.tolist() == whole_index.tolist()
        np.testing.assert_allclose(cosine_QB, whole_cosine, atol=1e-6)


def test_a_small_gallery_is_padded():
    index_QB, cosine_QB = shortlist(np.eye(3, dtype="f"), np.eye(3, dtype="f")[1:], 4)
    assert index_QB[1].tolist() == [0, 1, -1, -1]
    assert index_QB[2].tolist() == [1, 0, -1, -1]
    assert cosine_QB[2, :2].tolist() == [1, 0]
    assert np.isnan(cosine_QB[:, 2:]).all()
    assert not np.isnan(cosine_QB[:, :2]).any()


def test_an_empty_gallery_and_no_queries():
    index_QB, cosine_QB = shortlist(np.eye(3, dtype="f"), np.empty((0, 3), "f"), 2)
    assert index_QB.tolist() == [[-1, -1]] * 3
    assert np.isnan(cosine_QB).all()
    assert shortlist(np.empty((0, 3), "f"), np.eye(3, dtype="f"), 2)[0].tolist() == []


def test_an_image_is_most_similar_to_itself():
    embedding_ND = random_embeddings(30, seed=4)
    index_QB, cosine_QB = shortlist(embedding_ND, embedding_ND, 1)
    assert index_QB[:, 0].tolist() == list(range(30))
    np.testing.assert_allclose(cosine_QB, 1, atol=1e-6)
