"""What is noticed in photographs: each kind by value, in words that name photographs and never an animal."""

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from reid_core.data import photograph_findings as module
from reid_core.data.image_cache import ImageCache, build_cache
from reid_core.data.near_duplicates import take_fingerprints
from reid_core.data.photograph_findings import find_in_files, find_in_photographs
from reid_core.data.table.findings import keep_known


def draw(seed: int, **options: object) -> bytes:
    rng, buffer = np.random.default_rng(seed), io.BytesIO()
    scene = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)).resize((90, 60), Image.Resampling.BICUBIC)
    scene.save(buffer, **({"format": "PNG"} | options))
    return buffer.getvalue()


def find(folder, rows: list[tuple[str, str, str, bytes]]):
    """Findings of rows of (identity, group, path, content); image_id is the number of the row."""
    for _, _, path, content in rows:
        (folder / path).write_bytes(content)
    identity, group, path, _ = zip(*rows, strict=True)
    ids = [str(row) for row in range(len(rows))]
    table = pa.table({"image_id": ids, "identity": identity, "group": group, "path": path})
    images = ImageCache(build_cache(folder / "cache", folder, list(path), 32))
    return find_in_photographs(table, images, take_fingerprints(images))


def lines_of(folder, rows: list[tuple[str, str, str, bytes]]) -> list[str]:
    return [str(finding) for finding in find(folder, rows)]


ADA, BO = ("ada", "cow"), ("bo", "cow")
JPEG = {"format": "JPEG", "quality": 60}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(*ADA, "a", draw(0)), (*BO, "b", draw(1)), (*BO, "c", draw(2))], []),
        (
            [(*ADA, "a", draw(0)), (*BO, "a", draw(0))],
            ["1 listed for different animals: a (image_id 0) = a (image_id 1)"],
        ),
        (
            [(*ADA, "a", draw(0)), ("ada", "pig", "a", draw(0))],  # another animal of that name
            ["1 listed for different animals: a (image_id 0) = a (image_id 1)"],
        ),
        (
            [(*ADA, "a", draw(0)), (*ADA, "a", draw(0))],
            ["1 listed more than once, for one animal: a (image_id 0) = a (image_id 1)"],
        ),
        (
            [(*ADA, "a", draw(0)), (*BO, "b", draw(1)), (*BO, "c", draw(0))],
            ["1 there under several names, for different animals: a (image_id 0) = c (image_id 2)"],
        ),
        (
            [(*ADA, f"{n}", draw(0)) for n in range(6)],
            [
                "1 there under several names, for one animal: "
                "0 (image_id 0) = 1 (image_id 1) = 2 (image_id 2) = 3 (image_id 3) = …"
            ],
        ),
        (
            [(*ADA, "a", draw(0)), (*BO, "b", draw(0, **JPEG)), (*BO, "c", draw(1))],
            ["1 pair(s) of different animals look almost the same: a (image_id 0) = b (image_id 1)"],
        ),
        (
            [(*ADA, "a", draw(0)), (*ADA, "b", draw(0, **JPEG)), (*ADA, "c", draw(0, quality=30, format="JPEG"))],
            ["3 pair(s) of one animal look almost the same"],
        ),
        ([(*ADA, "a", draw(0)), ("ada", "pig", "b", draw(0, **JPEG))], []),  # never compared
    ],
    ids=["nothing", "path", "path of groups", "row", "bytes", "many bytes", "pixels", "one animal", "groups"],
)
def test_the_same_photograph_is_noticed(tmp_path, rows, expected):
    assert lines_of(tmp_path, rows) == [f"photographs: {what}" for what in expected]


def test_black_photographs_are_counted_and_are_no_duplicates(tmp_path):
    contents = [io.BytesIO() for _ in range(7)]
    for grey, content in enumerate(contents):
        Image.new("L", (30, 20), grey).save(content, "PNG")
    rows = [(f"animal {n}", "cow", f"{n}.png", content.getvalue()) for n, content in enumerate(contents)]
    assert lines_of(tmp_path, rows) == [
        "photographs: 7 of 7 are black, or of one colour: nothing can be seen in them: "
        "0.png, 1.png, 2.png, 3.png, 4.png, …"
    ]


def test_each_kind_of_reason_is_counted_and_unreadable_copies_are_no_duplicates(tmp_path, monkeypatch):
    jpeg = draw(0, format="JPEG")
    contents = [b"<html>", b"", b"", b"", jpeg[:700], jpeg[:710], b"%PDF", draw(1)]
    rows = [(f"animal {n}", "cow", f"{n}.jpg", content) for n, content in enumerate(contents)]
    found = lines_of(tmp_path, rows)
    start = "photographs: {} of 8 cannot be read and are left out ({}"
    assert found[0] == start.format(3, "ValueError: the file is empty): 1.jpg, 2.jpg, 3.jpg")
    assert found[1].startswith(start.format(2, "OSError: "))  # of other numbers of bytes
    assert found[1].endswith("): 4.jpg, 5.jpg")
    assert found[2:] == [
        start.format(1, "ValueError: no photograph but a web page): 0.jpg"),
        start.format(1, "ValueError: no photograph but a PDF): 6.jpg"),
    ]
    monkeypatch.setattr(module, "MOST_REASONS", 2)
    assert lines_of(tmp_path, rows)[2:] == [start.format(2, "other reasons): 0.jpg, 6.jpg")]


def test_files_of_several_frames_are_counted(tmp_path):
    several = draw(0, format="GIF", save_all=True, append_images=[Image.new("RGB", (90, 60))])
    for name, content in {"a.gif": several, "b.gif": draw(1, format="GIF")}.items():
        (tmp_path / name).write_bytes(content)
    images = ImageCache(build_cache(tmp_path / "cache", tmp_path, ["a.gif", "b.gif"], 32))
    (finding,) = find_in_files(["a.gif", "b.gif"], images)
    assert str(finding) == "photographs: 1 of 2 hold several frames, of which one is used: a.gif"


def test_only_examples_of_known_images_are_kept_where_they_tell_who_is_seen(tmp_path):
    black = io.BytesIO()
    Image.new("L", (30, 20)).save(black, "PNG")
    several = draw(5, format="GIF", save_all=True, append_images=[Image.new("RGB", (90, 60))])
    rows = [
        *((*animal, f"{n}-{k}", draw(n)) for n in (0, 1) for k, animal in enumerate((ADA, BO))),  # different animals
        *((*ADA, f"{n}-{k}", draw(n)) for n in (2, 3) for k in range(2)),
        *((*animal, f"4-{k}", draw(4, **JPEG) if k else draw(4)) for k, animal in enumerate((ADA, BO))),
        *((*ADA, name, content) for name, content in (("black", black.getvalue()), ("gif", several), ("bad", b""))),
    ]
    found = find(tmp_path, rows)
    kept = keep_known(found, {"0", "1", "2", "4", "5", "6", "8", "12"})
    assert [(each.what, each.count) for each in kept] == [(each.what, each.count) for each in found]
    examples = {each.what: each.examples for each in kept if each.examples}
    assert examples == {
        "1 of 13 cannot be read and are left out (ValueError: the file is empty)": ("bad",),
        "2 there under several names, for different animals": ("0-0 (image_id 0) = 0-1 (image_id 1)",),
        "2 there under several names, for one animal": ("2-0 (image_id 4) = 2-1 (image_id 5)",),
    }
    assert keep_known(found, map(str, range(13))) == found
