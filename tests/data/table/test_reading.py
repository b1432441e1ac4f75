"""How the file of a table is read: any separator, encoding and kind of line gives the same values, and says how."""

from pathlib import Path

import pytest
from tables import HEADER, ROWS, put, to_text, with_values

from reid_core.data.table.columns import read_table
from reid_core.data.table.metadata import digest_metadata, load_submission_order, read_metadata
from reid_core.errors import UserError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def notes(root: Path) -> list[str]:
    """What was noticed in a table, as it is logged."""
    return [str(finding).removeprefix("metadata.csv: ") for finding in read_metadata(root).findings]


def message_of(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_metadata(root)
    message = str(caught.value)
    assert message.startswith(str(root / "metadata.csv"))
    assert message.isprintable()
    return message


@pytest.fixture
def plain(tmp_path: Path):
    """What the plain file gives."""
    return read_metadata(put(tmp_path / "plain", to_text())).rows


@pytest.mark.parametrize(("separator", "name"), SEPARATORS.items())
@pytest.mark.parametrize(
    ("encoding", "mark", "called"),
    [
        ("utf-8", b"", "UTF-8"),
        ("utf-8-sig", b"", "UTF-8"),
        ("utf-16", b"", "UTF-16"),
        ("utf-16-be", b"\xfe\xff", "UTF-16"),
        ("utf-16-le", b"", "UTF-16"),
        ("utf-16-be", b"", "UTF-16"),
        ("utf-32", b"", "UTF-32"),
    ],
)
def test_separators_and_encodings(tmp_path, plain, separator, name, encoding, mark, called):
    text = to_text(separator=separator)
    root = put(tmp_path / "data", mark + text.encode(encoding))
    assert read_metadata(root).rows.equals(plain)
    is_plain = (called, separator) == ("UTF-8", ",")
    assert notes(root) == [f"read as {called} text with {name} between values"] * (not is_plain)


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", ["", "\n", "\n\n"])
@pytest.mark.parametrize("quoting", [0, 1])  # csv.QUOTE_MINIMAL, csv.QUOTE_ALL
@pytest.mark.parametrize("first", ["", "sep=;{end}", '"sep=;"{end}', "SEP=;;;;{end}", "\ufeffsep=;{end}"])
def test_lines_quotation_marks_and_the_first_line_of_excel(tmp_path, plain, line_end, last, quoting, first):
    separator = ";" if first else ","
    text = to_text(separator=separator, quoting=quoting, lineterminator=line_end).removesuffix(line_end)
    root = put(tmp_path / "data", first.format(end=line_end) + text + last.replace("\n", line_end))
    assert read_metadata(root).rows.equals(plain)
    others = [note for note in notes(root) if not note.startswith("read as UTF-8 text with semicolons")]
    assert others == ["1 empty row(s) left out"] * (last == "\n\n")


def test_a_table_saved_again_by_another_program_has_the_same_digest(tmp_path, plain):
    again = to_text([[f" {value}" for value in row] for row in ROWS], [*HEADER, ""], separator=";")
    root = put(tmp_path / "data", again.encode("utf-16"))
    assert digest_metadata(read_metadata(root).rows) == digest_metadata(plain)


@pytest.mark.parametrize("separator", SEPARATORS)
def test_other_separators_within_values_stay(tmp_path, separator):
    name = 'a,b;c|d "e"'
    rows = [[name if value == "ada" else value for value in row] + ["0,508"] for row in ROWS]
    root = put(tmp_path, to_text(rows, [*HEADER, "scale"], separator=separator))
    assert read_metadata(root).rows["identity"].to_pylist()[0] == name


def test_a_blank_before_quotation_marks_is_no_part_of_the_value(tmp_path):
    text = ", ".join(HEADER) + "\n" + '7, "Smith, ada", images/a.jpg, 2020-01-02, left, cow, database, Cows\n'
    root = put(tmp_path, text)
    assert read_metadata(root).rows["identity"].to_pylist() == ["Smith, ada"]
    assert notes(root)[0] == "read as UTF-8 text with commas and blanks between values"


@pytest.mark.parametrize(
    "note", ['"he said, ""hi"""', '" ""hi"""', '"x\n ""hi"""', '"x\n "', '"" ""', "5' ", 'a "b"', 'a" , "b"']
)
@pytest.mark.parametrize("at", [0, -1])
def test_blanks_and_quotation_marks_within_values_do_not_change_how_others_are_read(tmp_path, note, at):
    """Blanks after separators belong to values, unless some stand before a value in quotation marks."""
    note = note if note != '"" ""' else '""" """'
    extra = ["note"] + ["more"] * note.endswith(', "b"')
    values = ["7", " ada", "images/a.jpg", "2020-01-02", "left", "cow", "database", "Cows"]
    header = [*extra, *HEADER] if at == 0 else [*HEADER, *extra]
    row = [note, *values] if at == 0 else [*values, note]
    root = put(tmp_path, f"{','.join(header)}\n{','.join(row)}\n")
    line = 3 if "\n" in note else 2
    assert any(each.endswith(f"identity in line {line}: ' ada'") for each in notes(root)) is (len(extra) == 1)
    assert any("and blanks between" in each for each in notes(root)) is (len(extra) == 2)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("Pié Ñandú".encode("cp1252"), r"line 2 is not UTF-8: '7,Pi\xe9 \xd1and\xfa,images/a.jpg,20"),
        ("Pié Ñandú".encode("latin-1"), "iconv -f WINDOWS-1252 -t UTF-8"),
        ("Žofie".encode("cp1250"), "line 2 is not UTF-8"),
        ("Ида".encode("cp1251"), "'CSV UTF-8'"),
        ("花".encode("shift-jis"), "line 2 is not UTF-8"),
    ],
)
def test_other_encodings_are_not_guessed(tmp_path, content, part):
    put(tmp_path, to_text().encode().replace(b"ada", content))
    assert part in message_of(tmp_path)


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_the_line_that_is_not_utf8(tmp_path, line_end):
    text = to_text([ROWS[0]] * 60 + [ROWS[1]], lineterminator=line_end).encode()
    put(tmp_path, text.replace(b"images/b.jpg", b"images/\xe9.jpg"))
    assert "line 62 is not UTF-8: '3,,images/\\xe9.jpg," in message_of(tmp_path)


