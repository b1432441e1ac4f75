"""Photographs as files: bombs are refused before they are decoded, and nothing is left changed in the process."""

import os
import struct
import subprocess
import sys
import threading
import tracemalloc
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from reid_core.data import photographs
from reid_core.data.image_cache import decode_image
from reid_core.data.photographs import (
    MAX_BYTES,
    MAX_PIXELS,
    UNREADABLE_KEY,
    content_key,
    extensions,
    file_key,
    has_more_frames,
    open_photograph,
    read_date,
    read_photograph,
)

PX = 8


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *more: bytes) -> bytes:
    """A PNG of one grey colour with more chunks in front of its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * (width + 1) * min(height, 10)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + pixels + chunk(b"IEND", b"")


def tiff(entries: list[tuple[int, int, int, int]], data: bytes = b"") -> bytes:
    """A little-endian TIFF of these (tag, type, count, value), sorted; data follows the directory."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + b"\0\0\0\0" + data


def grey(width: int, height: int, *more: tuple[int, int, int, int]) -> list[tuple[int, int, int, int]]:
    sizes = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    return [*sizes, *more]


ZEROS = zlib.compress(b"\0" * 50_000_000)
GIF = encode(Image.new("P", (10, 10)), "GIF")
FRAME = GIF.index(b",\0\0\0\0")  # image descriptor: left, top, width, height
BOMBS = {
    "png header": (png(60_000, 60_000), "pixels"),
    "png zTXt": (png(10, 10, chunk(b"zTXt", b"Comment\0\0" + ZEROS)), "too large"),
    "png iTXt": (png(10, 10, chunk(b"iTXt", b"Comment\0\x01\0\0\0" + ZEROS)), "too large"),
    "png many zTXt": (
        png(10, 10, *[chunk(b"zTXt", b"C\0\0" + zlib.compress(b"a" * 1_000_000)) for _ in range(80)]),
        "MAX_TEXT_MEMORY|Too much memory",
    ),
    "gif frame": (GIF[: FRAME + 5] + struct.pack("<HH", 60_000, 60_000) + GIF[FRAME + 9 :], "pixels"),
    "gif screen": (GIF[:6] + struct.pack("<HH", 60_000, 60_000) + GIF[10:], "pixels"),
    "tiff header": (tiff(grey(60_000, 60_000, (273, 4, 1, 8), (278, 4, 1, 60_000), (279, 4, 1, 10))), "pixels"),
    "tiff tile": (
        tiff(grey(10, 10, (322, 4, 1, 60_000), (323, 4, 1, 60_000), (324, 4, 1, 8), (325, 4, 1, 10))),
        "truncated|decoder error",
    ),
    "webp header": (
        b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + b"\xfe\x3f\0" * 2,
        "pixels",
    ),
    "jpeg header": (
        (lambda data: data.replace(b"\xff\xc0\0\x11\x08\0\x10\0\x10", b"\xff\xc0\0\x11\x08\xff\0\xff\0"))(
            encode(Image.new("RGB", (16, 16)), "JPEG")
        ),
        "pixels",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_little_memory_and_nothing_is_left_changed(name):
    data, reason = BOMBS[name]
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    tracemalloc.start()
    with pytest.raises(Exception, match=reason):
        decode_image(data, PX)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000_000, name  # the texts of a PNG may take 64 MB in all
    assert limit == Image.MAX_IMAGE_PIXELS
    assert filters == list(warnings.filters)


@pytest.mark.filterwarnings("ignore:Tag data larger than file")
def test_tags_that_lie_on_each_other_do_not_add_up():
    """200 kB with 3,000 tags that all claim the same bytes: 600 MB if each were read."""
    blob_at = 8 + 2 + 12 * 3009 + 4
    pixels = (273, 4, 1, blob_at), (278, 4, 1, 10), (279, 4, 1, 100)
    tags = [(40_000 + tag, 7, 200_000, blob_at) for tag in range(3000)]
    data = tiff([*grey(10, 10, *pixels), *tags], b"\0" * 200_000)
    tracemalloc.start()
    assert decode_image(data, PX).max() == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000_000


def test_the_limit_itself_is_still_read_whatever_the_process_has_set(monkeypatch):
    monkeypatch.setattr(photographs, "MAX_PIXELS", 100)
    for own in (None, 10**9):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", own)
        assert decode_image(encode(Image.new("L", (10, 10), 7)), PX).min() == 7
        with pytest.raises(ValueError, match="11 x 10 pixels, more than 100"):
            decode_image(encode(Image.new("L", (11, 10))), PX)
        assert own == Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # the process is stricter: it is obeyed
    with pytest.raises(Image.DecompressionBombError):
        decode_image(encode(Image.new("L", (10, 10))), PX)


def test_the_limit_is_above_the_largest_cameras_and_is_pillows_own():
    assert 150_000_000 < MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS


@pytest.mark.filterwarnings("error")
def test_warnings_as_errors_make_a_large_image_unreadable_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)  # 100 pixels: a warning, below the error at 120
    from reid_core.data.image_cache import decode_chunk

    (tmp_path / "large.png").write_bytes(encode(Image.new("L", (10, 10))))
    table = decode_chunk(["large.png"], root=str(tmp_path), image_px=PX)
    assert "DecompressionBombWarning" in table["error"][0].as_py()
    assert table["key"][0].as_py() == content_key((tmp_path / "large.png").read_bytes())


def test_large_images_are_opened_one_at_a_time_and_small_ones_and_jpegs_beside_them(monkeypatch):
    monkeypatch.setattr(photographs, "LARGE_PIXELS", 50)
    large, small = encode(Image.new("L", (10, 10))), encode(Image.new("L", (7, 7)))
    entered = threading.Event()

    def enter() -> None:
        with open_photograph(large):
            entered.set()

    with open_photograph(large):
        other = threading.Thread(target=enter, daemon=True)
        other.start()
        with open_photograph(small), open_photograph(encode(Image.new("L", (10, 10)), "JPEG")):
            assert not entered.wait(0.2)
    other.join(10)
    assert entered.is_set()


@pytest.mark.parametrize("kind", ["EPS", "TGA", "ICO", "PCX", "SGI", "PDF"])
def test_other_formats_are_not_opened(kind):
    """EPS above all: Pillow would start Ghostscript, which runs the program in the file."""
    if kind == "EPS":
        data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
        assert Image.open(BytesIO(data)).format == "EPS"  # so it is one
    else:
        data = encode(Image.new("RGB", (16, 16)), kind)
    with pytest.raises(ValueError, match=r"no photograph (that can be identified as one of JPEG, PNG|but a PDF)"):
        decode_image(data, PX)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000", "PPM", "MPO"])
def test_formats_of_photographs_are_opened(kind):
    assert abs(int(decode_image(encode(Image.new("RGB", (16, 16), (90, 90, 90)), kind), PX).mean()) - 90) <= 1


def test_a_photograph_with_a_long_comment_is_still_a_photograph():
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "a" * 500_000, zip=True)
    assert decode_image(encode(Image.new("L", (10, 10), 9), pnginfo=info), PX).min() == 9


