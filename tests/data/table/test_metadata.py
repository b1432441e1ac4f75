"""Metadata: what a good metadata.csv becomes, and what each mistake in it says."""

import logging
import os
from pathlib import Path

import pytest

from reid_core.data.table.metadata import Reading, digest_metadata, load_metadata, load_submission_order
from reid_core.errors import UserError

HEADER = "image_id,identity,path,date,orientation,species,split,dataset"
GOOD = (
    "7,ada,images/a.jpg,2020-01-02,left,cow,database,Cows",
    "3,,images/b.jpg,,,cow,query,Cows",
    "5,bo,images/c.jpg,,,,database,Pigs",
)


def make_folder(root: Path, lines: tuple[str, ...] = GOOD, header: str = HEADER, files: str = "abc") -> Path:
    (root / "images").mkdir(exist_ok=True)
    for name in files:
        (root / "images" / f"{name}.jpg").touch()
    (root / "metadata.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return root


def message_of(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_metadata(root)
    assert str(root) in str(caught.value)
    return str(caught.value)


def test_rows_keep_their_order_and_empty_is_null(tmp_path: Path):
    table = load_metadata(make_folder(tmp_path))
    assert table.to_pydict() == {
        "image_id": ["7", "3", "5"],
        "identity": ["ada", None, "bo"],
        "path": ["images/a.jpg", "images/b.jpg", "images/c.jpg"],
        "date": ["2020-01-02", None, None],
        "orientation": ["left", None, None],
        "species": ["cow", "cow", None],
        "split": ["database", "query", "database"],
        "dataset": ["Cows", "Cows", "Pigs"],
        "group": ["Cows", "Cows", "Pigs"],
    }
    assert {str(kind) for kind in table.schema.types} == {"string"}


def test_numbers_and_words_that_look_like_null_stay_text(tmp_path: Path):
    lines = ("007,NA,images/a.jpg,,,,database,nan", "1e3,null,images/b.jpg,,,,database,nan")
    table = load_metadata(make_folder(tmp_path, lines))
    assert table["image_id"].to_pylist() == ["007", "1e3"]
    assert table["identity"].to_pylist() == ["NA", "null"]
    assert table["group"].to_pylist() == ["nan", "nan"]


def test_byte_order_mark_carriage_returns_blank_lines_and_other_columns_are_read(tmp_path: Path):
    make_folder(tmp_path)
    text = "\ufeff" + "\r\n".join(["note," + HEADER, "", "x," + GOOD[0], "", ""])
    (tmp_path / "metadata.csv").write_bytes(text.encode())
    table = load_metadata(tmp_path)
    assert table["image_id"].to_pylist() == ["7"]
    assert "note" not in table.column_names


def test_optional_columns_are_filled_with_null_in_any_order_of_columns(tmp_path: Path):
    table = load_metadata(
        make_folder(tmp_path, ("Cows,database,images/a.jpg,ada,7",), "dataset,split,path,identity,image_id")
    )
    assert table["species"].to_pylist() == table["date"].to_pylist() == table["orientation"].to_pylist() == [None]
    assert table["identity"].to_pylist() == ["ada"]


def test_identity_of_a_query_is_ignored(tmp_path: Path):
    lines = (GOOD[0], "3,ada,images/b.jpg,,,cow,query,Cows")
    assert load_metadata(make_folder(tmp_path, lines))["identity"].to_pylist() == ["ada", None]


def test_queries_need_no_column_of_identities_and_database_rows_do(tmp_path: Path):
    header = "image_id,path,split,dataset"
    make_folder(tmp_path, ("3,images/b.jpg,query,Cows",), header)
    table = load_metadata(tmp_path, needs="query")
    assert (table["image_id"].to_pylist(), table["identity"].to_pylist()) == (["3"], [None])
    assert "missing column(s) identity" in message_of(tmp_path)
    make_folder(tmp_path, ("3,images/b.jpg,query,Cows", "4,images/c.jpg,database,Cows"), header)
    with pytest.raises(UserError, match="database row without identity"):
        load_metadata(tmp_path, needs="query")


def test_folder_or_file_missing_or_empty(tmp_path: Path):
    assert "no such data folder" in message_of(tmp_path / "absent")
    assert "metadata.csv: cannot be read: No such file" in message_of(tmp_path)
    (tmp_path / "metadata.csv").touch()
    assert message_of(tmp_path).endswith("metadata.csv: the file is empty")
    assert message_of(make_folder(tmp_path, ())).endswith("only a header, no rows")


def test_missing_and_repeated_columns_are_named(tmp_path: Path):
    header = "image_id,path,dataset,identities"
    assert "missing column(s) identity, split; it has: " + ", ".join(header.split(",")) in message_of(
        make_folder(tmp_path, ("1,a,b,c",), header)
    )
    assert "given twice: path" in message_of(make_folder(tmp_path, (GOOD[0] + ",x",), HEADER + ",path"))


def test_duplicate_image_id_names_both_lines(tmp_path: Path):
    message = message_of(make_folder(tmp_path, (*GOOD, "7,ada,images/a.jpg,,,,database,Cows")))
    assert "image_id '7' is given twice, in lines 2 and 5" in message


def test_ragged_row_names_its_line(tmp_path: Path):
    message = message_of(make_folder(tmp_path, (GOOD[0], "3,x,images/b.jpg")))
    assert "line 3 has 3 values, the header has 8 columns" in message


def test_a_quotation_mark_that_is_not_closed_is_a_user_error(tmp_path: Path):
    lines = [f"{row},ada,images/a.jpg,,,,database,Cows" for row in range(5000)]
    lines[7] = '7,"ada,images/a.jpg,,,,database,Cows'
    assert "metadata.csv: " in message_of(make_folder(tmp_path, tuple(lines)))


def test_text_that_is_not_utf8_is_a_user_error(tmp_path: Path):
    make_folder(tmp_path)
    (tmp_path / "metadata.csv").write_bytes((HEADER + "\n" + GOOD[0]).encode().replace(b"ada", b"\xff\xfe"))
    assert "line 2 is not UTF-8: '7,\\xff\\xfe,images" in message_of(tmp_path)


def test_line_numbers_count_blank_lines_and_quoted_line_breaks(tmp_path: Path):
    header, note = HEADER + ",note", '"two\nlines"'
    lines = (f"7,ada,images/a.jpg,,,cow,database,Cows,{note}", "", "3,,images/b.jpg,,,cow,tset,Cows,")
    assert message_of(make_folder(tmp_path, lines, header)).endswith("(1 row) in line 5: 'tset'")


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (",ada,images/a.jpg,,,,database,Cows", "image_id is empty (1 row) in line 3"),
        ("9,ada,,,,,database,Cows", "path is empty (1 row) in line 3"),
        ("9,ada,images/a.jpg,,,,database,", "dataset is empty (1 row) in line 3"),
        (
            "9,ada,images/a.jpg,,,,val,Cows",
            "split is not database or query (nor train or test, read as these) (1 row) in line 3: 'val'",
        ),
        (
            "9,ada,images/a.jpg,,,,,Cows",
            "split is not database or query (nor train or test, read as these) (1 row) in line 3",
        ),
        (
            "9,,images/a.jpg,,,,database,Cows",
            "without identity (to be named: split=query); its image_id (1 row) in line 3: '9'",
        ),
        ("9,new_individual,images/a.jpg,,,,database,Cows", "identity 'new_individual' is reserved"),
        ("9,ada,images,,,,database,Cows", "path is not a file (1 row) in line 3: 'images'"),
        ("9,ada,../outside.jpg,,,,database,Cows", "(1 row) in line 3: '../outside.jpg'"),
        ("9,ada,../absent.jpg,,,,database,Cows", "path has .., which may lead out of"),
        ("9,ada,images/../images/a.jpg,,,,database,Cows", "path has .., which may lead out of"),
        ("9,ada,images/..,,,,database,Cows", "path has .., which may lead out of"),
        ("9,ada,/absent.jpg,,,,database,Cows", "path is absolute"),
        (
            "9,ada,images/a\0.jpg,,,,database,Cows",
            r"path holds a control character (1 row) in line 3: 'images/a\x00",
        ),
        ("9,ada,images/" + "a" * 300 + ".jpg,,,,database,Cows", "photograph not found"),
        (
            "9,ada\x1b[2J,images/a.jpg,,,,database,Cows",
            r"identity holds a control character (1 row) in line 3: 'ada",
        ),
        ('9,"a\nda",images/a.jpg,,,,database,Cows', r"identity holds a control character (1 row) in line 4: 'a\nda'"),
        ("9,\u202eada,images/a.jpg,,,,database,Cows", r"in line 3: '\u202eada'"),
        ("9\x9b,ada,images/a.jpg,,,,database,Cows", r"image_id holds a control character (1 row) in line 3: '9\x9b'"),
        ("9,ada,images/a.jpg,\x07,,,database,Cows", "date holds a control character"),
        ("9,ada,images/a.jpg,,le\tft,,database,Cows", "orientation holds a control character"),
        ("9,ada,images/a.jpg,,,co\x7fw,database,Cows", "species holds a control character"),
        ("9,ada,images/a.jpg,,,,database,Co\u2028ws", "dataset holds a control character"),
    ],
)
def test_wrong_value_names_line_and_value(tmp_path: Path, line: str, part: str):
    (tmp_path / "outside.jpg").touch()
    (tmp_path / "data").mkdir()
    assert part in message_of(make_folder(tmp_path / "data", (GOOD[0], line)))


