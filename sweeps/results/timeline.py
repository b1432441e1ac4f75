"""Where the time of a sweep goes, written down by the processes that spend it. No Ray, no torch.

laps of the command, and of each trial → lines of `timeline.jsonl` in their folders → seconds of each part.
"""

import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from sweeps.results.result_folder import FURTHER_TRIALS, GROUPS

TIMELINE = "timeline.jsonl"


class Laps:
    """A stopwatch of one thread: whatever it does belongs to one part or another, so that nothing is missing.

    Example:
        >>> laps = Laps()
        >>> laps.lap("reading"), laps.lap("thinking"), laps.lap("reading")
        (None, None, None)
        >>> sorted(laps.seconds)
        ['reading', 'thinking']
    """

    def __init__(self, *, ago_s: float = 0.0) -> None:
        """Start the first lap, so many seconds ago."""
        self.began_s, self._last_s = time.time() - ago_s, time.monotonic() - ago_s
        self.seconds: Counter[str] = Counter()  # of each part, since the last `write`

    def lap(self, part: str, folder: Path | None = None) -> None:
        """What went on since the last lap was this; it is written into a folder's timeline, if one is given."""
        now_s = time.monotonic()
        self.seconds[part] += now_s - self._last_s  # type: ignore[assignment]
        self._last_s = now_s
        if folder is not None:
            self.write(folder)

    def write(self, folder: Path) -> None:
        """Add a line to the folder's timeline, and begin the next one. It costs no sweep its life if it fails."""
        line = json.dumps({"began_s": self.began_s, "seconds": self.seconds}) + "\n"
        with suppress(OSError), (folder / TIMELINE).open("a", encoding="utf-8") as file:
            file.write(line)  # at once: whoever reads it meanwhile finds whole lines
        self.began_s, self.seconds = time.time(), Counter()


def age_of_process_s() -> float:
    """Seconds since this process was started: imports are over before any code of ours runs."""
    return max(0.0, time.time() - psutil.Process(os.getpid()).create_time())


def read_timeline(folder: Path, *, since_s: float = -math.inf) -> Counter[str]:
    """Seconds of each part in one folder; a line that is damaged does not count.

    Args:
        folder: Of a sweep or of a trial.
        since_s: Unix time before which nothing counts: a sweep may have been continued.
    """
    total: Counter[str] = Counter()
    with suppress(OSError):
        for line in (folder / TIMELINE).read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, TypeError, KeyError, AttributeError):
                entry = json.loads(line)
                if entry["began_s"] >= since_s:
                    total.update({str(part): float(seconds) for part, seconds in entry["seconds"].items()})
    return total


def sum_timelines(out: Path, *, since_s: float = -math.inf) -> tuple[Counter[str], Counter[str]]:
    """Seconds of each part: of the command, and of all its trials together."""
    folders = [out, *sorted(out.glob(f"{GROUPS}/*"))]
    trials = [trial for each in folders for part in ("", *FURTHER_TRIALS) for trial in (each / part).glob("trials/*/")]
    return _sum(folders, since_s), _sum(trials, since_s)


def _sum(folders: Iterable[Path], since_s: float) -> Counter[str]:
    total: Counter[str] = Counter()
    for folder in folders:
        total.update(read_timeline(folder, since_s=since_s))
    return total


def describe_time(out: Path, *, age_s: float) -> str:
    """Where the time of this command went, in two lines for people.

    Args:
        out: Result folder.
        age_s: Of the command.
    """
    command, trials = sum_timelines(out, since_s=time.time() - age_s - 1.0)
    lines = [f"{age_s:.0f} s: {_format_parts(command, ' s')}"]
    if total_s := sum(trials.values()):
        shares = {part: 100 * seconds / total_s for part, seconds in trials.items()}
        lines.append(f"{total_s:.0f} s of trials: {_format_parts(shares, ' %')}")
    return "\n".join(lines)


def _format_parts(parts: Mapping[str, float], unit: str) -> str:
    """The largest first, without those that are nothing in whole numbers."""
    ranked = sorted(parts.items(), key=lambda each: -each[1])
    return ", ".join(f"{part} {value:.0f}{unit}" for part, value in ranked if value >= 0.5)
