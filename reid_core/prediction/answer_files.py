"""The answers as files: submission.csv for programs, candidates.csv for people, findings.json for both.

submission.csv has every name exactly as the data have it. candidates.csv is for people and their spreadsheets: a name
that one would take for a formula begins with an apostrophe there (`escape.escape_cell`).
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from reid_core.data.animals import NEW
from reid_core.data.table.findings import Finding, findings_to_json
from reid_core.errors import UserError
from reid_core.files.atomic import new_file
from reid_core.files.escape import escape_cell
from reid_core.prediction.answers import NUM_CANDIDATES, Prediction

CANDIDATES, FINDINGS = "candidates.csv", "findings.json"  # beside the submission


def write_answers(
    out: Path, predictions: Sequence[Prediction], order: Sequence[str] | None, findings: Sequence[Finding]
) -> None:
    """Write the submission and, beside it, candidates.csv and findings.json.

    Args:
        out: The submission.
        predictions: Of all queries.
        order: image_ids of the submission, in its order; None: all, in the order of the predictions.
        findings: What of the data was dropped, changed, or not used.

    Raises:
        UserError: If a file cannot be written.
    """
    try:
        write_submission(out, predictions, order)
        write_candidates(out.with_name(CANDIDATES), predictions)
        with new_file(out.with_name(FINDINGS)) as part:
            part.write_text(json.dumps(findings_to_json(findings), indent=1) + "\n", encoding="utf-8")
    except UserError as error:
        raise UserError(f"--out {error}") from error


def write_submission(path: Path, predictions: Sequence[Prediction], order: Sequence[str] | None) -> None:
    """`image_id,identity`, in the given order of image_ids, else in that of the predictions."""
    identity_of = {prediction.image_id: prediction.identity for prediction in predictions}
    rows = [(image_id, identity_of.get(image_id, NEW)) for image_id in (order or identity_of)]
    _write_csv(path, ["image_id", "identity"], rows)


def write_candidates(path: Path, predictions: Sequence[Prediction]) -> None:
    """One row per query: answer, note, and the most probable identities with their probabilities."""
    names = [f"{name}_{rank}" for rank in range(1, NUM_CANDIDATES + 1) for name in ("candidate", "probability")]
    rows = []
    for prediction in predictions:
        cells: list[str] = []
        for identity, probability in prediction.candidates:
            cells += [identity, f"{probability:.4f}"]
        cells += [""] * (len(names) - len(cells))
        about = (prediction.image_id, prediction.group, prediction.identity, prediction.note)
        rows.append(tuple(map(escape_cell, (*about, *cells))))
    _write_csv(path, ["image_id", "group", "identity", "note", *names], rows)


def _write_csv(path: Path, header: list[str], rows: list[tuple]) -> None:
    with new_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
