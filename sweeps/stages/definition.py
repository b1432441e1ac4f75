"""What defines a sweep: the command line of the scripts, and what it says.

flags → `Sweep`: space, base configuration, data, number of trials, and what happens after the search.
"""

import argparse
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from reid_core import cli, command
from reid_core.config.parameters import TrialConfig
from reid_core.config.values import flatten, override
from reid_core.errors import UserError
from reid_core.experiment.refit import check_refittable
from sweeps.machines.connect import add_resource_flags
from sweeps.machines.limits import add_limit_flags
from sweeps.results.mirror import add_work_flag
from sweeps.search.candidates import Choices, Searched
from sweeps.search.goals import EACH_GROUP, Sampler, add_goal_flags
from sweeps.search.priors import PAPER
from sweeps.search.search_flag import describe_searched, parse_searched
from sweeps.search.space import Space, base_point
from sweeps.stages.confirm import Confirmation, add_confirm_flags, make_confirmation
from sweeps.stages.online import Epochs, check_offline, parse_epochs


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """All that defines a sweep, whatever it runs on."""

    name: str  # of the script
    space: Space  # with the keys of `searched` in it
    base: TrialConfig
    fixed: frozenset[str]  # dotted keys that are not searched
    num_trials: int
    data: str
    skip_missing: bool
    searched: Searched = ()  # of `--search`
    each_group: bool = False  # the GEO_MEAN of each group is a goal of its own
    sampler: Sampler = "tpe"
    confirmation: Confirmation = field(default_factory=Confirmation)
    then_online: Epochs | None = None  # None: no additional training
    refit: bool = False
    warm_start: tuple[str, ...] = ()  # result folders of other sweeps, or "paper"
    group: str | None = None  # whose rows alone are swept; None: every group's
    after: tuple[tuple[str, str], ...] = ()  # groups that are swept before, and their result folders
    share_store: str | None = None  # folder of the pair store; None: in OUT

    def settings(self) -> dict[str, Any]:
        """What must be the same when the sweep is resumed, by name; the number of trials may grow."""
        rows = {"data": self.data, "skip_missing": self.skip_missing, "group": self.group}
        own = {"script": self.name, **rows, "fixed": sorted(self.fixed)}
        goal = {"each_group": self.each_group, "sampler": self.sampler, "warm_start": list(self.warm_start)}
        return own | goal | {"searched": describe_searched(self.searched)} | flatten(self.base)


def make_parser(
    description: str | None, *, real: str = "megadescriptor", synthetic: str | None = "tiny"
) -> argparse.ArgumentParser:
    """The command line of a sweep script; its default presets as in `cli.add_common_flags`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_common_flags(parser, real=real, synthetic=synthetic, may_be_uri=True)
    add_work_flag(parser)
    parser.add_argument(
        "--search",
        action="append",
        default=[],
        metavar="KEY[=SPEC]",
        help="search one more key, or other values of a searched one: KEY (every choice, or the default candidates), "
        "KEY=a,b,c, KEY=low..high or KEY=log:low..high, e.g. predict.aggregate or match.shortlist=10,50,150; "
        "may be repeated",
    )
    parser.add_argument("--trials", type=int, default=50, help="configurations to try in all (default 50)")
    parser.add_argument(
        "--warm-start",
        action="append",
        default=[],
        metavar="OTHER_OUT",
        help="begin with the results of another sweep, or of the paper (--warm-start paper): they guide the search, "
        "and the three best of a sweep are tried again; none is reported as a result of this one; may be repeated",
    )
    parser.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="NAME",
        help="sweep the rows of this group alone, as OUT/groups/NAME; may be repeated, and all names every group: one "
        "sweep after the other with all the other flags, a budget being divided, each trying the best of those before "
        "it; OUT/best then routes each photograph to its group's model",
    )
    add_goal_flags(parser)
    add_limit_flags(parser)
    add_confirm_flags(parser)
    parser.add_argument(
        "--then-online",
        nargs="?",
        const="winner",
        metavar="EPOCHS",
        help="after the search, train the best configuration on with online augmentation, for as many epochs as it had "
        "or for EPOCHS",
    )
    parser.add_argument(
        "--refit",
        action="store_true",
        help="in the end, train the chosen configuration on all database images for its median best epoch, and export "
        "that model as OUT/refit",
    )
    add_resource_flags(parser)
    return parser


def make_sweep(name: str, space: Space, options: argparse.Namespace) -> Sweep:
    """The sweep that the flags ask for; a base outside its own space is told before anything is done.

    Raises:
        UserError: If a flag is wrong.
    """
    if options.trials < 1:
        raise UserError(f"--trials {options.trials}: must be at least 1")
    base, fixed = _make_base(options), frozenset(cli.parse_fixed(options.set))
    searched = _with_absolute_files(parse_searched(options.search, base, fixed))
    then_online = options.then_online
    sweep = Sweep(
        name=name,
        space=partial(space, searched=searched),  # type: ignore[call-arg]
        base=base,
        fixed=fixed,
        num_trials=options.trials,
        data=command.absolute_data(options.data),
        skip_missing=options.skip_missing,
        searched=searched,
        each_group=options.objective == EACH_GROUP,
        sampler=options.sampler,
        confirmation=make_confirmation(options),
        refit=options.refit,
        warm_start=tuple(each if each == PAPER else str(Path(each).resolve()) for each in options.warm_start),
        share_store=str(command.make_out(options.share_store, flag="--share-store")) if options.share_store else None,
        then_online=parse_epochs(then_online) if then_online not in (None, "winner") else then_online,
    )
    if options.refit:
        check_refittable(base.predict)
        if then_online is not None:
            raise UserError("--refit and --then-online: a refit trains what was confirmed; give one of them")
    point = base_point(sweep.space, base, fixed)
    if then_online is not None:
        check_offline(base, set(point))
    return sweep


def _make_base(options: argparse.Namespace) -> TrialConfig:
    base = cli.make_config(options)
    if options.objective in (None, EACH_GROUP):
        return base
    if "threshold.objective" in cli.parse_fixed(options.set):
        raise UserError(f"--objective {options.objective}: --set threshold.objective says the same; give one of them")
    return override(base, {"threshold.objective": options.objective})


def _with_absolute_files(searched: Searched) -> Searched:
    """Files and folders become absolute; weights files must be there."""
    make_absolute = {"model.weights": cli.absolute_weights, "fusion.second_model": cli.absolute_folder}
    return tuple(
        (key, Choices(tuple(map(make_absolute[key], candidates.values))))
        if key in make_absolute and isinstance(candidates, Choices)
        else (key, candidates)
        for key, candidates in searched
    )
