"""Results from elsewhere guide a search, keep their source, and are never its own."""

import json

import pytest
from optuna.trial import TrialState

from reid_core.config.presets import make_preset, tiny
from reid_core.config.values import flatten, override
from reid_core.errors import UserError
from sweeps.results.journal import Journal, Record
from sweeps.results.result_folder import claim_out
from sweeps.results.trial_table import best_record
from sweeps.search.goals import Goals
from sweeps.search.optuna_search import JournalSearch
from sweeps.search.priors import check_priors, load_priors
from sweeps.search.space import SearchSpace, classification_space, metric_space

SPACE = SearchSpace(metric_space, tiny())
POINT = SPACE.base_point()


def finished_sweep(out, records, base=None):
    """A result folder of a sweep with these trials."""
    out.mkdir()
    claim_out(out, {"script": "metric", "data": "elsewhere"} | flatten(base or tiny()), resume="auto")
    for record in records:
        Journal(out / "trials").write(record)
    return str(out)


def completed(number, objective, **changes):
    parameters = POINT | {key.replace("__", "."): value for key, value in changes.items()}
    metrics = {"objective": objective, "geo_mean.cow": objective}
    return Record(f"trial-{number:04d}", parameters, "completed", metrics=metrics)


def load(out, *sources, goals=None, base=None, space=metric_space):
    return load_priors(out, sources, SearchSpace(space, base or tiny()), goals or Goals())


@pytest.fixture
def other(tmp_path):
    trials = [completed(number, 0.5 + number / 10, optim__lr_head=1e-3 * (1 + number)) for number in range(5)]
    return finished_sweep(tmp_path / "other", [*trials, Record("trial-0005", POINT, "pruned")])


def test_completed_trials_of_another_sweep_are_priors_and_its_best_are_tried(tmp_path, other):
    priors = load(tmp_path, other)
    assert [prior.values for prior in priors] == [[0.5], [0.6], [0.7], [0.8], [0.9]]
    assert [prior.is_tried for prior in priors] == [False, False, True, True, True]
    assert priors[4].source.endswith("other trial-0004")
    assert priors[4].parameters["optim.lr_head"] == 5e-3


def test_what_lies_outside_the_space_or_is_of_another_kind_is_left_out(tmp_path):
    records = [completed(0, 0.5, optim__lr_head=1.0), completed(1, 0.6)]
    assert [prior.values for prior in load(tmp_path, finished_sweep(tmp_path / "a", records))] == [[0.6]]
    classifier = override(tiny(), {"loss.name": "cross_entropy"})
    (tmp_path / "x").mkdir()
    assert load(tmp_path / "x", finished_sweep(tmp_path / "b", [completed(0, 0.5)], classifier)) == []


def test_several_goals_need_all_their_results(tmp_path, other):
    assert load(tmp_path, other, goals=Goals(groups=("cow",)))[0].values == [0.5]
    (tmp_path / "x").mkdir()
    assert load(tmp_path / "x", other, goals=Goals(groups=("cow", "pig"))) == []


def test_the_papers_rows_are_priors_where_the_model_is_the_papers(tmp_path):
    (prior,) = load(tmp_path, "paper", base=make_preset("megadescriptor"))
    assert (prior.source, prior.values, prior.is_tried) == ("paper, table 6.2: metric", [0.723], False)
    (tmp_path / "x").mkdir()
    rows = load(tmp_path / "x", "paper", base=make_preset("batch32"), space=classification_space)
    assert {prior.source.split()[-1] for prior in rows} >= {"batch16", "batch32", "batch64"}
    (tmp_path / "y").mkdir()
    assert load(tmp_path / "y", "paper") == []  # `tiny` is another model


def test_priors_are_read_once(tmp_path, other):
    before = load(tmp_path, other)
    Journal(tmp_path / "other" / "trials").write(completed(9, 0.99))
    assert load(tmp_path, other) == before
    (tmp_path / "priors.json").write_text(json.dumps([{"score": 1}]))
    with pytest.raises(UserError, match=r"priors\.json: damaged"):
        load(tmp_path, other)


def test_what_no_trial_can_have_is_no_prior_and_kept_priors_are_checked(tmp_path, other):
    smaller = SearchSpace(metric_space, tiny(), left_out=(("optim.batch_size", (POINT["optim.batch_size"],)),))
    (tmp_path / "x").mkdir()
    assert load_priors(tmp_path / "x", [other], smaller, Goals()) == []
    check_priors(tmp_path, [other], SPACE)
    assert not (tmp_path / "priors.json").exists()
    load(tmp_path, other)
    record = tmp_path / "other" / "trials" / "trial-0001.json"
    record.write_text(record.read_text()[:-9])
    check_priors(tmp_path, [other], smaller)  # the source is not read again
    with pytest.raises(UserError, match=r"not of this search space"):
        check_priors(tmp_path, [other], SearchSpace(classification_space, make_preset("batch32")))
    (tmp_path / "priors.json").unlink()
    with pytest.raises(UserError, match=r"trial-0001\.json: the record of this trial is damaged"):
        check_priors(tmp_path, [other], SPACE)


def test_a_folder_without_a_sweep_is_named(tmp_path):
    with pytest.raises(UserError, match=r"--warm-start .*nowhere: holds no sweep"):
        load(tmp_path, str(tmp_path / "nowhere"))


def test_the_searcher_knows_priors_tries_the_best_after_the_base_and_reports_none(tmp_path, other):
    priors, journal = load(tmp_path, other), Journal(tmp_path / "trials")
    search = JournalSearch(SPACE, journal, priors=priors)
    states = [trial.state for trial in search._ot_study.trials]
    assert states == [TrialState.COMPLETE] * 5 + [TrialState.WAITING] * 4
    suggested = [search.suggest(trial_id) for trial_id in "abcde"]
    assert [each["name"] for each in suggested] == [f"trial-{number:04d}" for number in range(5)]
    assert suggested[0]["parameters"] == POINT
    assert [each["parameters"]["optim.lr_head"] for each in suggested[1:4]] == pytest.approx([3e-3, 4e-3, 5e-3])
    records = journal.read()
    assert [record.source.rsplit("/", 1)[-1] for record in records] == [
        "",
        "other trial-0002",
        "other trial-0003",
        "other trial-0004",
        "",
    ]
    assert best_record(records) is None

    resumed = JournalSearch(SPACE, journal, priors=priors)
    again = [resumed.suggest(trial_id)["name"] for trial_id in "fghijk"]
    assert again == [f"trial-{number:04d}" for number in range(6)]
    assert journal.read()[1].source == records[1].source


def test_a_lost_record_frees_no_name(tmp_path):
    journal = Journal(tmp_path / "trials")
    search = JournalSearch(SPACE, journal)
    for trial_id in "abc":
        search.suggest(trial_id)
    (tmp_path / "trials" / "trial-0001.json").unlink()
    resumed = JournalSearch(SPACE, journal)
    assert [resumed.suggest(trial_id)["name"] for trial_id in "def"] == ["trial-0000", "trial-0002", "trial-0003"]
