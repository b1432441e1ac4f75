"""What answers: the bundle of a folder, or the bundles of its groups, one held at a time.

folder → `Model`: the groups that it knows; request → predictions, and what of the data was not used.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from reid_core.data.animals import NEW
from reid_core.data.photograph_findings import find_in_files
from reid_core.data.table.findings import Finding, make_finding
from reid_core.data.table.sides import parse_sides
from reid_core.experiment.bundle.folder import Bundle, read_bundle
from reid_core.experiment.bundle.routing import is_routing, read_routing
from reid_core.prediction.answers import Prediction, answer_new, name_described
from reid_core.prediction.gallery import WHERE, check_extensible, fit_gallery
from reid_core.prediction.photographs import describe_photographs
from reid_core.prediction.request import Request

Answered = tuple[list[Prediction], list[Finding]]  # of every query in the order of the request; what was noticed


@dataclass(frozen=True)
class Model:
    """An exported model."""

    groups: tuple[str, ...]  # species groups that it can name animals of
    answer: Callable[[Request, Path], Answered]  # the second: where decoded pixels and local features are kept


def open_model(folder: Path, *, extend: bool = False) -> Model:
    """The model of a bundle's folder, or of a routing bundle's.

    Args:
        folder: Of the bundle.
        extend: Whether database rows that its gallery lacks are added to it, for each call.

    Raises:
        UserError: If it is none, or damaged.
    """
    if is_routing(folder):
        routes = read_routing(folder)
        return Model(tuple(routes), partial(answer_by_group, routes, extend=extend))
    bundle = read_bundle(folder)
    return Model(tuple(sorted(set(bundle.group_G))), partial(answer_all, bundle, extend=extend))


def answer_all(bundle: Bundle, request: Request, cache_folder: Path, *, extend: bool = False) -> Answered:
    """Answer every query by one bundle.

    Raises:
        UserError: If the gallery is to be extended and cannot be.
    """
    database, findings = _relevant(request, set(bundle.group_G))
    bundle, of_gallery = fit_gallery(bundle, request.root, database, cache_folder, extend=extend)
    findings += [*of_gallery, *_check_sides(bundle, request.queries)]
    described = describe_photographs(bundle, request.root, request.queries, cache_folder)
    findings += find_in_files(request.queries["path"].to_pylist(), described.images, consequence=f"are answered {NEW}")
    return name_described(bundle, request.queries, described), findings


def answer_by_group(
    routes: Mapping[str, Path], request: Request, cache_folder: Path, *, extend: bool = False
) -> Answered:
    """Answer every query by the model of its group; who has none is called new, with a note.

    Args:
        routes: Folder of the bundle of each group (`routing.read_routing`).
        request: The queries; their order is kept.
        cache_folder: Where decoded pixels and local features are kept.
        extend: As for `open_model`.

    Raises:
        UserError: If a bundle that is needed is damaged, or its gallery is to be extended and cannot be.
    """
    database, findings = _relevant(request, set(routes))
    asked = list(dict.fromkeys(request.queries["group"].to_pylist()))
    if extend:  # before any work
        for group in filter(routes.__contains__, asked):
            check_extensible(read_bundle(routes[group]))
    found: dict[str, Prediction] = {}
    for group in asked:
        queries = _of_groups(request.queries, {group})
        if group in routes:
            theirs = replace(request, queries=queries, database=_of_groups(database, {group}))
            predictions, more = answer_all(read_bundle(routes[group]), theirs, cache_folder, extend=extend)
            findings += [replace(finding, where=f"{finding.where} of {group}") for finding in more]
        else:
            predictions = answer_new(queries)
        found |= {prediction.image_id: prediction for prediction in predictions}
    return [found[image_id] for image_id in request.queries["image_id"].to_pylist()], findings


def _relevant(request: Request, groups: set[str]) -> tuple[pa.Table, list[Finding]]:
    """The database rows that an answer can depend on: of known groups in which something is asked."""
    asked, given = (set(rows["group"].to_pylist()) for rows in (request.queries, request.database))
    findings = []
    for unused, why in (
        (given - groups, "that the model does not know"),
        ((given & groups) - asked, "in which nothing is asked"),
    ):
        rows = _of_groups(request.database, unused)
        if len(rows):
            names = list(dict.fromkeys(rows["group"].to_pylist()))
            findings.append(make_finding(WHERE, f"{len(rows)} database row(s) are of groups {why}: not used", names))
    return _of_groups(request.database, groups & asked), findings


def _of_groups(rows: pa.Table, groups: set[str]) -> pa.Table:
    return rows.filter(pc.is_in(rows["group"], pa.array(sorted(groups), pa.string())))


def _check_sides(bundle: Bundle, queries: pa.Table) -> list[Finding]:
    """What is said where a bundle uses the photographed side and no query has one."""
    config = bundle.config
    uses = [
        key
        for key, is_used in (
            ("match.same_side=true", config.match.same_side),
            (f"model.orientation={config.model.orientation}", config.model.orientation != "none"),
        )
        if is_used
    ]
    if not uses or parse_sides(queries["orientation"].to_pylist()).any():
        return []
    what = f"this bundle uses the photographed side ({', '.join(uses)}) and no query has one (column orientation)"
    return [make_finding("queries", what, [], len(queries))]
