"""Who may import whom, read from the source with `ast`: nothing is imported. The tables are the architecture."""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("reid_core", "sweeps", "cluster", "tests", "benchmarks")
FILES = {f"{path.parent.name}.{path.stem}": path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
CORE = sorted(name.removeprefix("reid_core.") for name in FILES if name.startswith("reid_core."))
FORBIDDEN_NAMES = {"utils", "common", "base", "registry", "interfaces"}
TRACKERS = {"wandb", "mlflow", "tensorboard", "tensorboardX", "comet_ml", "neptune"}
# Modules of sweeps that can be loaded without Ray and torch.
LIGHT = (
    "asker",
    "drawing",
    "export",
    "figures",
    "goals",
    "group_result",
    "journal",
    "limits",
    "report",
    "resources",
    "search_flag",
    "space",
    "tables",
)

# Stages that import more than `config`: the modules whose types they take. A new entry is a decision.
STAGES = {
    "activations": {"images"},
    "batches": {"augment", "plan", "variants"},
    "boundary": {"activations", "batches", "embed", "images", "model", "variants"},
    "candidates": {"sides", "similarity"},
    "confirmation": {"metrics"},
    "embed": {"activations", "heads", "images", "model"},
    "checksums": {"escape"},
    "config_files": {"escape"},
    "feature_files": {"images"},
    "fresh_splits": {"encounters", "share_splits", "splits", "time_splits"},
    "identify": {"metrics"},
    "images": {"escape", "photographs"},
    "leaks": {"encounters", "escape", "similarity", "splits"},
    "local_features": {"feature_files", "images", "weights"},
    "loss": {"heads"},
    "matching": {"images", "local_features", "weights"},
    "model": {"backbone", "heads"},
    "optim": {"model"},
    "pair_store": {"images", "pair_log", "pair_table"},
    "share_splits": {"encounters"},
    "photographs": {"escape"},
    "records": {"escape"},
    "routing": {"checksums", "escape"},
    "splits": {"encounters", "share_splits", "time_splits"},
    "time_splits": {"encounters"},
    "uses": {"checksums"},
    "validation": {"similarity"},
    "variants": {"augment", "images", "plan"},
}
# Composers import stages and the composers before them; every other module of reid_core is a stage.
COMPOSERS = (
    "summary",
    "train",
    "decision",
    "evaluate",
    "bundle",
    "second",
    "prepare",
    "cli",
    "experiment",
    "finish",
    "refit",
    "predict",
    "wildlife",
    "__main__",
)


def imports(name: str, *, at_import: bool = False) -> set[str]:
    """Packages and own modules that a module imports; `at_import`: only those that importing it imports."""
    found, todo = set(), [ast.parse(FILES[name].read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        if not (at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            todo.extend(ast.iter_child_nodes(node))
    return {full.split(".")[0] for full in found} | {".".join(full.split(".")[:2]) for full in found} & set(FILES)


def test_config_needs_only_the_standard_library():
    assert imports("reid_core.config") <= sys.stdlib_module_names


@pytest.mark.parametrize("name", CORE)
def test_core_imports_downwards_and_knows_neither_ray_nor_sweeps(name):
    stages = set(CORE) - set(COMPOSERS)
    below = stages | set(COMPOSERS[: COMPOSERS.index(name)]) if name in COMPOSERS else STAGES.get(name, set())
    found = imports(f"reid_core.{name}")
    assert found & set(FILES) <= {f"reid_core.{other}" for other in below | {"config"}}
    assert not found & ({"ray", "sweeps"} | TRACKERS)


def test_nothing_imports_in_a_circle():
    TopologicalSorter({name: imports(name) & set(FILES) for name in FILES}).prepare()  # CycleError names the circle


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_load_neither_ray_nor_torch(name):
    seen, todo = set(), {f"sweeps.{name}"}
    while todo:
        module = todo.pop()
        seen.add(module)
        found = imports(module, at_import=True)
        assert not found & {"ray", "torch"}, f"sweeps.{name} loads {module}"
        todo |= found & set(FILES) - seen


@pytest.mark.parametrize("name", sorted(FILES))
def test_place_name_and_docstring(name):
    place = FILES[name].relative_to(ROOT)
    assert len(place.parts) == 2, "two levels, never three"
    assert not {*place.parts, place.stem} & FORBIDDEN_NAMES
    assert ast.get_docstring(ast.parse(FILES[name].read_text())), "a module begins with what it is"
    assert place.parts[0] in ("sweeps", "tests", "benchmarks") or "ray" not in imports(name)
