"""Names that are shown: nothing in them moves a cursor, is markup, or is a formula, and ordinary names stay."""

import csv
import io

import pytest

from reid_core.files.escape import escape_cell, escape_line, escape_lines, escape_markdown

ORDINARY = ("ada", "LynxID2025_lynx_037", "Nyårs-Ída", "鹿 7", "O'Neil (2)", "bo; the 3rd", "50 % = half")


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_names_stay_as_they_are(name):
    assert escape_line(name) == escape_lines(name) == escape_cell(name) == name


@pytest.mark.parametrize(
    "sign", ["\x1b[31m", "\r", "\n", "\t", "\b", "\0", "\x7f", "\x9b", "\u2028", "\u202e", "\u2066", "\u200b", "\ufeff"]
)
def test_no_sign_that_does_something_is_left(sign):
    for escape in (escape_line, escape_markdown, escape_cell):
        shown = escape(f"a{sign}b")
        assert shown.isprintable()
        assert "a" in shown
        assert "b" in shown
    assert escape_line(f"a{sign}b") != escape_line("ab")


def test_a_message_keeps_its_lines_and_nothing_else():
    assert escape_lines("one\ntwo\r\x1b[2J\nthree") == "one\ntwo\\r\\x1b[2J\nthree"


@pytest.mark.parametrize("sign", "=+-@\t\r\0＝＋－＠")
def test_what_a_spreadsheet_would_run_gets_an_apostrophe(sign):
    assert escape_cell(f"{sign}cmd|' /C calc'!A0").startswith("'")
    assert not escape_cell(f"ada{sign}1").startswith("'")


@pytest.mark.parametrize("number", ["-17", "+3.5", "-0,25", "1e-4", "007"])
def test_numbers_stay_numbers(number):
    assert escape_cell(number) == number


def test_a_cell_is_one_cell_also_in_the_file():
    file = io.StringIO()
    csv.writer(file).writerow([escape_cell('=A1,"x"\ny'), "next"])
    assert list(csv.reader(io.StringIO(file.getvalue()))) == [['\'=A1,"x"\\ny', "next"]]


def test_markdown_shows_signs_and_makes_no_other_cell_line_or_element():
    shown = escape_markdown("a|b\n| c | <img src=x onerror=1> `d` [e](f) **g** & ~h~")
    assert shown == r"a\|b \| c \| \<img src=x onerror=1\> \`d\` \[e\](f) \*\*g\*\* \& \~h\~"
    assert escape_markdown("batch64_warmup") == "batch64_warmup"
