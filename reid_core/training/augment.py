"""Augmentation with albumentations, repeatable image by image.

uint8 pixels + one seed per image → uint8 pixels of the same shape (paper §3.3), and why one could not be augmented.
"""

import os
import random
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from reid_core.config.parameters import AugmentConfig
from reid_core.files.escape import escape_line

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network for its newest version at import
import albumentations as A

SHOWN_LETTERS = 300  # of the reason why an image cannot be augmented


def make_pipeline(config: AugmentConfig) -> A.Compose:
    """The paper's kinds of effect, each with the same probability."""
    p, erase = config.probability, config.erase_fraction
    effects = [
        A.HorizontalFlip(p=0.5 if config.flip else 0.0),
        A.Affine(
            rotate=(-config.rotation_deg, config.rotation_deg),
            scale=(0.9, 1.1),
            translate_percent=(-0.05, 0.05),
            border_mode=cv2.BORDER_REFLECT_101,
            p=p,
        ),
        A.CLAHE(clip_limit=(1.0, config.clahe_clip), p=p),
        A.GaussianBlur(blur_limit=(3, config.blur_px), p=p),
        A.RandomBrightnessContrast(config.brightness, config.brightness, p=p),
        A.HueSaturationValue(8, 20, 0, p=p),
        A.GaussNoise(std_range=(0.0, config.noise_std), p=p),
    ]
    if erase > 0:
        sides = (min(0.05, erase), erase)
        effects.append(A.CoarseDropout((1, 1), sides, sides, p=p))
    return A.Compose(effects, is_check_shapes=False)  # of images and their masks; there are no masks


class Augmented(NamedTuple):
    """Images, and why some of them are as they were."""

    pixels_BHWC: np.ndarray  # uint8 RGB
    error_B: list[str | None]  # None: augmented


class Augmenter:
    """A pipeline that gives the same pixels for the same seed, in any process and any order. One thread at a time."""

    def __init__(self, config: AugmentConfig) -> None:
        cv2.setNumThreads(0)  # parallelism is over batches; OpenCV's own threads would fight over the cores
        self._pipeline = make_pipeline(config)
        self._changes_nothing = config.probability == 0 and not config.flip

    def __call__(self, images: np.ndarray | Sequence[np.ndarray], seed_B: np.ndarray) -> Augmented:
        """Augment each image with its own seed; one that cannot be augmented stays as it is, with the reason.

        Args:
            images: uint8 RGB, all of one shape (H, W, 3), at least one; not changed, and may be read-only.
            seed_B: Of each, uint32.

        Raises:
            MemoryError: If there is no room: that is the machine's, not the image's.
        """
        pixels_BHWC = np.empty((len(images), *images[0].shape), dtype=np.uint8)
        error_B: list[str | None] = [None] * len(images)
        for position, (image, seed) in enumerate(zip(images, seed_B, strict=True)):
            pixels_BHWC[position], error_B[position] = self._try(image, int(seed))
        return Augmented(pixels_BHWC, error_B)

    def _try(self, image_HWC: np.ndarray, seed: int) -> tuple[np.ndarray, str | None]:
        if self._changes_nothing:
            return image_HWC, None
        try:
            return self._one(image_HWC, seed), None
        except Exception as reason:  # of albumentations, OpenCV and NumPy: nearly anything
            if isinstance(reason, MemoryError) or getattr(reason, "code", None) == cv2.Error.StsNoMem:
                raise MemoryError(str(reason)) from reason
            return image_HWC, escape_line(f"{type(reason).__name__}: {reason}")[:SHOWN_LETTERS]

    def _one(self, image_HWC: np.ndarray, seed: int) -> np.ndarray:
        # One generator for all effects. `set_random_seed` gives each effect one of its own with the same seed: then
        # all draw the same numbers, so that either every effect is applied or none, each at the same strength.
        self._pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        changed_HWC = self._pipeline(image=image_HWC)["image"]
        if changed_HWC.shape != image_HWC.shape or changed_HWC.dtype != np.uint8:
            raise ValueError(f"it became {changed_HWC.shape} of {changed_HWC.dtype}")
        return changed_HWC
