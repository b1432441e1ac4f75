"""A split as a table for people, and what its groups lack.

part, identity, group (N,) → lines of text: images and identities per group and part, then the shortcomings.
"""

from collections import Counter

from reid_core.data.splits.assign import PARTS
from reid_core.data.splits.by_share import SHARE
from reid_core.data.splits.encounters import KEPT_IN_TRAINING, QUERY_SETS
from reid_core.data.splits.parts import Parts, is_known
from reid_core.files.text_table import format_table

Members = dict[str, list[str | None]]  # of one group: column of the table → identity of each of its images


def describe_parts(parts: Parts) -> str:
    """Printable table of images/identities per group and part, and below it what each group cannot give.

    Where the identities of testSet are locked (None), its images are counted in one column. Parts that are none of
    `PARTS`, such as that of unreadable photographs, have a column each.

    Example:
        >>> import numpy as np
        >>> parts = [np.array(column) for column in (["ada", "ada"], ["cow", "cow"], ["training", "training"])]
        >>> print(describe_parts(Parts(*parts)))
        images/identities  training  validating  thresholdSet known  thresholdSet new  testSet known  testSet new  query
        cow                     2/1           0                   0                 0              0            0      0
        cow: thresholdSet has no known query: BAKS is undefined
        ...
    """
    names = _name_columns(parts)
    groups = _gather_members(parts, names)
    rows = [[group, *map(_count, columns.values())] for group, columns in groups.items()]
    notes = [f"{group}: {note}" for group, columns in groups.items() for note in _shortcomings(columns)]
    return "\n".join([format_table([["images/identities", *names], *rows]), *notes])


def _name_columns(parts: Parts) -> list[str]:
    """Every part; query sets whose identities may be seen are divided into known and new."""
    locked = any(part == "testSet" and name is None for part, name in zip(parts.part_N, parts.identity_N, strict=True))
    divided = QUERY_SETS[:1] if locked else QUERY_SETS
    names = [*PARTS[:2], *(f"{part} {kind}" for part in divided for kind in ("known", "new")), "query"]
    return [*names, *(["testSet"] if locked else []), *sorted({str(part) for part in parts.part_N} - set(PARTS))]


def _gather_members(parts: Parts, names: list[str]) -> dict[str, Members]:
    """Identities by group and column; every group has every column."""
    groups: dict[str, Members] = {str(group): {name: [] for name in names} for group in sorted(set(parts.group_N))}
    known_N = is_known(parts.part_N, parts.identity_N, parts.group_N)
    for part, known, identity, group in zip(parts.part_N, known_N, parts.identity_N, parts.group_N, strict=True):
        column = f"{part} {'known' if known else 'new'}"
        groups[str(group)][column if column in names else str(part)].append(identity)
    return groups


def _count(members: list[str | None]) -> str:
    """Images and identities, of those whose identities may be seen."""
    return str(len(members)) if None in members or not members else f"{len(members)}/{len(set(members))}"


def _shortcomings(columns: Members) -> list[str]:
    """What a group lacks, in words."""
    if not columns["training"]:
        return ["no training images: its queries cannot be named"]
    num_images = sum(len(members) for name, members in columns.items() if name.split()[0] in PARTS[:-1])
    notes = []
    for part in (part for part in QUERY_SETS if f"{part} known" in columns):
        share = len(columns[f"{part} known"]) / num_images
        num_new = len(set(columns[f"{part} new"]))
        if not share:
            notes.append(f"{part} has no known query: BAKS is undefined")
        elif share < SHARE / 2:
            notes.append(f"{part} has known queries for {share:.1%} of the images only ({SHARE:.0%} wanted)")
        if not num_new:
            notes.append(f"{part} has no new identity: BAUS is undefined")
        elif num_new < 3:
            notes.append(f"{part} has only {num_new} new {'identity' if num_new == 1 else 'identities'}")
    if not columns["validating"]:
        notes.append("validating is empty")
    if max(Counter(columns["training"]).values()) < KEPT_IN_TRAINING:
        notes.append("every training identity has a single image: no positive pair")
    return notes
