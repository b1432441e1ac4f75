"""Values of the table: what is read otherwise than it stands, and what is reported as it stands."""

import itertools
import unicodedata
from datetime import date
from pathlib import Path

import pytest
from tables import ROWS, put, to_text, with_values

from reid_core.data.table.dates import parse_date
from reid_core.data.table.findings import keep_known
from reid_core.data.table.metadata import read_metadata
from reid_core.data.table.names import find_alike, fold_name
from reid_core.data.table.sides import find_unread
from reid_core.errors import UserError


def read(root: Path, column: str, *values: str) -> tuple[list[str | None], list[str]]:
    """A column of one row per value, and the findings."""
    rows, findings = read_metadata(put(root, to_text(with_values(column, values))))
    return rows[column].to_pylist(), [str(finding).removeprefix("metadata.csv: ") for finding in findings]


@pytest.mark.parametrize("column", ["image_id", "identity", "date", "orientation", "species", "split", "dataset"])
@pytest.mark.parametrize("blank", [" ", "\t", "\u00a0", "\u2003", "\u3000", "\ufeff", "\u200b", "\r\n"])
def test_blanks_at_the_ends_of_values_are_taken_off(tmp_path, column, blank):
    one, other = {"date": ["2020-01-02"] * 2, "split": ["database"] * 2}.get(column, ["left", "right"])
    values, notes = read(tmp_path, column, blank + one, other + blank + blank)
    assert values == [one, other]
    assert notes == [notes[0]]
    line = 3 if blank == "\r\n" else 2  # on which the row ends
    text = f"2 value(s) with blanks at an end; taken off ({column} 2): {column} in line {line}: {blank + one!r}, "
    assert notes[0].startswith(text)


def test_blanks_within_names_stay(tmp_path):
    values, notes = read(tmp_path, "identity", "ada  bo", "ada bo", "ada_bo")
    assert values == ["ada  bo", "ada bo", "ada_bo"]
    assert notes == [
        "1 set(s) of identities have names that look alike, taken as different animals: 'ada  bo' / 'ada bo' / 'ada_bo'"
    ]


@pytest.mark.parametrize("name", ["NA", "None", "nan", "007", "1e3", "TRUE", "=A1", "🦭 Tula", "a/b\\c", 'O\'M "x", y'])
def test_names_stay_exact(tmp_path, name):
    assert read(tmp_path, "identity", name)[0] == [name]
    assert read(tmp_path, "dataset", name)[0] == [name]


@pytest.mark.parametrize("column", ["identity", "dataset"])
def test_both_forms_of_accents_are_one_name(tmp_path, column):
    forms = [unicodedata.normalize(form, "Ída é") for form in ("NFC", "NFD")]
    values, notes = read(tmp_path, column, *forms)
    assert values == [forms[0]] * 2
    assert notes == [
        f"1 value(s) of {column} with accents as signs of their own; read as one sign (Unicode NFC): line 3: 'Ída é'"
    ]


ALIKE = [
    ("ada", "Ada"),
    ("straße", "STRASSE"),
    ("Lynx 7", "lynx_07"),
    ("7", "007"),
    ("7", "7.0"),
    ("José", "Jose"),
    ("ada", "\u0430d\u0430"),  # Cyrillic
    ("BO", "Β\u039f"),  # Greek
    ("ada", "a\u200bda"),
    ("ａda", "ada"),
    ("x-1", "x 1"),
]
UNLIKE = [("ada1", "ada2"), ("7", "70"), ("1.5", "1.05"), ("10", "1"), ("1e3", "1000"), ("Анна", "Инна"), ("हा", "ही")]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_names_that_look_alike_are_reported_and_not_merged(tmp_path, one, other):
    for column, kind in (("identity", "identities"), ("dataset", "groups (dataset)")):
        values, notes = read(tmp_path, column, one, other, "another")
        assert values == [one, other, "another"]
        assert [note for note in notes if note.startswith(f"1 set(s) of {kind} have names that look alike")] == notes


@pytest.mark.parametrize(("one", "other"), UNLIKE)
def test_names_that_do_not_look_alike(tmp_path, one, other):
    assert fold_name(one) != fold_name(other)
    assert read(tmp_path, "identity", one, other) == ([one, other], [])


def test_letters_of_other_scripts_are_shown_by_their_codes_only_where_scripts_are_mixed():
    mixed, capitals = (find_alike("t", names, ["g"] * 2, "12")[0] for names in (["ada", "\u0430da"], ["Анна", "анна"]))
    assert mixed.examples == ("'ada' / '\\u0430da'",)
    assert capitals.examples == ("'Анна' / 'анна'",)


