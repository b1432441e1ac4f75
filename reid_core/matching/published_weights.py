"""Published weights of extractors and matchers: found, downloaded, loaded without executing anything.

`match.weights` → path → filled network.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from reid_core.errors import UserError


def find_published_weights(folder: str | None, name: str, cached_name: str, urls: Iterable[str]) -> Path:
    """The weights file of an extractor or matcher: in a given folder, else in torch hub's cache, else downloaded.

    Args:
        folder: Value of `match.weights`; nothing else is looked at when it is given.
        name: File name inside that folder.
        cached_name: File name in torch hub's cache.
        urls: Addresses of the file, tried in order.

    Raises:
        UserError: If it is in none of these places.
    """
    remedy = f"put {name} into a folder and give match.weights=FOLDER, or take match.matcher=sift-mnn or none"
    if folder is not None:
        path = Path(folder) / name
        if not path.is_file():
            raise UserError(f"match.weights={folder}: there is no file {path}; {remedy}")
        return path
    path = Path(torch.hub.get_dir()) / "checkpoints" / cached_name
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    problems = []
    for url in urls:
        try:
            torch.hub.download_url_to_file(url, str(path))
            return path
        except (OSError, RuntimeError) as problem:
            problems.append(f"{url}: {problem}")
    raise UserError(f"no {path}, and it cannot be downloaded ({'; '.join(problems)}); {remedy}")


def fill_network(model: torch.nn.Module, path: Path, *, rename: Callable[[str], str] = str) -> None:
    """Fill a network from a published checkpoint, which may lack buffers that the network computes itself.

    Raises:
        UserError: If the file is no checkpoint, or a parameter is missing or has another shape.
    """
    try:
        published = torch.load(path, map_location="cpu", weights_only=True)
        state = {rename(key): value for key, value in published.items()}
        missing = set(model.load_state_dict(state, strict=False).missing_keys)
    except Exception as problem:  # torch raises many types for a broken file
        raise UserError(f"{path} is not a checkpoint of {type(model).__name__}: {problem}") from problem
    absent = [name for name, _ in model.named_parameters() if name in missing]
    if absent:
        raise UserError(f"{path} is not a checkpoint of {type(model).__name__}: it lacks {', '.join(absent[:3])}")
