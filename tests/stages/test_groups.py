"""A sweep per group: which, in which order, with which budget, and what the groups learn from each other.

How one sweep runs is tested elsewhere: here a stand-in leaves behind what one leaves behind.
"""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from optuna.trial import TrialState

from reid_core.config.parameters import TrialConfig
from reid_core.config.presets import tiny
from reid_core.config.values import flatten, override
from reid_core.data.table.findings import findings_to_json, make_finding
from reid_core.data.test_set import record_use
from reid_core.errors import UserError
from reid_core.experiment.bundle.routing import read_routing
from reid_core.experiment.prepare import load_database, prepare, prepare_fresh_split, read_truth
from reid_core.experiment.prepared import load_prepared
from reid_core.files.checksums import CHECKSUMS, read_sealed, write_checksums, write_sealed
from reid_core.metrics.geo_mean import Shares
from reid_core.metrics.summary import summarise
from sweeps.machines.limits import Limits
from sweeps.results.journal import Journal, Record
from sweeps.results.result_folder import claim_out
from sweeps.results.trial_table import write_trials
from sweeps.search.optuna_search import JournalSearch
from sweeps.search.space import SearchSpace, metric_space
from sweeps.stages.command_line import make_parser, make_sweep
from sweeps.stages.definition import Sweep
from sweeps.stages.groups.claim import choose_groups, claim_groups, divide_sweep
from sweeps.stages.groups.exchange import choose_points, load_tried
from sweeps.stages.groups.result import combine, combine_gains
from sweeps.stages.groups.run import print_dry_runs, run_groups, share_limits

SCALES, SPOTS, STRIPES = ALL = ["ScalesID", "SpotsID", "StripesID"]
SPACE = SearchSpace(metric_space, tiny())
POINT = SPACE.base_point()


def make(data: Path, *more: str) -> Sweep:
    flags = ["--data", str(data), "--preset", "tiny", "--out", "unused", "--trials", "2", "--confirm", "0", *more]
    return make_sweep("metric", metric_space, make_parser("").parse_args(flags))


def completed(number: int, objective: float, **changes) -> Record:
    parameters = POINT | {key.replace("__", "."): value for key, value in changes.items()}
    hours = {"cpu_hours": 0.25, "gpu_hours": 0.0}
    return Record(f"trial-{number:04d}", parameters, "completed", metrics={"objective": objective}, **hours)


def leave_result(
    folder: Path, group: str, records: list[Record], *, winner: str | None = None, confirmed: dict | None = None
) -> None:
    """What `sweep.complete` leaves in a result folder."""
    for record in records:
        Journal(folder / "trials").write(record)
    write_trials(folder / "trials.parquet", records, tiny())
    rows = [("testSet", "1", group, "ada", True, "ada"), ("testSet", "2", group, "bo", False, "new_individual")]
    rows.append(("testSet", "3", group, "ada", True, "bo"))
    names = ("part", "image_id", "group", "identity", "known", "answer")
    pq.write_table(
        pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))), folder / "predictions.parquet"
    )
    (folder / "best").mkdir(exist_ok=True)
    (folder / "best" / "model").write_text(group)
    write_checksums(folder / "best", ["model"])
    noticed = [make_finding("metadata.csv", "1 empty row left out", ["line 3"])]
    noticed += [make_finding("photographs", f"1 of {group} is black", ["7.jpg"])]
    result = {"trial": winner or records[0].name, "metrics": {}, "confirmation": confirmed}
    result["findings"] = findings_to_json(noticed)
    write_sealed(folder / "result.json", result)


class StandIn:
    """Runs one sweep; keeps which were run, and can fail or be interrupted."""

    def __init__(self, **endings: BaseException) -> None:
        self.endings, self.seen, self.limits, self.tried = endings, [], [], []

    def __call__(self, sweep: Sweep, folder: Path, limits: Limits) -> str:
        self.seen.append(sweep.group)
        self.limits.append(limits)
        self.tried.append([(prior.source, prior.parameters["optim.lr_head"]) for prior in load_tried(folder, sweep)])
        if sweep.group in self.endings:
            raise self.endings[sweep.group]
        number = 3 + ALL.index(sweep.group)
        claim_out(folder, sweep.settings(), resume="auto")
        records = [completed(0, 0.5), completed(1, 0.6, optim__lr_head=number * 1e-3)]
        leave_result(folder, sweep.group, records, winner="trial-0001")
        return f"result of {sweep.group}"


