"""A second global model in the fusion: another backbone, or the model of a bundle, as it is (paper §7.3).

photographs → its embeddings (N, D) float32 in one file with its checksum, computed once per sweep, because no trial
changes them.
"""

import json
import threading
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import flatten, override
from reid_core.data.chunks import MapChunks, local_map
from reid_core.data.image_cache import ImageCache, build_cache
from reid_core.errors import UserError
from reid_core.experiment.bundle.folder import is_refitted, read_model
from reid_core.experiment.kept_embeddings import find_embeddings, keep_embeddings
from reid_core.files.checksums import digest_of, file_digest
from reid_core.files.weights_file import is_folder
from reid_core.model.embed import embed_rows
from reid_core.model.micro import has_weights, read_provenance
from reid_core.model.place import local_place
from reid_core.model.reid_model import ReidModel, make_model

_CHUNK_IMAGES = 64
_loading = threading.Lock()
# What a backbone on its own is made with; data.image_px, mean and std are those of the trial.
BARE = {
    "model.unfrozen_stages": 0,
    "model.head": "none",
    "model.orientation": "none",
    "model.drop_path": 0.0,
    "loss.name": "triplet",
    "predict.rule": "threshold",
    "optim.head_only_epochs": 0,
}


def second_config(config: TrialConfig) -> TrialConfig:
    """The configuration of the second model that a trial's configuration names.

    Raises:
        UserError: If it names a folder that holds no bundle, or that of a model which has seen `testSet`.
    """
    name = config.fusion.second_model or ""
    if is_folder(name):
        if is_refitted(Path(name)):
            raise UserError(
                f"fusion.second_model={name}: a refitted model, trained on every image of its data set, maybe on those "
                "of testSet and thresholdSet here: no score with it would mean anything; take the evaluated one"
            )
        return read_model(Path(name))[0]
    if name.startswith((".", "/", "~")):
        raise UserError(f"fusion.second_model={name}: no such folder")
    weights = {"model.backbone": name, "model.weights": config.fusion.second_weights}
    return override(config, weights | BARE | {"fusion.second_model": None})


def load_second(config: TrialConfig) -> tuple[TrialConfig, ReidModel]:
    """The second model and its configuration."""
    name = config.fusion.second_model or ""
    if is_folder(name):
        return second_config(config), read_model(Path(name))[1]
    settings = second_config(config)
    return settings, make_model(settings)


def build_second(
    folder: Path, root: Path, paths: list[str], config: TrialConfig, *, map_chunks: MapChunks = local_map
) -> Path:
    """Embed every photograph with the second model, unless a file made with the same model and photographs is there.

    Args:
        folder: Where the file is kept.
        root: Data folder.
        paths: Photographs, relative to `root`.
        config: Of the trials; `fusion` names the model.
        map_chunks: Applies a function to chunks of row numbers and yields the results in order.

    Returns:
        Path of a NumPy file, (N, D) float32, rows of length 1.

    Raises:
        UserError: If the model cannot be had.
    """
    settings = second_config(config)
    images = ImageCache(build_cache(folder, root, paths, settings.data.image_px, map_chunks=map_chunks))
    kept = folder / f"second-{digest_of(json.dumps([_identify(config, settings), images.keys]))}"
    if (found := find_embeddings(kept)) is not None:
        return found
    load_second(config)  # a model that cannot be had is an error before any work
    chunks = [list(range(i, min(i + _CHUNK_IMAGES, len(images)))) for i in range(0, len(images), _CHUNK_IMAGES)]
    work = partial(embed_chunk, cache_path=str(images.path.resolve()), values=tuple(_hashable(flatten(config)).items()))
    tables = tqdm(map_chunks(work, chunks), total=len(chunks), desc="second model", unit="chunk", disable=None)
    embedding_ND = np.concatenate(list(_embeddings(tables)))
    return keep_embeddings(kept, embedding_ND)


def embed_chunk(rows: list[int], *, cache_path: str, values: tuple) -> pa.Table:
    """Embeddings of some rows; runs in any process."""
    embedding_BD = embed_second(*_load_once(values), ImageCache(Path(cache_path)), np.array(rows))
    flat = pa.array(embedding_BD.reshape(-1))
    return pa.table({"embedding": pa.FixedSizeListArray.from_arrays(flat, embedding_BD.shape[1])})


def embed_second(config: TrialConfig, model: ReidModel, images: ImageCache, row_R: np.ndarray) -> np.ndarray:
    """Embeddings of some images by a second model, in this process; (R, D), rows of length 1.

    Args:
        config: Of the second model.
        model: The second model.
        images: Of the size that it takes.
        row_R: Rows of `images`.
    """
    place = local_place(config)
    both_RE = embed_rows(model.to(place.device), images, row_R, place)
    return np.ascontiguousarray(both_RE[:, : both_RE.shape[1] - model.num_identities])


def _load_once(values: tuple) -> tuple[TrialConfig, ReidModel]:
    with _loading:  # chunks run in threads: two that drew random weights at once would share one generator
        return _load(values)


@cache
def _load(values: tuple) -> tuple[TrialConfig, ReidModel]:
    return load_second(override(TrialConfig(), dict(values)))


def _hashable(values: dict) -> dict:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _embeddings(tables) -> Iterator[np.ndarray]:
    for table in tables:
        column = table["embedding"].combine_chunks()
        yield column.flatten().to_numpy().reshape(len(table), -1)


def _identify(config: TrialConfig, settings: TrialConfig) -> list:
    """What the embeddings depend on besides the photographs."""
    name = config.fusion.second_model or ""
    if is_folder(name):
        return [file_digest(Path(name) / "model.safetensors")]
    return identify_backbone(settings)


def identify_backbone(config: TrialConfig) -> list:
    """What the features of a backbone on its own depend on besides the photographs."""
    weights = config.model.weights
    content = file_digest(Path(weights)) if weights.endswith(".safetensors") else weights
    if weights == "pretrained" and has_weights(config.model.backbone):  # another version of this program has others
        content = read_provenance()["sha256"]
    seed = config.seed if weights == "random" else None
    return [config.model.backbone, content, seed, config.data.image_px, config.data.mean, config.data.std]
