"""Drawn animals and photographs of them: three species whose coat pattern is the identity.

random numbers + species → an animal in body coordinates → uint8 RGB photographs of it, (S, S, 3). Pose, light,
background and occlusion change from one photograph to the next; all animals of a species have the same colours.

Array letters: S side of a canvas or image in pixels. Colours are RGB. Body coordinates u (head to tail) and v (back to
belly) run over [-1, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

IMAGE_PX = 128
_CANVAS_PX = 160


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
class Species:
    """A species: how many animals and photographs of it there are, and how it looks."""

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
    Species(
        dataset="SpotsID", species="spotted cat", orientations=("left", "right"), num_identities=30, median_images=8,
        spread=0.9, num_queries=30, dated=0, coat=_spots, base_rgb=(214, 176, 122), mark_rgb=(52, 34, 24),
        body=((0.04, 0, 0.74, 0.46, 0), (-0.72, -0.3, 0.24, 0.22, 0), (-0.84, -0.52, 0.06, 0.14, 0),
              (-0.62, -0.52, 0.06, 0.14, 0), (0.82, -0.14, 0.18, 0.06, -40), *_TRUNK_LEGS),
    ),
    Species(
        dataset="StripesID", species="", orientations=("left", "right"), num_identities=60, median_images=2,
        spread=1.0, num_queries=30, dated=0.97, coat=_stripes, base_rgb=(232, 196, 70), mark_rgb=(28, 32, 52),
        body=((-0.08, 0, 0.76, 0.46, 0), (0.76, -0.2, 0.26, 0.12, -50), (0.76, 0.2, 0.26, 0.12, 50),
              (0, -0.46, 0.3, 0.14, 8), (0.02, 0.46, 0.16, 0.12, 20)),
    ),
    Species(
        dataset="ScalesID", species="pond turtle", orientations=("top", "left", "right"), num_identities=40,
        median_images=6, spread=0.8, num_queries=30, dated=1, coat=_scales, base_rgb=(206, 204, 150),
        mark_rgb=(44, 58, 40),
        body=((0.02, 0, 0.72, 0.62, 0), (-0.84, 0, 0.16, 0.14, 0), *_FLIPPERS, (0.58, 0.5, 0.2, 0.1, 45)),
    ),
)  # fmt: skip


def _smooth(rng: np.random.Generator, cells: int, px: int, channels: int = 1) -> np.ndarray:
    """Smooth noise of about unit deviation; shape (px, px, channels)."""
    coarse = rng.normal(size=(cells, cells, channels)).astype(np.float32)
    return cv2.resize(coarse, (px, px), interpolation=cv2.INTER_CUBIC).reshape(px, px, channels)


def draw_animal(rng: np.random.Generator, species: Species) -> np.ndarray:
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


def take_photograph(rng: np.random.Generator, animal: np.ndarray, orientation: str, *, tilted: bool) -> np.ndarray:
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
