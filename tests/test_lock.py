"""The test set is locked: until the final step no file, no number and no code path holds an identity of `testSet`."""

import ast
import json
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from repository import FILES

from reid_core.__main__ import train
from reid_core.config.presets import tiny
from reid_core.config.values import override
from reid_core.data.synthetic import write_synthetic
from reid_core.data.table.metadata import COLUMNS
from reid_core.data.test_set import record_use
from reid_core.experiment.evaluation import evaluate_fully
from reid_core.experiment.prepare import load_database, prepare, prepare_fresh_split, read_truth, split_database
from reid_core.experiment.prepared import load_prepared
from reid_core.experiment.training_setup import make_trainer, training_data_of
from reid_core.metrics.epoch_report import CLOCKED
from reid_core.model.place import local_place

SMALL = {"optim.epochs": 1, "match.num_keypoints": 32, "match.shortlist": 5, "model.embedding_dim": 16}
SWIN = {"model.backbone": "swin_micro_patch4_window4_64", "model.weights": "random"}
CONFIG = override(tiny(), {**SWIN, "optim.batch_size": 8, **SMALL})

# Who may read metadata.csv with the identities of its database rows, and who those of `testSet` after `prepare`.
READERS = {
    "read_metadata": {
        "reid_core.data.table.metadata.load_metadata",
        "reid_core.experiment.prepare.read_database",
        "reid_core.prediction.request._of_table",  # what is to be named, and what a gallery may be extended by
    },
    "load_metadata": {
        "reid_core.wildlife.load_wildlife",  # checks what it has written
    },
    "read_database": {
        "reid_core.experiment.prepare.prepare",  # splits
        "reid_core.experiment.prepare.load_database",
        "sweeps.stages.checks.all_checks.check_sweep",  # splits, to see whether the sweep can be run
    },
    "load_database": {
        "reid_core.experiment.prepare.read_truth",
        "sweeps.comparison.run.check_rows",  # splits, to see whether the rows can be run
        "sweeps.stages.groups.claim.choose_groups",  # the names of the groups
        "sweeps.comparison.row_figures.draw_data",  # after every row was scored
    },
    "read_truth": {
        "reid_core.__main__.run_once",
        "sweeps.stages.final_test.finish_best",
        "sweeps.stages.refit_best.open_refit",  # after testSet was scored: its images are trained on
    },
}


class Run(NamedTuple):
    """What a run leaves before its final step."""

    root: Path
    out: Path
    hidden: set[str]  # identities that only testSet has
    numbers: list[dict[str, Any]]  # of every epoch, and of the full evaluation


def prepare_run(folder: Path, new_name: str) -> tuple[Path, set[str]]:
    """Data and the prepared folder; animals that only testSet has are called `new_name` of their names in the data."""
    root = write_synthetic(folder / "synthetic", scale=0.25)
    database = load_database(root)
    parts = split_database(database, [None] * len(database), CONFIG)
    in_test_N = parts.part_N == "testSet"
    hidden = set(parts.identity_N[in_test_N]) - set(parts.identity_N[~in_test_N])
    new_names = {name: new_name.format(name) for name in hidden}
    change_identities(root, {row: new_names.get(name, name) for row, name in enumerate(parts.identity_N)})
    prepare(root, folder / "out" / "cache", CONFIG)
    return root, set(new_names.values())


def change_identities(root: Path, name_of_row: dict[int, str]) -> None:
    """Rewrite metadata.csv with other identities of some database rows."""
    metadata = load_database(root)
    identities = metadata["identity"].to_pylist()
    for row, name in name_of_row.items():
        identities[row] = name
    columns = [identities if name == "identity" else metadata[name].to_pylist() for name in COLUMNS]
    lines = [",".join(COLUMNS), *(",".join(value or "" for value in row) for row in zip(*columns, strict=True))]
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")


