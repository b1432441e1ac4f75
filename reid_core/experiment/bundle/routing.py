"""The routing bundle: a folder with an ordinary bundle (`folder.py`) for each species group, and which group has which.

bundles of groups → one folder → the bundle's folder of each group. Nothing of the models is read here.
routing.json names the subfolders; SHA256SUMS covers it and the SHA256SUMS of every subfolder, which covers the rest.
"""

import json
import re
import shutil
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

from reid_core.data.animals import spell_names
from reid_core.errors import UserError
from reid_core.files.atomic import new_folder
from reid_core.files.checksums import CHECKSUMS, verify_checksums, write_checksums
from reid_core.files.escape import escape_line, escape_markdown

ROUTING = "routing.json"
FORMAT = 1
README = "README.md"  # without a checksum, as that of a bundle
LONGEST = 40  # letters of a folder's name
_FOLDER = re.compile(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*")


def make_slugs(names: Iterable[str]) -> dict[str, str]:
    """A folder's name for each group: letters, digits and hyphens of ASCII, different even where case is ignored.

    The slugs of the first names do not depend on the names that follow.

    Example:
        >>> make_slugs(["LynxID2025", "../Nyårs Ída", "nyars.ida", "鹿", "SHA256SUMS"])
        {'LynxID2025': 'LynxID2025', '../Nyårs Ída': 'Nyars-Ida', 'nyars.ida': 'nyars-ida-2', '鹿': 'group',
        'SHA256SUMS': 'SHA256SUMS-2'}
    """
    slugs, taken = {}, {CHECKSUMS.lower()}
    for name in names:
        ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
        start = slug = "-".join(re.findall(r"[A-Za-z0-9]+", ascii_name))[:LONGEST].rstrip("-") or "group"
        number = 1
        while slug.lower() in taken:
            number += 1
            slug = f"{start}-{number}"
        taken.add(slug.lower())
        slugs[name] = slug
    return slugs


def write_routing(folder: Path, bundles: Mapping[str, Path]) -> None:
    """Write a routing bundle, which replaces what the folder held when it is whole.

    Args:
        folder: Of the routing bundle.
        bundles: Folder of the bundle of each group. Its files are linked, or copied where they cannot be.
    """
    slugs = make_slugs(bundles)
    with new_folder(folder) as part:
        for group, bundle in bundles.items():
            shutil.copytree(bundle, part / slugs[group], copy_function=_link)
        (part / ROUTING).write_text(json.dumps({"format": FORMAT, "groups": slugs}, indent=1) + "\n", encoding="utf-8")
        (part / README).write_text(_describe(slugs), encoding="utf-8")
        write_checksums(part, [ROUTING, *(f"{slug}/{CHECKSUMS}" for slug in slugs.values())])


def is_routing(folder: Path) -> bool:
    """Whether a folder holds a routing bundle, whole or not."""
    return (folder / ROUTING).is_file()


def read_routing(folder: Path) -> dict[str, Path]:
    """The folder of each group's bundle, to be read with `folder.read_bundle`, which spells groups alike.

    Raises:
        UserError: If it is no routing bundle, or one that is damaged or changed, or the format is unknown.
    """
    verify_checksums(folder, [ROUTING])
    slugs = _read_slugs(folder / ROUTING)
    verify_checksums(folder, [f"{slug}/{CHECKSUMS}" for slug in slugs.values()])
    new_name_of = spell_names(slugs)
    return {new_name_of[group]: folder / slug for group, slug in slugs.items()}


def refuse_routing(folder: Path) -> None:
    """Refuse a folder with a model for each group where one model is needed; the error names their folders.

    Raises:
        UserError: If it is a routing bundle.
    """
    if is_routing(folder):
        ways = [f"{path} ({escape_line(group)})" for group, path in read_routing(folder).items()]
        raise UserError(f"{folder}: holds a model for each group, and one is needed here; give {' or '.join(ways)}")


def _read_slugs(file: Path) -> dict[str, str]:
    try:
        written = json.loads(file.read_text(encoding="utf-8"))
        found, slugs = written["format"], written["groups"]
        if found == FORMAT and not (slugs and all(map(_FOLDER.fullmatch, slugs.values()))):
            raise ValueError("a group without a folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: the bundle is damaged: {escape_line(str(error))}") from error
    if found != FORMAT:
        raise UserError(f"{file}: routing format {escape_line(str(found))}; this version reads {FORMAT}")
    return slugs


def _link(source: str, target: str) -> None:
    """A second name of a file, which is never changed in place; a copy where the file system has no links."""
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def _describe(slugs: Mapping[str, str]) -> str:
    lines = [
        "# Animal re-identification models, one for each group",
        "",
        "    python -m reid_core.predict THIS_FOLDER --data PHOTOGRAPHS --out submission.csv",
        "",
        "Every query is answered by the model of its group (`dataset` in metadata.csv). Each folder is a bundle of its "
        "own, and can be used alone:",
        "",
        "| group | folder |",
        "|---|---|",
        *(f"| {escape_markdown(group)} | [{slug}]({slug}/{README}) |" for group, slug in slugs.items()),
    ]
    return "\n".join(lines) + "\n"
