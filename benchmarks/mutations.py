"""Does a damaged file ever give a traceback, or unseen another result?

    python benchmarks/mutations.py [--mutations 500] [--seed 0]

One small experiment is run for real; then each file that the software reads is damaged (bits flipped, cut off, two
files or two stretches of one file exchanged, emptied) and used again on the path that a command takes, behind the
boundary of the commands (`command.run`): UserError becomes a message, anything else is a traceback.

What counts as good, and why:
* message: the command ends with its reason, in printable characters;
* equal: the result is that of the undamaged file, bit for bit: the damage lay where nothing is read, or was found and
  the part computed again;
* as given, for what a person writes and nobody signs: metadata.csv and photographs have no checksum, and a changed
  letter of a name in a well-formed file is another well-formed file. There the result must be exactly what the file
  now says (a second parser says what; a decoder without any cache says what), whatever was kept of the former one,
  and the change must be seen, not refused: another `metadata.digest_metadata`, another content key.
All else is bad: a traceback, another result unseen, a message that could move the cursor.
"""

import argparse
import contextlib
import faulthandler
import io
import logging
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: small work
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.subjects import Subject, make_subjects
from reid_core import command

KINDS = ("flip", "cut", "swap", "empty")
GOOD = ("message", "equal", "as given")


# The damage.


def damage(kind: str, folder: Path, files: tuple[str, ...], rng: random.Random) -> str:
    """Damage a file, or exchange two; what was done, in words."""
    name = rng.choice(files)
    data = (folder / name).read_bytes()
    if kind == "swap" and len(files) > 1 and rng.random() < 0.5:
        return exchange_files(folder, name, rng.choice([other for other in files if other != name]))
    if kind == "empty" or not data:
        changed, what = b"", "emptied"
    elif kind == "cut":
        length = rng.randrange(len(data))
        changed, what = data[:length], f"cut off after {length} of {len(data)} bytes"
    elif kind == "swap":
        changed, what = exchange_bytes(data, rng)
    else:
        changed, what = flip_bits(data, rng)
    replace_file(folder / name, changed)
    return f"{name} {what}"


def exchange_files(folder: Path, one: str, other: str) -> str:
    """Each gets the content of the other."""
    contents = [(folder / name).read_bytes() for name in (one, other)]
    for name, content in zip((other, one), contents, strict=True):
        replace_file(folder / name, content)
    return f"{one} exchanged with {other}"


def exchange_bytes(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Two stretches of equal length; half of them lie at multiples of 8, where sums of words would not notice."""
    step = rng.choice((1, 8)) if len(data) >= 64 else 1
    length = step * rng.randint(1, max(1, min(len(data) // 4, 256) // step))
    last = (len(data) - length) // step
    a, b = sorted(step * rng.randint(0, max(0, last)) for _ in range(2))
    b = max(b, a + length)
    changed = data[:a] + data[b : b + length] + data[a + length : b] + data[a : a + length] + data[b + length :]
    return changed, f"bytes {a} and {b} exchanged, {length} of them"


def flip_bits(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """One, two or eight bits; every third time near the beginning or the end, where files say what they are."""
    changed, places = bytearray(data), []
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(data))
        if rng.random() < 1 / 3:
            place = rng.choice((place % 256, -1 - place % 256)) % len(data)
        changed[place] ^= 1 << rng.randrange(8)
        places.append(place)
    return bytes(changed), f"bits flipped at {places} of {len(data)} bytes"


def replace_file(file: Path, content: bytes) -> None:
    """As a new file: a mapping of the former one keeps what it had."""
    file.unlink()
    file.write_bytes(content)


def snapshot(folder: Path, files: tuple[str, ...]) -> list[bytes]:
    return [(folder / name).read_bytes() for name in files]


# The count.


def attempt(subject: Subject, folder: Path, expected: Any) -> tuple[str, str]:
    """Use the files in a folder as a command would; the outcome, and what a user would see."""
    results: list[Any] = []

    def main(arguments: list[str] | None) -> int:
        results.append(subject.use(folder))
        return 0

    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown), contextlib.suppress(SystemExit):
            command.run(main)
    except BaseException:
        return "traceback", traceback.format_exc()
    text = shown.getvalue()
    if results:
        return subject.judge(folder, results[0], expected), text
    is_message = text.startswith("error: ") and all(line.isprintable() for line in text.splitlines())
    return ("message" if is_message else "unprintable message"), text


def mutate(subject: Subject, kind: str, scratch: Path, rng: random.Random, expected: Any) -> tuple[str, str]:
    """One mutation; its outcome, and its story."""
    folder = scratch / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(subject.source, folder)
    before, story = snapshot(folder, subject.files), ""
    while snapshot(folder, subject.files) == before:  # equal stretches may change places
        story = damage(kind, folder, subject.files, rng)
    outcome, text = attempt(subject, folder, expected)
    return outcome, f"{subject.name}: {story}\n{text}"


def run_mutations(subjects: list[Subject], scratch: Path, count: int, seed: int) -> Iterator[tuple[str, str, str, str]]:
    """Mutations in turn over subjects and kinds: subject, kind, outcome, story."""
    rng = random.Random(seed)
    expected = {}
    for subject in subjects:
        shutil.rmtree(scratch / "reference", ignore_errors=True)
        expected[subject.name] = subject.use(Path(shutil.copytree(subject.source, scratch / "reference")))
    for number in range(count):
        subject, kind = subjects[number % len(subjects)], KINDS[number // len(subjects) % len(KINDS)]
        yield subject.name, kind, *mutate(subject, kind, scratch, rng, expected[subject.name])


def print_table(counts: Counter) -> None:
    """Outcomes by subject and by kind."""
    outcomes = [*GOOD, *sorted({outcome for _, _, outcome in counts} - set(GOOD))]
    print(f"{'':<16}" + "".join(f"{outcome:>12}" for outcome in outcomes))
    for position, names in ((0, dict.fromkeys(key[0] for key in counts)), (1, KINDS)):
        for name in names:
            cells = [sum(n for key, n in counts.items() if key[position] == name and key[2] == o) for o in outcomes]
            print(f"{name:<16}" + "".join(f"{cell:>12}" for cell in cells))


def main() -> None:
    """Damage, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    faulthandler.enable()  # a crash of a library would end all of this, and say where
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    started, counts = time.perf_counter(), Counter()
    with tempfile.TemporaryDirectory() as name:
        subjects = make_subjects(Path(name) / "whole")
        for subject, kind, outcome, story in run_mutations(subjects, Path(name), options.mutations, options.seed):
            counts[subject, kind, outcome] += 1
            if outcome not in GOOD:
                print(f"{outcome}: {story}", file=sys.stderr)
    print_table(counts)
    bad = sum(count for (_, _, outcome), count in counts.items() if outcome not in GOOD)
    print(f"{counts.total()} mutations in {time.perf_counter() - started:.0f} s, seed {options.seed}")
    verdict = "short" if bad else "ok"
    print(f"RESULT damaged_inputs value={bad} peer={counts.total()} ratio={bad / counts.total():.4f} bar=0 {verdict}")


if __name__ == "__main__":
    main()
