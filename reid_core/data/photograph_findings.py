"""What is noticed in photographs: unreadable ones, one that is listed twice, the same under two names, black ones.

rows of metadata.csv + image cache → findings. They name photographs and image_ids and never an animal; that two show
one animal, or two animals, tells of it nevertheless (`Finding.tells`), and so may a folder's name.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from reid_core.data.animals import name_animals, positions_by_group
from reid_core.data.image_cache import ImageCache
from reid_core.data.near_duplicates import Fingerprints, near_duplicates
from reid_core.data.table.findings import SHOWN, Finding, Tells, make_finding, tell_rows

WHERE = "photographs"
SHOWN_NAMES = 4  # of one content
MOST_REASONS = 8  # why photographs cannot be read
# Of several animals, of several names → what is said of such a photograph.
REPEATED = {
    (True, False): "listed for different animals",
    (True, True): "there under several names, for different animals",
    (False, False): "listed more than once, for one animal",
    (False, True): "there under several names, for one animal",
}


def find_in_photographs(rows: pa.Table, images: ImageCache, fingerprints: Fingerprints) -> tuple[Finding, ...]:
    """Everything that is noticed in the photographs of some rows of metadata.csv.

    Args:
        rows: With the columns image_id, identity, group and path.
        images: Row i of it is row i of the table.
        fingerprints: Of the same photographs.
    """
    paths, ids = rows["path"].to_pylist(), rows["image_id"].to_pylist()
    uniform = np.flatnonzero(fingerprints.uniform_N)
    findings = [
        *find_in_files(paths, images, id_N=ids),
        *_find_repeated(rows, images),
        *_find_similar(rows, images, fingerprints),
    ]
    if len(uniform):
        what = f"{len(uniform)} of {len(paths)} are black, or of one colour: nothing can be seen in them"
        findings.append(make_finding(WHERE, what, [paths[row] for row in uniform], tells=tell_rows(ids, uniform)))
    return tuple(findings)


def find_in_files(
    paths: Sequence[str], images: ImageCache, *, consequence: str = "are left out", id_N: Sequence[str] = ()
) -> Iterator[Finding]:
    """What was noticed when the files were decoded: those that cannot be read, and those of several frames.

    Args:
        paths: Of each row of the cache.
        images: The cache.
        consequence: What becomes of those that cannot be read.
        id_N: image_id of each, if the photographs are to be part of a split; those that cannot be read are of none.
    """
    for reason, unreadable in _by_reason(paths, images.error):
        what = f"{len(unreadable)} of {len(paths)} cannot be read and {consequence} ({reason})"
        yield make_finding(WHERE, what, unreadable)
    several = [row for row, more in enumerate(images.more_frames) if more]
    if several:
        what = f"{len(several)} of {len(paths)} hold several frames, of which one is used"
        tells = tell_rows(id_N, several) if id_N else []
        yield make_finding(WHERE, what, [paths[row] for row in several], tells=tells)


def _by_reason(paths: Sequence[str], errors: Sequence[str | None]) -> Iterator[tuple[str, list[str]]]:
    """Reasons why photographs cannot be read, each with its photographs, the most frequent first and few of them."""
    kinds: dict[str, tuple[str, list[str]]] = {}
    for path, error in zip(paths, errors, strict=True):
        if error is not None:  # one kind, however many bytes are missing
            kinds.setdefault(re.sub(r"\d+", "#", error), (error, []))[1].append(path)
    by_number = sorted(kinds.values(), key=lambda kind: len(kind[1]), reverse=True)
    yield from by_number[:MOST_REASONS]
    others = [path for _, unreadable in by_number[MOST_REASONS:] for path in unreadable]
    if others:
        yield "other reasons", others


def _find_repeated(rows: pa.Table, images: ImageCache) -> Iterator[Finding]:
    """Photographs of several rows, by their content: the same file, or the same bytes under another name."""
    paths, animals = rows["path"].to_pylist(), _animals(rows)
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, (key, error) in enumerate(zip(images.keys, images.error, strict=True)):
        if error is None:
            rows_of[key].append(row)
    examples: dict[tuple[bool, bool], list[list[int]]] = defaultdict(list)
    for alike in rows_of.values():
        if len(alike) > 1:
            kind = len({animals[row] for row in alike}) > 1, len({paths[row] for row in alike}) > 1
            examples[kind].append(alike)
    for kind, what in REPEATED.items():
        if examples[kind]:
            yield _make_finding(f"{len(examples[kind])} {what}", rows, examples[kind], len(examples[kind]))


def _find_similar(rows: pa.Table, images: ImageCache, fingerprints: Fingerprints) -> Iterator[Finding]:
    """Near duplicates of other content: those of different animals by name, those of one animal by their number."""
    animal_N = np.unique(_animals(rows), return_inverse=True)[1]
    key_N = np.unique(images.keys, return_inverse=True)[1]
    num_same, num_different = 0, 0
    examples: list[list[int]] = []
    for _, members in positions_by_group(np.array(rows["group"].to_pylist(), dtype=object)):
        for first, second in near_duplicates(fingerprints, members, members):
            is_new = (first < second) & (key_N[members[first]] != key_N[members[second]])
            row_P, other_P = members[first[is_new]], members[second[is_new]]
            is_same = animal_N[row_P] == animal_N[other_P]
            num_same, num_different = num_same + int(is_same.sum()), num_different + int((~is_same).sum())
            pairs = np.stack([row_P, other_P], axis=1)[~is_same][: SHOWN - len(examples)]
            examples += pairs.tolist()
    if num_different:
        what = f"{num_different} pair(s) of different animals look almost the same"
        yield _make_finding(what, rows, examples, num_different)
    if num_same:
        yield Finding(WHERE, f"{num_same} pair(s) of one animal look almost the same", num_same)


def _make_finding(what: str, rows: pa.Table, examples: list[list[int]], count: int) -> Finding:
    """A finding about rows that show, or should show, the same animal."""
    ids = rows["image_id"].to_pylist()
    tells: list[Tells] = [[{ids[row]} for row in alike] for alike in examples[:SHOWN]]
    return make_finding(WHERE, what, [_name(rows, alike) for alike in examples[:SHOWN]], count, tells=tells)


def _animals(rows: pa.Table) -> np.ndarray:
    return name_animals(rows["group"].to_pylist(), rows["identity"].to_pylist())


def _name(rows: pa.Table, alike: Sequence[int]) -> str:
    """Some rows as a person finds them: path and image_id of each."""
    columns = [[rows[name][row].as_py() for row in alike[:SHOWN_NAMES]] for name in ("path", "image_id")]
    shown = [f"{path} (image_id {image_id})" for path, image_id in zip(*columns, strict=True)]
    return " = ".join(shown + ["…"] * (len(alike) > SHOWN_NAMES))
