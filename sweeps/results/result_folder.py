"""A result folder: the names of what lies in it, whose it is, and in the end a text for people.

settings of a sweep, its best trial ↔ OUT; its result → text. No Ray, no torch at import.
"""

import fcntl
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import NEWER_KEYS
from reid_core.errors import UserError
from reid_core.files.checksums import read_sealed, write_sealed
from reid_core.metrics.result import Result
from sweeps.results.journal import Journal, Record
from sweeps.results.trial_table import format_failures, format_leaderboard

# Names in OUT, and in OUT/groups/GROUP
SETTINGS = "sweep.json"  # what must be the same when the sweep is resumed
TRIAL_TABLE = "trials.parquet"
BEST_CONFIG = "best.yaml"
BEST_BUNDLE = "best"
REFIT_BUNDLE = "refit"
ANSWERS = "predictions.parquet"
TRIED = "tried_first.json"  # of a group: configurations that other groups found
FINISHED = "finished.json"  # of a group: what was asked of its sweep, which has ended
GROUP_NAMES = "groups.json"  # in OUT: folder of each group, in the order of the sweeps
GROUPS = "groups"  # a result folder for each group
PAIR_STORE = "store"
CACHE = "cache"  # the prepared data
# Result folders in OUT, of trials that the search did not suggest
CONFIRM = "confirm"
ONLINE = "then_online"
REFIT_TRIAL = "refit_trial"
FURTHER_TRIALS = (CONFIRM, ONLINE, REFIT_TRIAL)

OPTIMISTIC = "thresholdSet chose the trial and the thresholds: its numbers are optimistic."
_held: dict[Path, IO[str]] = {}  # locks of this process, by result folder
logger = logging.getLogger(__name__)


def open_journal(out: Path) -> Journal:
    """The journal of the trials in a result folder."""
    return Journal(out / "trials")


def read_records(out: Path, *parts: str) -> list[Record]:
    """Records of the trials in some result folders within `out` ("" is `out` itself), as far as they exist."""
    folders = [out / part for part in parts]
    return [record for each in folders if (each / "trials").is_dir() for record in open_journal(each).read()]


def hold_out(out: Path, *, patience_s: float = 30.0) -> Path:
    """Keep every other process from this result folder, as long as this one lives, however it ends.

    Args:
        out: Result folder.
        patience_s: A process that was killed a moment ago may not have ended yet.

    Returns:
        The same folder.

    Raises:
        UserError: If another process has it.
    """
    if out in _held:
        return out
    lock = (out / ".lock").open("a", encoding="utf-8")
    deadline_s = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline_s:
                raise UserError(f"--out {out}: another process is at work there; wait until it has ended") from error
            time.sleep(0.2)
        except OSError as error:  # some network file systems know no locks
            logger.warning("%s: cannot be locked (%s): start no second sweep there", out, error.strerror)
            break
        else:
            break
    _held[out] = lock
    return out


def claim_out(out: Path, settings: dict[str, Any], *, resume: str) -> None:
    """Mark a result folder as that of a sweep with these settings, to be continued by the same only.

    Raises:
        UserError: As `check_claim`.
    """
    check_claim(out, settings, resume=resume)
    write_sealed(out / SETTINGS, settings)


def check_claim(out: Path, settings: dict[str, Any], *, resume: str, held: Path | None = None) -> None:
    """Find out whether a result folder is new, or that of a sweep with these settings; nothing is written.

    Args:
        out: Result folder.
        settings: What JSON can hold, by name.
        resume: "auto", or "never" if it must be new.
        held: Folder with the marks of `out`, if they are not there yet (`mirror.held_marks`).

    Raises:
        UserError: If the folder holds another sweep, or one that must not be resumed; names what differs.
    """
    from reid_core.command import CLAIM

    file = (held or out) / SETTINGS
    if (out / CLAIM).exists():
        raise UserError(f"--out {out} holds a single run of python -m reid_core; choose another folder")
    if file.exists():
        if resume == "never":
            raise UserError(f"--out {out} holds a sweep; --resume auto continues it, or choose another folder")
        before, settings = NEWER_KEYS | read_sealed(file), NEWER_KEYS | settings
        different = [key for key in settings | before if settings.get(key) != before.get(key)]
        if different:
            changes = ", ".join(f"{key}: {before.get(key)!r} before, {settings.get(key)!r} now" for key in different)
            raise UserError(f"--out {out} holds a sweep with other settings ({changes}); choose another folder")


def write_best(out: Path, config: TrialConfig, *, num_unreadable: int) -> None:
    """Write the best configuration (`--config` reads it) and what it was found with."""
    from reid_core.config.yaml_files import write_config
    from reid_core.experiment.environment import describe_environment

    write_config(out / BEST_CONFIG, config)
    about = describe_environment() | {"seed": config.seed, "unreadable_photographs": num_unreadable}
    (out / "environment.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


def format_result(
    out: Path,
    records: Sequence[Record],
    best: Record,
    result: Result,
    *,
    objective: str,
    notes: Sequence[str] = (),
) -> str:
    """Leaderboard, best configuration, its metrics with intervals on both sets, and where everything lies.

    Args:
        out: Result folder.
        records: Of the search.
        best: The trial that was chosen.
        result: What it reached, and what was noticed in the data.
        objective: Name of the metric that was maximised.
        notes: How the trial was chosen: paragraphs that come before the best configuration.
    """
    from reid_core.data.table.findings import format_findings
    from reid_core.data.test_set import describe_uses, read_uses
    from reid_core.metrics.summary import format_gain, format_metrics
    from reid_core.scoring.leaks import format_leaks, read_leaks

    lines = ["", format_leaderboard(records, objective), "", format_failures(records)]
    lines += [line for note in notes for line in (note, "")]
    lines += [f"best configuration ({best.name})"]
    lines += [f"  {key}: {value}" for key, value in best.parameters.items()]
    lines += [f"  trained on from {best.start}"] if best.start else []
    lines += ["", format_metrics(result.metrics), ""]
    lines += [format_gain(result.gains["testSet"], "testSet"), ""] if "testSet" in result.gains else []
    lines += [f"{OPTIMISTIC} {describe_uses(read_uses(out))}"]
    lines += ["", format_leaks(read_leaks(out / "leaks.csv")), ""]
    lines += [format_findings(result.findings), ""] if result.findings else []
    for name, file in (
        ("trials", TRIAL_TABLE),
        ("best configuration", BEST_CONFIG),
        ("model", BEST_BUNDLE),
        ("every answer", ANSWERS),
        ("leaks", "leaks.csv"),
    ):
        lines.append(f"{name:<20}{out / file}")
    return "\n".join(lines)
