"""The exported model: everything that naming a new photograph needs, in files that execute nothing when loaded.

model + decision + gallery → folder → the same again. Gallery photographs are not needed afterwards.
"""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from safetensors.torch import load_file, save_file

from reid_core.calibration import Calibrator
from reid_core.config import TrialConfig, UserError, flatten, override, parse_value
from reid_core.evaluate import Decision
from reid_core.local_features import LocalFeatures
from reid_core.model import ReidModel, make_model

FORMAT = 1
FILES = (
    "bundle.json",
    "config.yaml",
    "model.safetensors",
    "calibration.json",
    "thresholds.json",
    "metrics.json",
    "gallery.parquet",
)


@dataclass(frozen=True)
class Bundle:
    """An exported model with its gallery of G images."""

    config: TrialConfig
    model: ReidModel
    decision: Decision
    identity_G: np.ndarray
    group_G: np.ndarray
    embedding_GD: np.ndarray  # float32, rows of length 1
    features: LocalFeatures | None  # of the gallery; None if no local matcher is used
    metrics: dict[str, dict[str, float]]  # "thresholdSet", "testSet" → metrics (`evaluate.summarise`)


def write_config(path: Path, config: TrialConfig) -> None:
    """Write a configuration as YAML, dotted keys; `read_config` and `--config` read it."""
    path.write_text(yaml.safe_dump(flatten(config), sort_keys=False))


def read_config(path: Path) -> TrialConfig:
    """Read a configuration that `write_config` or a person wrote; keys that are missing keep their defaults.

    Raises:
        UserError: If the file cannot be read, is no mapping, or has an unknown key or a wrong value.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `key: value` lines such as optim.lr_head: 0.0001")
    try:
        return override(TrialConfig(), {str(key): parse_value(value) for key, value in values.items()})
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def write_bundle(folder: Path, bundle: Bundle) -> None:
    """Write the bundle beside its place and move it there when it is whole."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write_config(part / "config.yaml", bundle.config)
    save_file(bundle.model.state_dict(), part / "model.safetensors")
    architecture = (getattr(bundle.model.backbone, "pretrained_cfg", None) or {}).get("architecture")
    about = {"format": FORMAT, "architecture": architecture or bundle.config.model.backbone}
    _write_json(part / "bundle.json", about)
    calibrators = bundle.decision.calibrators
    _write_json(
        part / "calibration.json",
        {name: {group: dataclasses.asdict(fit) for group, fit in fits.items()} for name, fits in calibrators.items()},
    )
    _write_json(part / "thresholds.json", bundle.decision.thresholds)
    _write_json(part / "metrics.json", bundle.metrics)
    pq.write_table(_gallery_table(bundle), part / "gallery.parquet", compression="zstd")
    (part / "README.md").write_text(_describe(bundle))
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)


def read_bundle(folder: Path) -> Bundle:
    """Load a bundle; nothing in it is executed.

    Raises:
        UserError: If a file is missing or damaged, or the format is unknown.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder}: no bundle, or an incomplete one; missing: {', '.join(missing)}")
    with _naming(folder / "bundle.json"):
        about = json.loads((folder / "bundle.json").read_text())
        if about["format"] != FORMAT:
            raise UserError(f"{folder}: bundle format {about['format']}; this version reads {FORMAT}")
        local = {"model.backbone": about["architecture"], "model.weights": "random"}  # the weights are in the bundle
    config = read_config(folder / "config.yaml")
    with _naming(folder / "model.safetensors"):
        weights = load_file(folder / "model.safetensors")
        model = make_model(override(config, local))
        model.load_state_dict(weights)
    with _naming(folder / "calibration.json"):
        calibrators = {
            name: {group: Calibrator(tuple(fit["scores"]), tuple(fit["probabilities"])) for group, fit in fits.items()}
            for name, fits in json.loads((folder / "calibration.json").read_text()).items()
        }
    with _naming(folder / "thresholds.json"):
        thresholds = json.loads((folder / "thresholds.json").read_text())
    with _naming(folder / "metrics.json"):
        metrics = json.loads((folder / "metrics.json").read_text())
    with _naming(folder / "gallery.parquet"):
        gallery = _read_gallery(folder / "gallery.parquet")
    return Bundle(
        config=config, model=model.eval(), decision=Decision(calibrators, thresholds), metrics=metrics, **gallery
    )


@contextlib.contextmanager
def _naming(file: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # damaged JSON, safetensors and Parquet each raise their own
        raise UserError(f"{file}: the bundle is damaged: {error}") from error


def _read_gallery(file: Path) -> dict[str, Any]:
    gallery = pq.read_table(file)
    width = gallery.schema.field("embedding").type.list_size
    has_features = "descriptors" in gallery.column_names
    return {
        "identity_G": np.array(gallery["identity"].to_pylist(), dtype=object),
        "group_G": np.array(gallery["group"].to_pylist(), dtype=object),
        "embedding_GD": gallery["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, width),
        "features": (
            LocalFeatures(gallery.select(["num_keypoints", "keypoints", "descriptors"])) if has_features else None
        ),
    }


def _gallery_table(bundle: Bundle) -> pa.Table:
    width = bundle.embedding_GD.shape[1]
    flat = pa.array(np.ascontiguousarray(bundle.embedding_GD).reshape(-1))
    table = pa.table(
        {
            "identity": pa.array(list(bundle.identity_G), pa.string()),
            "group": pa.array(list(bundle.group_G), pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, width),
        }
    )
    if bundle.features is None:
        return table
    local = bundle.features.table
    for name in local.column_names:
        table = table.append_column(local.schema.field(name), local[name])
    return table.replace_schema_metadata(local.schema.metadata)


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")


def _describe(bundle: Bundle) -> str:
    """The bundle's own README: what it is, how to use it, what it reached."""
    groups = sorted(bundle.decision.thresholds)
    lines = [
        "# Animal re-identification model",
        "",
        f"Backbone `{bundle.config.model.backbone}`, gallery of {len(bundle.identity_G)} photographs of "
        f"{len(set(zip(bundle.group_G, bundle.identity_G, strict=True)))} animals.",
        "",
        "    python -m reid_core.predict THIS_FOLDER --data PHOTOGRAPHS --out submission.csv",
        "",
        "Thresholds and calibration were fitted against the `training` images only; the gallery here holds every "
        "readable database image.",
        "",
        "| group | threshold | GEO_MEAN thresholdSet | GEO_MEAN testSet (95 % interval) |",
        "|---|---|---|---|",
    ]
    chosen, test = bundle.metrics["thresholdSet"], bundle.metrics["testSet"]
    for group in groups:
        low, high = test.get(f"geo_mean_low.{group}", np.nan), test.get(f"geo_mean_high.{group}", np.nan)
        lines.append(
            f"| {group} | {bundle.decision.thresholds[group]:.3f} | {chosen.get(f'geo_mean.{group}', np.nan):.3f} "
            f"| {test.get(f'geo_mean.{group}', np.nan):.3f} ({low:.3f} … {high:.3f}) |"
        )
    if "MegaDescriptor" in bundle.config.model.backbone:
        lines += ["", "MegaDescriptor's weights are CC BY-NC 4.0, and so is what is fine-tuned from them."]
    return "\n".join(lines) + "\n"
