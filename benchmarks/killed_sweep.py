"""One short sweep that is killed and continued, and what must hold after each of its sessions; for kills.py.

plan of kills → sessions of the same command → kills with what each of them cost, problems in words.
"""

import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.victims import POLL_S, Session, kill, shared_memory
from reid_core.matching.pairs.store import PairStore
from reid_core.metrics.epoch_report import SCORE
from sweeps.results.journal import Journal, Record
from sweeps.stages.run_search import make_scheduler
from sweeps.trials.checkpoints import UNFINISHED

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 6  # with ASHA's rungs at 2 and 4
COST_AN_ATTEMPT = ("worker", "checkpoint", "controller")
ENDING = ("everything", "command", "cluster", "interrupt", "disk")
STATUS = {"everything": (-9,), "command": (-9,), "cluster": (1, -6), "interrupt": (130,), "disk": (2,)}
CONTINUES = "the same command continues"
MORE_TRIALS = 2  # whenever all have ended and there are kills to come
MOST_SESSIONS = 8  # for one kill; a moment is never so far away
PATIENCE_S = 900.0  # a sweep in which nothing happens for so long hangs
logger = logging.getLogger("kills")


@dataclass(frozen=True)
class Moment:
    """So many more events of a kind: "line" printed, "start" of a trial, "checkpoint", "report", "end", "use"."""

    event: str
    number: int


@dataclass(frozen=True)
class Plan:
    """A kill to come."""

    kind: str
    moment: Moment


@dataclass
class Kill:
    """A kill that was made, and the sweep before it."""

    kind: str
    records: list[Record]
    files: dict[str, dict[str, int]]  # of each ended trial: file → time of its last change
    problems: list[str] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)  # trials
    repeated: set[str] = field(default_factory=set)  # trials
    resumed: bool = False