@pytest.fixture
def out(tmp_path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def claim(out: Path, data: Path, *names: str, sweep: Sweep | None = None) -> dict[Path, Sweep]:
    sweep = sweep or make(data)
    sweeps = divide_sweep(out, sweep, names, data)
    claim_groups(out, sweep, sweeps, resume="auto")
    return sweeps


def test_groups_are_those_that_were_named_in_that_order(small_data):
    assert choose_groups(small_data, [STRIPES, SCALES, STRIPES]) == [STRIPES, SCALES]
    assert choose_groups(small_data, ["all"]) == ALL
    assert choose_groups(small_data, [SPOTS, "all"]) == [SPOTS, SCALES, STRIPES]


def test_an_unknown_group_is_refused_and_the_groups_are_listed(small_data, tmp_path):
    with pytest.raises(UserError, match=r"--group lynx\\x1b: .* has no such group .*: ScalesID, SpotsID, StripesID"):
        choose_groups(small_data, [SPOTS, "lynx\x1b"])


def test_the_rows_of_one_group_play_the_parts_that_they_play_among_all(small_data, tmp_path):
    config = override(TrialConfig(), {"data.image_px": 16, "match.matcher": "none"})
    everything = prepare(small_data, tmp_path / "all", config)
    alone = prepare(small_data, tmp_path / "spots", config, group=SPOTS)
    theirs = everything.parts.group_N == SPOTS
    assert 0 < theirs.sum() < len(theirs)
    for name in ("part_N", "identity_N", "group_N"):
        assert getattr(alone.parts, name).tolist() == getattr(everything.parts, name)[theirs].tolist()
    assert alone.image_id_N.tolist() == everything.image_id_N[theirs].tolist()
    assert len(alone.images) == theirs.sum()
    np.testing.assert_array_equal(alone.images.pixels([0, 1]), everything.images.pixels(np.flatnonzero(theirs)[:2]))
    fresh = load_prepared(prepare_fresh_split(tmp_path / "spots", 1, config))
    assert (alone.group, fresh.group, everything.group) == (SPOTS, SPOTS, None)
    use = record_use(tmp_path, trial="a", config=config)
    truth = read_truth(small_data, load_prepared(tmp_path / "spots"), use=use)
    database = load_database(small_data, group=SPOTS)
    assert set(database["group"].to_pylist()) == {SPOTS}
    assert truth.identity_N.tolist() == database["identity"].to_pylist()


def test_each_group_has_a_sweep_of_its_own_and_knows_those_before_it(small_data, out):
    sweeps = claim(out, small_data, STRIPES, SPOTS)
    assert list(sweeps) == [out / "groups" / STRIPES, out / "groups" / SPOTS]
    first, second = sweeps.values()
    assert (first.group, second.group) == (STRIPES, SPOTS)
    assert (first.after, second.after) == ((), ((STRIPES, str(out / "groups" / STRIPES)),))
    assert first.pair_store == second.pair_store == str(out / "store")
    assert first.settings() != second.settings()
    assert first.settings() == make(small_data).settings() | {"group": STRIPES}
    assert read_sealed(out / "groups.json") == {"groups": {STRIPES: STRIPES, SPOTS: SPOTS}}


def test_the_same_groups_or_more_behind_them_continue_a_result_folder(small_data, out):
    claim(out, small_data, STRIPES, SPOTS)
    grown = claim(out, small_data, STRIPES, SPOTS, SCALES)
    assert [sweep.group for sweep in grown.values()] == [STRIPES, SPOTS, SCALES]
    for others in ([SPOTS, STRIPES, SCALES], [STRIPES], ["all"]):
        with pytest.raises(UserError, match="holds the sweeps of --group StripesID --group SpotsID --group ScalesID"):
            claim(out, small_data, *others)


def test_a_sweep_of_all_groups_together_is_another_sweep(small_data, out, tmp_path):
    claim(out, small_data, SPOTS)
    with pytest.raises(UserError, match="by_group: True before, None now"):
        claim_out(out, make(small_data).settings(), resume="auto")
    claim_out(tmp_path, make(small_data).settings(), resume="auto")
    with pytest.raises(UserError, match="by_group: None before, True now"):
        claim(tmp_path, small_data, SPOTS)
    with pytest.raises(UserError, match="--resume auto"):
        claim_groups(out, make(small_data), {}, resume="never")


def test_a_goal_per_group_is_refused_where_every_sweep_has_one(small_data, out):
    with pytest.raises(UserError, match="--objective each_group"):
        claim(out, small_data, SPOTS, sweep=make(small_data, "--objective", "each_group"))


def test_groups_are_swept_in_order_and_each_tries_the_winners_before_it(small_data, out, capsys):
    stand_in = StandIn()
    text = run_groups(claim(out, small_data, *ALL), out, Limits(), stand_in)
    assert stand_in.seen == ALL
    assert stand_in.tried == [
        [],
        [("group ScalesID, trial-0001", 3e-3)],  # trial-0000 is the preset
        [("group ScalesID, trial-0001", 3e-3), ("group SpotsID, trial-0001", 4e-3)],
    ]
    assert "result of SpotsID" in capsys.readouterr().out
    assert f"{SPOTS:<30}trial-0001        unconfirmed" in text
    assert read_routing(out / "best") == {group: out / "best" / group for group in ALL}
    assert (out / "best" / SPOTS / "model").read_text() == SPOTS


def test_the_trials_and_answers_of_all_groups_are_in_one_file_each(small_data, out):
    sweeps = claim(out, small_data, SPOTS, SCALES)
    text = run_groups(sweeps, out, Limits(), StandIn())
    trials = pq.read_table(out / "trials.parquet")
    rows = [(row["group"], row["trial_id"], row["objective"]) for row in trials.to_pylist()]
    assert rows == [(group, f"trial-000{n}", 0.5 + n / 10) for group in (SPOTS, SCALES) for n in (0, 1)]
    assert {name: float(trials.schema.metadata[name]) for name in (b"cpu_hours", b"gpu_hours")} == {
        b"cpu_hours": 1.0,
        b"gpu_hours": 0.0,
    }
    answers = pq.read_table(out / "predictions.parquet")
    assert answers["group"].to_pylist() == [SPOTS] * 3 + [SCALES] * 3
    metrics = read_sealed(out / "result.json")["metrics"]["testSet"]
    # In each group the known animal is named in one of two photographs, and the new one is called new.
    assert metrics["baks.SpotsID"] == metrics["pooled_baks"] == 0.5
    assert metrics["geo_mean.ScalesID"] == pytest.approx(0.5**0.5)
    assert metrics["mean_of_groups"] == pytest.approx(0.5**0.5)
    assert "mean of groups                      -      -     0.707" in text
    assert not (out / "best.yaml").exists()


def test_what_was_noticed_in_the_data_of_the_groups_is_said_once(small_data, out):
    text = run_groups(claim(out, small_data, SPOTS, SCALES), out, Limits(), StandIn())
    assert text.split("what was noticed\n")[1].split("\n") == [
        "  metadata.csv: 1 empty row left out: line 3",
        "  photographs: 1 of SpotsID is black: 7.jpg",
        "  photographs: 1 of ScalesID is black: 7.jpg",
    ]
    assert len(read_sealed(out / "result.json")["findings"]) == 3


def test_a_group_whose_result_could_not_be_printed_has_it_nevertheless(small_data, out, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("builtins.print", lambda *_: (_ for _ in ()).throw(BrokenPipeError()))
        with pytest.raises(BrokenPipeError):
            run_groups(claim(out, small_data, SPOTS, SCALES), out, Limits(), StandIn())
    again = StandIn()
    run_groups(claim(out, small_data, SPOTS, SCALES), out, Limits(), again)
    assert again.seen == [SCALES]


def test_metrics_of_all_groups_are_those_of_the_groups_together():
    rng = np.random.default_rng(0)
    rows, shares = [], {}
    for group in ("b", "a"):
        known, new = rng.random((4, 3)) < 0.6, rng.random((3, 5)) < 0.7  # animals × photographs answered rightly
        for is_known, right in ((True, known), (False, new)):
            for animal, hits in enumerate(right):
                truth = f"{'known' if is_known else 'new'}-{animal}"
                answer = truth if is_known else "new_individual"
                rows += [("testSet", group, truth, is_known, answer if hit else "wrong") for hit in hits]
        shares[group] = Shares(known.mean(axis=1), new.mean(axis=1))
    rows = [rows[row] for row in rng.permutation(len(rows))]
    names = ("part", "group", "identity", "known", "answer")
    table = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    found = combine(table)
    assert found["testSet"] == pytest.approx(summarise({"a": shares["a"], "b": shares["b"]}))
    one = combine(table.filter(pa.compute.equal(table["group"], "b")))["testSet"]
    assert {key: found["testSet"][key] for key in one if key.endswith(".b")} == {
        key: value for key, value in one.items() if key.endswith(".b")
    }
    assert np.isnan(found["thresholdSet"]["mean_of_groups"])


def test_what_fine_tuning_added_is_counted_over_all_groups_unless_one_was_not_measured():
    names = ("part", "group", "identity", "known", "answer", "answer_epoch0")
    rows = []
    for group, before in (("a", "wrong"), ("b", "ada")):  # the frozen backbone names one of the two photographs
        rows += [("testSet", group, "ada", True, "ada", answer) for answer in ("ada", before)]
        rows += [("testSet", group, "bo", False, "new_individual", "new_individual")]
    table = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    gain = combine_gains(table)["testSet"]
    assert [gain[f"epoch0.{group}"] for group in "ab"] == pytest.approx([0.5**0.5, 1.0])
    assert gain["gain"] == pytest.approx((1 - 0.5**0.5) / 2)
    earlier = table.drop_columns(["answer_epoch0"])
    assert combine_gains(earlier) == {}
    assert combine_gains(pa.concat_tables([table, earlier], promote_options="default")) == {}


def test_an_interrupted_job_goes_on_with_the_group_that_was_interrupted(small_data, out):
    sweeps = claim(out, small_data, *ALL)
    with pytest.raises(KeyboardInterrupt):
        run_groups(sweeps, out, Limits(), StandIn(SpotsID=KeyboardInterrupt()))
    assert not (out / "best").exists()
    again = StandIn()
    text = run_groups(claim(out, small_data, *ALL), out, Limits(), again)
    assert again.seen == [SPOTS, STRIPES]
    assert SCALES in text
    assert list(read_routing(out / "best")) == ALL
    last = StandIn()
    assert run_groups(claim(out, small_data, *ALL), out, Limits(), last) == text
    assert last.seen == []


@pytest.mark.parametrize(
    "more", [["--trials", "3"], ["--refit"], ["--confirm", "2"], ["--then-online", "--set", "data.variants=2"]]
)
def test_asking_for_more_continues_every_group(small_data, out, more):
    online = [] if "--set" not in more else more[1:]
    run_groups(claim(out, small_data, SPOTS, SCALES, sweep=make(small_data, *online)), out, Limits(), StandIn())
    again = StandIn()
    run_groups(claim(out, small_data, SPOTS, SCALES, sweep=make(small_data, *more)), out, Limits(), again)
    assert again.seen == [SPOTS, SCALES]


def test_a_group_that_a_limit_has_ended_is_continued(small_data, out):
    spent = Limits(max_hours=0.6)  # each group's two trials hold 0.5
    run_groups(claim(out, small_data, SPOTS, SCALES), out, spent, StandIn())
    again = StandIn()
    run_groups(claim(out, small_data, SPOTS, SCALES), out, Limits(), again)
    assert again.seen == [SPOTS, SCALES]


@pytest.mark.parametrize("name", ["result.json", "finished.json"])
def test_a_group_whose_end_is_in_doubt_is_continued(small_data, out, name):
    run_groups(claim(out, small_data, SPOTS, SCALES), out, Limits(), StandIn())
    (out / "groups" / SPOTS / name).unlink()
    (out / "groups" / SCALES / "finished.json").write_text("{")
    again = StandIn()
    run_groups(claim(out, small_data, SPOTS, SCALES), out, Limits(), again)
    assert again.seen == [SPOTS, SCALES]


def test_a_group_without_a_result_does_not_keep_the_others_from_theirs(small_data, out):
    failing = StandIn(SpotsID=UserError("no group has both known and new animals"))
    text = run_groups(claim(out, small_data, *ALL), out, Limits(), failing)
    assert failing.seen == ALL
    assert "SpotsID: no model, its queries are called new: no group has both known and new animals" in text
    assert list(read_routing(out / "best")) == [SCALES, STRIPES]
    assert failing.tried[2] == [("group ScalesID, trial-0001", 3e-3)]


def test_no_result_at_all_is_an_error_that_says_why(small_data, out):
    failing = StandIn(SpotsID=UserError("this"), ScalesID=UserError("that"))
    with pytest.raises(UserError, match="no group has a result:\ngroup SpotsID: this\ngroup ScalesID: that"):
        run_groups(claim(out, small_data, SPOTS, SCALES), out, Limits(), failing)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("result.json", "damaged or changed"),
        ("predictions.parquet", r"damaged .*delete .*result\.json"),
        ("trials.parquet", r"damaged .*delete .*result\.json"),
    ],
)
def test_a_damaged_result_of_a_group_is_named(small_data, out, name, message):
    run_groups(claim(out, small_data, SPOTS), out, Limits(), StandIn())
    (out / "groups" / SPOTS / name).write_text("{")
    with pytest.raises(UserError, match=rf"groups/SpotsID/{name}: {message}"):
        run_groups(claim(out, small_data, SPOTS), out, Limits(), StandIn())


