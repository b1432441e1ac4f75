"""The image cache: every kind of photograph, and what happens to broken ones, changed ones and killed builds."""

import copy
import errno
import functools
import logging
import os
import pickle
import resource
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from reid_core.data import image_cache as images
from reid_core.data.chunks import local_map
from reid_core.data.image_cache import ImageCache, build_cache, decode_image, is_intact
from reid_core.errors import UserError
from reid_core.files.atomic import write_arrow

PX = 8
COLOUR = (200, 100, 50)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def fill(root: Path, contents: dict[str, bytes]) -> list[str]:
    root.mkdir(exist_ok=True)
    for name, content in contents.items():
        (root / name).write_bytes(content)
    return list(contents)


def huge_png(width: int, height: int) -> bytes:
    """A file of a few bytes whose header promises width x height pixels."""
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    header = b"IHDR" + size + bytes([8, 2, 0, 0, 0])
    body = b"\x00\x00\x00\x0d" + header + zlib.crc32(header).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + body + b"\x00\x00\x00\x00IDAT" + zlib.crc32(b"IDAT").to_bytes(4, "big")


def test_pixels_are_pillows_bicubic_squash():
    image = noise(31, 17)
    expected = np.asarray(image.resize((PX, PX), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(decode_image(encode(image), PX), expected)


def test_jpeg_decoded_at_reduced_size_stays_close_to_the_full_decode():
    smooth = noise(6, 6).resize((640, 480), Image.Resampling.BICUBIC)
    data = encode(smooth, "JPEG", quality=95)
    full = np.asarray(Image.open(BytesIO(data)).resize((32, 32), Image.Resampling.BICUBIC))
    assert np.abs(decode_image(data, 32).astype(int) - full).max() <= 4


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encode(Image.new("RGB", (20, 10), COLOUR)), COLOUR),
        (encode(Image.new("L", (20, 10), 90)), (90, 90, 90)),
        (encode(Image.new("1", (20, 10), 1)), (255, 255, 255)),
        (encode(Image.new("LA", (20, 10), (90, 255))), (90, 90, 90)),
        (encode(Image.new("RGBA", (20, 10), (*COLOUR, 255))), COLOUR),
        (encode(Image.new("RGBA", (20, 10), (*COLOUR, 0))), (255, 255, 255)),
        (encode(Image.new("RGB", (20, 10), COLOUR).quantize(4)), COLOUR),
        (encode(Image.new("P", (20, 10), 0), transparency=0), (255, 255, 255)),
        (encode(Image.new("CMYK", (20, 10), (0, 255, 255, 0)), "TIFF"), (255, 0, 0)),
        (encode(Image.fromarray(np.full((10, 20), 257 * 77, dtype=np.uint16))), (77, 77, 77)),
        (encode(Image.fromarray(np.full((10, 20), 257 * 77, dtype=np.uint16)), "TIFF"), (77, 77, 77)),
        (encode(Image.fromarray(np.full((10, 20), 257 * 77, dtype=np.int32)), "TIFF"), (77, 77, 77)),
        (encode(Image.fromarray(np.full((10, 20), 0.2, dtype=np.float32)), "TIFF"), (51, 51, 51)),
    ],
    ids=["RGB", "L", "1", "LA", "RGBA", "transparent", "P", "P+t", "CMYK", "I;16", "I;16 tiff", "I", "F"],
)
def test_every_mode_becomes_rgb(data: bytes, expected: tuple[int, int, int]):
    pixels_HWC = decode_image(data, PX)
    assert pixels_HWC.dtype == np.uint8
    assert pixels_HWC.shape == (PX, PX, 3)
    assert np.abs(pixels_HWC.astype(int) - expected).max() == 0


def test_cmyk_jpeg_keeps_its_colour():
    data = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert np.abs(decode_image(data, PX).astype(int) - (255, 0, 0)).max() <= 4