def test_equal_names_of_two_groups_are_two_animals_and_no_finding():
    assert find_alike("t", ["ada", "Ada", None, None], ["Cows", "Pigs", "Cows", "Pigs"], "1234") == []


def test_names_that_may_mean_none_are_taken_and_reported(tmp_path):
    values, notes = read(tmp_path, "identity", "unknown", "NA", "New Individual", "ada", "0")
    assert values == ["unknown", "NA", "New Individual", "ada", "0"]
    assert notes == [
        "3 identity name(s) may mean 'no name', taken as animals (to be named: split=query): "
        "'NA', 'New Individual', 'unknown'"
    ]


def test_blanks_of_identities_are_a_finding_of_their_own(tmp_path):
    rows = with_values("identity", [" ada", "bo"])
    rows[1][0] = " 1"
    found = read_metadata(put(tmp_path, to_text(rows))).findings
    assert [str(each).removeprefix("metadata.csv: ") for each in found] == [
        "1 value(s) with blanks at an end; taken off (image_id 1): image_id in line 3: ' 1'",
        "1 value(s) with blanks at an end; taken off (identity 1): identity in line 2: ' ada'",
    ]


@pytest.mark.parametrize(
    ("names", "known", "kept"),
    [
        ([" ada", "bo "], "0", ("identity in line 2: ' ada'",)),
        (["e\u0301 1", "e\u0301 2"], "1", ("line 3: 'é 2'",)),
        (["ada", "Ada", "bo", "Bo", "ada"], "034", ()),  # neither "Ada" nor "bo" is known
        (["ada", "Ada", "bo", "Bo", "ada"], "14", ("'Ada' / 'ada'",)),
        (["NA", "unknown"], "1", ("'unknown'",)),
    ],
    ids=["blanks", "accents", "nobody", "alike", "no name"],
)
def test_examples_that_tell_of_unknown_identities_are_not_kept(tmp_path, names, known, kept):
    (finding,) = read_metadata(put(tmp_path, to_text(with_values("identity", names)))).findings
    (other,) = keep_known([finding], known)
    assert (other.count, other.what, other.examples) == (finding.count, finding.what, kept)
    assert len(finding.examples) > len(kept)


# split


@pytest.mark.parametrize(
    ("word", "split"),
    [("train", "database"), ("TRAIN", "database"), ("Database", "database"), ("test", "query"), ("Query ", "query")],
)
def test_words_of_the_split(tmp_path, word, split):
    rows = [*ROWS, ("1", "", "images/a.jpg", "", "", "", word, "Cows")]
    if split == "database":
        rows[-1] = ("1", "ada", *rows[-1][2:])
    table, findings = read_metadata(put(tmp_path, to_text(rows)))
    assert table["split"].to_pylist()[-1] == split
    assert str(findings[-1]) == f"metadata.csv: split: read {word.strip()!r} as {split} 1"


def test_an_identity_of_a_query_is_reported_as_not_read(tmp_path):
    table, findings = read_metadata(put(tmp_path, to_text([ROWS[0], ("3", "ada", *ROWS[1][2:])])))
    assert table["identity"].to_pylist() == ["ada", None]
    assert [str(each) for each in findings] == [
        "metadata.csv: 1 query row(s) have an identity, which is not read: line 3: 'ada'"
    ]


def test_groups_of_queries_alone_are_named_where_something_is_trained(tmp_path):
    lizard = ("9", "", "images/a.jpg", "", "", "", "query", "Lizards")
    put(tmp_path, to_text([*ROWS, lizard]))
    note = "1 group(s) have queries and no database row: nothing is trained on them or compared with them"
    assert str(read_metadata(tmp_path).findings[-1]) == f"metadata.csv: {note}: 'Lizards': 1 queries"
    assert read_metadata(tmp_path, needs="query").findings == ()


# date

DAYS = [f"{year:04d}-{month:02d}-{day:02d}" for year, month, day in itertools.product((1999, 2020), (1, 12), (2, 29))]
YEAR_FIRST = ["{0}-{1}-{2}", "{0}/{1}/{2}", "{0}.{1}.{2}", "{0}:{1}:{2}", "{0}{1}{2}"]


@pytest.mark.parametrize("form", YEAR_FIRST)
@pytest.mark.parametrize("time", ["", " 11:04:59", "T11:04:59.25+02:00"])
def test_dates_with_the_year_first(form, time):
    for day in DAYS:
        text = form.format(*day.split("-"))
        is_read = not (form == "{0}{1}{2}" and time.startswith(" "))
        assert parse_date(text + time) == (day + time if is_read else None)
        assert parse_date(parse_date(text + time)) == parse_date(text + time)


