"""A gallery extended for one call is that of a bundle that was built with it; without being asked, nothing is added."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from reid_core.config.values import override
from reid_core.data.animals import NEW
from reid_core.data.image_cache import ImageCache, build_cache
from reid_core.data.table.metadata import load_metadata
from reid_core.errors import UserError
from reid_core.experiment.bundle.folder import Bundle, Second, read_bundle, write_bundle
from reid_core.prediction.answers import SAME_FILE, predict
from reid_core.prediction.gallery import extend_gallery, find_unseen, fit_gallery

SPOTS = "SpotsID"


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def bundle(experiment) -> Bundle:
    return read_bundle(experiment.out / "best")


@pytest.fixture(scope="module")
def tables(experiment) -> tuple[pa.Table, pa.Table]:
    """Database rows, in the order of the bundle's gallery, and queries."""
    rows = load_metadata(experiment.data)
    is_query = pc.equal(rows["split"], "query")
    return rows.filter(pc.invert(is_query)), rows.filter(is_query)


def keep(bundle: Bundle, rows: np.ndarray) -> Bundle:
    """The bundle with some photographs of its gallery: the slow oracle of what an extension gives back."""
    arrays = {
        name: getattr(bundle, name)[rows] for name in ("identity_G", "group_G", "embedding_GD", "sides_G6", "key_G")
    }
    assert bundle.features is not None
    second = bundle.second and dataclasses.replace(bundle.second, embedding_GD=bundle.second.embedding_GD[rows])
    return dataclasses.replace(bundle, **arrays, features=bundle.features.select(rows), second=second)


def without_animals(bundle: Bundle, tables, *, every: int = 4) -> tuple[Bundle, pa.Table]:
    """A bundle that lacks every fourth animal and a few photographs of others, and the database rows of these."""
    database, _ = tables
    names = sorted(set(bundle.identity_G))[::every]
    lacking = np.isin(bundle.identity_G, names)
    lacking[::17] = True
    return keep(bundle, np.flatnonzero(~lacking)), database.filter(pa.array(lacking))


def test_the_keys_are_those_of_the_gallerys_photographs(experiment, bundle, tables, cache):
    database, _ = tables
    images = ImageCache(build_cache(cache, experiment.data, database["path"].to_pylist(), 8))
    assert bundle.key_G.tolist() == images.keys
    assert len(set(images.keys)) == len(images) > 50
    assert database["identity"].to_pylist() == bundle.identity_G.tolist()


def test_rows_that_the_gallery_holds_change_nothing(experiment, bundle, tables, cache):
    database, _ = tables
    for extend in (False, True):
        same, findings = fit_gallery(bundle, experiment.data, database, cache, extend=extend)
        assert same is bundle
        assert [finding.what for finding in findings] == ["nothing is added: no database row is new to it"] * extend


def test_an_extended_gallery_answers_as_a_bundle_built_with_it(experiment, bundle, tables, cache, tmp_path):
    """New animals and further photographs of known ones, in the middle of the gallery, come back behind it."""
    smaller, lacked = without_animals(bundle, tables)
    write_bundle(tmp_path / "smaller", smaller)
    smaller = read_bundle(tmp_path / "smaller")
    database, queries = tables
    extended, findings = fit_gallery(smaller, experiment.data, database, cache, extend=True)
    new = set(bundle.identity_G) - set(smaller.identity_G)
    assert f"{len(lacked)} photograph(s) are added for this call, with {len(new)} animal(s)" in findings[0].what
    assert sorted(extended.key_G) == sorted(bundle.key_G)
    order = [extended.key_G.tolist().index(key) for key in bundle.key_G]
    again = keep(extended, np.array(order))
    np.testing.assert_allclose(again.embedding_GD, bundle.embedding_GD, atol=1e-5)
    for name in ("identity_G", "group_G", "sides_G6"):
        assert (getattr(again, name) == getattr(bundle, name)).all(), name
    assert again.features.table.equals(bundle.features.table)

    answers, oracle, before = (predict(each, experiment.data, queries, cache) for each in (extended, bundle, smaller))
    assert [each.identity for each in answers] == [each.identity for each in oracle]
    assert [each.candidates[0][0] for each in answers] == [each.candidates[0][0] for each in oracle]
    found = np.array([each.candidates[0][1] for each in answers])
    np.testing.assert_allclose(found, [each.candidates[0][1] for each in oracle], atol=1e-4)
    assert {each.identity for each in answers} & new, "a new animal is named"
    assert not {each.identity for each in before} & new


def test_without_being_asked_nothing_is_added_and_the_rows_are_counted(experiment, bundle, tables, cache):
    smaller, lacked = without_animals(bundle, tables)
    database, _ = tables
    same, (finding,) = fit_gallery(smaller, experiment.data, database, cache, extend=False)
    assert same is smaller
    new = set(bundle.identity_G) - set(smaller.identity_G)
    assert finding.what.startswith(f"{len(lacked)} of {len(database)} database row(s) are not in it and are not used, ")
    assert f"with {len(new)} animal(s) that the bundle does not know; --extend-gallery adds" in finding.what
    assert list(finding.examples) == lacked["image_id"].to_pylist()[:5]


