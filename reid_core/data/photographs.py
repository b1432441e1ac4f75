"""Photographs as files: which ones are opened, and how an opened one becomes upright RGB pixels.

file → its bytes → opened image, nothing decoded yet → uint8 pixels (image_px, image_px, 3). What a file's header
announces is judged before anything is decoded, so that a small file cannot take all memory.
"""

import contextlib
import functools
import io
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from reid_core.files.checksums import digest_of, file_digest

KEY_BYTES = 16  # of a photograph's content key
UNREADABLE_KEY = "00" * KEY_BYTES
# Pillow refuses by itself above twice its `Image.MAX_IMAGE_PIXELS`, which is this number unless the process has set
# another; that is left as it is, and images are judged by this number too. The largest cameras have 150 million.
MAX_PIXELS = 178_956_970
MAX_BYTES = 2_000_000_000  # a larger file is not read; MAX_PIXELS of 16-bit RGB take 1.1 GB
LARGE_PIXELS = 50_000_000  # from here on one at a time: decoding and converting take up to 20 bytes per pixel
# Formats of photographs. Pillow knows others, and hands one of them (EPS) to a program that runs what is in the file.
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000", "AVIF", "PPM", "HEIF")
# What lies in photographs' folders under photographs' names: where its first bytes are, and what it is.
NO_PHOTOGRAPHS = (
    (0, b"\x00\x05\x16\x07", "a Mac's AppleDouble file; its photograph is the file without ._ in its name"),
    (0, b"version https://git-lfs", "a pointer of Git LFS; `git lfs pull` brings the photograph"),
    (0, b"<!doctype html", "a web page"),
    (0, b"<html", "a web page"),
    (0, b"%pdf", "a PDF"),
    (0, b"pk\x03\x04", "a ZIP archive"),
    (0, b"\x1a\x45\xdf\xa3", "a video"),
    (8, b"avi ", "a video"),
    (4, b"ftypcrx", "a camera's raw image; export it as JPEG"),
    (4, b"ftyphe", "a HEIC file that is damaged"),
    (4, b"ftypmif1", "a HEIC or AVIF file that is damaged"),
    (4, b"ftypav", "an AVIF file that is damaged"),
    (4, b"ftyp", "a video"),
)
_one_at_a_time = threading.Lock()


def read_photograph(file: Path) -> bytes:
    """Content of a photograph's file.

    Raises:
        ValueError: If it is larger than MAX_BYTES.
        OSError: If it cannot be read.
    """
    _check_size(file)
    return file.read_bytes()


def file_key(file: Path) -> str:
    """`content_key` of a photograph's file; UNREADABLE_KEY where `read_photograph` would raise."""
    try:
        _check_size(file)
        return file_digest(file, num_bytes=KEY_BYTES)
    except (OSError, ValueError):
        return UNREADABLE_KEY


def content_key(data: bytes) -> str:
    """Key of a photograph by its content: 32 hexadecimal characters."""
    return digest_of(data, num_bytes=KEY_BYTES)


def _check_size(file: Path) -> None:
    num_bytes = file.stat().st_size
    if num_bytes > MAX_BYTES:
        raise ValueError(f"the file has {num_bytes:,} bytes, more than {MAX_BYTES:,}")


@contextlib.contextmanager
def open_photograph(data: bytes) -> Iterator[Image.Image]:
    """Open a photograph of one of FORMATS, without decoding it. Large ones are open one at a time in a process.

    Compressed text and colour profiles of more than a megabyte, tags that add up to more than the file, and frames and
    tiles beyond the limit are refused by Pillow (13 and newer); a HEIC file that decodes to another size than its
    header announces by libheif.

    Raises:
        ValueError: If it is empty, is not such a photograph, or has more than MAX_PIXELS pixels.
        Exception: Whatever Pillow raises for a damaged file.
    """
    if not data:
        raise ValueError("the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
    except UnidentifiedImageError as error:  # its message names an address in memory, another one in each run
        raise ValueError(_describe(data)) from error
    with image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"{width} x {height} pixels, more than {MAX_PIXELS:,}")
        # A JPEG is decoded at a fraction of its size (`to_square`).
        is_large = width * height > LARGE_PIXELS and image.format not in ("JPEG", "MPO")
        with _one_at_a_time if is_large else contextlib.nullcontext():
            yield image


def _describe(data: bytes) -> str:
    """Why a file is no photograph."""
    for start, sign, what in NO_PHOTOGRAPHS:
        if data[start : start + len(sign)].lower() == sign:
            return f"no photograph but {what}"
    return f"no photograph that can be identified as one of {', '.join(_formats())}"


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this build of Pillow has."""
    Image.init()
    pillow_heif.register_heif_opener()  # adds a format that Pillow does not know, and changes none
    return tuple(name for name in FORMATS if name in Image.OPEN)


@functools.cache
def extensions() -> frozenset[str]:
    """Ends of the names of files that `open_photograph` can read, in lower case, such as ".jpg"."""
    formats = _formats()  # first: it may add to what is registered
    return frozenset(end for end, name in Image.registered_extensions().items() if name in formats)


def read_date(file: Path) -> str:
    """When a photograph was taken, as its EXIF tag DateTimeOriginal says, without decoding it; "" where nothing does.

    Example of a value: "2015:07:02 11:04:59", by the camera's clock.
    """
    with warnings.catch_warnings(), contextlib.suppress(Exception):  # damaged files make Pillow raise nearly anything
        warnings.simplefilter("ignore")  # of images with very many pixels, and of damaged tags
        with Image.open(file, formats=_formats()) as image:
            if image.format != "PNG" or "exif" in image.info:  # it would decode a PNG to look for the tags behind it
                return str(image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal, ""))
    return ""


def to_square(image: Image.Image, image_px: int) -> np.ndarray:
    """An opened photograph as the cache keeps it: upright RGB, squashed to a square by bicubic resampling.

    Returns:
        Pixels, uint8, shape (image_px, image_px, 3).
    """
    if image.format in ("JPEG", "MPO"):  # of a HEIC file it would take the thumbnail, which may show something else
        image.draft("RGB", (2 * image_px, 2 * image_px))  # decodes at 1/2, 1/4, 1/8, never below this size
    upright = _to_rgb(ImageOps.exif_transpose(image))
    return np.asarray(upright.resize((image_px, image_px), Image.Resampling.BICUBIC))


def has_more_frames(image: Image.Image) -> bool:
    """Whether a decoded photograph's file holds other frames or pages than the one that was decoded.

    Some formats decode the next frame to find out: where that is damaged, the first may still be good.
    """
    with contextlib.suppress(Exception):
        return bool(getattr(image, "is_animated", False))
    return False


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode: 16 bit scaled, not clipped; transparent pixels white, as viewers show them."""
    if image.mode.startswith("I"):  # 16-bit grayscale is I;16, or I in some formats
        values = np.asarray(image).astype(np.float64) / 257
        image = Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8))
    elif image.mode == "F":
        values = np.nan_to_num(np.asarray(image), posinf=0.0, neginf=0.0)
        peak = float(values.max())
        scale = 255 if peak <= 1 else min(1, 255 / peak)
        image = Image.fromarray(np.clip(np.round(values * scale), 0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")
