"""What is to be named: rows of a table, every photograph of a folder without one, or a single photograph."""

from pathlib import Path

import pillow_heif
import pytest
from PIL import ExifTags, Image

from reid_core.data.table.metadata import COLUMNS, Reading
from reid_core.errors import UserError
from reid_core.prediction.request import read_request

READING = Reading()


def put(folder: Path, *names: str, taken: str | None = None) -> Path:
    """Write small photographs, with an EXIF date if there is one."""
    exif = Image.Exif()
    if taken is not None:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = taken
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(folder / name, format="JPEG", exif=exif.tobytes())
    return folder


def write_table(folder: Path, header: str, *rows: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return folder


def test_every_photograph_of_a_folder_is_to_be_named(tmp_path):
    put(tmp_path, "b.JPG", "ada/1.jpeg", "Å/deep/er/2.jpg", taken="2015:07:02 23:59:59")
    put(tmp_path, ".hidden.jpg", ".thumbnails/1.jpg", "ada/._1.jpg")
    (tmp_path / "notes.txt").write_text("")
    request = read_request(tmp_path, ["lynx"], READING)
    names = ["ada/1.jpeg", "b.JPG", "Å/deep/er/2.jpg"]
    rows = request.queries.to_pylist()
    assert request.queries.column_names == [*COLUMNS, "group"]
    assert [row["image_id"] for row in rows] == [row["path"] for row in rows] == names
    assert {(row["identity"], row["split"], row["dataset"], row["group"]) for row in rows} == {
        (None, "query", "lynx", "lynx")
    }
    assert {row["date"] for row in rows} == {"2015-07-02"}
    assert (len(request.database), request.order) == (0, None)
    what = "\n".join(map(str, request.findings))
    assert "no metadata.csv: 3 photograph(s) are to be named, as group lynx" in what
    assert "the names of their 2 folder(s) say nothing (python -m reid_core.folders reads them): ada, Å/deep/er" in what
    assert "left out, files of other formats: 1: notes.txt" in what
    assert "left out, hidden: their names begin with a dot: 2: .thumbnails, .hidden.jpg" in what


def test_photographs_of_phones_are_found_with_their_dates(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2015:07:02 11:00:00"
    pillow_heif.from_pillow(Image.new("RGB", (64, 64), "red")).save(tmp_path / "IMG_1.HEIC", exif=exif.tobytes())
    (row,) = read_request(tmp_path, ["lynx"], READING).queries.to_pylist()
    assert (row["path"], row["date"]) == ("IMG_1.HEIC", "2015-07-02")


def test_links_are_left_out_with_a_finding_or_followed(tmp_path):
    put(tmp_path / "elsewhere", "1.jpg", "2.jpg")
    data = put(tmp_path / "data", "0.jpg")
    (data / "all").symlink_to(tmp_path / "elsewhere")
    request = read_request(data, ["lynx"], READING)
    assert request.queries["path"].to_pylist() == ["0.jpg"]
    assert "--follow-links follows them): 1: all" in str(request.findings[-1])
    followed = read_request(data, ["lynx"], Reading(follow_links=True))
    assert followed.queries["path"].to_pylist() == ["0.jpg", "all/1.jpg", "all/2.jpg"]
    assert len(followed.findings) == 1


def test_a_single_photograph(tmp_path):
    put(tmp_path, "one.jpg", "other.jpg")
    request = read_request(tmp_path / "one.jpg", ["lynx"], READING)
    assert request.queries["path"].to_pylist() == ["one.jpg"]
    assert (request.root, request.findings) == (tmp_path, ())
    write_table(tmp_path, "image_id,path,split,dataset", "7,one.jpg,query,newt")
    (finding,) = read_request(tmp_path / "one.jpg", ["lynx"], READING).findings
    assert str(finding) == "photographs: metadata.csv beside the photograph is not read: one.jpg"


def test_a_folder_that_cannot_be_looked_for_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"--data .*: cannot be read: File name too long"):
        read_request(tmp_path / ("x" * 300), ["lynx"], READING)


def test_a_group_is_read_as_that_of_a_table(tmp_path):
    put(tmp_path, "1.jpg")
    request = read_request(tmp_path, ["Zo\u00eb", "newt"], READING, group=" Zoe\u0308 ")
    assert request.queries["group"].to_pylist() == ["Zo\u00eb"]


def test_the_group_of_photographs_without_a_table(tmp_path):
    put(tmp_path, "1.jpg")
    for data in (tmp_path, tmp_path / "1.jpg"):
        with pytest.raises(UserError, match=r"knows 2: give --group NAME, one of lynx, Newt 鹿"):
            read_request(data, ["lynx", "Newt 鹿"], READING)
        with pytest.raises(UserError, match=r"--group newt: the model does not know this group; it knows lynx, Newt"):
            read_request(data, ["lynx", "Newt 鹿"], READING, group="newt")
        request = read_request(data, ["lynx", "Newt 鹿"], READING, group="Newt 鹿")
        assert request.queries["group"].to_pylist() == ["Newt 鹿"]


def test_a_group_beside_a_table_that_says_another_is_refused(tmp_path):
    put(tmp_path, "1.jpg")
    write_table(tmp_path, "image_id,path,split,dataset", "7,1.jpg,query,lynx")
    assert read_request(tmp_path, ["lynx", "newt"], READING, group="lynx").findings == ()
    with pytest.raises(UserError, match=r"--group newt: .*metadata\.csv says the groups of"):
        read_request(tmp_path, ["lynx", "newt"], READING, group="newt")


def test_a_table_without_groups_is_of_the_only_one_or_of_the_one_that_is_named(tmp_path):
    put(tmp_path, "1.jpg", "2.jpg")
    write_table(tmp_path, "image_id,path,split,identity", "7,1.jpg,query,", "8,2.jpg,database,ada")
    for groups, group in ((["lynx"], None), (["lynx", "newt"], "lynx")):
        request = read_request(tmp_path, groups, READING, group=group)
        assert request.queries["group"].to_pylist() == request.database["group"].to_pylist() == ["lynx"]
        assert [str(finding) for finding in request.findings] == [
            "metadata.csv: no column dataset: 2 row(s) taken for 'lynx'"
        ]
    with pytest.raises(UserError, match=r"missing column\(s\) dataset"):
        read_request(tmp_path, ["lynx", "newt"], READING)


def test_a_table_of_paths_alone_is_of_queries(tmp_path):
    put(tmp_path, "1.jpg", "2.jpg")
    write_table(tmp_path, "image_id,path", "7,1.jpg", "8,2.jpg")
    (tmp_path / "sample_submission.csv").write_text("image_id,identity\n8,\n7,\n")
    request = read_request(tmp_path, ["lynx"], READING)
    assert (request.queries["image_id"].to_pylist(), len(request.database)) == (["7", "8"], 0)
    assert request.order == ["8", "7"]
    assert [finding.what for finding in request.findings] == [
        "no column split: 2 row(s) taken for 'query'",
        "no column dataset: 2 row(s) taken for 'lynx'",
    ]
    write_table(tmp_path, "image_id,path,identity", "7,1.jpg,ada", "8,2.jpg,")
    with pytest.raises(UserError, match=r"missing column\(s\) split, which says what rows are to be named"):
        read_request(tmp_path, ["lynx"], READING)


def test_a_table_of_queries_needs_no_identities(tmp_path):
    put(tmp_path, "1.jpg", "2.jpg")
    write_table(tmp_path, "image_id,path,split,dataset", "7,1.jpg,query,lynx", "8,2.jpg,query,lynx")
    request = read_request(tmp_path, ["lynx", "newt"], READING)
    assert request.queries["image_id"].to_pylist() == ["7", "8"]
    assert request.findings == ()


def test_queries_that_the_sample_does_not_ask_for(tmp_path):
    put(tmp_path, "1.jpg", "2.jpg")
    write_table(tmp_path, "image_id,path,split,dataset", "7,1.jpg,query,lynx", "8,2.jpg,query,lynx")
    (tmp_path / "sample_submission.csv").write_text("image_id,identity\n8,new_individual\n")
    request = read_request(tmp_path, ["lynx"], READING)
    assert (request.order, request.queries["image_id"].to_pylist()) == (["8"], ["7", "8"])
    (finding,) = request.findings
    assert "sample_submission.csv: 1 queries of metadata.csv are not in it, and get no row" in str(finding)


def test_queries_that_no_model_knows(tmp_path):
    put(tmp_path, "1.jpg", "2.jpg")
    rows = ["7,1.jpg,query,Lynx", "8,2.jpg,query,lizard"]
    write_table(tmp_path, "image_id,path,split,dataset", *rows)
    with pytest.raises(
        UserError,
        match=r"nothing can be named: the model knows lynx, and the queries are of Lynx \(meant\? lynx\), liz",
    ):
        read_request(tmp_path, ["lynx"], READING)
    (finding,) = read_request(tmp_path, ["Lynx"], READING).findings
    assert "queries: 1 of 2 are of groups that the model does not know; it knows Lynx: lizard" in str(finding)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "--data .*nowhere: no such folder or photograph"),
        (
            "empty",
            r"empty: neither metadata\.csv nor photographs in it \(\.apng .*\); left out, files of other formats: 1",
        ),
        ("empty/notes.txt", r"neither a folder nor a photograph .*; of a table, give the folder"),
        ("misnamed", r"misnamed: no metadata\.csv, but 'Metadata\.CSV': rename it, or move it away to have"),
        ("broken", r"broken/metadata\.csv: cannot be read: No such file"),
    ],
)
def test_what_holds_no_photographs_is_an_error(tmp_path, name, message):
    write_table(tmp_path / "empty", "image_id").joinpath("metadata.csv").rename(tmp_path / "empty" / "notes.txt")
    write_table(put(tmp_path / "misnamed", "1.jpg"), "image_id").joinpath("metadata.csv").rename(
        tmp_path / "misnamed" / "Metadata.CSV"
    )
    put(tmp_path / "broken", "1.jpg").joinpath("metadata.csv").symlink_to("nowhere")
    with pytest.raises(UserError, match=message):
        read_request(tmp_path / name, ["lynx"], READING)