def test_a_damaged_utf16_file_names_its_line(tmp_path):
    put(tmp_path, to_text().encode("utf-16")[:-1])
    assert "line 4 is not UTF-16 (truncated data)" in message_of(tmp_path)


@pytest.mark.parametrize(
    ("beginning", "kind"),
    [
        (b"PK\x03\x04", "workbook"),
        (b"\xd0\xcf\x11\xe0\xa1", "workbook of an old Excel"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"PAR1", "Parquet"),
        (b"<!DOCTYPE html>", "web page"),
        (b"<HTML>", "web page"),
        (b"%PDF-1.7", "PDF"),
    ],
)
def test_other_kinds_of_files_are_named(tmp_path, beginning, kind):
    put(tmp_path, beginning + b"\x00" * 50)
    assert kind in message_of(tmp_path)


@pytest.mark.parametrize("content", ["", "\n", ",,,\n;;\n", "\ufeff", " \r\n\t\r\n"])
def test_nothing_in_the_file(tmp_path, content):
    put(tmp_path, content)
    assert "file" in message_of(tmp_path)


def test_a_missing_table_names_those_beside_it(tmp_path):
    (tmp_path / "Metadata.xlsx").touch()
    assert "cannot be read: No such file or directory; there is Metadata.xlsx" in message_of(tmp_path)


def test_other_tables_beside_it_are_named_as_not_read(tmp_path):
    put(tmp_path, to_text(), ["images/a.jpg", "images/b.jpg", "images/c.jpg", "metadata (1).csv", "METADATA.XLSX"])
    note = "2 other file(s) in the folder look like tables of metadata, and are not read: "
    assert notes(tmp_path) == [note + "'METADATA.XLSX', 'metadata (1).csv'"]


# Columns.


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("rows_have_them", [True, False])
def test_empty_columns_are_left_out(tmp_path, plain, number, rows_have_them):
    """Excel leaves the separators of empty values out from the 17th row on."""
    rows = [[*row, *[""] * number * rows_have_them] for row in ROWS]
    root = put(tmp_path / "data", to_text(rows, [*HEADER, *[""] * number]))
    assert read_metadata(root).rows.equals(plain)
    assert notes(root) == [f"{number} empty column(s) without a name left out"]