class KilledSweep:
    """A sweep in `place`/`name`, its sessions one after the other, and the kills that it has survived."""

    def __init__(
        self,
        place: Path,
        name: str,
        data: Path,
        *,
        workers: int = 1,
        concurrent: int = 1,
        num_trials: int = 3,
        reference: "KilledSweep | None" = None,
    ) -> None:
        """Nothing is run yet.

        Args:
            place: Gets the result folder and the logs; a disk kill fills its file system.
            name: Of the sweep.
            data: Synthetic data set.
            workers: Per trial.
            concurrent: Trials at a time.
            num_trials: At first; as long as there are kills to come, more whenever all have ended.
            reference: A sweep that nothing killed, for whose trials this one tries the best again.
        """
        self.place, self.name, self.num_trials, self.concurrent = place, name, num_trials, concurrent
        self.out, self.reference = place / name, reference
        self.kills: list[Kill] = []
        self.problems: list[str] = []
        self.num_ended = self.num_once = 0
        self._sessions: list[Session] = []
        self._checkpoints: set[str] = set()
        self._shared_before = shared_memory()
        self._arguments = [
            *("--preset", "tiny", "--data", str(data), "--out", str(self.out), "--confirm", "0"),
            *("--set", f"optim.epochs={EPOCHS}", "--set", "match.num_keypoints=32", "--set", "match.image_px=64"),
            *("--workers", str(workers), "--concurrent", str(concurrent)),
            *(("--warm-start", str(reference.out)) if reference else ()),
        ]

    def run_session(self, plans: Sequence[Plan]) -> None:
        """Start the command and kill as planned; where it ends before, it is started again with more trials."""
        session, is_hit = self._start(), False
        for plan in plans:
            session, is_hit = self._strike_until_hit(session, plan)
        if is_hit and plans[-1].kind in ENDING:
            self._check_ending(session, plans[-1].kind)
        else:
            self._finish(session)
        self._check_kills()

    def _strike_until_hit(self, session: Session, plan: Plan) -> tuple[Session, bool]:
        """The session that was killed as planned; else the one after so many that nothing could be killed in."""
        left = plan.moment.number
        for _ in range(MOST_SESSIONS):
            left = self._strike(session, plan, left)
            if not left and plan.kind in ENDING and session.wait(PATIENCE_S) == 0:  # it had nothing left to do
                self.kills.pop()
                left = 1
            if not left:
                return session, True
            session = self._start_again(session)
        self._blame(f"{plan.kind}: nothing to kill in {MOST_SESSIONS} sessions after {plan.moment}")
        return session, False

    def _start_again(self, session: Session) -> Session:
        """A session after one that was to be killed and was not."""
        if session.is_over() and session.wait(0) == 0:
            self.num_trials += MORE_TRIALS
        elif session.is_over():
            self._blame(f"ended with status {session.wait(0)}: {session.text()[-2000:]}")
        else:
            self._blame(f"nothing happens any more: {session.text()[-2000:]}")
            session.end()
        return self._start()

    def finish(self) -> None:
        """Run to the end, and look whether all is as if nothing had been killed."""
        self._finish(self._start())
        self._check_kills()
        self._check_result()
        for each in self.kills:
            each.resumed = not each.problems and not each.lost and not each.repeated
        left = [process for session in self._sessions for process in session.processes()]
        if left:
            self.problems.append(f"{self.name}: {len(left)} processes are left: {left[:3]}")
        if shared := shared_memory() - self._shared_before:
            self.problems.append(f"{self.name}: shared memory is left: {sorted(shared)[:3]}")

    def describe(self) -> str:
        """One line."""
        kinds = ", ".join(each.kind for each in self.kills)
        return f"{self.num_ended} trials in {len(self._sessions)} sessions; killed: {kinds or 'nothing'}"

    def _start(self) -> Session:
        command = [sys.executable, "sweeps/metric.py", *self._arguments, "--trials", str(self.num_trials)]
        log = self.place / f"{self.name}-{len(self._sessions):02d}.log"
        self._sessions.append(Session(command, ROOT, log))
        return self._sessions[-1]

    def _strike(self, session: Session, plan: Plan, number: int) -> int:
        """Wait for so many more events and kill.

        Returns:
            0 if there was a kill, else how many events are still to be waited for, at least 1: the session ended
            before them, there was nothing left to kill, or nothing happens any more.
        """
        deadline, event = time.monotonic() + PATIENCE_S, plan.moment.event
        before = self._count(event, session) if event != "use" else 0
        while not session.is_over() and time.monotonic() < deadline:
            if self._count(event, session) - before >= number:
                break
            time.sleep(0.05)
        if session.is_over():
            return max(1, number - (self._count(event, session) - before))
        made = Kill(plan.kind, self._read(), self._list_files())
        if plan.kind == "disk":
            is_hit = self._fill_disk(session, deadline)
        else:
            is_hit = kill(session, plan.kind, self.out, is_late=lambda: time.monotonic() > deadline)
        if is_hit:
            self.kills.append(made)
            logger.info("%s: %s after %d more of %s", self.name, plan.kind, plan.moment.number, event)
        return 0 if is_hit else 1

    def _count(self, event: str, session: Session) -> int:
        if event == "line":
            return session.text().count("\n")
        if event == "start":
            return session.text().count(" started: ")
        if event == "checkpoint":
            folders = self.out.glob("trials/*/checkpoint_*")
            self._checkpoints |= {str(path) for path in folders if not path.name.endswith(UNFINISHED)}
            return len(self._checkpoints)
        if event == "use":
            return len(list(self.out.glob("test_set_uses.json")))
        records = self._read()
        return sum(len(r.reports) if event == "report" else r.has_ended for r in records)

    def _read(self) -> list[Record]:
        return Journal(self.out / "trials").read() if self.out.exists() else []

    def _list_files(self) -> dict[str, dict[str, int]]:
        """What shows that a trial is trained again; after a pruned one its last worker may still write."""
        found = {}
        for record in self._read():
            folder = self.out / "trials" / record.name
            pattern = {"completed": "**/*", "pruned": "config.json"}.get(record.status)
            if pattern:
                files = [path for path in folder.glob(pattern) if path.is_file()]
                found[record.name] = {str(path): path.stat().st_mtime_ns for path in files}
        return found

    def _fill_disk(self, session: Session, deadline: float) -> bool:
        """Leave no room until the session has ended."""
        ballast = self.place / "ballast"
        with ballast.open("wb", buffering=0) as file:
            while not session.is_over() and time.monotonic() < deadline:
                with suppress(OSError):
                    while file.write(bytes(2**16)):
                        pass
                time.sleep(POLL_S)
        ballast.unlink()
        return session.is_over()

    def _check_ending(self, session: Session, kind: str) -> None:
        status, text = session.wait(PATIENCE_S), session.text()
        if status not in STATUS[kind]:
            self._blame(f"{kind}: status {status}: {text[-2000:]}")
        if kind in ("interrupt", "disk") and (CONTINUES not in text or "Traceback" in text):
            self._blame(f"{kind}: the message is: {text[-3000:]}")
        if status is None:
            session.end()

    def _finish(self, session: Session) -> None:
        if session.wait(PATIENCE_S) != 0:
            self._blame(f"does not end well: status {session.process.poll()}: {session.text()[-3000:]}")
            session.end()

    def _blame(self, problem: str) -> None:
        """Note a problem, as the last kill's if there was one."""
        self.problems.append(f"{self.name}: {problem}")
        if self.kills:
            self.kills[-1].problems.append(problem)
        logger.warning("%s: %s", self.name, problem)

    def _check_kills(self) -> None:
        """Compare what there was before each kill with what there is now."""
        now, files = {record.name: record for record in self._read()}, self._list_files()
        for each in self.kills:
            for before in each.records:
                after = now.get(before.name)
                if before.name not in each.lost and (after is None or not continues(before, after)):
                    each.lost.add(before.name)
                    self.problems.append(f"{self.name}: lost by {each.kind}: {before} is now {after}")
            for name, written in each.files.items():
                changed = [file for file, time_ns in written.items() if files.get(name, {}).get(file) != time_ns]
                if changed and name not in each.repeated:
                    each.repeated.add(name)
                    self.problems.append(f"{self.name}: repeated after {each.kind}: {changed}")

    def _check_result(self) -> None:
        records = self._read()
        rows = pq.read_table(self.out / "trials.parquet").to_pylist()
        self.num_ended = len(records)
        self.num_once = sum([row["trial_id"] for row in rows].count(record.name) == 1 for record in records)
        wrong = [
            *([] if len(rows) == len(records) == self.num_trials else [f"{len(rows)} rows, {len(records)} records"]),
            *[f"{r.name} {r.status}: {r.reason}" for r in records if r.status not in ("completed", "pruned")],
            *[f"{r.name} has epochs {_epochs(r)}" for r in records if _epochs(r) != list(range(1, len(r.reports) + 1))],
            *(check_rungs(records) if self.concurrent == 1 else []),
            *(check_scores(records, self.reference._read()) if self.reference else []),
            *check_pairs(records, self.out / "store"),
        ]
        num_killed = self.concurrent * sum(each.kind in COST_AN_ATTEMPT for each in self.kills)
        if sum(record.retries for record in records) > num_killed:
            wrong.append(f"{sum(record.retries for record in records)} retries for {num_killed} killed workers")
        self.problems += [f"{self.name}: {each}" for each in wrong]


