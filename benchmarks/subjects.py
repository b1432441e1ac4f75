"""The files that the software reads, each undamaged and with the way in which a command uses it; for mutations.py.

folder → one small experiment, run for real → subjects: files, a function that uses them, and a judge of what it gives.
"""

import contextlib
import csv
import dataclasses
import io
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import nn

from reid_core import command
from reid_core.__main__ import main as run_experiment
from reid_core.config.parameters import MatchConfig, TrialConfig
from reid_core.config.yaml_files import read_config
from reid_core.data.image_cache import ImageCache, build_cache, decode_image
from reid_core.data.photographs import content_key
from reid_core.data.pixel_source import PixelSource
from reid_core.data.synthetic import SYNTHETIC, write_synthetic
from reid_core.data.table.columns import COLUMNS
from reid_core.data.table.dates import parse_date
from reid_core.data.table.metadata import digest_metadata, load_metadata, load_submission_order
from reid_core.data.table.values import SPLITS
from reid_core.data.test_set import read_uses, record_use
from reid_core.experiment.bundle.folder import read_bundle
from reid_core.experiment.evaluation import outputs_of
from reid_core.experiment.prepare import prepare
from reid_core.experiment.training_setup import keep_activations, make_trainer, plan_of, training_data_of
from reid_core.matching.extraction import build_features
from reid_core.matching.local_features import LocalFeatures
from reid_core.matching.pairs.store import PairStore
from reid_core.metrics.result import Result, read_result, write_result
from reid_core.model.place import Place
from sweeps.results.journal import Journal, Record
from sweeps.results.result_folder import claim_out

