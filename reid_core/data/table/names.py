"""Names of animals and groups that people would take for the same, or for none: reported, never merged.

names of identities and groups → findings.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from reid_core.data.animals import NEW
from reid_core.data.table.findings import Finding, make_finding

# Cyrillic and Greek letters, after case folding, whose small or capital form looks like a Latin one in most typefaces.
_LATIN_LOOKS = str.maketrans("авеікмнорстухѕјαβεζηικμνορτυχı", "abeikmhopctyxsjabezhikmnoptyxi")
_NO_NAMES = frozenset(
    "na n/a #n/a none null nan nil unknown unidentified unnamed undefined new ? ?? - -- . -1".split()  # noqa: SIM905
)
_ACCENTS = re.compile("[\u0300-\u036f]")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")


def fold_name(name: str) -> str:
    """What is left of a name without what people overlook: case, blanks, accents, leading zeros, look-alike letters.

    Example:
        >>> fold_name("Lynx_07") == fold_name("lynx  7"), fold_name("7.0") == fold_name("007")
        (True, True)
        >>> fold_name("ada") == fold_name("\u0430da"), fold_name("ada1") == fold_name("ada2")  # a Cyrillic letter
        (True, False)
    """
    return _fold_within_script(name).translate(_LATIN_LOOKS)


def _fold_within_script(name: str) -> str:
    """`fold_name` that tells a Cyrillic letter from a Latin one."""
    plain = unicodedata.normalize("NFKC", _INVISIBLE.sub("", name)).casefold()
    plain = re.sub(r"[\s_-]+", " ", _ACCENTS.sub("", unicodedata.normalize("NFKD", plain))).strip()
    plain = re.sub(r"^([0-9]+)\.0+$", r"\1", plain)  # of a column of numbers
    return re.sub(r"(?<![0-9.])0+(?=[0-9])", "", plain)


_NEW = fold_name(NEW)


def find_alike(
    where: str, identity_N: Iterable[str | None], group_N: Sequence[str], id_N: Sequence[str]
) -> list[Finding]:
    """Groups, and animals of one group, that differ only in what people overlook; and names that mean "no name".

    Args:
        where: The table's name.
        identity_N: None for queries.
        group_N: Species group of each row.
        id_N: image_id of each row.
    """
    images_of: dict[tuple[str, str], set[str]] = {}  # by group and name
    for name, group, image_id in zip(identity_N, group_N, id_N, strict=True):
        if name is not None:
            images_of.setdefault((group, name), set()).add(image_id)
    groups = [_spell(names) for names in _bundle(("", group) for group in set(group_N))]
    findings = _find_alike_animals(where, images_of)
    if groups:
        what = f"{len(groups)} set(s) of groups (dataset) have names that look alike, taken as different groups"
        findings.insert(0, make_finding(where, what, groups))
    return findings


def _find_alike_animals(where: str, images_of: Mapping[tuple[str, str], set[str]]) -> list[Finding]:
    findings = []
    alike = _bundle(images_of)
    if alike:
        what = f"{len(alike)} set(s) of identities have names that look alike, taken as different animals"
        tells = [[images_of[animal] for animal in animals] for animals in alike]
        findings.append(make_finding(where, what, [*map(_spell, alike)], tells=tells))
    none = [each for each in sorted(images_of) if each[1].casefold() in _NO_NAMES or fold_name(each[1]) == _NEW]
    if none:
        what = f"{len(none)} identity name(s) may mean 'no name', taken as animals (to be named: split=query)"
        tells = [[images_of[animal]] for animal in none]
        findings.append(make_finding(where, what, [repr(name) for _, name in none], tells=tells))
    return findings


def _bundle(animals: Iterable[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Groups and names of which those of one group fold to the same."""
    folded: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for group, name in sorted(animals):
        folded.setdefault((group, fold_name(name)), []).append((group, name))
    return [same for same in folded.values() if len(same) > 1]


def _spell(animals: list[tuple[str, str]]) -> str:
    """Names that look alike, such as "'ada' / 'Ada'"; letters of several scripts are shown by their codes."""
    names = [name for _, name in animals]
    spell = ascii if len(set(map(_fold_within_script, names))) > 1 else repr
    return " / ".join(map(spell, names))
