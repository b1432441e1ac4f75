"""Known results first: the searcher gets trials of another sweep, and the paper's table, with their source.

OTHER_OUT/trials, the paper's rows → `Prior`s within this sweep's space. They guide what is tried; none of them is a
trial of this sweep, so none can be its best. The best of another sweep is also tried here, early.
"""

import argparse
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from reid_core.config.parameters import TrialConfig
from reid_core.config.presets import make_preset
from reid_core.config.values import flatten
from reid_core.errors import UserError
from reid_core.files.atomic import replace_file
from reid_core.files.checksums import read_sealed
from sweeps.results.journal import Record
from sweeps.results.result_folder import SETTINGS, read_records
from sweeps.search.goals import Goals
from sweeps.search.paper_numbers import PAPER_62
from sweeps.search.space import SearchSpace

PAPER = "paper"  # value of `--warm-start`
PRIORS = "priors.json"  # in OUT
NUM_TRIED = 3  # of the best trials of another sweep that are tried here too
# A result of another kind of model says nothing about this space, unless the space searches the kind.
KIND = ("loss.name", "predict.rule", "model.head")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Prior:
    """A result from elsewhere: values of this space's keys, and what they reached there."""

    source: str  # "OTHER_OUT trial-0007", "paper, table 6.2: metric"
    parameters: dict[str, Any]
    values: list[float]  # one per goal; none: the searcher learns nothing from it, it is only tried
    is_tried: bool = False  # whether it is among this sweep's first trials as well


def add_warm_start_flag(parser: argparse.ArgumentParser) -> None:
    """The flag that names the `sources` of `load_priors`."""
    parser.add_argument(
        "--warm-start",
        action="append",
        default=[],
        metavar="OTHER_OUT",
        help="begin with the results of another sweep, or of the paper (--warm-start paper): they guide the search, "
        "and the three best of a sweep are tried again; none is reported as a result of this one; may be repeated",
    )


def check_sources(sources: Sequence[str]) -> None:
    """Find out whether sweeps to begin with are there, and can be read.

    Raises:
        UserError: If a folder holds no sweep, or a damaged one.
    """
    for source in sources:
        if source != PAPER:
            _settings_of(Path(source))
            read_records(Path(source), "")


def check_priors(out: Path, sources: Sequence[str], space: SearchSpace) -> None:
    """Find out whether `load_priors` will find its priors: those that `out` keeps, else the sources.

    Raises:
        UserError: As `load_priors`; or if what `out` keeps is not of this space.
    """
    if not (out / PRIORS).exists():
        check_sources(sources)
    elif sources:
        for prior in _read(out / PRIORS):
            space.distributions(prior.parameters)


def load_priors(out: Path, sources: Sequence[str], space: SearchSpace, goals: Goals) -> list[Prior]:
    """The priors of a sweep: read once, kept in `out`, and the same whenever it is resumed.

    Args:
        out: Result folder.
        sources: Result folders of other sweeps, and `PAPER`.
        space: Of this sweep; what lies outside is left out, and counted in the log.
        goals: Of this sweep; the paper has no result for several.

    Raises:
        UserError: If a folder holds no sweep, or the priors in `out` are damaged.
    """
    if not sources:
        return []
    file = out / PRIORS
    if file.exists():
        return _read(file)
    found: list[Prior] = []
    for source in sources:
        given = _paper_results(space.base, goals) if source == PAPER else _results_of(Path(source), goals)
        kept = [prior for one in given if (prior := _restrict(*one, space)) is not None]
        kept = _mark_best(kept, goals) if source != PAPER else kept
        logger.info("--warm-start %s: %d of %d results lie in this search space", source, len(kept), len(given))
        found += kept
    replace_file(file, json.dumps([asdict(prior) for prior in found], indent=1).encode())
    return found


def _read(file: Path) -> list[Prior]:
    try:
        return [Prior(**values) for values in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file}: damaged ({error}); delete it, and --warm-start is read again") from error


Result = tuple[str, dict[str, Any], list[float]]  # source, whole configuration by dotted key, a value per goal


def _results_of(other: Path, goals: Goals) -> list[Result]:
    """Completed trials of a sweep's result folder."""
    base = {key: value for key, value in _settings_of(other).items() if key in flatten(TrialConfig())}
    records = read_records(other, "")
    return [(f"{other} {record.name}", base | record.parameters, values) for record, values in _valued(records, goals)]


def _settings_of(other: Path) -> dict[str, Any]:
    settings = other / SETTINGS
    if not settings.is_file():
        raise UserError(f"--warm-start {other}: holds no sweep ({SETTINGS} is missing)")
    return read_sealed(settings)


def _valued(records: Iterable[Record], goals: Goals) -> Iterable[tuple[Record, list[float]]]:
    """Completed trials that have a result for each goal."""
    for record in records:
        has_all = all(f"geo_mean.{group}" in record.metrics for group in goals.groups)
        values = goals.values(record)
        if values is not None and has_all:
            yield record, values


def _paper_results(base: TrialConfig, goals: Goals) -> list[Result]:
    """The rows of table 6.2 that were run with this backbone; GEO_MEAN on AnimalCLEF25's test set, species pooled."""
    if goals.groups:
        return []
    presets = {row: flatten(make_preset(row)) for row in PAPER_62}
    same = {row: values for row, values in presets.items() if values["model.backbone"] == base.model.backbone}
    return [(f"paper, table 6.2: {row}", values, [PAPER_62[row][2]]) for row, values in same.items()]


def _restrict(source: str, config: dict[str, Any], values: list[float], space: SearchSpace) -> Prior | None:
    """A result as a prior of this space; None if it lies outside, or is of another kind of model."""
    own = flatten(space.base)
    whole = own | config
    try:
        parameters = space.restrict(whole)
    except UserError:
        return None
    if any(key not in parameters and whole[key] != own[key] for key in KIND):
        return None
    return Prior(source=source, parameters=parameters, values=values)


def _mark_best(priors: list[Prior], goals: Goals) -> list[Prior]:
    ranked = sorted(priors, key=lambda prior: -sum(prior.values))[:NUM_TRIED]
    return [replace(prior, is_tried=prior in ranked) for prior in priors]
