"""Any file for metadata.csv, any values in it, however it was saved: read as it says, or refused in one line."""

import csv
import unicodedata
from pathlib import Path

import pytest
from fuzzing import any_text, attempt, bounded
from hypothesis import example, given
from hypothesis import strategies as st
from tables import HEADER, put, to_text, with_values

from reid_core.data.animals import NEW
from reid_core.data.table.columns import strip_blanks
from reid_core.data.table.dates import day_of, parse_date
from reid_core.data.table.metadata import Metadata, load_submission_order, read_metadata
from reid_core.data.table.metadata_file import read_rows
from reid_core.data.table.names import fold_name
from reid_core.data.table.sides import SIDES, find_unread, name_sides, parse_sides

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
# Every character that a value may hold: none that moves the cursor, begins a line or turns the direction of writing.
TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
letters = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters=TURNING)
values = st.text(st.one_of(st.sampled_from([*",;|\"' \\=\u00a0\ufeffe\u0301"]), letters), max_size=12)
names = values.filter(lambda name: strip_blanks(name) and unicodedata.normalize("NFC", strip_blanks(name)) != NEW)
rows_of_names = st.lists(st.tuples(names, names, values), min_size=1, max_size=5)
saved = st.fixed_dictionaries(
    {
        "separator": st.sampled_from(",;\t|"),
        "lineterminator": st.sampled_from(["\n", "\r\n", "\r"]),
        "quoting": st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    }
)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return put(tmp_path_factory.mktemp("data"), "")


def table_of(rows) -> list[list[str]]:
    """Whole rows of identity, dataset and species."""
    return [
        [str(number), identity, "images/a.jpg", "", "", species, "database", group]
        for number, (identity, group, species) in enumerate(rows)
    ]


def try_to_read(root: Path, content: bytes) -> Metadata | None:
    """What is read of a file; None if it is refused, which must be in one printable line that names the file."""
    (root / "metadata.csv").write_bytes(content)
    read, message = attempt(read_metadata, root)
    if read is None:
        assert message.startswith(str(root / "metadata.csv"))
        assert message.isprintable()
        return None
    assert all(str(finding).isprintable() for finding in read.findings)
    return read


@st.composite
def damaged(draw) -> bytes:
    """A good table, cut, stretched or changed at random places."""
    data = bytearray(to_text(separator=draw(st.sampled_from(",;\t|"))).encode(draw(st.sampled_from(ENCODINGS))))
    for _ in range(draw(st.integers(1, 3))):
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
        data[start : draw(st.sampled_from([start, end, start + 1]))] = draw(st.binary(max_size=4))
    return bytes(data)


any_file = st.one_of(
    st.binary(max_size=40),
    any_text(max_size=40).map(str.encode),
    st.tuples(any_text(max_size=60), st.sampled_from(ENCODINGS)).map(
        lambda pair: ",".join(HEADER).encode(pair[1]) + ("\n" + pair[0]).encode(pair[1])
    ),
    damaged(),
)


@bounded(250)
@given(any_file)
def test_any_file_is_read_or_refused_in_one_line(root, content):
    try_to_read(root, content)
    assert attempt(read_rows, root / "metadata.csv")[1].isprintable()


@bounded(150)
@given(any_file)
def test_any_sample_submission_is_read_or_refused_in_one_line(root, content):
    put(root, to_text())
    (root / "sample_submission.csv").write_bytes(content)
    ids, message = attempt(load_submission_order, root)
    assert message.isprintable()
    assert (ids is None) == message.startswith(str(root / "sample_submission.csv"))


@bounded(150)
@given(rows_of_names, saved, st.sampled_from(ENCODINGS))
def test_values_are_read_as_they_were_written_however_they_were_saved(root, rows, saved, encoding):
    (root / "metadata.csv").write_bytes(to_text(table_of(rows), **saved).encode(encoding))
    read = read_metadata(root).rows
    expected = [[strip_blanks(value) or None for value in row] for row in rows]
    for column, position in (("identity", 0), ("dataset", 1)):
        composed = [unicodedata.normalize("NFC", row[position]) for row in expected]
        assert read[column].to_pylist() == composed
    assert read["species"].to_pylist() == [row[2] for row in expected]


ODD_ROWS = [
    ["0", " ada", "images/A.jpg", "2015:07:02 08:15:00", "L", "", "TRAIN", "Cows"],
    ["1", "Ada", "images\\a.jpg", "03/04/2020", "M", "cow", "train", "Cows"],
    ["2", "e\u0301", "images/a", "2020-01-02", "rigth", "", "database", "cows"],
    ["3", "ada", "images/b.jpg ", "", "unknown", "", "Test", "Pigs"],
    ["4", "", "./images/c.jpg", "", "", "", "query", "Cows"],
    ["5", "NA", "images/c.jpg", "2999-01-01", "left", " ", "database", "Cows"],
]


@bounded(60)
@given(st.permutations(ODD_ROWS), saved)
def test_neither_the_order_of_rows_nor_how_they_were_saved_changes_a_value(root, rows, saved):
    plain, read = (
        read_metadata(put(root, to_text(each, **options))) for each, options in ((ODD_ROWS, {}), (rows, saved))
    )
    assert read.rows.sort_by("image_id").equals(plain.rows)
    counts = [sorted(each.count for each in found if "read as UTF-8" not in each.what) for found in (read[1], plain[1])]
    assert counts[0] == counts[1]
    assert len(counts[0]) == 18


@bounded(300)
@given(any_text(max_size=20))
@example("2020-01-01T\n")
def test_any_date_is_one_day_or_none(text):
    read = parse_date(text)
    assert parse_date(read) == read
    assert day_of(text) == (read[:10] if read else None) == day_of(day_of(text))


@bounded(200)
@given(st.integers(1, 9999), st.integers(1, 12), st.integers(1, 28), st.sampled_from("-/.:"), st.booleans())
def test_dates_with_the_year_first_are_read_in_any_form(year, month, day, sign, is_padded):
    width = 2 if is_padded else 1
    text = f"{year:04d}{sign}{month:0{width}d}{sign}{day:0{width}d}"
    assert parse_date(text) == f"{year:04d}-{month:02d}-{day:02d}"
    assert parse_date(sign.join(reversed(text.split(sign)))) is None  # day first, month first: not guessed


@bounded(300)
@given(st.lists(any_text(max_size=12), max_size=4))
def test_any_words_for_sides(words):
    sides_N6 = parse_sides(words)
    assert [[SIDES[k] for k in range(6) if row[k]] for row in sides_N6.tolist()] == [*map(name_sides, words)]
    assert all(name_sides(" ".join(name_sides(word))) == name_sides(word) for word in words)
    unread = {word for word in words if word and not name_sides(word)}
    findings = find_unread("t", words, range(len(words)))
    assert all(str(finding).isprintable() for finding in findings)
    assert sum(finding.count for finding in findings if "no side" in finding.what) <= len(words)
    assert not findings or unread or any(map(name_sides, words))


@bounded(300)
@given(any_text(max_size=12))
def test_folding_a_name_leaves_what_folds_to_itself(name):
    folded = fold_name(name)
    assert fold_name(folded) == folded
    assert fold_name(f" {name} ") == folded


@bounded(200)
@given(any_text(min_size=1, max_size=16))
def test_any_path_means_a_file_within_the_folder_or_none(root, path):
    content = to_text(with_values("path", [path]), quoting=csv.QUOTE_ALL).encode()
    read = try_to_read(root, content)
    if read is not None:
        (found,) = read.rows["path"].to_pylist()
        assert (root / found).resolve().is_relative_to(root.resolve())
        assert (root / found).is_file()
