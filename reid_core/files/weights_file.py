"""Whether a file can hold the weights of a model.

`model.weights` → the same path, or an error.
"""

from reid_core.errors import UserError


def check_weights_file(path: str) -> str:
    """The path of a safetensors file, if it is one that can be read.

    Raises:
        UserError: If it is not.
    """
    try:
        with open(path, "rb"):  # noqa: PTH123
            pass
    except OSError as error:
        raise UserError(f"model.weights={path} cannot be read: {error.strerror}") from error
    if not path.endswith(".safetensors"):
        raise UserError(f"model.weights={path} is not a .safetensors file; other formats can execute code when loaded")
    return path
