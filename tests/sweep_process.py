"""A sweep as a process of its own: started as in a new shell, and killed with everything that belongs to it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from repository import ROOT

SHORT = ["--set", "optim.epochs=2", "--set", "match.num_keypoints=32", "--set", "match.image_px=64"]


def command(data, out, *more):
    """A small sweep on small pictures."""
    script = [sys.executable, "sweeps/metric.py", "--preset", "tiny"]
    return [*script, "--data", str(data), "--out", str(out), *SHORT, *more]


def start(arguments, log):
    """Start a command as in a new shell."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}  # as in a new shell
    environment = own | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(arguments, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment)


def kill_everything(process):
    """SIGKILL to the driver and to every process of its Ray, all at once."""
    for victim in [*psutil.Process(process.pid).children(recursive=True), process]:
        try:
            os.kill(victim.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def wait_until(condition, process, log, timeout_s=600):
    """Wait for a condition while a process lives; what it showed is in the error if it ends."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, Path(log.name).read_text()[-3000:]
        assert time.monotonic() < deadline, Path(log.name).read_text()[-3000:]
        time.sleep(0.2)


def run_until(condition, arguments, log_path):
    """Start a sweep, and kill everything of it as soon as the condition holds."""
    with log_path.open("w") as log:
        process = start(arguments, log)
        wait_until(condition, process, log)
        kill_everything(process)