def test_many_wrong_rows_are_counted_and_the_first_five_listed(tmp_path: Path):
    lines = tuple(f"{row},ada,images/a.jpg,,,,tset,Cows" for row in range(9))
    message = message_of(make_folder(tmp_path, lines))
    assert "(9 rows) in line 2: 'tset', line 3: 'tset'" in message
    assert message.endswith("line 6: 'tset', ...")


def test_absolute_path_is_refused_even_inside_the_folder(tmp_path: Path):
    make_folder(tmp_path)
    line = f"9,ada,{tmp_path / 'images' / 'a.jpg'},,,,database,Cows"
    assert "path is absolute; it is relative to" in message_of(make_folder(tmp_path, (line,)))


def test_symbolic_links_may_stay_inside_but_not_lead_out(tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "z.jpg").touch()
    root = tmp_path / "data"
    root.mkdir()
    make_folder(root)
    (root / "images" / "inner.jpg").symlink_to(root / "images" / "a.jpg")
    (root / "images" / "outer.jpg").symlink_to(outside / "z.jpg")
    (root / "folder").symlink_to(outside)
    (root / "images" / "dangling.jpg").symlink_to(root / "images" / "nothing.jpg")
    line = "9,ada,{},,,,database,Cows"
    assert len(load_metadata(make_folder(root, (line.format("images/inner.jpg"),)))) == 1
    assert "leads out of" in message_of(make_folder(root, (line.format("images/outer.jpg"),)))
    assert "leads out of" in message_of(make_folder(root, (line.format("folder/z.jpg"),)))
    assert "leads out of" in message_of(make_folder(root, (line.format("folder/absent.jpg"),)))
    (root / "images" / "gone.jpg").symlink_to(outside / "absent.jpg")
    assert "leads out of" in message_of(make_folder(root, (line.format("images/gone.jpg"),)))
    (root / "up").symlink_to("..")
    assert "leads out of" in message_of(make_folder(root, (line.format("up/outside/z.jpg"),)))
    (tmp_path / "data2").mkdir()  # begins with the name of the data folder
    (tmp_path / "data2" / "z.jpg").touch()
    (root / "images" / "beside.jpg").symlink_to(tmp_path / "data2" / "z.jpg")
    assert "leads out of" in message_of(make_folder(root, (line.format("images/beside.jpg"),)))
    assert "not found" in message_of(make_folder(root, (line.format("images/dangling.jpg"),)))
    linked_root = tmp_path / "link"
    linked_root.symlink_to(root)
    assert len(load_metadata(make_folder(linked_root))) == 3