SETTINGS = (
    *("--preset", "tiny", "--seed", "1"),
    *("--set", "model.backbone=swin_micro_patch4_window4_64"),
    *("--set", "model.weights=random"),
    *("--set", "model.embedding_dim=16"),
    *("--set", "model.unfrozen_stages=1"),
    *("--set", "model.keep_activations=true"),
    *("--set", "data.variants=2"),
    *("--set", "data.oversample_to=2"),
    *("--set", "optim.epochs=1"),
    *("--set", "optim.batch_size=8"),
    *("--set", "match.num_keypoints=16"),
    *("--set", "match.shortlist=3"),
    *("--set", "fusion.second_model=convnext_micro_64"),
    *("--set", "fusion.second_weights=random"),
)
PHOTOGRAPH_KINDS = ("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "JPEG2000", "PPM")
SWEEP = {"script": "metric", "data": "x", "optim.lr_head": 1e-4}
MATCH = MatchConfig(matcher="sift-mnn", num_keypoints=16, image_px=64)

Judge = Callable[[Path, Any, Any], str]


def is_equal(folder: Path, result: Any, expected: Any) -> str:
    """The judge of everything that is signed or can be computed again."""
    return "equal" if result == expected else "another result, unseen"


@dataclass(frozen=True)
class Subject:
    """Files to damage, and how they are used."""

    name: str
    source: Path  # folder with the undamaged files, copied for each mutation
    files: tuple[str, ...]  # those to damage, relative to it
    use: Callable[[Path], Any]  # folder → result, comparable with ==
    judge: Judge = is_equal


def canonical(value: Any) -> Any:
    """Any result as something that `==` compares bit for bit; NaN equals NaN."""
    if isinstance(value, nn.Module):
        return canonical(value.state_dict())
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray):
        content = repr(value.tolist()) if value.dtype == object else value.tobytes()
        return str(value.dtype), value.shape, content
    if isinstance(value, LocalFeatures):
        return canonical(value.table)
    if isinstance(value, pa.Table):
        return [(name, value[name].to_pylist()) for name in value.column_names]
    if dataclasses.is_dataclass(value):
        return canonical({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return [(key, canonical(value[key])) for key in sorted(value, key=str)]
    return list(map(canonical, value)) if isinstance(value, list | tuple) else repr(value)


# What a command does with each kind of file.


def use_metadata(folder: Path) -> Any:
    """Records, their digest, and the order of the submission."""
    metadata = load_metadata(folder)
    return canonical(metadata), digest_metadata(metadata), load_submission_order(folder)


def judge_metadata(folder: Path, result: Any, expected: Any) -> str:
    """Equal, or what Python's own parser reads there, in the reader's spelling, with another digest."""
    if result == expected:
        return "equal"
    rows = [dict.fromkeys(COLUMNS) | row for row in read_csv(folder / "metadata.csv")]
    for row in rows:
        row["split"] = SPLITS.get((row["split"] or "").casefold(), row["split"])
        row["identity"] = None if row["split"] == "query" else row["identity"]
        row["date"] = parse_date(row["date"])
        row["group"] = row["dataset"]
    for row, path in zip(rows, dict(result[0])["path"], strict=False):
        row["path"] = path if (row["path"] or "").casefold() == path.casefold() else row["path"]
    given = [(name, [row[name] for row in rows]) for name in (*COLUMNS, "group")]
    order = [row["image_id"] for row in read_csv(folder / "sample_submission.csv")]
    is_visible = (result[1] != expected[1]) == (result[0] != expected[0])
    return "as given" if is_visible and result[0] == given and result[2] == order else "another result, unseen"


def read_csv(file: Path) -> list[dict[str, str | None]]:
    """Rows by column, in small letters; None where a field is empty, or holds blanks alone."""
    text = io.StringIO(file.read_bytes().decode("utf-8-sig"), newline="")
    header, *rows = [[field.strip() for field in row] for row in csv.reader(text) if any(map(str.strip, row))]
    names = [*map(str.casefold, header)]
    return [{name: field or None for name, field in zip(names, row, strict=True)} for row in rows]


def use_photographs(folder: Path, names: list[str]) -> Any:
    """Key, error, pixels and local features of each photograph, with what is kept in the folder's cache."""
    cache = ImageCache(build_cache(folder / "cache", folder, names, MATCH.image_px))
    features = LocalFeatures.open(build_features(folder / "cache", cache, MATCH))
    each = np.arange(len(names))
    arrays = cache.pixels(each), features.num_keypoints_N, features.keypoints(each), features.descriptor_codes(each)
    return [(cache.keys[i], cache.error[i], [canonical(array[i]) for array in arrays]) for i in each]


def judge_photographs(folder: Path, result: Any, expected: Any, names: list[str]) -> str:
    """A photograph whose bytes are the same is the same; another has its own key, and its own pixels or a reason."""
    shutil.rmtree(folder / "cache")
    if use_photographs(folder, names) != result:
        return "something kept of the former photograph"
    outcome = "equal"
    for name, row, before in zip(names, result, expected, strict=True):
        data = (folder / name).read_bytes()
        key, error, arrays = row
        if content_key(data) == before[0]:
            if row != before:
                return "another result, unseen"
        elif error is not None:
            outcome = "message"
        elif key != content_key(data) or arrays[0] != canonical(decode_image(data, MATCH.image_px)):
            return "another result, unseen"
        else:
            outcome = "as given"
    return outcome


def use_prepared(folder: Path, root: Path, config: TrialConfig) -> Any:
    """Everything that trials are prepared with; then what the networks say, through kept variants and activations."""
    prepared = prepare(root, folder, config)
    data = training_data_of(config, prepared)
    trainer = make_trainer(config, prepared, data.plan, Place())
    pixels = PixelSource.open(data.source.image_cache, data.source.variants)
    place = keep_activations(config, prepared, data, trainer.model, Place())
    outputs = outputs_of(config, prepared, trainer.model, place)
    each = np.arange(len(data.source.code_R))
    return canonical([pixels.pixels(each), outputs, prepared.local_features, prepared.parts, prepared.images.keys])


def use_checkpoint(folder: Path, make: Callable[[], Any]) -> Any:
    """Everything that a trainer takes over."""
    trainer = make()
    trainer.load(folder)
    states = [trainer.model, trainer.best_state, trainer.optimizer.state_dict(), trainer.schedule.state_dict()]
    return canonical([*states, trainer.history])


def use_pairs(folder: Path) -> Any:
    """Scores of all pairs of 12 images by two matchers, those that the store lost scored again."""
    keys, results = [f"{number:032x}" for number in range(1, 13)], []
    for name, is_symmetric in (("one", True), ("two", False)):
        store = PairStore(folder / f"pairs-{name}.log", symmetric=is_symmetric, digest=name)
        with contextlib.closing(store):
            ids = store.register(keys)
            row, column = np.divmod(np.arange(144), 12)
            for block in np.array_split(np.arange(144), 6):
                pair_P = store.encode(ids[row[block]], ids[column[block]])
                _, is_known_P = store.look(pair_P)
                score_P = np.minimum(row, column)[block] * 100.0 + np.maximum(row, column)[block]
                score_P += 0.0 if is_symmetric else (row < column)[block] / 2
                store.put(pair_P[~is_known_P], score_P[~is_known_P].astype(np.float32), "benchmark")
            score_P, is_known_P = store.look(store.encode(ids[row], ids[column]))
        results += [canonical(score_P), bool(is_known_P.all())]
    return results


def use_journal(folder: Path) -> Any:
    """What resuming a sweep reads: whose folder it is, its records, its result, the uses of testSet."""
    claim_out(folder, SWEEP, resume="auto")
    records = Journal(folder / "trials").read()
    return canonical([records, read_result(folder, records[0].name), read_uses(folder)])


def use_claim(folder: Path, config: TrialConfig) -> Any:
    """Whose result a folder holds; accepted, or a message."""
    command.claim(folder, config, SYNTHETIC)
    return (folder / command.CLAIM).read_text()


# The undamaged files.


def make_subjects(folder: Path) -> list[Subject]:
    """Run the small experiment and gather what it wrote."""
    data, out = write_synthetic(folder / "data", scale=0.1), folder / "out"
    with contextlib.redirect_stdout(io.StringIO()):
        run_experiment(["--data", str(data), "--out", str(out), *SETTINGS])
    config = read_config(out / "best.yaml")
    photographs = write_photographs(folder / "photographs")
    pairs, journal, checkpoint = folder / "pairs", folder / "journal", next((out / "checkpoints").iterdir())
    use_pairs(pairs)
    write_journal(journal)
    (folder / "claim").mkdir()
    use_claim(folder / "claim", config)
    prepared = prepare(data, out / "cache", config)
    make = partial(make_trainer, config, prepared, plan_of(config, prepared), Place())
    kept = partial(Subject, source=out / "cache", use=partial(use_prepared, root=data, config=config))
    return [
        Subject("metadata", data, ("metadata.csv", "sample_submission.csv"), use_metadata, judge_metadata),
        Subject(
            "photographs",
            folder / "photographs",
            tuple(photographs),
            partial(use_photographs, names=photographs),
            partial(judge_photographs, names=photographs),
        ),
        Subject("checkpoint", checkpoint, files_of(checkpoint), partial(use_checkpoint, make=make)),
        Subject("bundle", out / "best", files_of(out / "best"), lambda at: canonical(read_bundle(at))),
        Subject("pair store", pairs, files_of(pairs), use_pairs),
        Subject("journal", journal, files_of(journal), use_journal),
        Subject("claim", folder / "claim", (command.CLAIM,), partial(use_claim, config=config)),
        kept("image cache", files=files_of(out / "cache", "images-")),
        kept("variants", files=files_of(out / "cache", "variants-")),
        kept("local features", files=files_of(out / "cache", "features-")),
        kept("activations", files=files_of(out / "cache", "activations-")),
        kept("second model", files=files_of(out / "cache", "second-")),
        kept("split", files=files_of(out / "cache", "p") + files_of(out / "cache", "data.json")),
    ]


def files_of(folder: Path, start: str = "") -> tuple[str, ...]:
    """Files below a folder whose path begins so; not what nothing reads (a README, a lock)."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != "README.md"]
    names = [file.relative_to(folder).as_posix() for file in files if not file.name.startswith(".")]
    assert any(name.startswith(start) for name in names), f"{folder}: no {start}"
    return tuple(name for name in names if name.startswith(start))


def write_photographs(folder: Path) -> list[str]:
    """A drawn photograph in each format."""
    folder.mkdir()
    for number, kind in enumerate(PHOTOGRAPH_KINDS):
        coarse = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((96, 72), Image.Resampling.NEAREST)
        image.save(folder / f"{number}.{kind.lower()}", kind)
    return sorted(file.name for file in folder.iterdir())


def write_journal(folder: Path) -> None:
    """Settings, five records, a result and a use of testSet, as a sweep leaves them."""
    folder.mkdir()
    claim_out(folder, SWEEP, resume="auto")
    records = [
        Record(
            name=f"trial-{number:04d}",
            parameters={"optim.lr_head": 10.0**-number, "model.head": "linear"},
            status="completed",
            reports=[{"epoch": 1, "loss": 0.5 + number, "geo_mean_cosine": 0.25}],
            metrics={"objective": 0.5 + number / 16, "geo_mean.Cows": 0.5},
        )
        for number in range(5)
    ]
    for record in records:
        Journal(folder / "trials").write(record)
    record_use(folder, trial=records[0].name, config=TrialConfig())
    write_result(folder, Result(trial=records[0].name, metrics={"testSet": {"mean_of_groups": 0.5}}))
