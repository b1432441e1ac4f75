"""`--then-online`: one more trial from the best one's weights, in a journal of its own. No Ray is started."""

from pathlib import Path

import pytest

from reid_core.config.presets import tiny
from reid_core.config.values import override
from reid_core.errors import UserError
from sweeps.machines.resources import Resources
from sweeps.results.journal import Journal, Record
from sweeps.results.trial_table import best_record
from sweeps.search.fixed_search import FixedSearch
from sweeps.search.space import metric_space
from sweeps.search.suggestion import Suggestion
from sweeps.stages import train_online
from sweeps.stages.command_line import make_parser, make_sweep
from sweeps.stages.flags import check_offline, parse_epochs
from sweeps.stages.train_online import continue_online
from sweeps.trials.context import SweepContext

OFFLINE = override(tiny(), {"data.variants": 5})
BEST = Record("trial-0003", {"optim.batch_size": 16}, "completed", metrics={"objective": 0.5}, checkpoint="here")


@pytest.fixture
def ran(monkeypatch) -> list[Suggestion]:
    """The trials that were run; each completes with an objective of 0.6."""
    suggestions: list[Suggestion] = []

    def run_fixed(given, context):
        journal = Journal(Path(context.out) / "trials")
        for suggestion in FixedSearch(given, journal).left:
            suggestions.append(suggestion)
            ended = Record(suggestion.name, suggestion.parameters, "completed", start=suggestion.start)
            ended.metrics = {"objective": 0.6}
            journal.write(ended)
        return journal.by_name()

    monkeypatch.setattr(train_online, "run_fixed", run_fixed)
    return suggestions


def make_context(out: Path) -> SweepContext:
    return SweepContext(OFFLINE, str(out), str(out / "cache"), Resources(workers=1))


def test_the_best_trial_is_trained_on_from_its_weights_in_a_journal_of_its_own(ran, tmp_path):
    context = make_context(tmp_path)
    more = continue_online(BEST, context, "winner")
    assert (more.name, more.start) == ("online-0000", "here")
    assert more.parameters == {"optim.batch_size": 16, "data.variants": None, "optim.epochs": OFFLINE.optim.epochs}
    assert ran == [Suggestion(name="online-0000", parameters=more.parameters, start="here")]
    assert Journal(tmp_path / "then_online" / "trials").read() == [more]
    assert not (tmp_path / "trials").exists()
    assert best_record([BEST, more]) is more
    # The export configures the best with the search's context.
    assert context.configure(more.parameters) == override(OFFLINE, {"data.variants": None, "optim.batch_size": 16})


def test_a_training_that_ended_is_not_repeated_and_another_one_is_another_trial(ran, tmp_path):
    first = continue_online(BEST, make_context(tmp_path), 3)
    assert continue_online(BEST, make_context(tmp_path), 3) == first
    assert len(ran) == 1
    assert first.parameters["optim.epochs"] == 3
    assert continue_online(BEST, make_context(tmp_path), 4).name == "online-0001"
    grown = Record("trial-0009", BEST.parameters, "completed", metrics={"objective": 0.7}, checkpoint="there")
    assert continue_online(grown, make_context(tmp_path), 3).name == "online-0002"
    assert [suggestion.start for suggestion in ran] == ["here", "here", "there"]


def test_a_best_trial_that_was_online_itself_is_left_alone(ran, tmp_path):
    best = Record("trial-0003", {"data.variants": None}, "completed", metrics={"objective": 0.1}, checkpoint="here")
    assert continue_online(best, make_context(tmp_path), 3) is None
    assert ran == []
    assert list(tmp_path.iterdir()) == []


def test_only_what_was_searched_offline_can_go_on_online():
    check_offline(OFFLINE, set())
    check_offline(tiny(), {"data.variants"})
    with pytest.raises(UserError, match=r"data\.variants=null augments online in the search already"):
        check_offline(tiny(), {"optim.lr_head"})


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", ""])
def test_the_number_of_epochs_is_checked(text):
    with pytest.raises(UserError, match=f"--then-online {text}: expected a number of epochs"):
        parse_epochs(text)
    assert parse_epochs("3") == 3


def test_the_flag_is_off_or_the_winner_s_epochs_or_a_number(tmp_path):
    def parsed(*flags):
        offline = ["--data", "synthetic", "--out", str(tmp_path), "--set", "data.variants=5"]
        return make_sweep("metric", metric_space, make_parser("").parse_args([*offline, *flags])).then_online

    assert parsed() is None
    assert parsed("--then-online") == "winner"
    assert parsed("--then-online", "7") == 7
    with pytest.raises(UserError, match="--then-online 0: expected a number of epochs"):
        parsed("--then-online", "0")
    with pytest.raises(UserError, match="search offline first"):
        parsed("--then-online", "--set", "data.variants=null")
    assert parsed("--then-online", "--set", "data.oversample_to=5") == "winner"
