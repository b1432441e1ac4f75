"""Findings: what the data say that was dropped, changed, or read as missing. Nothing of that happens in silence.

what a reader noticed → `Finding`s → log, result.json, and the result's text. One finding stands for all rows of a kind.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from reid_core.errors import UserError
from reid_core.files.escape import escape_line

SHOWN = 5  # examples that a finding keeps
SHOWN_LETTERS = 200  # of an example
logger = logging.getLogger(__name__)
# What an example tells of identities: sets of image_ids. Who knows the animal of one image of each set learns nothing.
Tells = Collection[Collection[str]]


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed in the data, however many rows, files or animals show it."""

    where: str  # "metadata.csv", "photographs", "training"
    what: str  # in words, with its count: "3 empty rows left out", "7 of 96 values of orientation name no side"
    count: int  # of rows, files, animals …
    examples: tuple[str, ...] = ()  # the first few: "line 7: 'rigth'"
    tells: tuple[Tells, ...] = field(default=(), compare=False, repr=False)  # of each example; () if none tells any

    def __str__(self) -> str:
        shown = ", ".join(self.examples) + (", …" if self.count > len(self.examples) > 0 else "")
        return escape_line(f"{self.where}: {self.what}" + (f": {shown}" if shown else ""))


def make_finding(
    where: str, what: str, examples: Sequence[str], count: int | None = None, *, tells: Sequence[Tells] = ()
) -> Finding:
    """A finding that keeps the first few of its examples.

    Args:
        where: See `Finding`.
        what: See `Finding`.
        examples: One for each row, file or animal concerned, or the first of them.
        count: Of all that are concerned; None: one per example.
        tells: What each example tells of identities, for `keep_known`; empty if none tells any.

    Example:
        >>> print(make_finding("metadata.csv", "2 rows have blanks around identity; taken off", ["line 2: ' ada'"], 2))
        metadata.csv: 2 rows have blanks around identity; taken off: line 2: ' ada', …
    """
    kept = tuple(example[:SHOWN_LETTERS] for example in examples[:SHOWN])
    return Finding(where, what, len(examples) if count is None else count, kept, tuple(tells[:SHOWN]))


def tell_rows(id_N: Sequence[str], rows: Iterable[int]) -> list[Tells]:
    """`Finding.tells` of examples that show one row each."""
    return [[{id_N[row]}] for row in rows]


def show_lines(line_N: Sequence[int], value_N: Sequence[str | None], rows: Sequence[int]) -> list[str]:
    """Examples for a finding: lines and values of the first rows concerned.

    Args:
        line_N: Line of the file of each row of the table.
        value_N: What to show of each row.
        rows: Those concerned.

    Example:
        >>> show_lines([2, 3, 5], ["left", "rigth", "left"], [1])
        ["line 3: 'rigth'"]
    """
    return [f"line {line_N[row]}: {value_N[row]!r}" for row in rows[:SHOWN]]


def log_findings(findings: Iterable[Finding]) -> None:
    """One warning per finding."""
    for finding in findings:
        logger.warning("%s", finding)


@contextmanager
def logged_with_error(findings: Iterable[Finding]) -> Iterator[None]:
    """Log findings if an error follows: what was noticed may be its cause."""
    try:
        yield
    except UserError:
        log_findings(findings)
        raise


def format_findings(findings: Sequence[Finding]) -> str:
    """All findings as a paragraph of the result's text; "" if there are none."""
    if not findings:
        return ""
    return "\n".join(["what was noticed", *(f"  {finding}" for finding in findings)])


def keep_known(findings: Iterable[Finding], image_ids: Collection[str]) -> tuple[Finding, ...]:
    """The same without the examples that tell more of identities than those of some images do; counts stay.

    Example:
        >>> found = make_finding("metadata.csv", "2 odd names", ["'ada'", "'bo'"], tells=[[{"7"}], [{"9"}]])
        >>> keep_known([found], {"7"})[0].examples
        ("'ada'",)
    """
    known = set(image_ids)
    return tuple(
        replace(finding, examples=_keep_examples(finding, known), tells=()) if finding.tells else finding
        for finding in findings
    )


def _keep_examples(finding: Finding, known: set[str]) -> tuple[str, ...]:
    pairs = zip(finding.examples, finding.tells, strict=True)
    return tuple(example for example, tells in pairs if not any(known.isdisjoint(image_ids) for image_ids in tells))


def findings_to_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """What `findings_from_json` reads."""
    names = ("where", "what", "count", "examples")
    return [{name: getattr(finding, name) for name in names} for finding in findings]


def findings_from_json(values: Iterable[dict[str, Any]]) -> tuple[Finding, ...]:
    """What `findings_to_json` made."""
    return tuple(Finding(**{**value, "examples": tuple(value["examples"])}) for value in values)
