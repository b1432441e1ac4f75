"""A drawn data set in AnimalCLEF25's layout: three species whose coat pattern is the identity.

seed → `metadata.csv`, `sample_submission.csv`, `truth.csv`, `images/<dataset>/database|query/*.jpg`, the same bytes
every time (`drawing` draws them). Stands in for the paper's data (§3), which may not be redistributed.
"""

import argparse
import json
from datetime import date, timedelta
from pathlib import Path
from statistics import NormalDist

import cv2
import numpy as np

from reid_core.data.animals import NEW
from reid_core.data.drawing import SPECIES, Species, draw_animal, take_photograph
from reid_core.data.table.metadata import COLUMNS
from reid_core.data.table.metadata_file import Row, write_rows
from reid_core.errors import UserError
from reid_core.files.atomic import new_folder
from reid_core.files.output import watch_output

SYNTHETIC = "synthetic"  # in place of a data folder
VERSION = 1  # of the drawing: raise it with any change of the bytes, so that folders written before are not reused
_MARKER = "synthetic.json"
_TABLES = ("metadata.csv", "sample_submission.csv", "truth.csv")
_FIRST_DAY = date(2015, 1, 1)
ANSWERS = ("image_id", "identity")  # columns of truth.csv and of a submission


def resolve_data(data: str, folder: Path) -> Path:
    """The data folder; `synthetic` is drawn into `folder` first."""
    return write_synthetic(folder / "synthetic") if data == SYNTHETIC else Path(data).resolve()


def write_synthetic(folder: Path, *, seed: int = 0, scale: float = 1.0) -> Path:
    """Draw the data set into `folder`, or leave a complete one of the same version, seed and scale untouched.

    The folder appears under its name only when it is complete. A synthetic set of another version, seed or scale is
    replaced; anything else in the way is refused.

    Args:
        folder: Root of the data set; its parents are created.
        seed: Draws other animals and other photographs.
        scale: Multiplies the number of identities and queries; at least four identities per species stay.

    Returns:
        `folder`.

    Raises:
        UserError: If seed or scale is out of range, or the folder holds something that is not a synthetic set.
    """
    if seed < 0 or not 0 < scale <= 100:
        raise UserError(f"seed={seed}, scale={scale}: the seed is 0 or more, the scale above 0 and at most 100")
    target = Path(folder).resolve()
    wanted = {"version": VERSION, "seed": seed, "scale": float(scale)}
    if _is_complete(target, wanted):
        return folder
    _refuse_foreign(target)
    with new_folder(target, unless=lambda: _is_complete(target, wanted)) as part:
        num_images = _write_files(part, seed, scale)
        (part / _MARKER).write_text(json.dumps(wanted | {"images": num_images}, indent=1) + "\n", encoding="utf-8")
    return folder


def _refuse_foreign(folder: Path) -> None:
    if not folder.exists():
        return
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    if names and (_MARKER not in names or names - {_MARKER, "images", *_TABLES}):
        raise UserError(f"{folder} holds something other than a synthetic data set; name a new or empty folder")


def _is_complete(folder: Path, wanted: dict) -> bool:
    try:
        marker = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
        num_images = marker.pop("images")
    except (OSError, ValueError, KeyError, AttributeError):
        return False
    tables = all((folder / name).is_file() for name in _TABLES)
    return marker == wanted and tables and num_images == sum(1 for _ in folder.glob("images/*/*/*.jpg"))


def _write_files(root: Path, seed: int, scale: float) -> int:
    rows: list[Row] = []
    for index, species in enumerate(SPECIES):
        rng = np.random.default_rng((seed, index))
        rows += _write_species(root, rng, species, scale, first_id=len(rows))
    queries = [row for row in rows if row["split"] == "query"]
    write_rows(root / "truth.csv", queries, ANSWERS)
    write_rows(root / "sample_submission.csv", [row | {"identity": NEW} for row in queries], ANSWERS)
    write_rows(root / "metadata.csv", [row | {"identity": ""} if row in queries else row for row in rows])
    return len(rows)


def _write_species(root: Path, rng: np.random.Generator, species: Species, scale: float, first_id: int) -> list[Row]:
    """Draw and write the images of one species; returns its rows, queries with their true identity."""
    for split in ("database", "query"):
        (root / "images" / species.dataset / split).mkdir(parents=True)
    photographs = _plan(rng, species, scale)
    coats: dict[int, np.ndarray] = {}
    rows = []
    for image_id, (animal, split) in enumerate(photographs, start=first_id):
        if animal not in coats:
            coats[animal] = draw_animal(rng, species)
        # The flanks of an animal differ, so each is seen from one side only; a carapace is seen from everywhere.
        tilted = "top" in species.orientations
        orientation = species.orientations[rng.integers(3) if tilted else animal % 2]
        path = f"images/{species.dataset}/{split}/{image_id:05d}.jpg"
        image = take_photograph(rng, coats[animal], orientation, tilted=tilted)
        _, jpeg = cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 90))
        (root / path).write_bytes(jpeg.tobytes())
        day = _FIRST_DAY + timedelta(days=int(rng.integers(3650)))
        taken = day.isoformat() if rng.random() < species.dated else ""
        values = (f"{image_id}", f"{species.dataset}_{animal:03d}", path, taken, orientation, species.species, split)
        rows.append(dict(zip(COLUMNS, (*values, species.dataset), strict=True)))
    return rows


def _plan(rng: np.random.Generator, species: Species, scale: float) -> list[tuple[int, str]]:
    """(animal, split) of each image in shuffled order; a third of the queries show animals absent from the database."""
    num_known = max(4, round(species.num_identities * scale))
    num_queries = max(3, round(species.num_queries * scale))
    num_new = max(1, num_queries // 3)
    animals = rng.permutation(num_known + num_new)
    known, new = animals[:num_known], animals[num_known:]
    # Quantiles of a log-normal instead of draws: the imbalance is the same for every seed.
    z = np.array([NormalDist().inv_cdf((i + 0.5) / num_known) for i in range(num_known)])
    num_images = np.clip(np.rint(species.median_images * np.exp(species.spread * z)), 1, 30).astype(int)
    queried = np.concatenate([rng.choice(known, num_queries - num_new), rng.choice(new, num_new)])
    plan = [(int(animal), "database") for animal in np.repeat(known, num_images)]
    plan += [(int(animal), "query") for animal in queried]
    return [plan[i] for i in rng.permutation(len(plan))]


def main(arguments: list[str] | None = None) -> None:
    """Command line: `python -m reid_core.data.synthetic FOLDER [--seed 0] [--scale 1.0]`."""
    parser = argparse.ArgumentParser(
        prog="python -m reid_core.data.synthetic", description="Draw the synthetic data set."
    )
    parser.add_argument("folder", type=Path, help="root of the data set; kept if it already holds the same one")
    parser.add_argument("--seed", type=int, default=0, help="draws other animals (default 0)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of animals (default 1.0)")
    options = parser.parse_args(arguments)
    try:
        print(write_synthetic(options.folder, seed=options.seed, scale=options.scale))
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    watch_output()
    main()
