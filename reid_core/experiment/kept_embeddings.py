"""Embeddings of a network that no trial changes, kept in the folder of the caches: the second model's, epoch 0's.

(N, D) float32 ↔ a folder with one NumPy file and its checksum.
"""

import logging
import shutil
from pathlib import Path

import numpy as np

from reid_core.errors import UserError
from reid_core.files.atomic import new_folder
from reid_core.files.checksums import verify_checksums, write_checksums

EMBEDDINGS = "embeddings.npy"
logger = logging.getLogger(__name__)


def find_embeddings(kept: Path) -> Path | None:
    """The file of a folder that `keep_embeddings` wrote; None if it is not there, or damaged: that is logged."""
    if not kept.exists():
        return None
    try:
        verify_checksums(kept, [EMBEDDINGS])
    except UserError as error:
        logger.warning("%s; all photographs are embedded again", error)
        shutil.rmtree(kept, ignore_errors=True)  # so that whoever waits for the new one says nothing of the old one
        return None
    return kept / EMBEDDINGS


def keep_embeddings(kept: Path, embedding_ND: np.ndarray) -> Path:
    """Write the file, which is there whole or not at all; its path.

    Raises:
        UserError: If it cannot be written.
    """
    with new_folder(kept, unless=lambda: find_embeddings(kept) is not None) as part:
        np.save(part / EMBEDDINGS, embedding_ND, allow_pickle=False)
        write_checksums(part, [EMBEDDINGS])
    return kept / EMBEDDINGS
