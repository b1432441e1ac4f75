"""Extractors of keypoints and descriptors: ALIKED and RootSIFT.

pixels uint8 (B, H, W, 3) → table of keypoints and descriptors (`feature_files.features_schema`). Paper §5.1.
Letters: B images, K keypoints per image, D descriptor length.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import torch
from kornia.feature import ALIKED

from reid_core.config.parameters import MatchConfig
from reid_core.errors import UserError
from reid_core.files.checksums import file_digest
from reid_core.matching.feature_files import DESCRIPTOR_LENGTH, encode_descriptors, features_table
from reid_core.matching.published_weights import fill_network, find_published_weights

ALIKED_URLS = (
    "https://huggingface.co/kornia/aliked/resolve/main/aliked-n16.pth",
    "https://github.com/Shiaoming/ALIKED/raw/main/models/aliked-n16.pth",
)
FEATURES_VERSION = 3  # raise it whenever the features of the same pixels change
_BATCH_PIXELS = 2**20  # on a GPU; ALIKED needs about 2 kB of activations per pixel


@dataclass(frozen=True)
class Extractor:
    """An extractor and its settings: all that the features of given pixels depend on."""

    name: str  # sift or aliked
    num_keypoints: int
    weights_folder: str | None = None  # with ALIKED's published weights, see `aliked_file`
    weights_digest: str | None = None  # every process that extracts must find the same weights

    @classmethod
    def of(cls, config: MatchConfig) -> "Extractor":
        """The extractor of a matcher.

        Raises:
            UserError: If its published weights cannot be had.
        """
        name = config.matcher.split("-")[0]
        if name == "sift":
            return cls(name, config.num_keypoints)
        folder = config.weights and str(Path(config.weights).resolve())  # a worker may run in another folder
        return cls(name, config.num_keypoints, folder, file_digest(aliked_file(folder)))

    def settings(self) -> list:
        """What names kept features, and the scores of pairs that are computed from them."""
        return [FEATURES_VERSION, self.name, self.num_keypoints, self.weights_digest]


def extract_features(images_BHWC: np.ndarray, extractor: Extractor) -> pa.Table:
    """Features of images (uint8, RGB, square), each the same whichever images it is extracted with.

    Returns:
        Table for `LocalFeatures`.
    """
    sift = extractor.name == "sift"
    num_images, image_px = images_BHWC.shape[:2]
    count_B = np.zeros(num_images, dtype=np.int32)
    keypoints_BK2 = np.zeros((num_images, extractor.num_keypoints, 2), dtype=np.float32)
    descriptors_BKD = np.zeros((num_images, extractor.num_keypoints, DESCRIPTOR_LENGTH), dtype=np.float32)
    found = _sift(images_BHWC, extractor.num_keypoints) if sift else _aliked(images_BHWC, extractor)
    for i, (keypoints, descriptors) in enumerate(found):
        count_B[i] = len(keypoints)
        keypoints_BK2[i, : len(keypoints)] = keypoints
        descriptors_BKD[i, : len(keypoints)] = descriptors
    return features_table(count_B, keypoints_BK2, encode_descriptors(descriptors_BKD), image_px)


def aliked_file(folder: str | None) -> Path:
    """The published weights of the ALIKED extractor.

    Raises:
        UserError: If they cannot be had.
    """
    return find_published_weights(folder, "aliked-n16.pth", "aliked-n16.pth", ALIKED_URLS)


@lru_cache(maxsize=2)
def _aliked_model(extractor: Extractor, device: str) -> ALIKED:
    path = aliked_file(extractor.weights_folder)
    if file_digest(path) != extractor.weights_digest:
        raise UserError(f"{path} is not the file that this run began with")
    # detection_threshold 0: simply the strongest maxima, so that dim photographs get keypoints as well (and a blank
    # one a dozen at its border).
    model = ALIKED("aliked-n16", max_num_keypoints=extractor.num_keypoints, detection_threshold=0)
    fill_network(model, path)
    return model.to(memory_format=torch.channels_last).to(device).eval()  # type: ignore[call-overload]


def _aliked(images_BHWC: np.ndarray, extractor: Extractor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = _aliked_model(extractor, device)
    # One size for all batches: the kernels, and with them the last bits, change with it. A CPU gains nothing by more.
    step = 1 if device == "cpu" else max(1, _BATCH_PIXELS // images_BHWC.shape[1] ** 2)
    for i in range(0, len(images_BHWC), step):
        images = images_BHWC[i : i + step]
        fill = ((0, step - len(images)), (0, 0), (0, 0), (0, 0))
        with torch.inference_mode():
            # Channels last, as the photographs lie in memory: a quarter faster on a CPU.
            batch = torch.from_numpy(np.pad(images, fill)).to(device).permute(0, 3, 1, 2) / 255
            results = model(batch)[: len(images)]
        for one in results:
            order = torch.argsort(one.keypoint_scores, descending=True, stable=True)
            yield one.keypoints[order].cpu().numpy(), one.descriptors[order].cpu().numpy()


def _sift(images_BHWC: np.ndarray, num_keypoints: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """RootSIFT (Arandjelović and Zisserman 2012): Hellinger instead of Euclidean comparison of histograms.

    Half of OpenCV's contrast threshold: coats and skins without texture have too few keypoints otherwise.
    """
    # It keeps more where responses are equal at the limit; which of them count is decided below.
    sift = cv2.SIFT_create(nfeatures=num_keypoints, contrastThreshold=0.02)  # type: ignore[attr-defined]
    for image_HWC in images_BHWC:
        points, histograms = sift.detectAndCompute(cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY), None)
        if not points:
            yield np.zeros((0, 2), np.float32), np.zeros((0, DESCRIPTOR_LENGTH), np.float32)
            continue
        rank = np.array([(-point.response, *point.pt, point.size, point.angle) for point in points])
        strongest = np.lexsort(rank.T[::-1])[:num_keypoints]  # equal responses: by position, size, angle
        histograms = histograms[strongest]
        yield rank[strongest, 1:3], np.sqrt(histograms / np.maximum(histograms.sum(axis=1, keepdims=True), 1))
