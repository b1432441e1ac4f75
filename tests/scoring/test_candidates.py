"""Who is compared with whom: most similar first, within the group, of a compatible side, each pair once."""

import dataclasses

import numpy as np
import pytest
from worlds import cosine_times_ten, make_world, random_world

from reid_core.data.table.sides import compatible, parse_sides
from reid_core.scoring.candidates import add_second_model, find_candidates, match_candidates


def test_candidates_are_the_most_similar_training_images_of_the_own_group():
    parts, embedding_ND = random_world(0)
    queries = parts.rows("thresholdSet")
    found = find_candidates(embedding_ND, parts.group_N, queries, parts.rows("training"), shortlist_size=6)
    for query, gallery_B, cosine_B in zip(queries, found.gallery_QB, found.cosine_QB, strict=True):
        own = np.flatnonzero((parts.part_N == "training") & (parts.group_N == parts.group_N[query]))
        cosine_G = embedding_ND[own] @ embedding_ND[query]
        assert gallery_B.tolist() == own[np.argsort(-cosine_G)[:6]].tolist()
        np.testing.assert_allclose(cosine_B, np.sort(cosine_G)[::-1][:6], atol=1e-6)


def test_groups_never_mix_even_where_the_other_group_is_nearer():
    parts, embedding_ND = make_world(
        [
            ("cow", "ada", "training", 0, 1.0),
            ("pig", "bo", "training", 1, 1.0),
            ("cow", "ada", "testSet", 1, 0.99),
            ("yak", "cy", "testSet", 0, 0.99),  # a group without gallery
        ]
    )
    found = find_candidates(embedding_ND, parts.group_N, np.array([2, 3]), np.array([0, 1]), shortlist_size=2)
    assert found.gallery_QB.tolist() == [[0, -1], [-1, -1]]
    assert found.cosine_QB[0, 0] == 0


def test_each_shortlisted_pair_is_scored_once_and_in_its_place():
    parts, embedding_ND = random_world(1)
    queries, seen = parts.rows("validating"), []
    found = find_candidates(embedding_ND, parts.group_N, queries, parts.rows("training"), shortlist_size=70)
    assert (found.gallery_QB < 0).any()  # some groups have fewer than 70 training images
    matched = match_candidates(found, cosine_times_ten(embedding_ND, seen))
    assert len(seen) == len(set(seen)) == np.sum(found.gallery_QB >= 0)
    np.testing.assert_allclose(matched.match_QB, 10 * found.cosine_QB, rtol=1e-5, atol=1e-5)
    assert np.isnan(found.match_QB).all()  # the caller's object is not changed


@pytest.mark.parametrize("seed", range(3))
def test_with_sides_only_compatible_images_are_candidates_and_none_of_them_is_missed(seed):
    parts, embedding_ND = random_world(seed)
    words = ["left", "right", "topleft", "top", "unknown", ""]
    sides_N6 = parse_sides(np.random.default_rng(seed).choice(words, len(embedding_ND)).tolist())
    queries, size = parts.rows("thresholdSet"), 8
    gallery = parts.rows("training")
    found = find_candidates(embedding_ND, parts.group_N, queries, gallery, shortlist_size=size, sides_N6=sides_N6)
    for query, gallery_B in zip(queries, found.gallery_QB, strict=True):
        fits_G = compatible(sides_N6[[query]], sides_N6[gallery])[0] & (parts.group_N[gallery] == parts.group_N[query])
        own = gallery[fits_G]
        expected = own[np.argsort(-(embedding_ND[own] @ embedding_ND[query]))[:size]].tolist()
        assert gallery_B.tolist() == expected + [-1] * (size - len(expected))


def test_unknown_sides_change_nothing():
    parts, embedding_ND = random_world(3)
    arguments = (embedding_ND, parts.group_N, parts.rows("thresholdSet"), parts.rows("training"))
    free = find_candidates(*arguments, shortlist_size=5)
    sided = find_candidates(*arguments, shortlist_size=5, sides_N6=np.zeros((len(embedding_ND), 6), np.float32))
    assert sided.gallery_QB.tolist() == free.gallery_QB.tolist()


def test_a_second_model_scores_the_same_pairs():
    parts, embedding_ND = random_world(4)
    found = find_candidates(
        embedding_ND, parts.group_N, parts.rows("validating"), parts.rows("training"), shortlist_size=70
    )
    assert add_second_model(found, None) is found
    second_ND = np.roll(embedding_ND, 1, axis=0)
    both = add_second_model(found, second_ND)
    for query, gallery_B, second_B in zip(found.query_Q, found.gallery_QB, both.second_QB, strict=True):
        there = gallery_B >= 0
        np.testing.assert_allclose(second_B[there], second_ND[gallery_B[there]] @ second_ND[query], atol=1e-6)
        assert np.isnan(second_B[~there]).all()
    assert set(both.scores()) == {"cosine", "match", "second"}
    assert set(found.scores()) == {"cosine", "match"}
    assert dataclasses.replace(both, second_QB=None).scores().keys() == found.scores().keys()


def test_without_queries_nothing_is_compared():
    nobody, asked = np.array([], dtype=int), []
    found = find_candidates(
        np.eye(2, dtype=np.float32), np.array(["cow", "cow"]), nobody, np.array([0]), shortlist_size=3
    )
    scored = match_candidates(add_second_model(found, np.eye(2)), cosine_times_ten(np.eye(2), asked))
    assert asked == []
    assert [score_QB.tolist() for score_QB in scored.scores().values()] == [[], [], []]
