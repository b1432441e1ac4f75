"""The files of a bundle, each written and read: the model, what was fitted after training, the gallery.

model, decision, arrays ↔ JSON, YAML, safetensors and Parquet in a folder; nothing in them is executed.
Letters: G gallery photographs, K identities of the classifier.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import override
from reid_core.config.yaml_files import read_config, write_config
from reid_core.errors import UserError
from reid_core.files.escape import escape_line
from reid_core.matching.feature_files import features_schema
from reid_core.matching.local_features import LocalFeatures
from reid_core.model.backbone import HUB_ARCHITECTURES
from reid_core.model.reid_model import ReidModel, make_model
from reid_core.scoring.calibration import read_calibrator
from reid_core.scoring.decision import Decision
from reid_core.scoring.openmax import OpenMax

FORMAT = 3  # 2: without checksums
ABOUT, MODEL, GALLERY = "bundle.json", "model.safetensors", "gallery.parquet"
CALIBRATION, THRESHOLDS, OPENMAX, CLASSES = (
    "calibration.json",
    "thresholds.json",
    "openmax.safetensors",
    "identities.json",
)
MODEL_FILES = (ABOUT, "config.yaml", MODEL)
LOCAL_FEATURES = ["num_keypoints", "keypoints", "descriptors"]  # columns of the gallery


@contextlib.contextmanager
def naming(file: Path) -> Iterator[None]:
    """Name the file of a bundle in whatever error reading it raises."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # damaged JSON, safetensors and Parquet each raise their own
        raise UserError(f"{file}: the bundle is damaged: {escape_line(str(error))}") from error


def write_json(file: Path, values: Any) -> None:
    """Write values so that equal ones give equal bytes."""
    file.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_json(file: Path) -> Any:
    """Read what `write_json` wrote."""
    return json.loads(file.read_text(encoding="utf-8"))


def write_model(folder: Path, config: TrialConfig, model: ReidModel, *, refitted_epochs: int | None = None) -> None:
    """Write `MODEL_FILES`."""
    write_config(folder / "config.yaml", config)
    save_file(_separate(model.state_dict()), folder / MODEL)
    architecture = (getattr(model.backbone, "pretrained_cfg", None) or {}).get("architecture")
    about = {
        "format": FORMAT,
        "architecture": architecture or config.model.backbone,
        "num_identities": model.num_identities,
        "refitted_epochs": refitted_epochs,
    }
    write_json(folder / ABOUT, about)


