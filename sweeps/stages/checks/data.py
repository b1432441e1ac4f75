"""Whether the data can be divided as asked, and batches drawn from them.

database rows, configuration → `Parts`, or why not.
"""

from pathlib import Path

import pyarrow as pa

from reid_core.config.parameters import TrialConfig
from reid_core.data.requested import check_requests
from reid_core.data.splits.fresh import resplit
from reid_core.data.splits.parts import Parts
from reid_core.data.splits.rule import SplitRule
from reid_core.experiment.prepare import check_objective, split_database
from reid_core.experiment.prepared import column_of
from reid_core.training.batch_plan import Pool, check_batches, make_pool


def check_split(database: pa.Table, config: TrialConfig, root: Path, *, num_fresh: int) -> Parts:
    """The split, as if every photograph could be read.

    Args:
        database: Labelled rows.
        config: That the sweep starts from.
        root: Data folder, for messages.
        num_fresh: Fresh splits that the confirmation will make.

    Raises:
        UserError: If the configuration asks for dates or sides, and no row has any; if the split cannot be made, or
            leaves nothing to maximise: now, or in a fresh split after the search.
    """
    check_requests(database, config)
    parts = split_database(database, [None] * len(database), config)
    check_objective(parts, root)
    date_N = column_of(database, "date")
    for number in range(1, num_fresh + 1):
        fresh = resplit(parts, number=number, rule=SplitRule.of(config), date_N=date_N)
        check_objective(fresh, f"{root}: --confirm: fresh split {number}")
    return parts


def pool_of_parts(config: TrialConfig, parts: Parts) -> Pool:
    """What batches would be drawn from."""
    rows = parts.rows("training")
    return make_pool(config.data, parts.animals(rows), rows, len(parts.part_N))


def check_training(config: TrialConfig, parts: Parts, *, workers: int) -> None:
    """Find out whether a trial's batches can be drawn.

    Raises:
        UserError: If not.
    """
    check_batches(config, pool_of_parts(config, parts), world_size=workers)