def test_symbolic_links_in_a_circle_and_what_is_not_a_file_are_errors(tmp_path: Path):
    make_folder(tmp_path)
    (tmp_path / "images" / "one.jpg").symlink_to("two.jpg")
    (tmp_path / "images" / "two.jpg").symlink_to("one.jpg")
    (tmp_path / "round").symlink_to("round")
    os.mkfifo(tmp_path / "images" / "pipe.jpg")
    line = "9,ada,{},,,,database,Cows"
    assert "not found" in message_of(make_folder(tmp_path, (line.format("images/one.jpg"),)))
    assert "not found" in message_of(make_folder(tmp_path, (line.format("round/a.jpg"),)))
    assert "path is not a file" in message_of(make_folder(tmp_path, (line.format("images/pipe.jpg"),)))


def test_nothing_is_skipped_that_lies_outside(tmp_path: Path):
    make_folder(tmp_path, ("7,ada,images/a.jpg,,,,database,Cows", "9,ada,../absent.jpg,,,,database,Cows"))
    with pytest.raises(UserError, match=r"path has \.\."):
        load_metadata(tmp_path, Reading(skip_missing=True))


def test_many_paths_are_checked_with_few_looks_at_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Resolving each of 15,000 paths would take seconds: folders are resolved, and links."""
    (tmp_path / "images").mkdir()
    for number in range(500):
        (tmp_path / "images" / f"{number}.jpg").touch()
    resolved = []
    resolve = Path.resolve
    monkeypatch.setattr(Path, "resolve", lambda path, **flags: resolved.append(path) or resolve(path, **flags))
    lines = tuple(f"{number},ada,images/{number}.jpg,,,,database,Cows" for number in range(500))
    assert len(load_metadata(make_folder(tmp_path, lines, files=""))) == 500
    assert len(resolved) <= 3


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (b"\xffimage_id" + HEADER.encode()[8:], "line 1 is not UTF-8"),
        (HEADER.encode() + b",not\xee", "metadata.csv: "),
        (b"\x1b[2J", r"it has: \x1b[2J"),
        (b'"' + b"x" * 200_000, "the row that begins in line 1 cannot be read"),
        (HEADER.encode() + b",\x1b,path,path", "column(s) given twice: path"),
    ],
)
def test_a_damaged_header_is_an_error_and_shown_escaped(tmp_path: Path, header: bytes, part: str):
    make_folder(tmp_path)
    (tmp_path / "metadata.csv").write_bytes(header + b"\n" + "\n".join(GOOD).encode())
    message = message_of(tmp_path)
    assert part in message
    assert message.isprintable()


def test_a_value_of_megabytes_is_a_quotation_mark_that_is_not_closed(tmp_path: Path):
    lines = (GOOD[0], "9,ada" + "x" * 200_000 + ",images/a.jpg,,,,database,Cows")
    message = message_of(make_folder(tmp_path, lines))
    assert "the row that begins in line 3 cannot be read: field larger than field limit" in message
    assert len(message) < 1000
    lines = (GOOD[0], "9,ada\x07" + "x" * 100_000 + ",images/a.jpg,,,,database,Cows")
    message = message_of(make_folder(tmp_path, lines))
    assert "identity holds a control character (1 row) in line 3" in message
    assert len(message) < 1000


def test_the_digest_of_metadata_changes_with_all_that_matters(tmp_path: Path):
    def digest(*lines: str) -> str:
        return digest_metadata(load_metadata(make_folder(tmp_path, lines)))

    first = digest(*GOOD)
    assert digest(*GOOD) == first
    assert digest(*GOOD[:2], GOOD[2].replace("bo", "bob")) != first
    assert digest(GOOD[1], GOOD[0], GOOD[2]) != first
    assert digest(*GOOD[:2]) != first
    assert digest(GOOD[0], GOOD[1].replace("3,,", "3,ada,"), GOOD[2]) == first  # of a query it is not read


def test_missing_photographs_are_listed_with_the_flag_that_skips_them(tmp_path: Path):
    message = message_of(make_folder(tmp_path, files="a"))
    assert "photograph not found" in message
    assert "--skip-missing" in message
    assert message.endswith("(2 rows) in line 3: 'images/b.jpg', line 4: 'images/c.jpg'")


def test_skip_missing_drops_the_rows_and_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        table = load_metadata(make_folder(tmp_path, files="ab"), Reading(skip_missing=True))
    assert table["image_id"].to_pylist() == ["7", "3"]
    assert "metadata.csv: 1 row(s) left out, photograph not found: line 4: 'images/c.jpg'" in caplog.text


def test_a_data_set_without_database_rows_is_an_error(tmp_path: Path):
    assert "no database row" in message_of(make_folder(tmp_path, (GOOD[1],)))
    make_folder(tmp_path)
    (tmp_path / "images" / "a.jpg").unlink()
    (tmp_path / "images" / "c.jpg").unlink()
    with pytest.raises(UserError, match="no database row"):
        load_metadata(tmp_path, Reading(skip_missing=True))


def test_submission_order_is_the_files_order(tmp_path: Path):
    make_folder(tmp_path, (*GOOD, "1,,images/a.jpg,,,,query,Cows"))
    assert load_submission_order(tmp_path) is None
    sample = tmp_path / "sample_submission.csv"
    sample.write_text("image_id,identity\n3,new_individual\n1,new_individual\n")
    assert load_submission_order(tmp_path) == ["3", "1"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("image_id,identity\n3,x\n8,x\n", "image_id is not that of a query in metadata.csv (1 row) in line 3: '8'"),
        ("image_id,identity\n7,x\n", "image_id is not that of a query in metadata.csv (1 row) in line 2: '7'"),
        ("image_id,identity\n3,x\n3,x\n", "image_id '3' is given twice, in lines 2 and 3"),
        ("identity,image_id\nx,3\n", "expected image_id,identity"),
        ("image_id,label\n3,x\n", "missing column(s) identity"),
        ("image_id,identity\n,x\n", "image_id is empty (1 row) in line 2"),
        ("", "the file is empty"),
    ],
)
def test_mistakes_in_the_sample_submission(tmp_path: Path, text: str, part: str):
    make_folder(tmp_path)
    (tmp_path / "sample_submission.csv").write_text(text)
    with pytest.raises(UserError) as caught:
        load_submission_order(tmp_path)
    assert part in str(caught.value)
    assert "sample_submission.csv" in str(caught.value)