def _separate(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same values, none of which share memory: safetensors refuses what a network uses in several places.

    Such a tensor is written under each of its names, so it is read like any other.
    """
    separate: dict[str, torch.Tensor] = {}
    taken: set[int] = set()
    for name, value in state.items():
        memory = value.untyped_storage().data_ptr()
        separate[name] = value.clone(memory_format=torch.contiguous_format) if memory in taken else value.contiguous()
        taken.add(memory)
    return separate


def load_model(folder: Path) -> tuple[TrialConfig, ReidModel]:
    """Configuration and model, in eval mode.

    Raises:
        UserError: If a file is damaged, or the model would have to be fetched.
    """
    with naming(folder / ABOUT):
        about = read_json(folder / ABOUT)
        architecture, num_identities = str(about["architecture"]), int(about["num_identities"])
    if ":" in architecture and architecture not in HUB_ARCHITECTURES:
        raise UserError(f"{folder}: architecture {architecture!r} would be fetched; a bundle names one that timm has")
    local = {
        "model.backbone": architecture,
        "model.weights": "random",  # the bundle has the weights
        "model.unfrozen_stages": 0,  # nothing of it is trained any more, so its stages do not matter
        "model.block_groups": None,
    }
    config = read_config(folder / "config.yaml")
    with naming(folder / MODEL):
        state = load_file(folder / MODEL)
        model = make_model(override(config, local), num_identities=num_identities, cropped=True)
        model.load_state_dict(state)
    return config, model.eval()


def write_decision(folder: Path, decision: Decision) -> None:
    """Write what was fitted after training."""
    calibrators = {
        name: {group: dataclasses.asdict(fit) for group, fit in fits.items()}
        for name, fits in decision.calibrators.items()
    }
    write_json(folder / CALIBRATION, {"calibrators": calibrators, "weights": decision.fusion_weights})
    write_json(folder / THRESHOLDS, decision.thresholds)
    if decision.openmax is not None:
        save_arrays(decision.openmax.to_arrays(), folder / OPENMAX)


def read_decision(folder: Path, config: TrialConfig, class_group_K: np.ndarray | None) -> Decision:
    """Read what `write_decision` wrote.

    Args:
        folder: Of the bundle.
        config: Of the bundle.
        class_group_K: Group of each identity that the classifier knows; None without a classifier.
    """
    with naming(folder / CALIBRATION):
        written = read_json(folder / CALIBRATION)
        calibrators = {
            name: {group: read_calibrator(fit) for group, fit in fits.items()}
            for name, fits in written["calibrators"].items()
        }
        fusion_weights = written["weights"]
    with naming(folder / THRESHOLDS):
        thresholds = read_json(folder / THRESHOLDS)
    openmax = None
    if config.predict.rule == "openmax":
        with naming(folder / OPENMAX):
            if class_group_K is None:
                raise ValueError(f"{CLASSES} is missing")
            openmax = OpenMax.from_arrays(load_arrays(folder / OPENMAX), class_group_K)
    return Decision(config.predict, calibrators, fusion_weights, thresholds, openmax)


def write_classes(folder: Path, identity_K: np.ndarray | None, group_K: np.ndarray | None) -> None:
    """Write whom each output of the classifier stands for; nothing without one."""
    if identity_K is not None and group_K is not None:
        write_json(folder / CLASSES, {"identity": identity_K.tolist(), "group": group_K.tolist()})


def read_classes(folder: Path) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Identity and group of each output of the classifier; None without one."""
    if not (folder / CLASSES).is_file():
        return None, None
    with naming(folder / CLASSES):
        classes = read_json(folder / CLASSES)
        return np.array(classes["identity"], dtype=object), np.array(classes["group"], dtype=object)


def write_gallery(file: Path, columns: dict[str, np.ndarray], features: LocalFeatures | None) -> None:
    """Write one row per gallery photograph.

    Args:
        file: Parquet.
        columns: Strings (G,) or numbers (G, …) by name.
        features: Of the same photographs; None where no local matcher is used.
    """
    table = pa.table({name: _to_arrow(values) for name, values in columns.items()})
    if features is not None:
        local = features.table
        for name in local.column_names:
            table = table.append_column(local.schema.field(name), local[name])
        table = table.replace_schema_metadata(local.schema.metadata)
    pq.write_table(table, file, compression="zstd")


def read_gallery(file: Path) -> tuple[dict[str, np.ndarray], LocalFeatures | None]:
    """Columns and local features that `write_gallery` wrote."""
    with naming(file):
        table = pq.read_table(file)
        columns = {name: _to_numpy(table[name]) for name in table.column_names if name not in LOCAL_FEATURES}
        has_features = "descriptors" in table.column_names
        return columns, _to_features(table.select(LOCAL_FEATURES)) if has_features else None


def _to_features(table: pa.Table) -> LocalFeatures:
    """Local features as extraction makes them: Parquet has another name for the elements of a list."""
    num_keypoints = table.schema.field("keypoints").type.list_size // 2
    length = table.schema.field("descriptors").type.list_size // num_keypoints
    return LocalFeatures(table.cast(features_schema(int(table.schema.metadata[b"image_px"]), num_keypoints, length)))


def _to_arrow(values: np.ndarray) -> pa.Array:
    if values.ndim == 1:
        return pa.array(list(values), pa.string())
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_string(column.type):
        return np.array(column.to_pylist(), dtype=object)
    return column.combine_chunks().flatten().to_numpy().reshape(-1, column.type.list_size)
