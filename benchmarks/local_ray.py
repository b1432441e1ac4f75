"""A local Ray in whose processes a module is patched as it is imported; for the scripts beside this one.

Nothing heavy is imported here: each of Ray's processes runs the hook before its own work.
"""

import importlib.util
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


class PatchOnImport:
    """Import hook: a module is patched in the process that imports it, whoever does, and no other process has to."""

    def __init__(self, module: str, patch: Callable[[Any], None]) -> None:
        self._module, self._patch = module, patch

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Of that module."""
        if name != self._module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        run = spec.loader.exec_module

        def run_and_patch(module: Any) -> None:
            run(module)
            self._patch(module)

        spec.loader.exec_module = run_and_patch  # type: ignore[method-assign]
        return spec


def patch_on_import(module: str, patch: Callable[[Any], None]) -> None:
    """Patch a module as soon as this process imports it."""
    sys.meta_path.insert(0, PatchOnImport(module, patch))  # type: ignore[arg-type]


def start_ray(resources: Any, *, hook: str | None = None) -> None:
    """A local Ray as a sweep starts it, whose processes find `benchmarks`.

    Args:
        resources: `Resources` of the trials.
        hook: Function that each of its processes calls first, as "benchmarks.module.function".
    """
    import ray

    from sweeps.machines.connect import set_environment

    set_environment()
    runtime_env: dict[str, Any] = {"env_vars": {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}}
    ray.init(
        num_cpus=resources.logical_cpus(),
        include_dashboard=True,
        log_to_driver=False,
        logging_level=logging.WARNING,
        runtime_env=runtime_env | ({"worker_process_setup_hook": hook} if hook else {}),
    )
