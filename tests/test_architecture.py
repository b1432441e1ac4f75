"""Who may import whom, read from the source with `ast`: nothing is imported. The tables are the architecture."""

import ast
import sys
from graphlib import TopologicalSorter

import pytest
from repository import FILES, ROOT

# Rooms from the ground up: a room imports from those before it, and its own files. A file at the top is a room too.
ROOMS = {
    package: order.split()
    for package, order in {
        "reid_core": "errors files config data metrics matching model scoring training experiment prediction command "
        "cli predict wildlife folders __main__",
        "sweeps": "results machines search trials stages comparison metric classification efficientnet paper",
    }.items()
}
FORBIDDEN_NAMES = {"utils", "common", "base", "registry", "interfaces"}
TRACKERS = {"wandb", "mlflow", "tensorboard", "tensorboardX", "comet_ml", "neptune"}
# What must load without Ray and torch: people read results with it, write a search space, or ask for --help.
LIGHT = (
    "sweeps.results",
    "sweeps.machines.flags",
    "sweeps.machines.limits",
    "sweeps.machines.resources",
    "sweeps.search.candidates",
    "sweeps.search.goals",
    "sweeps.search.paper_numbers",
    "sweeps.search.search_flag",
    "sweeps.search.space",
    "sweeps.search.suggestion",
    "sweeps.comparison.answers",
    "sweeps.comparison.figure_parts",
    "sweeps.comparison.numbers",
    "sweeps.comparison.plots",
    "sweeps.comparison.tables",
    "sweeps.stages.command_line",
    "sweeps.stages.groups.result",
    "sweeps.metric",
    "sweeps.classification",
    "sweeps.efficientnet",
    "sweeps.paper",
    "reid_core.cli",
    "reid_core.command",
    "reid_core.folders",
)
PROGRAM = sorted(name for name in FILES if name.split(".")[0] in ROOMS and not name.endswith("__init__"))


def room_of(name: str) -> str:
    """The room that a module is in: "data" of `reid_core.data.splits.by_time`."""
    return name.split(".")[1]


def module_of(name: str) -> str | None:
    """The module of ours that a dotted name is, or is in."""
    while name and name not in FILES:
        name = name.rpartition(".")[0]
    return name or None


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
    return {full.split(".")[0] for full in found} | {module for full in found if (module := module_of(full))}


def loaded_by(name: str) -> set[str]:
    """All that is loaded when a module is: packages and own modules."""
    seen, todo = set(), {name}
    while todo:
        module = todo.pop()
        seen.add(module)
        if module in FILES:
            todo |= imports(module, at_import=True) - seen
    return seen


def test_every_room_has_its_place_in_the_order():
    assert {(name.split(".")[0], room_of(name)) for name in PROGRAM} == {
        (package, room) for package, rooms in ROOMS.items() for room in rooms
    }


@pytest.mark.parametrize("name", PROGRAM)
def test_a_room_imports_from_the_rooms_below_it(name):
    package = name.split(".")[0]
    order = ROOMS[package]
    found = {other for other in imports(name) if other.startswith(f"{package}.")}
    assert {room_of(other) for other in found} <= set(order[: order.index(room_of(name)) + 1])


@pytest.mark.parametrize("name", [name for name in PROGRAM if name.startswith("reid_core.")])
def test_the_core_knows_neither_ray_nor_sweeps_nor_trackers(name):
    assert not imports(name) & ({"ray", "sweeps"} | TRACKERS)


@pytest.mark.parametrize("name", ["parameters", "presets", "ranges", "values"])
def test_configuration_needs_only_the_standard_library(name):
    assert loaded_by(f"reid_core.config.{name}") <= sys.stdlib_module_names | set(FILES) | {"reid_core"}


def test_nothing_imports_in_a_circle():
    TopologicalSorter({name: imports(name) & set(FILES) for name in FILES}).prepare()  # CycleError names the circle
    rooms: dict[str, set[str]] = {}
    for name in PROGRAM:
        folder = name.rpartition(".")[0]
        rooms.setdefault(folder, set()).update(
            other.rpartition(".")[0] for other in imports(name) & set(PROGRAM) if other.rpartition(".")[0] != folder
        )
    for folder, others in rooms.items():  # a room may hold a smaller one, and either may need the other's files
        rooms[folder] = {other for other in others if not other.startswith(folder) and not folder.startswith(other)}
    TopologicalSorter(rooms).prepare()


@pytest.mark.parametrize("name", [name for name in PROGRAM if name.startswith(LIGHT)])
def test_what_shows_results_loads_neither_ray_nor_torch(name):
    assert not loaded_by(name) & {"ray", "torch"}


def test_what_ray_tune_runs_as_a_trial_starts_without_torch():
    assert "torch" not in loaded_by("sweeps.trials.slots.trainable")  # seconds for each stage, and memory on the head


def test_a_slot_starts_without_what_its_workers_compute_with():
    loaded = loaded_by("sweeps.trials.slots.slot")  # by Ray Train's controller as well
    assert not loaded & {"timm", "sweeps.trials.worker", "reid_core.training.trainer", "ray.tune", "sklearn"}


@pytest.mark.parametrize("name", sorted(FILES))
def test_place_name_and_docstring(name):
    place = FILES[name].relative_to(ROOT)
    assert len(place.parts) <= 4, "three levels, never four"
    assert not {*place.parts, place.stem} & FORBIDDEN_NAMES
    assert ast.get_docstring(ast.parse(FILES[name].read_text())), "a module begins with what it is"
    assert place.parts[0] in ("sweeps", "tests", "benchmarks", "docs") or "ray" not in imports(name)


@pytest.mark.parametrize("folder", sorted({FILES[name].parent for name in PROGRAM}))
def test_a_room_is_small_and_says_what_it_is_for(folder):
    assert len(list(folder.glob("*.py"))) <= 13, "a dozen files, and what the room is"
    text = (folder / "__init__.py").read_text()
    assert "→" in text or folder.parent == ROOT, "what comes in and what goes out"
