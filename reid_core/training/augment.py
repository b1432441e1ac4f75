"""Augmentation with albumentations, repeatable image by image.

uint8 pixels + one seed per image → uint8 pixels of the same shape (paper §3.3).
"""

import os

import cv2
import numpy as np

from reid_core.config.parameters import AugmentConfig

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network for its newest version at import
import albumentations as A


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
    return A.Compose(effects)


class Augmenter:
    """A pipeline that gives the same pixels for the same seed, in any process and any order."""

    def __init__(self, config: AugmentConfig) -> None:
        cv2.setNumThreads(0)  # parallelism is over batches; OpenCV's own threads would fight over the cores
        self._pipeline = make_pipeline(config)
        self._changes_nothing = config.probability == 0 and not config.flip

    def __call__(self, pixels_BHWC: np.ndarray, seed_B: np.ndarray) -> np.ndarray:
        """Augment each image with its own seed; (B, H, W, 3) uint8 in and out, the input is not changed."""
        if self._changes_nothing:
            return pixels_BHWC
        return np.stack([self._one(image, int(seed)) for image, seed in zip(pixels_BHWC, seed_B, strict=True)])

    def _one(self, image_HWC: np.ndarray, seed: int) -> np.ndarray:
        self._pipeline.set_random_seed(seed)
        return self._pipeline(image=image_HWC)["image"]