def test_time_is_divided_by_the_groups_that_are_left(tmp_path):
    limits = Limits(time_budget_s=100.0, started_s=time.monotonic() - 40.0)  # 60 s are left
    share = share_limits(limits, tmp_path, [tmp_path], 3)
    assert share.time_budget_s == pytest.approx(20.0, abs=1.0)
    assert share.started_s == pytest.approx(time.monotonic(), abs=1.0)
    over = share_limits(replace(limits, time_budget_s=30.0), tmp_path, [tmp_path], 3)
    assert over.reached([]) == "--time-budget: 0 s have passed"
    assert share_limits(Limits(), tmp_path, [tmp_path], 3).reached([]) is None


def test_hours_are_divided_over_all_sessions_and_what_was_spent_counts(tmp_path):
    first, second, third = (tmp_path / name for name in ("a", "b", "c"))
    Journal(first / "trials").write(completed(0, 0.5))  # 0.25 CPU-hours each
    Journal(first / "confirm" / "trials").write(completed(0, 0.5))
    Journal(first / "refit_trial" / "trials").write(completed(0, 0.5))
    Journal(second / "trials").write(completed(0, 0.5))  # of an earlier session
    limits, folders = Limits(max_hours=3.0), [first, second, third]
    assert share_limits(limits, second, folders, 2).max_hours == pytest.approx(0.25 + (3.0 - 1.0) / 2)
    assert share_limits(limits, third, folders, 1).max_hours == pytest.approx(2.0)
    spent = share_limits(replace(limits, max_hours=1.0), second, folders, 2)
    assert spent.reached(Journal(second / "trials").read()).startswith("--max-gpu-hours 0.25")
    assert not (third / "trials").exists()


