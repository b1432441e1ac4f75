"""What a configuration asks of the table's dates and sides, and whether the table has it.

table, configuration → findings; an error where a requested feature would be empty.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from reid_core.config.parameters import TrialConfig
from reid_core.data.splits.assign import stratified_instead
from reid_core.data.splits.rule import SplitRule
from reid_core.data.table.findings import Finding, make_finding
from reid_core.data.table.metadata import METADATA
from reid_core.data.table.sides import SIDES, count_words, parse_sides
from reid_core.errors import UserError


def check_requests(database: pa.Table, config: TrialConfig) -> None:
    """Refuse a configuration that asks for dates or sides where no labelled row has any.

    Args:
        database: From `metadata.read_metadata`, labelled rows.
        config: `data`, `model.orientation` and `match.same_side` are used.

    Raises:
        UserError: Names the keys, the values of the column, and the remedy.
    """
    words = database["orientation"].to_pylist()
    check_sides(parse_sides(words), config, words)
    asked = _dates_asked(config)
    if asked and not any(SplitRule.of(config).days(database["date"].to_pylist(), database["group"].to_pylist())):
        raise UserError(
            f"{asked} needs dates, and no labelled row has one that can be read; fill in the column date "
            "(YYYY-MM-DD), or set data.split=stratified and data.whole_encounters=false"
        )
    data = config.data
    if data.cutoff_date is not None and data.split != "time_cutoff":
        raise UserError(
            f"data.cutoff_date={data.cutoff_date} is not used by data.split={data.split}; set data.split=time_cutoff, "
            "or data.cutoff_date=null"
        )


def check_sides(sides_N6: np.ndarray | None, config: TrialConfig, words: Iterable[str | None] = ()) -> None:
    """Refuse a configuration that asks for sides where no photograph has one.

    Args:
        sides_N6: From `sides.parse_sides`, of labelled photographs; None: not known, and not checked.
        config: `model.orientation` and `match.same_side` are used.
        words: Values of the column, for the error.

    Raises:
        UserError: Names the keys, the values, and the remedy.
    """
    asked = _sides_asked(config)
    if asked and sides_N6 is not None and not sides_N6.any():
        counts = count_words(words)
        raise UserError(
            f"{' and '.join(asked)}: no labelled row says which side is seen"
            + (f" (orientation is {counts})" if counts else "")
            + f"; write {', '.join(SIDES)}, L or R into the column orientation, or set "
            + " and ".join(asked.values())
        )


def notice_requests(database: pa.Table, config: TrialConfig) -> list[Finding]:
    """Groups in which what a configuration asks for does nothing, where others have it.

    Args:
        database: Labelled rows whose photographs can be read.
        config: As for `check_requests`.
    """
    group_N = np.array(database["group"].to_pylist(), dtype=object)
    findings, asked = [], _sides_asked(config)
    sided_N = parse_sides(database["orientation"].to_pylist()).sum(axis=1) > 0
    if asked:
        findings += _groups_without(sided_N, group_N, f"names a side, so {' and '.join(asked)} does nothing there")
    rule = SplitRule.of(config)
    day_N = rule.days(database["date"].to_pylist(), group_N)
    if rule.whole_encounters:
        dated_N = np.array([day is not None for day in day_N], dtype=bool)
        findings += _groups_without(dated_N, group_N, "has a date, so data.whole_encounters does nothing there")
    reasons = stratified_instead(database["identity"].to_pylist(), group_N, rule=rule, date_N=day_N)
    if reasons:
        what = f"{len(reasons)} group(s) split as data.split=stratified instead of {rule.strategy}"
        findings.append(make_finding(METADATA, what, [f"{group}: {reason}" for group, reason in reasons.items()]))
    return findings


def _sides_asked(config: TrialConfig) -> dict[str, str]:
    """What asks for sides, each with how not to ask."""
    orientation = config.model.orientation
    asked = {f"model.orientation={orientation}": "model.orientation=none"} if orientation != "none" else {}
    return asked | ({"match.same_side=true": "match.same_side=false"} if config.match.same_side else {})


def _dates_asked(config: TrialConfig) -> str:
    asked = [f"data.split={config.data.split}"] if SplitRule.of(config).is_by_time else []
    return " and ".join(asked + ["data.whole_encounters=true"] * config.data.whole_encounters)


def _groups_without(has_N: np.ndarray, group_N: np.ndarray, what: str) -> list[Finding]:
    """One finding about the groups in which no row has something."""
    lacking: Sequence[str] = sorted(set(group_N) - set(group_N[has_N]))
    if not lacking:
        return []
    return [make_finding(METADATA, f"{len(lacking)} group(s) where no photograph {what}", [*map(repr, lacking)])]
