"""A command's output: any character on any terminal, and no traceback where nobody reads it or the disk is full."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from repository import FILES, ROOT

PRINTED = "from reid_core.files import output; output.use_utf8(); output.watch_output(); {}"
COMMAND = "from reid_core import command; command.run(lambda _: {})"
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LC_", "LANG"))}
LATIN_1 = {"PYTHONIOENCODING": "latin-1"}
FULL = Path("/dev/full")
C_ONLY = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run(code: str, settings: dict[str, str] | None = None, **streams) -> subprocess.CompletedProcess:
    """Python code in a process of its own."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=PLAIN | (settings or {}), timeout=60, **streams)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"LC_ALL": "C.UTF-8"}, "Sæl … 鹿\n".encode()),
        ({"PYTHONIOENCODING": "ascii"}, rb"S\xe6l \u2026 \u9e7f" + b"\n"),
        (LATIN_1, "Sæl ".encode("latin-1") + rb"\u2026 \u9e7f" + b"\n"),
        (C_ONLY, rb"S\xe6l \u2026 \u9e7f" + b"\n"),
    ],
    ids=["utf-8", "ascii", "latin-1", "C"],
)
def test_every_character_is_printed(settings, expected):
    done = run(PRINTED.format("print('S\\xe6l \\u2026 \\u9e7f')"), settings)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, b"")


def test_processes_that_a_command_starts_print_every_character_too():
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(chr(0x9e7f))'], check=True)"
    assert run(PRINTED.format(child), LATIN_1).stdout == rb"\u9e7f" + b"\n"


def test_a_process_may_run_any_number_of_commands():
    again = "[output.watch_output() for _ in range(5000)]; print('S\\xe6l')"
    assert run(PRINTED.format(again), LATIN_1).stdout == "Sæl\n".encode("latin-1")


def test_names_of_files_are_utf_8_in_every_locale(tmp_path):
    (tmp_path / "Sæl").mkdir()
    look = f"import pathlib; print(pathlib.Path('{tmp_path}/S\\xe6l').is_dir())"
    assert run(look, C_ONLY).stdout == b"False\n"  # the trap
    assert run(PRINTED.format(look), C_ONLY).stdout == b"True\n"


@pytest.mark.parametrize("settings", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])
def test_a_reader_that_has_gone_is_no_error(settings):
    reading, writing = os.pipe()
    os.close(reading)
    done = run(COMMAND.format("print('found')"), settings, stdout=writing)
    os.close(writing)
    assert done.returncode == 141
    assert b"Traceback" not in done.stderr
    assert b"rror" not in done.stderr


@pytest.mark.parametrize("settings", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])
def test_no_room_for_the_output_is_said_in_a_line(settings):
    with FULL.open("wb") as full:
        done = run(COMMAND.format("print('found')"), settings, stdout=full)
        assert (done.returncode, done.stderr.decode()) == (
            1,
            "error: the output cannot be written: No space left on device; what is finished is kept\n",
        )


def test_an_error_that_is_not_the_output_s_keeps_its_traceback():
    done = run(COMMAND.format("open('/no/such/file')"))
    assert done.returncode == 1
    assert b"FileNotFoundError" in done.stderr


def test_a_command_s_own_status_comes_before_that_of_its_output():
    with FULL.open("wb") as full:
        assert run(COMMAND.format("__import__('logging').error('wrong') or 2"), stderr=full).returncode == 2


def opened_as_the_locale_says(source: str) -> list[int]:
    """Lines that open a text file, or read a process as text, without saying in which encoding."""
    lines = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        owner = getattr(getattr(call.func, "value", None), "id", "")
        given = {word.arg for word in call.keywords}
        positional = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
        is_binary = any(isinstance(value, str) and "b" in value for value in positional)
        is_ours = owner[:1].isupper() or owner == "os"  # `LocalFeatures.open`, `os.open`
        is_path = isinstance(call.func, ast.Attribute) and name in ("read_text", "write_text")
        is_opened = name in ("open", "fdopen") and not is_binary and not is_ours
        says_which = "encoding" in given or "utf-8" in positional
        if ((is_path or is_opened) and not says_which) or {"text", "universal_newlines"} & given:
            lines.append(call.lineno)
    return lines


def test_text_that_is_opened_as_the_locale_says_is_found():
    bad = ["f.read_text()", "f.write_text(x)", "open(f)", "f.open('w', newline='')", "run(x, text=True)"]
    assert opened_as_the_locale_says("\n".join(bad)) == [1, 2, 3, 4, 5]
    good = [
        "f.read_text('utf-8')",
        "f.open('rb')",
        "open(f, encoding='utf-8')",
        "Image.open(f)",
        "run(x, encoding='utf-8')",
    ]
    assert opened_as_the_locale_says("\n".join(good)) == []


def test_every_text_file_of_ours_is_utf_8():
    ours = [name for name in FILES if name.startswith(("reid_core.", "sweeps."))]
    found = {name: opened_as_the_locale_says(FILES[name].read_text("utf-8")) for name in ours}
    assert {name: lines for name, lines in found.items() if lines} == {}