def test_values_beyond_the_last_column_must_be_empty(tmp_path, plain):
    root = put(tmp_path / "data", to_text([ROWS[0], [*ROWS[1], "", " "], ROWS[2]]))
    assert read_metadata(root).rows.equals(plain)
    put(root, to_text([ROWS[0], [*ROWS[1], "", "x"], ROWS[2]]))
    assert "line 3 has 10 values, the header has 8 columns" in message_of(root)


def test_a_column_without_a_name_that_holds_values(tmp_path, plain):
    rows = [["", *ROWS[0]], ["x", *ROWS[1]], ["", *ROWS[2]]]
    root = put(tmp_path / "data", to_text(rows, ["", *HEADER]))
    assert read_metadata(root).rows.equals(plain)
    assert notes(root) == ["1 column(s) without a name are not used, though they hold values: column 1, line 3"]


def test_short_rows_are_filled_up_only_where_nothing_is_needed(tmp_path, plain):
    header = [*HEADER, "note", "by"]
    root = put(tmp_path / "data", to_text([[*ROWS[0], "seen", "bo"], ROWS[1], [*ROWS[2], ""]], header))
    assert read_metadata(root).rows.equals(plain)
    assert notes(root) == [
        "2 row(s) are shorter than the header; the values at their end taken as empty: line 3, line 4",
        "2 column(s) not used: 'note', 'by'",
    ]
    put(root, to_text([ROWS[0], ROWS[1][:7]]))
    assert "line 3 has 7 values, the header has 8 columns" in message_of(root)


@pytest.mark.parametrize("blank", [" ", "\u00a0", "\ufeff", "\u3000", "\u200b"])
def test_blanks_around_the_names_of_columns(tmp_path, plain, blank):
    root = put(tmp_path / "data", to_text(header=[HEADER[0], *(blank + name + blank for name in HEADER[1:])]))
    assert read_metadata(root).rows.equals(plain)
    assert notes(root)[0].startswith("7 name(s) of columns read in the program's spelling")


@pytest.mark.parametrize("spelling", ["Image_ID", "image id", "IMAGE-ID", "image  id", "Ｉmage_id"])
def test_capitals_and_blanks_in_the_names_of_columns(tmp_path, plain, spelling):
    root = put(tmp_path / "data", to_text(header=[spelling, *HEADER[1:]]))
    assert read_metadata(root).rows.equals(plain)
    assert notes(root) == [f"1 name(s) of columns read in the program's spelling: {spelling!r} is image_id"]


@pytest.mark.parametrize(
    ("column", "name"),
    [("identity", "individual"), ("identity", "Animal ID"), ("identity", "identitty"), ("path", "filename")],
)
def test_a_missing_column_names_the_one_that_may_be_meant(tmp_path, column, name):
    put(tmp_path, to_text(header=[name if each == column else each for each in HEADER]))
    assert f"missing column(s) {column}; it has: " in message_of(tmp_path)
    assert f"(meant? rename: {name} → {column})" in message_of(tmp_path)


def test_two_columns_of_one_name(tmp_path):
    put(tmp_path, to_text([[*row, "x"] for row in ROWS], [*HEADER, "identity "]))
    assert "column(s) given twice: identity" in message_of(tmp_path)
    put(tmp_path, to_text([[*row, "x"] for row in ROWS], [*HEADER, "Identity"]))  # the exact name is taken
    assert notes(tmp_path) == ["1 column(s) not used: 'Identity'"]


def test_columns_that_are_not_used_are_named_and_boxes_explained(tmp_path):
    names = ["bbox1", "bbox_2", "x_min", "Bounding Box", "scale", "side"]
    header = [name for name in HEADER if name != "orientation"]
    rows = [[*row[:4], *row[5:], *"123456"] for row in ROWS]
    put(tmp_path, to_text(rows, [*header, *names]))
    boxes, others = notes(tmp_path)
    assert boxes.startswith("4 column(s) of bounding boxes not used: photographs are taken whole, crop them first: ")
    assert all(repr(name) in boxes for name in names[:4])
    assert others == "2 column(s) not used: 'scale', 'side' (orientation?)"


# Rows.


