"""Where do the seconds of `make demo` go, and is it done in four minutes?

    python benchmarks/timeline.py [--out FOLDER] [--show]

Runs the demo's command, as the Makefile has it, in a new folder, and prints what its timeline says
(`sweeps/results/timeline.py`): the parts of the command, which follow one another, and what its trials did meanwhile,
the largest parts first. What comes after the result, Ray's end, is the difference to the whole. The bar is for an idle
machine of two cores; `--show` prints the timeline of a finished OUT.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reid_core.files.text_table import format_table
from sweeps.results.timeline import sum_timelines

ROOT = Path(__file__).resolve().parents[1]
BAR_S = 240.0


def main(arguments: list[str] | None = None) -> int:
    """Run the demo and print its timeline; the status is 0 if the bar is reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the demo's result folder (default: a temporary one)")
    parser.add_argument("--show", action="store_true", help="run nothing: print the timeline that --out has")
    options = parser.parse_args(arguments)
    if options.show:
        print_timeline(options.out)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder) / "demo"
        took_s = run_demo(out)
        print_timeline(out, took_s)
    ok = took_s <= BAR_S
    print(f"\nload of the machine: {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores")
    print(f"RESULT demo_seconds value={took_s:.0f} peer={BAR_S:.0f} ratio={took_s / BAR_S:.2f} bar=1 {_verdict(ok)}")
    return 0 if ok else 1


def demo_command(out: Path) -> list[str]:
    """The command of the Makefile's `demo`, with another result folder."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(r"^demo:.*\n\t\$\(BIN\)/python (.+)$", makefile, flags=re.MULTILINE)
    assert found, "the Makefile has no demo"
    flags = shlex.split(found[1])
    flags[flags.index("--out") + 1] = str(out)
    return [sys.executable, *flags]


def run_demo(out: Path) -> float:
    """Seconds from its start to its end."""
    began_s = time.monotonic()
    subprocess.run(
        demo_command(out), cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, stdout=subprocess.DEVNULL
    )
    return time.monotonic() - began_s


def print_timeline(out: Path, took_s: float | None = None) -> None:
    """Both tables of a result folder; with the time that the whole command took, what its timeline does not know."""
    command, trials = sum_timelines(out)
    if took_s is not None:
        command["Ray's end, and the rest"] = took_s - sum(command.values())  # type: ignore[assignment]
    print(f"\nthe command\n{format_parts(command)}")
    print(f"\nits trials, some at the same time\n{format_parts(trials)}")


def format_parts(seconds: Mapping[str, float]) -> str:
    """A table, the largest part first."""
    total_s = sum(seconds.values())
    ranked = sorted(seconds.items(), key=lambda part: -part[1])
    rows = [[part, f"{each:.1f}", f"{each / total_s:.0%}"] for part, each in ranked]
    return format_table([["part", "s", "share"], *rows, ["all", f"{total_s:.1f}", ""]])


def _verdict(ok: bool) -> str:
    return "ok" if ok else "short"


if __name__ == "__main__":
    sys.exit(main())