@pytest.mark.skipif(sys.platform != "linux", reason="a file with a hole")
def test_a_file_larger_than_the_limit_is_not_read(tmp_path: Path):
    file = tmp_path / "huge.jpg"
    with file.open("wb") as hole:
        os.truncate(hole.fileno(), MAX_BYTES + 1)
    with pytest.raises(ValueError, match="more than 2,000,000,000"):
        read_photograph(file)
    assert file_key(file) == UNREADABLE_KEY
    from reid_core.data.image_cache import ImageCache, build_cache

    path = build_cache(tmp_path / "cache", tmp_path, ["huge.jpg"], PX)
    assert build_cache(tmp_path / "cache", tmp_path, ["huge.jpg"], PX) == path
    assert "more than 2,000,000,000" in str(ImageCache(path).error[0])


def test_the_digest_of_a_file_is_that_of_its_content(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_key(tmp_path / "a") == content_key(b"abc") == content_key(read_photograph(tmp_path / "a"))
    assert len(content_key(b"")) == len(UNREADABLE_KEY)
    assert file_key(tmp_path / "gone") == UNREADABLE_KEY


def heic(image: Image.Image, **options: object) -> bytes:
    pillow_heif.register_heif_opener()
    return encode(image, "HEIF", **options)


SCENE = Image.new("RGB", (64, 40), (200, 30, 30))
SCENE.paste((20, 20, 220), (0, 0, 32, 20))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_is_upright_and_turned_once(orientation):
    """As phones write it: the file says how its pixels are turned, and so does its EXIF tag."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = heic(SCENE, exif=exif.tobytes(), quality=95)
    turned = ImageOps.exif_transpose(Image.open(BytesIO(encode(SCENE, exif=exif))))
    expected = np.asarray(turned.resize((PX, PX), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(decode_image(data, PX) - expected).max() <= 12
    assert np.abs(decode_image(data, PX) - expected[::-1, ::-1]).max() > 100


def test_a_thumbnail_in_a_heic_file_is_not_taken_for_the_photograph():
    small, large = (heic(Image.new("RGB", (512, 512), (90, 90, 90)), thumbnails=sizes) for sizes in ([], [64]))
    assert len(large) > len(small)
    with open_photograph(large) as image:
        assert image.info["thumbnails"]
        photographs.to_square(image, PX)
        assert image.size == (512, 512)


def test_the_date_of_a_heic_file_is_read(tmp_path: Path):
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2015:07:02 11:04:59"
    (tmp_path / "a.heic").write_bytes(heic(SCENE, exif=exif.tobytes()))
    assert read_date(tmp_path / "a.heic") == "2015:07:02 11:04:59"
    assert {".heic", ".heif"} <= extensions()


def announce(data: bytes, width: int, height: int) -> bytes:
    """A HEIC file whose header says another size."""
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", width, height) + data[at + 8 :]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: announce(data, 60_000, 60_000), "pixels"),
        (lambda data: announce(data, 16, 16), "[Ss]ecurity limit|size"),
        (lambda data: data[: len(data) // 2], "a HEIC file that is damaged|end of file"),
        (lambda data: data[:36] + bytes(4000), "no photograph but a HEIC file that is damaged"),
    ],
    ids=["huge", "small", "cut", "header only"],
)
def test_a_damaged_heic_is_refused_in_little_memory(damage, reason):
    data = damage(heic(Image.effect_noise((640, 480), 90).convert("RGB")))
    tracemalloc.start()
    with pytest.raises(Exception, match=reason):
        decode_image(data, PX)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\0\x05\x16\x07\0\x02\0\0Mac OS X        " + bytes(100), "a Mac's AppleDouble file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS; `git lfs pull`"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "a web page"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"\0\0\0\x18ftypmp42" + bytes(100), "a video"),
        (b"\0\0\0\x18ftypcrx " + bytes(100), "a camera's raw image"),
    ],
    ids=["AppleDouble", "Git LFS", "html", "pdf", "mp4", "raw"],
)
def test_what_lies_there_in_a_photographs_place_is_named(data, what):
    with pytest.raises(ValueError, match=f"no photograph but {what}"):
        decode_image(data, PX)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG", "AVIF", "MPO", "HEIF"])
def test_further_frames_are_noticed_and_the_first_is_read(kind):
    pillow_heif.register_heif_opener()
    first, second = Image.new("RGB", (64, 64), (90, 90, 90)), Image.new("RGB", (64, 64), (200, 9, 9))
    several = encode(first, kind, save_all=True, append_images=[second])
    for data, expected in ((encode(first, kind), False), (several, True)):
        with open_photograph(data) as image:
            assert abs(int(photographs.to_square(image, PX).mean()) - 90) <= 2
            assert has_more_frames(image) == expected


def test_a_damaged_second_frame_does_not_cost_the_first():
    first, other = (Image.effect_noise((10, 10), 90) for _ in range(2))
    data = encode(first, "GIF", save_all=True, append_images=[other])
    second = data.rindex(b",\0\0\0\0")
    assert second > data.index(b",\0\0\0\0")
    for broken in (data[: second + 3], data[: second + 5] + struct.pack("<HH", 60_000, 60_000) + data[second + 9 :]):
        with open_photograph(broken) as image:
            photographs.to_square(image, PX)
            assert has_more_frames(image) in (True, False)


def test_the_ends_of_names_can_be_asked_for_before_anything_was_opened():
    """In a process of its own: opening a photograph registers formats, and tests before this one have."""
    code = "from reid_core.data.photographs import extensions; print(*sorted(extensions()))"
    ends = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert {".jpg", ".png", ".heic"} <= set(ends) == extensions()