def run(folder: Path, new_name: str, *, poisoned: bool) -> Run:
    """Prepare, make a fresh split, train on the first and evaluate on both; all that comes before the final step.

    Args:
        folder: Of data and results.
        new_name: Gives those animals that only testSet has other names, in the same order.
        poisoned: Whether every identity of testSet is another animal's in metadata.csv from `prepare` on.
    """
    root, hidden = prepare_run(folder, new_name)
    out = folder / "out"
    if poisoned:
        parts = load_prepared(out / "cache").parts
        other = parts.identity_N[parts.rows("training")[0]]
        change_identities(root, {int(row): other for row in parts.rows("testSet")})
    prepared = load_prepared(out / "cache")
    fresh = load_prepared(prepare_fresh_split(out / "cache", 1, CONFIG))
    data, place = training_data_of(CONFIG, prepared), local_place(CONFIG)
    trainer = make_trainer(CONFIG, prepared, data.plan, place)
    train(trainer, data, prepared, out / "checkpoints")
    model = trainer.restore_best()
    metrics = [evaluate_fully(CONFIG, each, model, place).metrics for each in (prepared, fresh)]
    (out / "metrics.json").write_text(json.dumps(metrics))
    reports = [{name: value for name, value in report.items() if name not in CLOCKED} for report in trainer.history]
    return Run(root, out, hidden, [*reports, *metrics])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return run(tmp_path_factory.mktemp("plain"), "{}", poisoned=False)


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    return run(tmp_path_factory.mktemp("poisoned"), "{}-hidden", poisoned=True)


def texts_of(file: Path) -> str:
    """A file's bytes, and the values of its columns if it is a table: those may be compressed."""
    content = file.read_bytes().decode("latin-1")
    if file.suffix == ".parquet":
        return content + str(pq.read_table(file).to_pydict())
    if file.suffix == ".arrow":
        table = pa.ipc.open_file(file).read_all()
        names = [field.name for field in table.schema if pa.types.is_string(field.type)]
        return content + str(table.select(names).to_pydict()) + str(table.schema.metadata)
    return content


def test_no_file_holds_an_identity_that_only_the_test_set_has(poisoned):
    files = [file for file in poisoned.out.rglob("*") if file.is_file()]
    assert len(poisoned.hidden) >= 3
    texts = {file.relative_to(poisoned.out).as_posix(): texts_of(file) for file in files}
    assert {"cache/parts.parquet", "cache/split-0001/parts.parquet", "metrics.json"} <= set(texts)
    assert {".parquet", ".json", ".arrow", ".safetensors"} <= {Path(name).suffix for name in texts}
    seen = load_prepared(poisoned.out / "cache").classes()[0][0]
    assert seen in texts["cache/parts.parquet"]  # so an identity would be found
    assert [(name, hidden) for name, text in texts.items() for hidden in poisoned.hidden if hidden in text] == []


def test_no_number_depends_on_an_identity_of_the_test_set(plain, poisoned):
    assert plain.hidden != poisoned.hidden
    truths = []
    for run in (plain, poisoned):
        use = record_use(run.out, trial="lock", config=CONFIG)
        truths.append(read_truth(run.root, load_prepared(run.out / "cache"), use=use))
    in_test = truths[0].part_N == "testSet"
    assert not (truths[0].identity_N == truths[1].identity_N)[in_test].all()
    for name in ("parts.parquet", "split-0001/parts.parquet"):
        first, second = ((run.out / "cache" / name).read_bytes() for run in (plain, poisoned))
        assert first == second, name
    assert repr(plain.numbers) == repr(poisoned.numbers)  # bit by bit, nan included
    assert len(plain.numbers) == 1 + 2
    assert plain.numbers[1]["mean_of_groups"] > 0
    assert plain.numbers[2] != plain.numbers[1]


def readers(name: str) -> set[str]:
    """Functions and classes of the program that name something, other than by importing it."""
    found = set()
    for module, path in FILES.items():
        if not module.startswith(("tests.", "benchmarks.", "docs.")):
            for top in ast.parse(path.read_text()).body:
                named = (getattr(node, "id", getattr(node, "attr", None)) for node in ast.walk(top))
                renamed = any(
                    isinstance(node, ast.alias) and node.name == name and node.asname for node in ast.walk(top)
                )
                if name in named or renamed:
                    found.add(f"{module}.{getattr(top, 'name', 'top level')}")
    return found


@pytest.mark.parametrize("name", READERS)
def test_only_these_read_identities(name):
    assert readers(name) == READERS[name]


def test_a_use_comes_from_its_record():
    calls = {
        module
        for module, path in FILES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", None)) == "Use"
    }
    assert calls == {"reid_core.data.test_set"}


def test_only_these_open_the_metadata():
    constants = {
        module
        for module, path in FILES.items()
        if not module.startswith(("tests.", "benchmarks.", "docs."))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value == "metadata.csv"
    }
    # `prepare` names it in a message; `synthetic`, `wildlife` and `folders` write it.
    modules = ("data.table.metadata", "data.synthetic", "experiment.prepare", "wildlife", "folders")
    assert constants == {f"reid_core.{name}" for name in modules}