@pytest.mark.parametrize("text", ["03/04/2020", "31/12/2020", "5.7.2021", "20-07-05", "2020", "2020-07", "44196", ""])
@pytest.mark.parametrize("time", ["", " 11:04:59"])
def test_what_could_be_two_days_or_is_none_is_no_date(text, time):
    assert parse_date(text + time) is None


@pytest.mark.parametrize(
    "text",
    [
        *("0000-00-00", "0000:00:00 00:00:00", "2020-02-30", "2020-1/2", "soon", "NaT", "20201301", "2020-01-01x"),
        *("²020-01-01", "\u0662\u0660\u0662\u0660-\u0660\u0661-\u0660\u0661", None),
    ],
)
def test_what_is_no_date_or_two_is_none(text):
    assert parse_date(text) is None


@pytest.mark.parametrize(
    "time",
    [
        *(" 8:30", "T08:30Z", "  08:30:00", " 23:59:60", " 08:30:00,5", " 08:30 PM", "T08:30+0200", "T08:30:00 UTC"),
        "T08:30:00.123456-03",
    ],
)
def test_times_after_the_day(time):
    assert parse_date("2021-05-07" + time) == "2021-05-07" + time


@pytest.mark.parametrize(
    "more",
    [
        *(" - 2021-05-09", " or 2021-06-07", " ?", "?", "T99:99", "T24:00", " 08:60", "T", " 08", " morning", "/09"),
        *(" 2021-05-09", " 08:30 - 09:30", " 08:30 ?", "T08:30+2"),
    ],
)
@pytest.mark.parametrize("day", ["2021-05-07", "20210507"])
def test_a_day_that_is_doubtful_or_one_of_several_is_none(day, more):
    assert parse_date(day + more) is None


def test_dates_of_the_table_are_iso_and_the_others_counted(tmp_path):
    texts = ["2020-01-02", "2015:07:02 11:04:59", "2015/7/2", "03/04/2020", "2020", "", "2999-01-01", "1066-10-14"]
    values, notes = read(tmp_path, "date", *texts)
    assert values == ["2020-01-02", "2015-07-02 11:04:59", "2015-07-02", None, None, None, "2999-01-01", "1066-10-14"]
    assert notes == [
        "2 date(s) read as YYYY-MM-DD: line 3: '2015:07:02 11:04:59', line 4: '2015/7/2'",
        "2 of 7 dates taken as missing, because they are no single day, or day and month could be exchanged "
        "(write YYYY-MM-DD): line 5: '03/04/2020', line 6: '2020'",
        "2 date(s) before 1900 or in the future, taken as they are: line 8: '2999-01-01', line 9: '1066-10-14'",
    ]
    assert read(tmp_path, "date", date.today().isoformat(), "1900-01-01")[1] == []


# orientation


def test_sides_that_are_read_otherwise_or_not_at_all(tmp_path):
    words = ["left", "L", "r", "LF", "unknown", "", "rigth", "M", "rigth", "Izquierdo", "left side", "dorsal"]
    values, notes = read(tmp_path, "orientation", *words)
    assert values == [word or None for word in words]
    assert notes == [
        "3 value(s) of orientation are abbreviations, read: 'L' as left, 'r' as right, 'LF' as left",
        "4 of 11 values of orientation name no side ('rigth' 2, 'M' 1, 'Izquierdo' 1): line 8: 'rigth', "
        "line 9: 'M', line 10: 'rigth', line 11: 'Izquierdo'",
    ]


def test_words_that_say_more_than_sides_are_reported_and_not_read(tmp_path):
    words = ["left", "not left", "bright", "upright", "left?", "forefront", "vorne", "right flank"]
    assert read(tmp_path, "orientation", *words)[1] == [
        "1 value(s) of orientation are abbreviations, read: 'upright' as right top",
        "1 of 8 values of orientation name no side ('vorne' 1): line 8: 'vorne'",
        "4 of 8 values of orientation say more than sides; no side is read ('not left' 1, 'bright' 1, 'left?' 1, "
        "'forefront' 1): line 3: 'not left', line 4: 'bright', line 6: 'left?', line 7: 'forefront'",
    ]


def test_tens_of_thousands_of_different_words_are_counted_at_once():
    words = [f"word {number}" for number in range(30_000)]  # a set made for each row would take minutes
    (finding,) = find_unread("t", words, range(30_000))
    assert (finding.count, len(finding.examples)) == (30_000, 5)


def test_wrong_values_are_refused_also_where_they_are_written_in_another_way(tmp_path):
    with pytest.raises(UserError, match=r"image_id '0' is given twice, in lines 2 and 4"):
        read_metadata(put(tmp_path, to_text([*with_values("date", ["", ""]), [" 0", *ROWS[0][1:]]])))
