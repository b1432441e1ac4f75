"""Is a sweep on machines that are too small by a hair refused or reported, or does it wait without a word?

    python benchmarks/too_small.py

One small Ray cluster of this machine, one sweep per dimension that asks for a little more than there is; and one whose
CPUs another job holds, which only shows while it runs. Each row: what was asked of what there is, seconds until the
first line that says so, how it ended, the line. The bar is 90 seconds; about four minutes on two CPU cores.
"""

import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.killed_sweep import mount_small_disk, unmount
from reid_core.config.presets import tiny
from reid_core.config.values import override
from reid_core.data.synthetic import write_synthetic
from reid_core.model.reid_model import outline_model
from sweeps.stages.checks.room import FLOAT_BYTES, PROCESS_BYTES, TRAINED_STATES

ROOT = Path(__file__).resolve().parents[1]
BAR_S = 90
TOKEN = secrets.token_hex(32)  # of this script's clusters
CPUS, GPUS = 3, 1
DISK_MB = 125  # 131 MB in millions of bytes
STORE_BYTES = 80_000_000
ONE = "--workers 1 --gpus-per-worker 0"
CLUSTER = f"""
import sys, ray
ray.init(num_cpus={CPUS}, num_gpus={GPUS}, object_store_memory={STORE_BYTES}, _memory=int(sys.argv[1]),
         include_dashboard=True, dashboard_host="127.0.0.1", log_to_driver=False)
print("address", ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
HOLD = f"""
import ray, time
ray.init()
ray.get(ray.remote(num_cpus={CPUS - 0.5})(lambda: time.sleep(600)).remote())
"""


@dataclass(frozen=True)
class Case:
    """A sweep that asks for a hair more than there is."""

    name: str
    asked: str
    flags: str
    says: str  # pattern of the line that reports it
    on_cluster: bool = True
    starved: bool = False  # another job holds the CPUs


CASES = (
    Case("CPUs", f"3.01 of {CPUS}", "--workers 2 --gpus-per-worker 0 --data-cpus 0.5", r"needs 3\.01 CPUs"),
    Case("data CPUs", f"3.01 of {CPUS}", f"{ONE} --data-cpus 2", r"needs 3\.01 CPUs"),
    Case(
        "GPU fraction", "1.02 of 1", "--workers 1 --concurrent 2 --gpus-per-worker 0.51 --data-cpus 0.1", r"1\.02 GPUs"
    ),
    Case("memory", "1 byte more", f"{ONE} --data-cpus 1", r"of memory"),
    Case(
        "disk",
        "132 of 131 MB",
        f"{ONE} --set data.image_px=384",
        r"on disk.*are free",
        on_cluster=False,
    ),
    Case(
        "CPUs of another job",
        f"2.01 of 0.5 free of {CPUS}",
        f"{ONE} --give-up-after 70s",
        r"not to be had",
        starved=True,
    ),
)


def main() -> int:
    """Print a row per case; 1 if one was not reported in time."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        data = write_synthetic(folder / "data", scale=0.35)
        disk = mount_small_disk(folder / "disk", size_mb=DISK_MB)
        if disk is not None:
            stack.callback(unmount, disk)
        print(f"{'dimension':<22}{'asked':<32}{'seconds':>8}  {'ended':<8}line")
        failed = 0
        for memory, cases in ((needed_bytes() - STORE_BYTES - 1, CASES[3:4]), (4e9, CASES[:3] + CASES[4:])):
            with cluster(int(memory)) as address:
                failed += sum(
                    [
                        not run(case, address, data, disk if case.name == "disk" else folder / case.name)
                        for case in cases
                    ]
                )
    return 1 if failed else 0


def needed_bytes() -> int:
    """Memory of one trial with one worker, by the sweep's own reckoning."""
    model = outline_model(override(tiny(), {"match.matcher": "none"}))
    weights = sum(each.numel() for each in model.parameters())
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    return int(2 * PROCESS_BYTES + FLOAT_BYTES * (weights + TRAINED_STATES * trained))


@contextmanager
def cluster(memory: int) -> Iterator[str]:
    """A Ray of this machine that sweeps join, with so much memory for processes; its address."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER, str(memory)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield next(line.split()[1] for line in process.stdout if line.startswith("address"))
    finally:
        process.communicate()  # the end of its input ends it


def environment(address: str | None = None) -> dict[str, str]:
    """Of a new shell, which knows a cluster or does not."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    own |= {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    return own | ({"RAY_ADDRESS": address} if address else {})


def start_holder(address: str) -> subprocess.Popen:
    """Another job, which holds most of the CPUs until it is killed."""
    return subprocess.Popen([sys.executable, "-c", HOLD], env=environment(address), stderr=subprocess.DEVNULL)


def run(case: Case, address: str, data: Path, out: Path | None) -> bool:
    """Run one sweep, print its row, and say whether it was reported in time."""
    if out is None:
        print(f"{case.name:<22}{case.asked:<32}{'':>8}  no right to mount a small disk")
        return False
    holder = start_holder(address) if case.starved else None
    command = [sys.executable, "sweeps/metric.py", "--data", str(data), "--out", str(out / "out"), "--preset", "tiny"]
    command += ["--set", "match.matcher=none", "--trials", "1", "--confirm", "0", *case.flags.split()]
    started_s, said_s, said, log = time.monotonic(), None, "", ""
    try:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(address if case.on_cluster else None),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            log += line
            if said_s is None and re.search(case.says, line):
                said_s, said = time.monotonic() - started_s, line.strip()
        process.wait()
    finally:
        if holder is not None:
            holder.kill()
            holder.wait()
    in_time = said_s is not None and said_s <= BAR_S
    shown = f"{said_s:.0f}" if said_s is not None else "never"
    print(f"{case.name:<22}{case.asked:<32}{shown:>8}  exit {process.returncode:<3}{said or log[-300:]}", flush=True)
    return in_time


if __name__ == "__main__":
    sys.exit(main())
