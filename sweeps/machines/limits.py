"""When a sweep ends before its last trial: too many failures, or its budget is spent. No Ray, no torch.

flags → `Limits`; records of the trials → why the sweep ends now, or None.
"""

import argparse
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from reid_core.errors import UserError
from sweeps.machines.resources import Resources
from sweeps.results.journal import Record

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
SEARCH_SHARE = 2 / 3  # of the budgets; the rest is the confirmation's


def add_limit_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `make_limits`."""
    parser.add_argument(
        "--max-failures",
        type=int,
        default=10,
        metavar="N",
        help="end the sweep once N trials have failed or cannot be run (default 10; 0: never)",
    )
    parser.add_argument(
        "--time-budget",
        metavar="TIME",
        help="end the search after two thirds of this time (of all of it with --confirm 0), its confirmation after the "
        "rest, as 90m, 8h or 2d in this session; the best so far is the result, and the same command continues",
    )
    parser.add_argument(
        "--max-gpu-hours",
        type=float,
        metavar="HOURS",
        help="the same for the hours that the trials of all sessions have held GPUs (logical CPUs, where there are no "
        "GPUs)",
    )


def parse_time(text: str, *, flag: str = "--time-budget") -> float:
    """Seconds of a time such as 90m, 8h, 1.5d; a number alone is seconds.

    Raises:
        UserError: If it is not a time, or not above 0.

    Example:
        >>> parse_time("90m"), parse_time("0.5h"), parse_time("20")
        (5400.0, 1800.0, 20.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    seconds = float(found[1]) * UNITS_S[found[2] or "s"] if found else 0.0
    if seconds <= 0:
        raise UserError(f"{flag} {text}: expected a time such as 90m, 8h or 2d")
    return seconds


def make_limits(options: argparse.Namespace, resources: Resources) -> "Limits":
    """The limits that the flags ask for; time counts from now.

    Raises:
        UserError: If a number is negative, or --time-budget is not a time.
    """
    for flag, value in (("--max-failures", options.max_failures), ("--max-gpu-hours", options.max_gpu_hours)):
        if value is not None and value < 0:
            raise UserError(f"{flag} {value}: must not be negative")
    return Limits(
        resources=resources,
        max_failures=options.max_failures or None,
        time_budget_s=parse_time(options.time_budget) if options.time_budget else None,
        max_hours=options.max_gpu_hours,
    )


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What ends a sweep; None: never. The time that trials take is counted by what they hold (`resources`)."""

    resources: Resources = field(default_factory=Resources)
    max_failures: int | None = None  # trials
    time_budget_s: float | None = None  # of this session
    max_hours: float | None = None  # of GPUs, or of logical CPUs where there are none; over all sessions
    spent_hours: float = 0.0  # of `max_hours`, by earlier trials, which `reached` is not given
    started_s: float = field(default_factory=time.monotonic)

    def reached(self, records: Sequence[Record]) -> str | None:
        """Why the sweep ends now, in words for people; None if it goes on."""
        for record in records:
            if record.status == "stopped":
                return f"{record.name} cannot go on: {record.reason}"
        num_failed = sum(record.has_failed for record in records)
        if self.max_failures is not None and num_failed >= self.max_failures:
            return f"--max-failures {self.max_failures}: {num_failed} trials have failed or cannot be run"
        if self.time_budget_s is not None and time.monotonic() - self.started_s >= self.time_budget_s:
            return f"--time-budget: {self.time_budget_s:g} s have passed"
        spent = self._spent(records)
        if self.max_hours is not None and spent >= self.max_hours:
            device = "GPU" if self.resources.gpus_per_worker else "CPU"
            return f"--max-gpu-hours {self.max_hours:g}: {spent:.3g} {device}-hours are spent"
        return None

    def search_share(self) -> "Limits":
        """The limits of a search whose result is confirmed within the same budgets."""
        time_s, hours = self.time_budget_s, self.max_hours
        return replace(
            self,
            time_budget_s=None if time_s is None else time_s * SEARCH_SHARE,
            max_hours=None if hours is None else hours * SEARCH_SHARE,
        )

    def after(self, records: Sequence[Record]) -> "Limits":
        """The same limits for what comes after these trials."""
        return replace(self, spent_hours=self._spent(records))

    def _spent(self, records: Sequence[Record]) -> float:
        hours = "gpu_hours" if self.resources.gpus_per_worker else "cpu_hours"
        return self.spent_hours + sum(getattr(record, hours) for record in records)

    def count(self, record: Record, seconds: float) -> None:
        """Add a stretch of time to a trial's record."""
        record.seconds += seconds
        record.cpu_hours += seconds / 3600 * self.resources.cpus_per_trial
        record.gpu_hours += seconds / 3600 * self.resources.workers * self.resources.gpus_per_worker
