"""Whether a file can hold the weights of a model, and whether the name of a model is that of a folder.

`model.weights` → the same path, or an error.
"""

import os.path

from reid_core.errors import UserError


def check_weights_file(path: str, key: str = "model.weights") -> str:
    """The path of a safetensors file, if it is one that can be read.

    Args:
        path: The file.
        key: Of the configuration, which gives it.

    Raises:
        UserError: If it is not.
    """
    try:
        with open(path, "rb"):  # noqa: PTH123
            pass
    except (OSError, ValueError) as error:  # ValueError: a character that no file name has
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{key}={path:.200} cannot be read: {reason}") from error
    if not path.endswith(".safetensors"):
        raise UserError(
            f"model.weights={path:.200} is not a .safetensors file; other formats can execute code when loaded"
        )
    return path


def is_folder(name: str) -> bool:
    """Whether what may be the name of a model is a folder; any text may be asked, unlike of `Path.is_dir`."""
    return os.path.isdir(name)  # noqa: PTH112
