"""The exported model: everything that naming a new photograph needs, in files that execute nothing when loaded.

model + decision + gallery → folder → the same again. Gallery photographs are not needed afterwards.
A bundle carries the checksums of its files (`files/checksums.py`), and is not loaded when one differs. Its README.md
is left out of them: nothing reads it, and people are to write into it where the model comes from.
Letters: G gallery photographs, K identities of the classifier, D embedding.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from reid_core.config.parameters import TrialConfig
from reid_core.data.animals import name_animals, spell_names
from reid_core.data.table.findings import Finding
from reid_core.errors import UserError
from reid_core.experiment.bundle.files import (
    ABOUT,
    CALIBRATION,
    CLASSES,
    FORMAT,
    GALLERY,
    MODEL_FILES,
    OPENMAX,
    THRESHOLDS,
    load_model,
    naming,
    read_classes,
    read_decision,
    read_gallery,
    read_json,
    write_classes,
    write_decision,
    write_gallery,
    write_json,
    write_model,
)
from reid_core.experiment.bundle.readme import describe_bundle
from reid_core.experiment.bundle.routing import refuse_routing
from reid_core.files.atomic import new_folder
from reid_core.files.checksums import verify_checksums, write_checksums
from reid_core.matching.local_features import LocalFeatures
from reid_core.model.reid_model import ReidModel
from reid_core.scoring.decision import Decision

METRICS, README = "metrics.json", "README.md"
FILES = (CALIBRATION, THRESHOLDS, METRICS, GALLERY)
SECOND = "second"  # folder of the second global model
# Everything that loading reads, if it is there.
LOADED = (*MODEL_FILES, *FILES, OPENMAX, CLASSES, *(f"{SECOND}/{name}" for name in MODEL_FILES))


@dataclass(frozen=True)
class Bundle:
    """An exported model with its gallery of G images."""

    config: TrialConfig
    model: ReidModel
    decision: Decision
    identity_G: np.ndarray
    group_G: np.ndarray
    embedding_GD: np.ndarray  # float32, rows of length 1
    sides_G6: np.ndarray  # photographed sides (`sides.parse_sides`)
    features: LocalFeatures | None  # of the gallery; None if no local matcher is used
    metrics: dict[str, dict[str, float]]  # "thresholdSet", "testSet" → metrics (`summary.summarise`)
    class_identity_K: np.ndarray | None = None  # whom each output of the classifier stands for; None without one
    class_group_K: np.ndarray | None = None
    second: "Second | None" = None  # second global model in the fusion
    gains: Mapping[str, Mapping[str, float]] = field(
        default_factory=dict
    )  # `Result.gains`, for README.md; not read again
    findings: tuple[Finding, ...] = ()  # what README.md says of the data and the training; not read again
    refitted_epochs: int | None = None  # trained for so long on every image; None: the model that `metrics` are of
    key_G: np.ndarray | None = None  # `photographs.content_key` of each image; None in bundles of earlier versions


@dataclass(frozen=True)
class Second:
    """A second global model, with its embeddings of the gallery."""

    config: TrialConfig
    model: ReidModel
    embedding_GD: np.ndarray


def write_bundle(folder: Path, bundle: Bundle) -> None:
    """Write the bundle, which replaces what the folder held when it is whole."""
    with new_folder(folder) as part:
        write_model(part, bundle.config, bundle.model, refitted_epochs=bundle.refitted_epochs)
        columns = {"identity": bundle.identity_G, "group": bundle.group_G}
        columns |= {"embedding": bundle.embedding_GD, "sides": bundle.sides_G6}
        if bundle.key_G is not None:
            columns["key"] = bundle.key_G
        if bundle.second is not None:
            (part / SECOND).mkdir()
            write_model(part / SECOND, bundle.second.config, bundle.second.model)
            columns["second"] = bundle.second.embedding_GD
        write_decision(part, bundle.decision)
        write_classes(part, bundle.class_identity_K, bundle.class_group_K)
        write_json(part / METRICS, bundle.metrics)
        write_gallery(part / GALLERY, columns, bundle.features)
        (part / README).write_text(_describe(bundle), encoding="utf-8")
        files = (file.relative_to(part).as_posix() for file in part.rglob("*") if file.is_file())
        write_checksums(part, [name for name in files if name != README])


def _describe(bundle: Bundle) -> str:
    return describe_bundle(
        bundle.config.model,
        name_animals(bundle.group_G, bundle.identity_G).tolist(),
        bundle.decision.thresholds,
        bundle.metrics,
        gains=bundle.gains,
        findings=bundle.findings,
        refitted_epochs=bundle.refitted_epochs,
    )


def read_model(folder: Path) -> tuple[TrialConfig, ReidModel]:
    """Load configuration and model of a bundle, without its gallery.

    Raises:
        UserError: If a file is missing, damaged or changed, or the format is unknown.
    """
    _check(folder, MODEL_FILES, MODEL_FILES)
    return load_model(folder)


def read_bundle(folder: Path) -> Bundle:
    """Load a bundle; nothing in it is executed. Names are spelled as metadata.csv is read (`spell_as_read`).

    Raises:
        UserError: If a file is missing, damaged, changed or added, or the format is unknown.
    """
    _check(folder, (*MODEL_FILES, *FILES), LOADED)
    config, model = load_model(folder)
    class_identity_K, class_group_K = read_classes(folder)
    decision = read_decision(folder, config, class_group_K)
    with naming(folder / METRICS):
        metrics = read_json(folder / METRICS)
    columns, features = read_gallery(folder / GALLERY)
    second = load_model(folder / SECOND) if (folder / SECOND / ABOUT).is_file() else None
    with naming(folder / ABOUT):
        refitted_epochs = read_json(folder / ABOUT)["refitted_epochs"]
    with naming(folder / GALLERY):
        bundle = Bundle(
            config=config,
            model=model,
            decision=decision,
            identity_G=columns["identity"],
            group_G=columns["group"],
            embedding_GD=columns["embedding"],
            sides_G6=columns["sides"],
            features=features,
            metrics=metrics,
            class_identity_K=class_identity_K,
            class_group_K=class_group_K,
            second=Second(*second, columns["second"]) if second else None,
            refitted_epochs=refitted_epochs,
            key_G=columns.get("key"),
        )
    return spell_as_read(bundle)


def spell_as_read(bundle: Bundle) -> Bundle:
    """The bundle with its groups and animals spelled as metadata.csv is read now (`animals.spell_names`).

    Earlier versions took names as they stood in the file, and no query would be of a group "Lynx " any more.
    """
    animals = set(zip(bundle.group_G, bundle.identity_G, strict=True))
    if bundle.class_group_K is not None and bundle.class_identity_K is not None:
        animals |= set(zip(bundle.class_group_K, bundle.class_identity_K, strict=True))
    groups = spell_names({*bundle.decision.thresholds, *(group for group, _ in animals)})
    names = {group: spell_names(name for of, name in animals if of == group) for group in groups}

    def spell(group_N: np.ndarray, identity_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        identities = [names[group][name] for group, name in zip(group_N, identity_N, strict=True)]
        return np.array([groups[group] for group in group_N], dtype=object), np.array(identities, dtype=object)

    group_G, identity_G = spell(bundle.group_G, bundle.identity_G)
    decision = _spell_groups(bundle.decision, groups)
    bundle = replace(bundle, group_G=group_G, identity_G=identity_G, decision=decision)
    if bundle.class_group_K is None or bundle.class_identity_K is None:
        return bundle
    group_K, identity_K = spell(bundle.class_group_K, bundle.class_identity_K)
    if decision.openmax is not None:
        decision = replace(decision, openmax=replace(decision.openmax, group_K=group_K))
    return replace(bundle, decision=decision, class_group_K=group_K, class_identity_K=identity_K)


def _spell_groups(decision: Decision, groups: Mapping[str, str]) -> Decision:
    """The decision with its groups under other names; calibrators have one that is no group (`calibration.POOLED`)."""
    thresholds = {groups[group]: threshold for group, threshold in decision.thresholds.items()}
    calibrators = {
        matcher: {groups.get(group, group): fit for group, fit in fits.items()}
        for matcher, fits in decision.calibrators.items()
    }
    return replace(decision, thresholds=thresholds, calibrators=calibrators)


def is_refitted(folder: Path) -> bool:
    """Whether a bundle's model was trained on every image of its data set.

    Raises:
        UserError: If it cannot be read.
    """
    with naming(folder / ABOUT):
        return read_json(folder / ABOUT).get("refitted_epochs") is not None


def _check(folder: Path, needed: Iterable[str], loaded: Iterable[str]) -> None:
    """Refuse what is not a bundle of this format, and one whose files are not those that were written."""
    refuse_routing(folder)
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder}: not a bundle, or an incomplete one; missing: {', '.join(missing)}")
    with naming(folder / ABOUT):
        found = read_json(folder / ABOUT)["format"]
    if found != FORMAT:
        older = "; export it again with this version, or load it with the version that wrote it" if found == 2 else ""
        raise UserError(f"{folder}: bundle format {found}; this version reads {FORMAT}{older}")
    verify_checksums(folder, loaded)