def test_what_a_group_does_not_use_is_left_to_the_others(small_data, out):
    stand_in = StandIn()
    run_groups(claim(out, small_data, SPOTS, SCALES), out, Limits(max_hours=4.0, max_failures=7), stand_in)
    assert [limits.max_hours for limits in stand_in.limits] == [2.0, 3.5]  # the first has used 0.5
    assert [limits.max_failures for limits in stand_in.limits] == [7, 7]


def sweep_after(tmp_path: Path, small_data: Path, *groups: tuple[str, list[Record], str]) -> Sweep:
    """A sweep that comes after those of groups with these trials and winners."""
    for name, records, winner in groups:
        (tmp_path / name).mkdir()
        leave_result(tmp_path / name, name, records, winner=winner)
    return replace(make(small_data), group="now", after=tuple((name, str(tmp_path / name)) for name, *_ in groups))


def test_winners_come_first_then_the_next_best_and_no_point_twice(small_data, tmp_path):
    a = [completed(0, 0.9), completed(1, 0.6, optim__lr_head=1e-3), completed(2, 0.8, optim__lr_head=4e-3)]
    b = [completed(0, 0.3, optim__lr_head=4e-3), completed(1, 0.2, optim__lr_head=5e-3)]
    b.append(Record("trial-0002", POINT | {"optim.lr_head": 6e-3}, "pruned"))
    sweep = sweep_after(tmp_path, small_data, ("a", a, "trial-0001"), ("b", b, "trial-0000"))
    points = [(point["source"], point["parameters"]["optim.lr_head"]) for point in choose_points(sweep)]
    # a's trial-0000 is the preset and its trial-0002 is b's winner.
    assert points == [("group a, trial-0001", 1e-3), ("group b, trial-0000", 4e-3), ("group b, trial-0001", 5e-3)]