def test_a_second_model_embeds_what_is_added(experiment, bundle, tables, cache):
    both = dataclasses.replace(bundle, second=Second(bundle.config, bundle.model, bundle.embedding_GD))
    smaller, lacked = without_animals(both, tables)
    extended, _ = extend_gallery(smaller, experiment.data, lacked, cache)
    assert extended.second.embedding_GD.shape == bundle.embedding_GD.shape
    np.testing.assert_allclose(extended.second.embedding_GD, extended.embedding_GD, atol=1e-5)


def test_a_photograph_that_the_bundle_calls_otherwise_keeps_its_name(experiment, bundle, tables, cache):
    database, _ = tables
    names = database["identity"].to_pylist()
    changed = database.set_column(1, "identity", pa.array(["Ída", *names[1:]]))
    for extend in (False, True):
        same, findings = fit_gallery(bundle, experiment.data, changed, cache, extend=extend)
        assert same is bundle
        assert "1 database row(s) name a photograph otherwise than the bundle" in findings[0].what
        assert findings[0].examples == (f"{database['image_id'][0].as_py()!r}: 'Ída', in the bundle {names[0]!r}",)


def test_a_new_animal_whose_name_looks_like_a_known_ones_is_reported(experiment, bundle, tables, cache):
    _, queries = tables
    known = bundle.identity_G[0]
    new = queries.filter(pc.equal(queries["group"], bundle.group_G[0])).slice(0, 2)
    rows = new.set_column(1, "identity", pa.array([known.upper(), "Ída"]))
    _, findings = fit_gallery(bundle, experiment.data, rows, cache, extend=False)
    assert known.upper() != known
    assert findings[0].what.startswith("1 new animal(s) have names like those of the bundle's")
    assert findings[0].examples == (f"{known.upper()!r} and {known!r}",)


def test_the_same_photograph_in_another_group_is_another_gallerys(experiment, bundle, tables):
    database, _ = tables
    elsewhere = database.set_column(database.column_names.index("group"), "group", pa.array([SPOTS] * len(database)))
    unseen, findings = find_unseen(bundle, experiment.data, elsewhere)
    assert unseen["dataset"].to_pylist() == [group for group in bundle.group_G if group != SPOTS]
    assert findings == []


def test_what_cannot_be_read_is_not_added(experiment, bundle, tables, cache, tmp_path):
    smaller, lacked = without_animals(bundle, tables)
    data = Path(shutil.copytree(experiment.data, tmp_path / "data"))
    paths = lacked["path"].to_pylist()
    (data / paths[0]).write_bytes(b"no photograph")
    (data / paths[2]).write_bytes((data / paths[2]).read_bytes()[:300])
    extended, findings = fit_gallery(smaller, data, lacked, cache, extend=True)
    assert len(extended.key_G) == len(bundle.key_G) - 2
    for finding, row in zip(findings, (0, 2), strict=False):
        assert finding.what.startswith(f"1 of {len(lacked)} cannot be read and are not added to the gallery (")
        assert finding.examples == (paths[row],)
    assert f"{len(lacked) - 2} photograph(s) are added" in findings[2].what


def test_a_bundle_that_does_not_say_what_its_gallery_holds(experiment, bundle, tables, cache, tmp_path):
    """One of an earlier version is read, and answers as it did."""
    write_bundle(tmp_path / "old", dataclasses.replace(bundle, key_G=None))
    old = read_bundle(tmp_path / "old")
    assert old.key_G is None
    database, queries = tables
    same, (finding,) = fit_gallery(old, experiment.data, database, cache, extend=False)
    assert same is old
    assert f"{len(database)} database row(s) are not used" in finding.what
    with pytest.raises(UserError, match=r"does not say which photographs its gallery holds.*export it again"):
        fit_gallery(old, experiment.data, database, cache, extend=True)
    few = queries.slice(0, 9)
    assert predict(old, experiment.data, few, cache) == predict(bundle, experiment.data, few, cache)


def test_a_classifier_cannot_name_whom_it_was_not_trained_on(experiment, bundle, tables, cache):
    smaller, _ = without_animals(bundle, tables)
    config = override(bundle.config, {"predict.rule": "softmax", "loss.name": "cross_entropy"})
    classifier = dataclasses.replace(smaller, config=config)
    database, _ = tables
    with pytest.raises(UserError, match=r"predict\.rule=softmax.*only name the animals that it was trained on"):
        fit_gallery(classifier, experiment.data, database, cache, extend=True)
    _, (finding,) = fit_gallery(classifier, experiment.data, database, cache, extend=False)
    assert "--extend-gallery" not in finding.what
    assert "names only the animals that it was trained on" in finding.what


def test_a_query_that_is_a_photograph_of_the_gallery_is_noted(experiment, bundle, tables, cache):
    database, queries = tables
    asked = pa.concat_tables([database.slice(3, 1), queries.slice(0, 1)])
    copy, other = predict(bundle, experiment.data, asked, cache)
    assert copy.note == f"{SAME_FILE} {bundle.identity_G[3]}"
    assert copy.candidates[0][0] == bundle.identity_G[3] != NEW
    assert other.note == ""
