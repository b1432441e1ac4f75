"""Animals: an identity within its species group, and the answer for one that is not known.

group, identity (N,) → one name per animal; group (N,) → the positions of each group.
Letters: N images, or anything that has a group.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from reid_core.data.table.columns import strip_blanks

NEW = "new_individual"  # the answer for an animal that is not in the gallery (AnimalCLEF25)


def spell_name(name: str) -> str:
    """A name as metadata.csv is read: without blanks at its ends, and accents as one sign (NFC; macOS writes two).

    Example:
        >>> spell_name(" Zoe\u0308 ") == "Zo\u00eb"
        True
    """
    return unicodedata.normalize("NFC", strip_blanks(name))


def spell_names(names: Iterable[str]) -> dict[str, str]:
    """`spell_name` of each name; names that would become one stay as they are, because they were kept apart.

    Example:
        >>> spell_names(["Lynx ", "newt", "newt "])
        {'Lynx ': 'Lynx', 'newt': 'newt', 'newt ': 'newt '}
    """
    spelled = {name: spell_name(name) for name in names}
    count = Counter(spelled.values())
    return {name: new if count[new] == 1 else name for name, new in spelled.items()}


def name_animals(group_N: Sequence[str] | np.ndarray, identity_N: Sequence[str | None] | np.ndarray) -> np.ndarray:
    """One name per animal, different for equal identities of two groups; "" where it is unknown; shape (N,).

    Example:
        >>> len(set(name_animals(["cow", "pig", "cow"], ["ada", "ada", "ada"]))), name_animals(["cow"], [None]).tolist()
        (2, [''])
    """
    pairs = zip(group_N, identity_N, strict=True)
    return np.array([f"{group}\0{identity}" if identity is not None else "" for group, identity in pairs], dtype=str)


def positions_by_group(group_N: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Each group, in the sorted order of their names, with its positions, ascending.

    Example:
        >>> [(group, rows.tolist()) for group, rows in positions_by_group(np.array(["pig", "cow", "pig"]))]
        [('cow', [1]), ('pig', [0, 2])]
    """
    for group in np.unique(np.asarray(group_N).astype(str)):
        yield str(group), np.flatnonzero(group_N == group)
