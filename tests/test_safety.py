"""Nothing that is read is executed: no module reads a pickle, or runs text as code. Read from the source with `ast`."""

import ast

import pytest
from repository import FILES

SOURCE = {name: path for name, path in FILES.items() if not name.startswith("tests.")}
# Whatever reads a pickle, or runs text as code.
MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "code", "runpy"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
METHODS = {"read_pickle", "unpickle", "unsafe_load", "full_load"}
FUNCTIONS = {"yaml.load", "torch.hub.load", "torch.jit.load", "torch.package.PackageImporter", "os.system", "os.popen"}


def dotted(node: ast.expr) -> str:
    """The name that is called, as "torch.hub.load"; "" for what has none."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def imported(node: ast.AST) -> list[str]:
    """Modules that read pickles, and `load` without the name of its package, which `is_unsafe` needs."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
    if not isinstance(node, ast.ImportFrom) or node.module is None:
        return []
    package, names = node.module.split(".")[0], {alias.name for alias in node.names}
    if package in MODULES or (package in ("torch", "numpy", "yaml") and "load" in names):
        return [node.module]
    return []


def is_unsafe(call: ast.Call) -> bool:
    """Whether a call reads a pickle, or might, or runs text."""
    name, flags = dotted(call.func), {word.arg: word.value for word in call.keywords}
    values = {flag: value.value if isinstance(value, ast.Constant) else "unknown" for flag, value in flags.items()}
    if name in ("torch.load", "torch.hub.load_state_dict_from_url") and values.get("weights_only") is not True:
        return True
    if values.get("allow_pickle", False) or values.get("shell", False) or values.get("trust_remote_code", False):
        return True
    return name in BUILTINS | FUNCTIONS or name.split(".")[-1] in METHODS


def problems(source: str) -> list[str]:
    """What in a module could read a pickle or run what it reads."""
    nodes = list(ast.walk(ast.parse(source)))
    calls = [dotted(node.func) for node in nodes if isinstance(node, ast.Call) and is_unsafe(node)]
    return [name for node in nodes for name in imported(node)] + calls


@pytest.mark.parametrize("name", sorted(SOURCE))
def test_no_module_reads_a_pickle_or_runs_what_it_reads(name):
    assert problems(SOURCE[name].read_text()) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle", ["pickle"]),
        ("from joblib import load", ["joblib"]),
        ("from torch import load", ["torch"]),
        ("from torch import nn", []),
        ("torch.load(path)", ["torch.load"]),
        ("torch.load(path, weights_only=False)", ["torch.load"]),
        ("torch.load(path, weights_only=flag)", ["torch.load"]),
        ("torch.load(path, weights_only=True)", []),
        ("np.load(path, allow_pickle=True)", ["np.load"]),
        ("np.save(path, x, allow_pickle=True)", ["np.save"]),
        ("np.load(path)", []),
        ("np.load(path, allow_pickle=False)", []),
        ("x = eval(text)", ["eval"]),
        ("model.eval()", []),
        ("yaml.load(text)", ["yaml.load"]),
        ("yaml.safe_load(text)", []),
        ("re.compile(text)", []),
        ("subprocess.run(text, shell=True)", ["subprocess.run"]),
        ("torch.hub.load('x', 'y')", ["torch.hub.load"]),
        ("pandas.read_pickle(path)", ["pandas.read_pickle"]),
    ],
)
def test_the_test_finds_what_it_looks_for(source, found):
    assert problems(source) == found
