"""The exported model: everything that naming a new photograph needs, in files that execute nothing when loaded.

model + decision + gallery → folder → the same again. Gallery photographs are not needed afterwards.
A bundle carries the checksums of its files (`files/checksums.py`), and is not loaded when one differs. Its README.md
is left out of them: nothing reads it, and people are to write into it where the model comes from.
"""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import override
from reid_core.config.yaml_files import read_config, write_config
from reid_core.errors import UserError
from reid_core.experiment.routing import refuse_routing
from reid_core.files.checksums import verify_checksums, write_checksums
from reid_core.files.escape import escape_line, escape_markdown
from reid_core.matching.local_features import LocalFeatures
from reid_core.model.backbone import HUB_ARCHITECTURES
from reid_core.model.reid_model import ReidModel, make_model
from reid_core.scoring.calibration import read_calibrator
from reid_core.scoring.decision import Decision
from reid_core.scoring.openmax import OpenMax

FORMAT = 3  # 2: without checksums
MODEL_FILES = ("bundle.json", "config.yaml", "model.safetensors")
FILES = ("calibration.json", "thresholds.json", "metrics.json", "gallery.parquet")
SECOND = "second"  # folder of the second global model
OPENMAX = "openmax.safetensors"
CLASSES = "identities.json"
README = "README.md"
# Everything that loading reads, if it is there.
LOADED = (*MODEL_FILES, *FILES, OPENMAX, CLASSES, *(f"{SECOND}/{name}" for name in MODEL_FILES))


@dataclass(frozen=True)
class Bundle:
    """An exported model with its gallery of G images."""

    config: TrialConfig
    model: ReidModel
    decision: Decision
    identity_G: np.ndarray
    group_G: np.ndarray
    embedding_GD: np.ndarray  # float32, rows of length 1
    sides_G6: np.ndarray  # photographed sides (`sides.parse_sides`)
    features: LocalFeatures | None  # of the gallery; None if no local matcher is used
    metrics: dict[str, dict[str, float]]  # "thresholdSet", "testSet" → metrics (`summary.summarise`)
    class_identity_K: np.ndarray | None = None  # whom each output of the classifier stands for; None without one
    class_group_K: np.ndarray | None = None
    second: "Second | None" = None  # second global model in the fusion
    refitted_epochs: int | None = None  # trained for so long on every image; None: the model that `metrics` are of


@dataclass(frozen=True)
class Second:
    """A second global model, with its embeddings of the gallery."""

    config: TrialConfig
    model: ReidModel
    embedding_GD: np.ndarray