def continues(before: Record, after: Record) -> bool:
    """Whether a record is the same one, later: an ended one never changes, a running one only gains."""
    if before.has_ended:
        return before == after
    gains = after.reports[: len(before.reports)] == before.reports and after.seconds >= before.seconds
    return gains and after.parameters == before.parameters and after.cpu_hours >= before.cpu_hours


def check_rungs(records: Sequence[Record]) -> list[str]:
    """Problems: trials that were stopped, or not, against what ASHA says that sees them one after the other."""
    scheduler: Any = make_scheduler(EPOCHS, [])
    (bracket,) = scheduler._brackets
    problems = []
    for record in records:
        trial = type("Trial", (), {"trial_id": record.name})
        actions = [bracket.on_result(trial, report["epoch"], report[SCORE]) for report in record.reports]
        expected = ["CONTINUE"] * (len(actions) - 1) + ["STOP" if record.status == "pruned" else "CONTINUE"]
        if actions != expected:
            problems.append(f"{record.name} {record.status} after {len(actions)} epochs; ASHA: {actions}")
    return problems


def check_scores(records: Sequence[Record], reference: Sequence[Record]) -> list[str]:
    """Problems: trials that have other scores than the one with the same values in a sweep that nothing killed."""
    problems, num_compared = [], 0
    for record in records:
        for other in reference:
            if other.parameters == record.parameters:
                num_compared += 1
                pairs = zip(record.reports, other.reports, strict=False)
                is_equal = all(_untimed(mine) == _untimed(theirs) for mine, theirs in pairs)
                if not is_equal or (record.metrics and other.metrics and record.objective != other.objective):
                    problems.append(f"{record.name} differs from the unkilled {other.name}")
    return problems if num_compared else ["no trial is one of the unkilled sweep's"]


def check_pairs(records: Sequence[Record], folder: Path) -> list[str]:
    """Problems: more pairs scored by the completed trials, while they had the store, than it holds."""
    (log,) = folder.glob("pairs-*.log")
    store = PairStore(log, symmetric=True, digest=log.stem.removeprefix("pairs-"), lock_wait_s=60)
    num_stored = store.stats()["stored"]
    store.close()
    num_scored = sum(record.metrics.get("pairs_misses", 0) for record in records)
    return [f"{num_scored:.0f} pairs were scored, {num_stored} are different"] if num_scored > num_stored else []


def mount_small_disk(folder: Path, *, size_mb: int = 1024) -> Path | None:
    """A file system of its own that can be filled; None where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)], capture_output=True)
    return folder if done.returncode == 0 else None


def unmount(folder: Path) -> None:
    """Undo `mount_small_disk`."""
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _epochs(record: Record) -> list[int]:
    return [report["epoch"] for report in record.reports]


def _untimed(report: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if key != "seconds"}
