"""The command line of the sweep scripts: flags → `Sweep`; each part of a sweep adds its own flags."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reid_core import cli, command
from reid_core.config.parameters import TrialConfig
from reid_core.config.values import override
from reid_core.errors import UserError
from sweeps.machines.flags import add_resource_flags
from sweeps.machines.limits import add_limit_flags
from sweeps.results.mirror import add_work_flag
from sweeps.search.candidates import Choices, Searched
from sweeps.search.goals import EACH_GROUP, add_goal_flags
from sweeps.search.priors import PAPER, add_warm_start_flag
from sweeps.search.search_flag import add_search_flag, parse_searched
from sweeps.search.space import SearchSpace, SpaceFunction
from sweeps.stages.definition import Sweep
from sweeps.stages.flags import (
    add_confirm_flags,
    add_group_flag,
    add_online_flag,
    add_refit_flag,
    check_offline,
    make_confirm_settings,
    parse_epochs,
)


def make_parser(
    description: str | None, *, real: str = "megadescriptor", synthetic: str | None = "tiny"
) -> argparse.ArgumentParser:
    """The command line of a sweep script; its default presets as in `cli.add_common_flags`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_common_flags(parser, real=real, synthetic=synthetic, may_be_uri=True)
    add_work_flag(parser)
    add_search_flag(parser)
    parser.add_argument("--trials", type=int, default=50, help="configurations to try in all (default 50)")
    add_warm_start_flag(parser)
    add_group_flag(parser)
    add_goal_flags(parser)
    add_limit_flags(parser)
    add_confirm_flags(parser)
    add_online_flag(parser)
    add_refit_flag(parser)
    add_resource_flags(parser)
    return parser


def make_sweep(name: str, space: SpaceFunction, options: argparse.Namespace) -> Sweep:
    """The sweep that the flags ask for; a base outside its own space is refused before anything is done.

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
        space=SearchSpace(space, base, fixed, searched),
        num_trials=options.trials,
        data=command.absolute_data(options.data),
        reading=cli.reading_of(options),
        each_group=options.objective == EACH_GROUP,
        sampler=options.sampler,
        confirm=make_confirm_settings(options),
        refit=options.refit,
        warm_start=tuple(each if each == PAPER else str(Path(each).resolve()) for each in options.warm_start),
        pair_store=str(command.make_out(options.share_store, flag="--share-store")) if options.share_store else None,
        then_online=parse_epochs(then_online) if then_online not in (None, "winner") else then_online,
    )
    if options.refit:
        from reid_core.experiment.refit import check_refittable  # and torch, which --help does without

        check_refittable(base.predict)
        if then_online is not None:
            raise UserError("--refit and --then-online: a refit trains what was confirmed; give one of them")
    point = sweep.space.base_point()
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
    """Files and folders become absolute; files of model weights must be there."""
    make_absolute: dict[str, Callable[[Any], Any]]
    make_absolute = {"model.weights": cli.absolute_weights, "fusion.second_model": cli.absolute_folder}
    return tuple(
        (key, Choices(tuple(map(make_absolute[key], candidates.values))))
        if key in make_absolute and isinstance(candidates, Choices)
        else (key, candidates)
        for key, candidates in searched
    )