def test_the_confirmed_winner_is_the_winner(small_data, tmp_path):
    records = [completed(0, 0.9), completed(1, 0.6, optim__lr_head=1e-3), completed(2, 0.8, optim__lr_head=4e-3)]
    sweep = sweep_after(tmp_path, small_data, ("a", records, "trial-0002"))
    leave_result(tmp_path / "a", "a", records, winner="online-0000", confirmed={"winner": "trial-0001"})
    assert [point["source"] for point in choose_points(sweep)] == ["group a, trial-0001", "group a, trial-0002"]


def test_every_group_before_gives_its_winner_even_if_they_are_many(small_data, tmp_path):
    groups = [
        (str(n), [completed(0, 0.5, optim__lr_head=n * 1e-3), completed(1, 0.4, optim__lr_head=n * 1e-4)], "trial-0000")
        for n in range(3, 8)
    ]
    points = choose_points(sweep_after(tmp_path, small_data, *groups))
    assert [point["source"] for point in points] == [f"group {n}, trial-0000" for n in range(3, 8)]


def test_a_point_outside_the_space_is_skipped_with_a_message(small_data, tmp_path, caplog):
    records = [completed(0, 0.5, optim__lr_head=7.0), completed(1, 0.4, optim__lr_head=1e-3)]
    sweep = sweep_after(tmp_path, small_data, ("a\x1b", records, "trial-0000"))
    with caplog.at_level("INFO", logger="sweeps.stages.groups.exchange"):
        assert [point["source"] for point in choose_points(sweep)] == ["group a\x1b, trial-0001"]
    assert r"group a\x1b, trial-0000 is not tried: optim.lr_head=7.0 is outside the search space" in caplog.text


