"""A drawn data set in AnimalCLEF25's layout: three species whose coat pattern is the identity.

seed → `metadata.csv`, `sample_submission.csv`, `truth.csv`, `images/<dataset>/database|query/*.jpg`, the same bytes
every time. Pose, light, background and occlusion change from image to image; the colours of a species never tell its
animals apart. Stands in for the paper's data (§3), which may not be redistributed.

Array letters: S side of a canvas or image in pixels. Colours are RGB. Body coordinates u (head to tail) and v (back to
belly) run over [-1, 1].
"""

import argparse
import csv
import json
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from statistics import NormalDist

import cv2
import numpy as np

from reid_core.data.animals import NEW
from reid_core.errors import UserError

VERSION = 1  # of the drawing: raise it with any change of the bytes, so that folders written before are not reused
COLUMNS = ("image_id", "identity", "path", "date", "orientation", "species", "split", "dataset")
IMAGE_PX = 128
_CANVAS_PX = 160
_MARKER = "synthetic.json"
_TABLES = ("metadata.csv", "sample_submission.csv", "truth.csv")
_FIRST_DAY = date(2015, 1, 1)


def _spots(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Share of the mark colour in [0, 1], shape (S, S): round spots kept apart by best-candidate sampling."""
    centres = np.empty((0, 2), np.float32)
    for _ in range(rng.integers(5, 20)):
        candidates = rng.uniform((-0.72, -0.46), (0.72, 0.46), (8, 2)).astype(np.float32)
        nearest = np.linalg.norm(candidates[:, None] - centres, axis=2).min(axis=1, initial=9.0)
        centres = np.vstack([centres, candidates[nearest.argmax()]])
    radius = (rng.uniform(0.07, 0.16) * rng.uniform(0.6, 1.4, len(centres))).astype(np.float32)
    gap = (np.hypot(u[..., None] - centres[:, 0], v[..., None] - centres[:, 1]) - radius).min(axis=2)
    return np.clip(0.5 - gap / 0.03, 0, 1)


def _stripes(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Share of the mark colour: stripes across the body, their phase and width warped by smooth noise."""
    warp, width = (_smooth(rng, 4, len(u))[..., 0] for _ in range(2))
    phase = rng.uniform(1.0, 3.2) * u + rng.uniform(-1.6, 1.6) * v + 0.22 * warp + rng.random()
    return np.clip(0.5 + 2.5 * (np.sin(2 * np.pi * phase) + rng.uniform(-0.6, 0.6) + 0.3 * width), 0, 1)


def _scales(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Share of the mark colour: hexagonal plates, each light, medium or dark, with dark seams."""
    row, column = np.mgrid[-2:3, -3:4]
    centres = np.stack([(column + 0.5 * (row % 2)) * 0.32, row * 0.3], axis=-1).reshape(-1, 2)
    centres = (centres + rng.uniform(-0.05, 0.05, centres.shape)).astype(np.float32)
    away = np.hypot(u[..., None] - centres[:, 0], v[..., None] - centres[:, 1])
    dark = rng.uniform(0.1, 0.6)
    shade = rng.choice((0.0, 0.45, 0.95), len(centres), p=(0.8 - dark, 0.2, dark))[away.argmin(axis=2)]
    nearest = np.partition(away, 1, axis=2)
    return np.maximum(shade, np.clip(1 - (nearest[..., 1] - nearest[..., 0]) / 0.03, 0, 1))


@dataclass(frozen=True, kw_only=True)
class _Species:
    dataset: str
    species: str  # empty as for the real salamanders
    orientations: tuple[str, ...]
    num_identities: int  # in the database, at scale 1
    median_images: float
    spread: float  # standard deviation of the log of the number of images of an identity
    num_queries: int
    dated: float  # share of rows with a date
    coat: Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]
    base_rgb: tuple[int, int, int]
    mark_rgb: tuple[int, int, int]
    # ellipses (u, v, half length, half height, turn in degrees); the first is the trunk, which alone wears the coat
    body: tuple[tuple[float, float, float, float, float], ...]


_TRUNK_LEGS = tuple((u, 0.6, 0.09, 0.28, 0) for u in (-0.5, -0.28, 0.34, 0.54))
_FLIPPERS = ((-0.5, -0.6, 0.34, 0.12, 55), (-0.5, 0.6, 0.34, 0.12, -55), (0.58, -0.5, 0.2, 0.1, -45))
SPECIES = (
    _Species(
        dataset="SpotsID", species="spotted cat", orientations=("left", "right"), num_identities=30, median_images=8,
        spread=0.9, num_queries=30, dated=0, coat=_spots, base_rgb=(214, 176, 122), mark_rgb=(52, 34, 24),
        body=((0.04, 0, 0.74, 0.46, 0), (-0.72, -0.3, 0.24, 0.22, 0), (-0.84, -0.52, 0.06, 0.14, 0),
              (-0.62, -0.52, 0.06, 0.14, 0), (0.82, -0.14, 0.18, 0.06, -40), *_TRUNK_LEGS),
    ),
    _Species(
        dataset="StripesID", species="", orientations=("left", "right"), num_identities=60, median_images=2,
        spread=1.0, num_queries=30, dated=0.97, coat=_stripes, base_rgb=(232, 196, 70), mark_rgb=(28, 32, 52),
        body=((-0.08, 0, 0.76, 0.46, 0), (0.76, -0.2, 0.26, 0.12, -50), (0.76, 0.2, 0.26, 0.12, 50),
              (0, -0.46, 0.3, 0.14, 8), (0.02, 0.46, 0.16, 0.12, 20)),
    ),
    _Species(
        dataset="ScalesID", species="pond turtle", orientations=("top", "left", "right"), num_identities=40,
        median_images=6, spread=0.8, num_queries=30, dated=1, coat=_scales, base_rgb=(206, 204, 150),
        mark_rgb=(44, 58, 40),
        body=((0.02, 0, 0.72, 0.62, 0), (-0.84, 0, 0.16, 0.14, 0), *_FLIPPERS, (0.58, 0.5, 0.2, 0.1, 45)),
    ),
)  # fmt: skip


def write_synthetic(folder: Path, *, seed: int = 0, scale: float = 1.0) -> Path:
    """Draw the data set into `folder`, or leave a complete one of the same version, seed and scale untouched.

    The folder appears under its name only when it is complete. A synthetic set of another version, seed or scale is
    replaced; anything else in the way is refused.

    Args:
        folder: Root of the data set; its parents are created.
        seed: Draws other animals and other photographs.
        scale: Multiplies the number of identities and queries; at least four identities per species stay.

    Returns:
        `folder`.

    Raises:
        UserError: If seed or scale is out of range, or the folder holds something that is not a synthetic set.
    """
    if seed < 0 or not 0 < scale <= 100:
        raise UserError(f"seed={seed}, scale={scale}: the seed is 0 or more, the scale above 0 and at most 100")
    target = Path(folder).resolve()
    wanted = {"version": VERSION, "seed": seed, "scale": float(scale)}
    if _is_complete(target, wanted):
        return folder
    _refuse_foreign(target)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from error
    try:
        num_images = _write_files(part, seed, scale)
        (part / _MARKER).write_text(json.dumps(wanted | {"images": num_images}, indent=1) + "\n")
        _move_in_place(part, target, wanted)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _refuse_foreign(folder: Path) -> None:
    if not folder.exists():
        return
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    if names and (_MARKER not in names or names - {_MARKER, "images", *_TABLES}):
        raise UserError(f"{folder} holds something other than a synthetic data set; name a new or empty folder")


def _is_complete(folder: Path, wanted: dict) -> bool:
    try:
        marker = json.loads((folder / _MARKER).read_text())
        num_images = marker.pop("images")
    except (OSError, ValueError, KeyError, AttributeError):
        return False
    tables = all((folder / name).is_file() for name in _TABLES)
    return marker == wanted and tables and num_images == sum(1 for _ in folder.glob("images/*/*/*.jpg"))


def _move_in_place(part: Path, folder: Path, wanted: dict) -> None:
    if _is_complete(folder, wanted):  # another process drew the same set meanwhile, and may be read already
        return
    old = part.with_suffix(".old")
    if folder.exists():
        folder.rename(old)
    try:
        part.rename(folder)
    except OSError:
        if not _is_complete(folder, wanted):
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _write_files(root: Path, seed: int, scale: float) -> int:
    rows: list[dict[str, str]] = []
    for index, species in enumerate(SPECIES):
        rng = np.random.default_rng((seed, index))
        rows += _write_species(root, rng, species, scale, first_id=len(rows))
    queries = [row for row in rows if row["split"] == "query"]
    _write_csv(root / "truth.csv", ("image_id", "identity"), queries)
    _write_csv(root / "sample_submission.csv", ("image_id", "identity"), [row | {"identity": NEW} for row in queries])
    _write_csv(root / "metadata.csv", COLUMNS, [row | {"identity": ""} if row in queries else row for row in rows])
    return len(rows)


def _write_csv(path: Path, columns: tuple[str, ...], rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_species(root: Path, rng: np.random.Generator, species: _Species, scale: float, first_id: int) -> list[dict]:
    """Draw and write the images of one species; returns its rows, queries with their true identity."""
    for split in ("database", "query"):
        (root / "images" / species.dataset / split).mkdir(parents=True)
    photographs = _plan(rng, species, scale)
    coats: dict[int, np.ndarray] = {}
    rows = []
    for image_id, (animal, split) in enumerate(photographs, start=first_id):
        if animal not in coats:
            coats[animal] = _draw_animal(rng, species)
        # The flanks of an animal differ, so each is seen from one side only; a carapace is seen from everywhere.
        tilted = "top" in species.orientations
        orientation = species.orientations[rng.integers(3) if tilted else animal % 2]
        path = f"images/{species.dataset}/{split}/{image_id:05d}.jpg"
        image = _photograph(rng, coats[animal], orientation, tilted=tilted)
        _, jpeg = cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 90))
        (root / path).write_bytes(jpeg.tobytes())
        day = _FIRST_DAY + timedelta(days=int(rng.integers(3650)))
        taken = day.isoformat() if rng.random() < species.dated else ""
        values = (f"{image_id}", f"{species.dataset}_{animal:03d}", path, taken, orientation, species.species, split)
        rows.append(dict(zip(COLUMNS, (*values, species.dataset), strict=True)))
    return rows


def _plan(rng: np.random.Generator, species: _Species, scale: float) -> list[tuple[int, str]]:
    """(animal, split) of each image in shuffled order; a third of the queries show animals absent from the database."""
    num_known = max(4, round(species.num_identities * scale))
    num_queries = max(3, round(species.num_queries * scale))
    num_new = max(1, num_queries // 3)
    animals = rng.permutation(num_known + num_new)
    known, new = animals[:num_known], animals[num_known:]
    # Quantiles of a log-normal instead of draws: the imbalance is the same for every seed.
    z = np.array([NormalDist().inv_cdf((i + 0.5) / num_known) for i in range(num_known)])
    num_images = np.clip(np.rint(species.median_images * np.exp(species.spread * z)), 1, 30).astype(int)
    queried = np.concatenate([rng.choice(known, num_queries - num_new), rng.choice(new, num_new)])
    plan = [(int(animal), "database") for animal in np.repeat(known, num_images)]
    plan += [(int(animal), "query") for animal in queried]
    return [plan[i] for i in rng.permutation(len(plan))]


def _smooth(rng: np.random.Generator, cells: int, px: int, channels: int = 1) -> np.ndarray:
    """Smooth noise of about unit deviation; shape (px, px, channels)."""
    coarse = rng.normal(size=(cells, cells, channels)).astype(np.float32)
    return cv2.resize(coarse, (px, px), interpolation=cv2.INTER_CUBIC).reshape(px, px, channels)


def _draw_animal(rng: np.random.Generator, species: _Species) -> np.ndarray:
    """One animal facing left in body coordinates; shape (S, S, 4): colour and cover, all in [0, 255], float32."""
    axis = np.linspace(-1, 1, _CANVAS_PX, dtype=np.float32)
    u, v = np.meshgrid(axis, axis)
    base, mark = np.array((species.base_rgb, species.mark_rgb), np.float32)
    animal = np.zeros((_CANVAS_PX, _CANVAS_PX, 4), np.float32)
    for part in reversed(species.body):
        cover = _ellipse(_CANVAS_PX, part, 1.0)[..., None]
        weight = species.coat(rng, u, v)[..., None] if part is species.body[0] else np.float32(0.25)
        colour = (base + (mark - base) * weight) * (1 - 0.18 * v[..., None])
        rim = 0.55 + 0.45 * _ellipse(_CANVAS_PX, part, 0.94)[..., None]
        animal[..., :3] += cover * (colour * rim - animal[..., :3])
        animal[..., 3] = np.maximum(animal[..., 3], 255 * cover[..., 0])
    return cv2.GaussianBlur(animal, (0, 0), 0.8)


def _ellipse(px: int, part: tuple[float, ...], shrink: float) -> np.ndarray:
    u, v, half_length, half_height, turn_deg = part
    to_px = (px - 1) / 2
    box = ((to_px * (1 + u), to_px * (1 + v)), (px * half_length * shrink, px * half_height * shrink), turn_deg)
    canvas = np.zeros((px, px), np.uint8)
    return cv2.ellipse(canvas, box, 255, -1, cv2.LINE_AA).astype(np.float32) / 255


def _photograph(rng: np.random.Generator, animal: np.ndarray, orientation: str, *, tilted: bool) -> np.ndarray:
    """Photograph a drawn animal with a pose, ground, leaves and light of its own; shape (S, S, 3), uint8."""
    posed = _pose(rng, animal, orientation, tilted=tilted)
    cover = posed[..., 3:] / 255
    hue = rng.uniform((80, 90, 60), (140, 145, 125)).astype(np.float32)
    ground = hue + 9 * _smooth(rng, 4, IMAGE_PX, 3) + 15 * _smooth(rng, 6, IMAGE_PX) + 8 * _smooth(rng, 24, IMAGE_PX)
    scene = ground * (1 - cover) + posed[..., :3]
    for _ in range(rng.integers(0, 3)):
        leaf = (*rng.uniform(-0.8, 0.8, 2), rng.uniform(0.2, 0.42), rng.uniform(0.06, 0.13), rng.uniform(0, 180))
        cover = _ellipse(IMAGE_PX, leaf, 1.0)[..., None]
        green = rng.uniform((50, 80, 25), (120, 150, 70)).astype(np.float32)
        scene = scene + cover * (green - scene)
    return _light(rng, scene)


def _pose(rng: np.random.Generator, animal: np.ndarray, orientation: str, *, tilted: bool) -> np.ndarray:
    axis = np.linspace(-1, 1, IMAGE_PX)
    x, y = np.meshgrid(axis, axis)
    angle, scale = np.deg2rad(rng.uniform(-20, 20)), rng.uniform(0.85, 1.1)
    shift, shear, bend = rng.uniform(-0.11, 0.11, 2), rng.uniform(-0.1, 0.1), rng.uniform(-0.1, 0.1)
    x, y = (x - shift[0]) / scale, (y - shift[1]) / scale
    u = np.cos(angle) * x + np.sin(angle) * y + shear * y
    v = np.cos(angle) * y - np.sin(angle) * x + bend * u**2
    if tilted and orientation != "top":  # seen from the side: foreshortened, the far half more
        v = v * 1.2 + (0.12 if orientation == "left" else -0.12) * (v**2 - 0.3)
    if not tilted and orientation == "right":
        u = -u
    to_px = (_CANVAS_PX - 1) / 2
    u_px, v_px = ((to_px * (1 + axis)).astype(np.float32) for axis in (u, v))
    return cv2.remap(animal, u_px, v_px, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)


def _light(rng: np.random.Generator, scene: np.ndarray) -> np.ndarray:
    axis = np.linspace(-1, 1, IMAGE_PX, dtype=np.float32)
    slope = rng.uniform(-0.18, 0.18, 2).astype(np.float32)
    gradient = 1 + slope[0] * axis[None, :, None] + slope[1] * axis[:, None, None]
    gain = (rng.uniform(0.7, 1.2) * rng.uniform(0.92, 1.08, 3)).astype(np.float32)
    lit = np.clip(scene / 255 * gradient * gain, 0, 1) ** np.float32(rng.uniform(0.8, 1.3))
    blurred = cv2.GaussianBlur(255 * lit, (0, 0), rng.uniform(0.3, 0.9))
    noise = 4 * rng.standard_normal(lit.shape, np.float32)
    return np.clip(np.rint(blurred + noise), 0, 255).astype(np.uint8)


def main(arguments: list[str] | None = None) -> None:
    """Command line: `python -m reid_core.data.synthetic FOLDER [--seed 0] [--scale 1.0]`."""
    parser = argparse.ArgumentParser(
        prog="python -m reid_core.data.synthetic", description="Draw the synthetic data set."
    )
    parser.add_argument("folder", type=Path, help="root of the data set; kept if it already holds the same one")
    parser.add_argument("--seed", type=int, default=0, help="draws other animals (default 0)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of animals (default 1.0)")
    options = parser.parse_args(arguments)
    try:
        print(write_synthetic(options.folder, seed=options.seed, scale=options.scale))
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()


SYNTHETIC = "synthetic"


def resolve_data(data: str, folder: Path) -> Path:
    """The data folder; `synthetic` is drawn into `folder` first."""
    return write_synthetic(folder / "synthetic") if data == SYNTHETIC else Path(data).resolve()