def write_bundle(folder: Path, bundle: Bundle) -> None:
    """Write the bundle beside its place and move it there when it is whole."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    _write_model(part, bundle.config, bundle.model, refitted_epochs=bundle.refitted_epochs)
    if bundle.second is not None:
        (part / SECOND).mkdir()
        _write_model(part / SECOND, bundle.second.config, bundle.second.model)
    _write_decision(part, bundle)
    _write_json(part / "metrics.json", bundle.metrics)
    pq.write_table(_gallery_table(bundle), part / "gallery.parquet", compression="zstd")
    (part / README).write_text(_describe(bundle))
    files = (file.relative_to(part).as_posix() for file in part.rglob("*") if file.is_file())
    write_checksums(part, [name for name in files if name != README])
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)


def _write_model(folder: Path, config: TrialConfig, model: ReidModel, *, refitted_epochs: int | None = None) -> None:
    write_config(folder / "config.yaml", config)
    save_file(model.state_dict(), folder / "model.safetensors")
    architecture = (getattr(model.backbone, "pretrained_cfg", None) or {}).get("architecture")
    about = {
        "format": FORMAT,
        "architecture": architecture or config.model.backbone,
        "num_identities": model.num_identities,
        "refitted_epochs": refitted_epochs,
    }
    _write_json(folder / "bundle.json", about)


def read_model(folder: Path) -> tuple[TrialConfig, ReidModel]:
    """Load configuration and model of a bundle, without its gallery.

    Raises:
        UserError: If a file is missing, damaged or changed, or the format is unknown.
    """
    _check(folder, MODEL_FILES, MODEL_FILES)
    return _load_model(folder)


def read_bundle(folder: Path) -> Bundle:
    """Load a bundle; nothing in it is executed.

    Raises:
        UserError: If a file is missing, damaged, changed or added, or the format is unknown.
    """
    _check(folder, (*MODEL_FILES, *FILES), LOADED)
    config, model = _load_model(folder)
    classes = _read_classes(folder)
    decision = _read_decision(folder, config, classes)
    with _naming(folder / "metrics.json"):
        metrics = json.loads((folder / "metrics.json").read_text())
    with _naming(folder / "gallery.parquet"):
        gallery = pq.read_table(folder / "gallery.parquet")
        columns = _read_gallery(gallery)
    second = None
    if (folder / SECOND / MODEL_FILES[0]).is_file():
        second = Second(*_load_model(folder / SECOND), _matrix(gallery, "second"))
    with _naming(folder / "bundle.json"):
        refitted_epochs = json.loads((folder / "bundle.json").read_text())["refitted_epochs"]
    return Bundle(
        config=config,
        model=model,
        decision=decision,
        metrics=metrics,
        second=second,
        refitted_epochs=refitted_epochs,
        **classes,
        **columns,
    )


def is_refitted(folder: Path) -> bool:
    """Whether a bundle's model was trained on every image of its data set.

    Raises:
        UserError: If it cannot be read.
    """
    with _naming(folder / "bundle.json"):
        return json.loads((folder / "bundle.json").read_text()).get("refitted_epochs") is not None


def _check(folder: Path, needed: Iterable[str], loaded: Iterable[str]) -> None:
    """Refuse what is no bundle of this format, and one whose files are not those that were written."""
    refuse_routing(folder)
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder}: no bundle, or an incomplete one; missing: {', '.join(missing)}")
    with _naming(folder / "bundle.json"):
        found = json.loads((folder / "bundle.json").read_text())["format"]
    if found != FORMAT:
        older = "; export it again with this version, or load it with the version that wrote it" if found == 2 else ""
        raise UserError(f"{folder}: bundle format {found}; this version reads {FORMAT}{older}")
    verify_checksums(folder, loaded)


def _load_model(folder: Path) -> tuple[TrialConfig, ReidModel]:
    with _naming(folder / "bundle.json"):
        about = json.loads((folder / "bundle.json").read_text())
        architecture, num_identities = str(about["architecture"]), int(about["num_identities"])
    if ":" in architecture and architecture not in HUB_ARCHITECTURES:
        raise UserError(f"{folder}: architecture {architecture!r} would be fetched; a bundle names one that timm has")
    local = {"model.backbone": architecture, "model.weights": "random"}  # the weights are in the bundle
    config = read_config(folder / "config.yaml")
    with _naming(folder / "model.safetensors"):
        weights = load_file(folder / "model.safetensors")
        model = make_model(override(config, local), num_identities=num_identities)
        model.load_state_dict(weights)
    return config, model.eval()


def _write_decision(folder: Path, bundle: Bundle) -> None:
    decision = bundle.decision
    calibrators = {
        name: {group: dataclasses.asdict(fit) for group, fit in fits.items()}
        for name, fits in decision.calibrators.items()
    }
    _write_json(folder / "calibration.json", {"calibrators": calibrators, "weights": decision.weights})
    _write_json(folder / "thresholds.json", decision.thresholds)
    if bundle.class_identity_K is not None and bundle.class_group_K is not None:
        classes = {"identity": bundle.class_identity_K.tolist(), "group": bundle.class_group_K.tolist()}
        _write_json(folder / CLASSES, classes)
    if decision.openmax is not None:
        save_arrays(decision.openmax.to_arrays(), folder / OPENMAX)


def _read_classes(folder: Path) -> dict[str, Any]:
    """Identity and group of each output of the classifier, as arguments of `Bundle`; empty without one."""
    if not (folder / CLASSES).is_file():
        return {}
    with _naming(folder / CLASSES):
        classes = json.loads((folder / CLASSES).read_text())
        return {f"class_{name}_K": np.array(classes[name], dtype=object) for name in ("identity", "group")}


def _read_decision(folder: Path, config: TrialConfig, classes: dict[str, Any]) -> Decision:
    with _naming(folder / "calibration.json"):
        written = json.loads((folder / "calibration.json").read_text())
        calibrators = {
            name: {group: read_calibrator(fit) for group, fit in fits.items()}
            for name, fits in written["calibrators"].items()
        }
    with _naming(folder / "thresholds.json"):
        thresholds = json.loads((folder / "thresholds.json").read_text())
    openmax = None
    if config.predict.rule == "openmax":
        with _naming(folder / OPENMAX):
            openmax = OpenMax.from_arrays(load_arrays(folder / OPENMAX), classes["class_group_K"])
    return Decision(config.predict, calibrators, written["weights"], thresholds, openmax)


@contextlib.contextmanager
def _naming(file: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # damaged JSON, safetensors and Parquet each raise their own
        raise UserError(f"{file}: the bundle is damaged: {escape_line(str(error))}") from error


def _read_gallery(gallery: pa.Table) -> dict[str, Any]:
    has_features = "descriptors" in gallery.column_names
    return {
        "identity_G": np.array(gallery["identity"].to_pylist(), dtype=object),
        "group_G": np.array(gallery["group"].to_pylist(), dtype=object),
        "embedding_GD": _matrix(gallery, "embedding"),
        "sides_G6": _matrix(gallery, "sides"),
        "features": (
            LocalFeatures(gallery.select(["num_keypoints", "keypoints", "descriptors"])) if has_features else None
        ),
    }


def _matrix(table: pa.Table, name: str) -> np.ndarray:
    width = table.schema.field(name).type.list_size
    return table[name].combine_chunks().flatten().to_numpy().reshape(-1, width)


def _rows(matrix: np.ndarray) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(matrix).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1])


def _gallery_table(bundle: Bundle) -> pa.Table:
    columns = {
        "identity": pa.array(list(bundle.identity_G), pa.string()),
        "group": pa.array(list(bundle.group_G), pa.string()),
        "embedding": _rows(bundle.embedding_GD),
        "sides": _rows(bundle.sides_G6),
    }
    if bundle.second is not None:
        columns["second"] = _rows(bundle.second.embedding_GD)
    table = pa.table(columns)
    if bundle.features is None:
        return table
    local = bundle.features.table
    for name in local.column_names:
        table = table.append_column(local.schema.field(name), local[name])
    return table.replace_schema_metadata(local.schema.metadata)


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")


def _describe_training(refitted_epochs: int | None) -> list[str]:
    lines = [
        "Thresholds and calibration were fitted against the `training` images only; the gallery here holds every "
        "readable database image."
    ]
    if refitted_epochs is None:
        return [*lines, "This is the evaluated model: the scores below are its own."]
    return [
        *lines,
        f"This is a refitted model: trained for {refitted_epochs} epochs on every readable database image. Thresholds, "
        "calibration and the scores below are those of the evaluated model; its own cannot be measured.",
    ]


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
        "    sha256sum --check SHA256SUMS        # whether it arrived as it was written; loading checks the same",
        "",
        *_describe_training(bundle.refitted_epochs),
        "",
        "| group | threshold | GEO_MEAN thresholdSet | GEO_MEAN testSet (95 % interval) |",
        "|---|---|---|---|",
    ]
    chosen, test = bundle.metrics["thresholdSet"], bundle.metrics["testSet"]
    for group in groups:
        low, high = test.get(f"geo_mean_low.{group}", np.nan), test.get(f"geo_mean_high.{group}", np.nan)
        score, test_score = (values.get(f"geo_mean.{group}", np.nan) for values in (chosen, test))
        name, threshold = escape_markdown(group), bundle.decision.thresholds[group]
        lines.append(f"| {name} | {threshold:.3f} | {score:.3f} | {test_score:.3f} ({low:.3f} … {high:.3f}) |")
    if "MegaDescriptor" in bundle.config.model.backbone:
        lines += ["", "MegaDescriptor's weights are CC BY-NC 4.0, and so is what is fine-tuned from them."]
    return "\n".join(lines) + "\n"
