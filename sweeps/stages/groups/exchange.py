"""What the sweep of a group learns from those before it: their best configurations are among its first trials.

result folders of other groups → points of this sweep's space → `Prior`s without values.
"""

import logging
from itertools import zip_longest
from pathlib import Path
from typing import Any

from reid_core.config.values import flatten
from reid_core.errors import UserError
from reid_core.files.checksums import read_sealed, write_sealed
from reid_core.files.escape import escape_line
from sweeps.results.journal import Record
from sweeps.results.result_folder import TRIED, read_records
from sweeps.search.priors import NUM_TRIED, Prior
from sweeps.stages.definition import Sweep
from sweeps.stages.groups.result import read_winner

logger = logging.getLogger(__name__)


def load_tried(out: Path, sweep: Sweep) -> list[Prior]:
    """The configurations of other groups that a group tries after the preset: chosen once, kept in `out`.

    They have no values: what they reached on other animals is not comparable. They are run here like any other.

    Args:
        out: Result folder of the group.
        sweep: Of the group; `after` are those whose best are tried.

    Raises:
        UserError: If what is kept is damaged, or a record of another group is.
    """
    if not sweep.after:
        return []
    file = out / TRIED
    if not file.exists():
        write_sealed(file, {"points": choose_points(sweep)})
    return [Prior(**point, values=[], is_tried=True) for point in read_sealed(file)["points"]]


def choose_points(sweep: Sweep) -> list[dict[str, Any]]:
    """Values of this sweep's keys with their source: the winners of the groups before, then their next best.

    As many as there are groups before, at least `NUM_TRIED`; none twice, none that is the preset.
    """
    rankings = [
        [(f"group {group}, {record.name}", record.parameters) for record in rank_trials(Path(folder))]
        for group, folder in sweep.after
    ]
    by_rank = [found for rank in zip_longest(*rankings) for found in rank if found]
    points: list[dict[str, Any]] = []
    seen = [sweep.space.base_point()]
    for source, parameters in by_rank:
        try:
            values = sweep.space.restrict(flatten(sweep.base) | parameters)
        except UserError as error:
            logger.info("%s is not tried: %s", escape_line(source), error)
            continue
        if values not in seen:
            seen.append(values)
            points.append({"source": source, "parameters": values})
    return points[: max(NUM_TRIED, len(sweep.after))]


def rank_trials(folder: Path) -> list[Record]:
    """Completed trials of a search: the one that was chosen, then the others by their objective."""
    completed = [record for record in read_records(folder, "") if record.objective is not None]
    winner = read_winner(folder)
    return sorted(completed, key=lambda record: (record.name != winner, -(record.objective or 0.0)))