def test_what_is_tried_stays_the_same_when_the_other_group_goes_on(small_data, tmp_path, out):
    records = [completed(0, 0.5, optim__lr_head=1e-3)]
    sweep = sweep_after(tmp_path, small_data, ("a", records, "trial-0000"))
    before = load_tried(out, sweep)
    assert len(before) == 1
    more = [*records, completed(1, 0.9, optim__lr_head=2e-3)]
    leave_result(tmp_path / "a", "a", more, winner="trial-0001")
    assert load_tried(out, sweep) == before
    (out / "tried_first.json").write_text("{")
    with pytest.raises(UserError, match=r"tried_first\.json: damaged"):
        load_tried(out, sweep)


def test_points_of_other_groups_are_the_first_trials_and_their_scores_are_not_used(small_data, tmp_path, out):
    records = [completed(0, 0.9, optim__lr_head=1e-3), completed(1, 0.8, optim__lr_head=4e-3)]
    sweep = sweep_after(tmp_path, small_data, ("a", records, "trial-0000"))
    journal = Journal(out / "trials")

    def search():
        return JournalSearch(sweep.space, journal, priors=load_tried(out, sweep))

    first = search()
    assert [trial.state for trial in first._ot_study.trials] == [TrialState.WAITING] * 3
    preset, winner = first.suggest("a"), first.suggest("b")
    assert preset["parameters"].items() <= flatten(tiny()).items()
    assert (winner["name"], winner["parameters"]["optim.lr_head"]) == ("trial-0001", 1e-3)
    assert [record.source for record in journal.read()] == ["", "group a, trial-0000"]
    # Killed here: both go on, and the next one is the next point.
    second = search()
    suggested = [second.suggest(name) for name in "abc"]
    assert [each["name"] for each in suggested] == ["trial-0000", "trial-0001", "trial-0002"]
    assert [each["parameters"]["optim.lr_head"] for each in suggested] == [tiny().optim.lr_head, 1e-3, 4e-3]
    assert [record.source for record in journal.read()] == ["", "group a, trial-0000", "group a, trial-0001"]


