"""The repository that is tested, and its modules by dotted name."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("reid_core", "sweeps", "cluster", "tests", "benchmarks", "docs")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
}