def test_rows_without_any_value_are_left_out_and_lines_stay_right(tmp_path, plain):
    lines = to_text().splitlines()
    text = "\n".join([lines[0], "", lines[1], "," * 7, " , ,,,,,,", lines[2], ",,", lines[3], ""])
    root = put(tmp_path / "data", text)
    assert read_metadata(root).rows.equals(plain)
    assert notes(root) == ["4 empty row(s) left out"]
    put(root, text.replace("images/c", "images/d"))
    assert "line 8: 'images/d.jpg'" in message_of(root)


@pytest.mark.parametrize("beginning", ["", "sep=,\n", "sep=,\n\n", "\n\n"])
def test_lines_count_what_stands_before_and_values_of_several_lines(tmp_path, beginning):
    rows = with_values("split", ["database", "train ", "tset"])
    rows[0].append("two\nlines\r\nand a third")
    put(tmp_path, beginning + to_text([[*row, ""][:9] for row in rows], [*HEADER, "note"]))
    assert f"in line {6 + beginning.count(chr(10))}: 'tset'" in message_of(tmp_path)


@pytest.mark.parametrize("end", ['"ada', '"ada" bo'])
def test_a_quotation_mark_that_is_wrong_names_the_line_in_which_its_row_begins(tmp_path, end):
    text = to_text([*ROWS, [*ROWS[0][:7], ""]] + [ROWS[0]] * 3).replace("database,\n", f"database,{end}\n")
    put(tmp_path, text)
    assert "the row that begins in line 5 cannot be read: " in message_of(tmp_path)


def test_the_sample_submission_is_read_in_the_same_way(tmp_path, caplog):
    put(tmp_path, to_text([*ROWS, ("1", "", "images/a.jpg", "", "", "", "Test ", "Cows")]))
    (tmp_path / "sample_submission.csv").write_bytes("Image_ID;identity;\n 3;x;\n;;\n".encode("utf-16"))
    assert load_submission_order(tmp_path) == ["3"]
    logged = caplog.text
    assert "sample_submission.csv: read as UTF-16 text with semicolons between values" in logged
    assert "1 queries of metadata.csv are not in it, and get no row in the submission: '1'" in logged


def test_columns_of_one_name_that_are_not_used_are_all_counted(tmp_path, plain):
    root = put(tmp_path / "data", to_text([[*row, "x", "y", "z"] for row in ROWS], [*HEADER, *["note"] * 2, "note "]))
    assert notes(root)[-1] == "3 column(s) not used: 'note', 'note (column 10)', 'note (column 11)'"
    assert [*read_table(root / "metadata.csv", ()).columns.values()][-3:] == [["x"] * 3, ["y"] * 3, ["z"] * 3]
    assert read_metadata(root).rows.equals(plain)
    rows = [[*row, "x", "y", "z"] for row in ROWS]  # a name that is there already is given to no other column
    put(root, to_text(rows, [*HEADER, "note", "note", "note (column 10)"]))
    assert [*read_table(root / "metadata.csv", ()).columns.values()][-3:] == [["x"] * 3, ["y"] * 3, ["z"] * 3]


ERRORS = {
    "photograph": ("images/c.jpg", "images/none.jpg", "photograph not found"),
    "value": ("database", "databse", "split is not database or query"),
    "column": ("dataset", "herd", r"missing column\(s\) dataset"),
    "id": ("5;bo", "7;bo", "is given twice"),
}


@pytest.mark.parametrize(("old", "new", "message"), ERRORS.values(), ids=ERRORS)
def test_what_was_noticed_before_an_error_is_logged_once(tmp_path, caplog, old, new, message):
    text = to_text(separator=";").replace("ada", " ada").replace(old, new)
    with pytest.raises(UserError, match=message):
        read_metadata(put(tmp_path, text))
    noticed = ["read as UTF-8 text with semicolons", *["identity in line 2: ' ada'"] * (new != "herd")]
    assert [caplog.text.count(each) for each in noticed] == [1] * len(noticed)


def test_how_a_submission_was_read_is_logged_before_its_error(tmp_path, caplog):
    put(tmp_path, to_text())
    (tmp_path / "sample_submission.csv").write_text("image_id;identity\n99;\n")
    with pytest.raises(UserError, match="not that of a query"):
        load_submission_order(tmp_path)
    assert caplog.text.count("sample_submission.csv: read as UTF-8 text with semicolons") == 1