def test_what_another_group_has_drawn_is_not_drawn_again(small_data, tmp_path, out):
    first = JournalSearch(SPACE, Journal(out / "trials"))
    drawn = [first.suggest(name)["parameters"] for name in "abc"][1]
    records = [Record("trial-0000", POINT, "pruned"), completed(1, 0.9)]
    records[1].parameters = drawn
    sweep = sweep_after(tmp_path, small_data, ("a", records, "trial-0001"))
    journal = Journal(tmp_path / "next" / "trials")
    second = JournalSearch(SPACE, journal, priors=load_tried(out, sweep))
    suggested = [second.suggest(name)["parameters"] for name in "abcd"]
    assert suggested[1] == drawn
    assert drawn not in suggested[2:]


def test_a_warm_start_from_a_sweep_per_group_takes_the_same_group(small_data, out, tmp_path):
    run_groups(claim(out, small_data, SPOTS, SCALES), out, Limits(), StandIn())
    (tmp_path / "next").mkdir()
    sweep = make(small_data, "--warm-start", str(out), "--warm-start", "paper")
    (inner,) = claim(tmp_path / "next", small_data, SPOTS, sweep=sweep).values()
    assert inner.warm_start == (str(out / "groups" / SPOTS), "paper")
    with pytest.raises(UserError, match=r"--warm-start .*: has no sweep of the group StripesID"):
        claim(tmp_path / "next", small_data, SPOTS, STRIPES, sweep=sweep)


def test_a_refit_of_some_groups_is_routed_with_the_models_of_the_others(small_data, out):
    def refit_spots(sweep: Sweep, folder: Path, limits: Limits) -> str:
        text = StandIn()(sweep, folder, limits)
        if sweep.group == SPOTS:
            (folder / "refit").mkdir()
            (folder / "refit" / "model").write_text("refitted")
            write_checksums(folder / "refit", ["model"])
        return text

    text = run_groups(claim(out, small_data, SPOTS, SCALES), out, Limits(), refit_spots)
    models = {group: (folder / "model").read_text() for group, folder in read_routing(out / "refit").items()}
    assert models == {SPOTS: "refitted", SCALES: SCALES}
    assert (out / "refit" / SPOTS / CHECKSUMS).is_file()
    assert f"refitted models     {out / 'refit'}" in text


def test_a_dry_run_is_printed_for_each_group(small_data, out, capsys):
    def print_one(sweep: Sweep, folder: Path) -> None:
        if sweep.group in refused:
            raise UserError(f"{folder.name} is too small")
        print(f"plan of {sweep.group}")

    sweeps, refused = divide_sweep(out, make(small_data), ["all"], small_data), {SPOTS}
    print_dry_runs(sweeps, print_one)
    shown = capsys.readouterr().out
    assert "3 sweeps, one after the other" in shown
    assert [line.split()[-1] for line in shown.splitlines() if line.startswith("plan of")] == [SCALES, STRIPES]
    assert f"the others are: {SPOTS} is too small" in shown
    refused |= set(ALL)
    with pytest.raises(UserError, match=r"no group has a result:\n.*ScalesID is too small\n.*SpotsID is too small"):
        print_dry_runs(sweeps, print_one)
    assert not list(out.iterdir())
