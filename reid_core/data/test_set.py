"""The log of uses of `testSet`: each look at its identities is written down before it happens.

result folder, trial, configuration → one more entry of test_set_uses.json there, and how many there are now.
"""

import fcntl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import fingerprint
from reid_core.errors import UserError
from reid_core.files.checksums import read_sealed, write_sealed

USES = "test_set_uses.json"
_LOCK = ".test_set_uses.lock"
_NAMES = ("time", "trial", "fingerprint")  # of an entry


@dataclass(frozen=True, kw_only=True)
class Use:
    """One use. `prepare.read_truth` asks for one, so that none goes unrecorded."""

    number: int  # 1 is the first of its result folder
    time: str  # ISO 8601, UTC
    trial: str
    fingerprint: str  # of the configuration (`values.fingerprint`)


def record_use(out: Path, *, trial: str, config: TrialConfig) -> Use:
    """Write down that the identities of `testSet` are about to be read; of two processes at once neither is lost.

    Args:
        out: Result folder.
        trial: Who is scored.
        config: Its configuration.

    Returns:
        The use, for `prepare.read_truth`; its number is how many there are now.

    Raises:
        UserError: If the log is damaged or cannot be written: then `testSet` must not be used.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        with (out / _LOCK).open("a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            before = read_uses(out)
            use = Use(number=len(before) + 1, time=now, trial=trial, fingerprint=fingerprint(config))
            write_sealed(out / USES, {"uses": [_entry(each) for each in [*before, use]]})
    except OSError as error:
        raise UserError(f"{out / USES}: a use of testSet cannot be recorded: {error.strerror}") from error
    return use


def read_uses(out: Path) -> list[Use]:
    """The uses of `testSet` that a result folder has recorded, in order; none where there is no such log.

    Raises:
        UserError: If the log cannot be read, or is damaged.
    """
    file = out / USES
    if not file.exists():
        return []
    try:
        entries = read_sealed(file).get("uses")
        if not isinstance(entries, list) or not all(map(_is_entry, entries)):
            raise UserError("not a list of uses")
    except UserError as error:
        raise UserError(
            f"{file}: damaged ({error}); it holds how often testSet was used: restore it, or choose another folder"
        ) from error
    return [Use(number=number, **entry) for number, entry in enumerate(entries, start=1)]


def describe_uses(uses: Sequence[Use]) -> str:
    """What the uses say about a score on `testSet`, in one sentence.

    Example:
        >>> first = Use(number=1, time="2025-01-01T00:00:00+00:00", trial="trial-0000", fingerprint="aa")
        >>> print(describe_uses([first]))
        testSet was used once.
        >>> print(describe_uses([first, first]))
        testSet was used 2 times, for the same configuration (trial-0000): nothing was chosen by it.
        >>> other = Use(number=3, time="2025-01-02T00:00:00+00:00", trial="trial-0007", fingerprint="bb")
        >>> print(describe_uses([first, first, other]))
        testSet was used 3 times, for 2 configurations (trial-0000, trial-0007): whoever chooses between them by these
        numbers has no untouched test set left.
    """
    if len(uses) < 2:
        return f"testSet was {'used once' if uses else 'not used'}."
    trials = ", ".join(sorted({use.trial for use in uses}))
    num_configurations = len({use.fingerprint for use in uses})
    start = f"testSet was used {len(uses)} times, for"
    if num_configurations == 1:
        return f"{start} the same configuration ({trials}): nothing was chosen by it."
    return (
        f"{start} {num_configurations} configurations ({trials}): whoever chooses between them by these numbers has no "
        "untouched test set left."
    )


def _entry(use: Use) -> dict[str, str]:
    return {name: getattr(use, name) for name in _NAMES}


def _is_entry(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == set(_NAMES) and all(isinstance(v, str) for v in value.values())