def test_sixteen_bit_is_scaled_not_clipped():
    ramp = np.tile(np.arange(256, dtype=np.uint16) * 257, (256, 1))
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(ramp)), 256)[0, :, 0], np.arange(256))


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is on the right of the stored image
    image = noise(PX, PX)
    expected = np.rot90(np.asarray(image), k=-1)
    np.testing.assert_array_equal(decode_image(encode(image, exif=exif), PX), expected)


def test_broken_images_are_zero_with_a_reason_and_the_rest_is_built(tmp_path: Path):
    good = encode(noise(PX, PX))
    jpeg = encode(noise(64, 64), "JPEG")
    paths = fill(
        tmp_path / "data",
        {
            "good.png": good,
            "empty.jpg": b"",
            "text.jpg": b"not an image",
            "cut.jpg": jpeg[: len(jpeg) // 2],
            "cut.png": encode(noise(64, 64))[:3000],
            "bomb.png": huge_png(20_000, 10_001),
            "bigger.png": huge_png(60_000, 60_000),
            "last.png": encode(noise(PX, PX, 1)),
        },
    )
    paths.insert(1, "gone.jpg")
    cache = ImageCache(build_cache(tmp_path, tmp_path / "data", paths, PX))
    errors = dict(zip(paths, cache.error, strict=True))
    assert errors.pop("good.png") is errors.pop("last.png") is None
    assert "FileNotFoundError" in errors["gone.jpg"]
    assert "the file is empty" in errors["empty.jpg"]
    assert "no photograph that can be identified" in errors["text.jpg"]
    assert "truncated" in errors["cut.jpg"]
    assert "200020000 pixels" in errors["bomb.png"]
    assert "3600000000 pixels" in errors["bigger.png"]
    assert all(error.isprintable() for error in errors.values())
    assert not cache.pixels(range(1, 8)).any()
    np.testing.assert_array_equal(cache.pixels([0, 8]), [np.asarray(noise(PX, PX, seed)) for seed in (0, 1)])
    assert cache.keys[1] == images.UNREADABLE_KEY


def test_a_copy_for_another_process_opens_the_file_again(tmp_path: Path):
    paths = fill(tmp_path / "data", {"a.png": encode(noise(9, 9))})
    cache = ImageCache(build_cache(tmp_path, tmp_path / "data", paths, PX))
    assert cache.__reduce__() == (ImageCache, (cache.path,))
    np.testing.assert_array_equal(copy.copy(cache).pixels([0]), cache.pixels([0]))


def test_order_is_kept_over_chunks_and_rows_can_be_asked_in_any_order(tmp_path: Path):
    paths = fill(tmp_path / "data", {f"{k}.png": encode(Image.new("RGB", (9, 9), (k, 0, 0))) for k in range(150)})
    paths = [paths[k] for k in np.random.default_rng(0).permutation(150)]
    cache = ImageCache(build_cache(tmp_path, tmp_path / "data", paths, PX))
    assert len(cache) == 150
    assert cache.image_px == PX
    rows = np.array([149, 0, 64, 63, 0])
    np.testing.assert_array_equal(cache.pixels(rows)[:, 0, 0, 0], [int(Path(paths[row]).stem) for row in rows])
    np.testing.assert_array_equal(cache.pixels(range(150))[:, 4, 4, 0], [int(Path(path).stem) for path in paths])


def test_pixels_are_a_copy_and_wrong_rows_are_refused(tmp_path: Path):
    paths = fill(tmp_path / "data", {"a.png": encode(Image.new("RGB", (9, 9), COLOUR))})
    cache = ImageCache(build_cache(tmp_path, tmp_path / "data", paths, PX))
    cache.pixels([0])[:] = 0
    assert cache.pixels([0]).min() == min(COLOUR)
    assert cache.pixels([]).shape == (0, PX, PX, 3)
    for rows in ([1], [-1]):
        with pytest.raises(IndexError):
            cache.pixels(rows)


def test_a_changed_photograph_order_or_size_gives_another_file(tmp_path: Path):
    root = tmp_path / "data"
    paths = fill(root, {"a.png": encode(noise(9, 9, 0)), "b.png": encode(noise(9, 9, 1))})
    first = build_cache(tmp_path, root, paths, PX)
    assert build_cache(tmp_path, root, paths[::-1], PX) != first
    assert build_cache(tmp_path, root, paths, PX + 1) != first
    fill(root, {"b.png": encode(noise(9, 9, 2))})
    changed = build_cache(tmp_path, root, paths, PX)
    assert changed != first
    np.testing.assert_array_equal(ImageCache(changed).pixels([0]), ImageCache(first).pixels([0]))
    assert (ImageCache(changed).pixels([1]) != ImageCache(first).pixels([1])).any()


def counting_map(calls: list[int]) -> Callable:
    def map_chunks(function: Callable, chunks: Sequence) -> Iterator[pa.Table]:
        calls.append(sum(map(len, chunks)))
        return local_map(pickle.loads(pickle.dumps(function)), chunks)  # Ray Data sends it to other processes

    return map_chunks


def test_a_second_build_decodes_nothing_and_a_damaged_file_is_rebuilt(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    paths = fill(tmp_path / "data", {"a.png": encode(noise(9, 9))})
    calls: list[int] = []
    build = functools.partial(
        build_cache, tmp_path / "cache", tmp_path / "data", paths, PX, map_chunks=counting_map(calls)
    )
    path = build()
    content = path.read_bytes()
    assert build() == path
    assert calls == [1]
    for damaged in (b"", content[: len(content) // 2], b"x" * len(content)):
        path.write_bytes(damaged)
        with caplog.at_level(logging.WARNING):
            assert build() == path
        assert path.read_bytes() == content
        assert "is damaged and is built again" in caplog.text
    write_arrow(path, [pa.table({"key": ["x"]})], pa.schema([("key", pa.string())]))
    build()
    assert path.read_bytes() == content
    assert calls == [1] * 5


def test_every_damaged_byte_of_a_cache_has_it_built_again(tmp_path: Path):
    """One bit in each 7th byte: the file is then intact (padding), or is built again; never are other pixels given."""
    paths = fill(tmp_path / "data", {"a.png": encode(noise(9, 9)), "b.png": b"none", "c.png": encode(noise(9, 9, 1))})
    path = build_cache(tmp_path / "cache", tmp_path / "data", paths, PX)
    content, first = path.read_bytes(), ImageCache(path)
    keys, errors, pixels = first.keys, first.error, first.pixels(range(3)).copy()
    num_rebuilt = 0
    for position in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.unlink()
        path.write_bytes(damaged)
        if is_intact(path, keys, PX):
            cache = ImageCache(path)
            assert (cache.keys, cache.error, cache.pixels(range(3)).tobytes()) == (keys, errors, pixels.tobytes())
        else:
            num_rebuilt += 1
    assert num_rebuilt > 100
    path.unlink()
    path.write_bytes(damaged[: len(content) - 100] + content[-100:])
    build_cache(tmp_path / "cache", tmp_path / "data", paths, PX)
    assert path.read_bytes() == content


def test_bytes_that_change_places_in_a_row_of_a_cache_are_found(tmp_path: Path):
    paths = fill(tmp_path / "data", {"a.png": encode(noise(9, 9))})
    path = build_cache(tmp_path / "cache", tmp_path / "data", paths, PX)
    content, row = path.read_bytes(), ImageCache(path).pixels([0]).tobytes()
    start = content.index(row)
    swapped = bytearray(content)
    swapped[start : start + 16] = row[16:32]
    swapped[start + 16 : start + 32] = row[:16]
    keys = ImageCache(path).keys
    assert is_intact(path, keys, PX)
    path.unlink()
    path.write_bytes(swapped)
    assert not is_intact(path, keys, PX)


def test_a_missing_or_damaged_cache_is_a_user_error(tmp_path: Path):
    with pytest.raises(UserError, match=r"gone\.arrow: this image cache is missing or damaged"):
        ImageCache(tmp_path / "gone.arrow")
    for content in (b"", b"ARROW1\0\0", b"x" * 1000):
        (tmp_path / "cut.arrow").write_bytes(content)
        with pytest.raises(UserError, match=r"cut\.arrow: this image cache is missing or damaged"):
            ImageCache(tmp_path / "cut.arrow")


def test_a_cache_of_an_earlier_version_is_refused(tmp_path: Path):
    paths = fill(tmp_path / "data", {"a.png": encode(noise(9, 9))})
    rows = pa.ipc.open_file(str(build_cache(tmp_path, tmp_path / "data", paths, PX))).read_all()
    rows = rows.select(["key", "error", "pixels", "checksum"])
    write_arrow(tmp_path / "old.arrow", [rows], rows.schema)
    with pytest.raises(UserError, match=r"old\.arrow: .* a file of an earlier version"):
        ImageCache(tmp_path / "old.arrow")


def test_chunks_that_get_lost_are_an_error(tmp_path: Path):
    paths = fill(tmp_path / "data", {f"{k}.png": encode(noise(9, 9)) for k in range(70)})
    with pytest.raises(RuntimeError, match="64 of 70"):
        build_cache(tmp_path / "cache", tmp_path / "data", paths, PX, map_chunks=lambda f, chunks: iter([f(chunks[0])]))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_killed_build_leaves_no_file_with_the_final_name(tmp_path: Path):
    paths = fill(tmp_path / "data", {f"{k}.png": encode(noise(9, 9)) for k in range(70)})
    code = f"""
import os, signal
from pathlib import Path
from reid_core.data.image_cache import build_cache
def killed(function, chunks):
    yield function(chunks[0])
    os.kill(os.getpid(), signal.SIGKILL)
build_cache(Path({str(tmp_path / "cache")!r}), Path({str(tmp_path / "data")!r}), {paths!r}, {PX}, map_chunks=killed)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    (leftover,) = (tmp_path / "cache").iterdir()
    assert leftover.suffix == ".tmp"
    path = build_cache(tmp_path / "cache", tmp_path / "data", paths, PX)
    assert len(ImageCache(path)) == 70
    assert leftover.exists()  # young: it could belong to a build that is still running
    path.unlink()
    os.utime(leftover, (0, 0))
    build_cache(tmp_path / "cache", tmp_path / "data", paths, PX)
    assert list((tmp_path / "cache").iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    paths = fill(tmp_path / "data", {"a.png": encode(noise(9, 9))})
    blocked = tmp_path / "data" / "a.png" / "cache"
    with pytest.raises(UserError, match=r"a\.png/cache: cannot write the cache"):
        build_cache(blocked, tmp_path / "data", paths, PX)


def test_a_full_disk_names_the_folder_and_leaves_nothing(tmp_path: Path):
    paths = fill(tmp_path / "data", {"a.png": encode(noise(9, 9))})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # stands in for the full disk: writing on fails
    try:
        with pytest.raises(UserError, match="cache: cannot write the cache"):
            build_cache(tmp_path / "cache", tmp_path / "data", paths, 256)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "cache").iterdir()) == []


def test_errors_of_the_tables_are_not_blamed_on_the_folder(tmp_path: Path):
    def tables() -> Iterator[pa.Table]:
        yield pa.table({"key": ["a"]})
        raise OSError(errno.EIO, "reading failed")

    with pytest.raises(OSError, match="reading failed"):
        write_arrow(tmp_path / "x.arrow", tables(), pa.schema([("key", pa.string())]))
    assert list(tmp_path.iterdir()) == []


def test_local_map_keeps_the_order_and_passes_errors_on():
    assert [table["x"][0].as_py() for table in local_map(lambda k: pa.table({"x": [k]}), range(40))] == list(range(40))
    with pytest.raises(ZeroDivisionError):
        list(local_map(lambda k: pa.table({"x": [1 // k]}), [1, 0, 1]))


def test_no_images_is_an_empty_cache(tmp_path: Path):
    cache = ImageCache(build_cache(tmp_path, tmp_path, [], PX))
    assert len(cache) == 0
    assert cache.pixels([]).shape == (0, PX, PX, 3)
