"""Name every query photograph, or call it new: `python -m reid_core.predict BUNDLE --data PATH --out submission.csv`.

PATH is a folder with metadata.csv, whose query rows are named; of its columns only image_id and path must be there, if
all rows are queries of one group. In a folder without metadata.csv every photograph is a query, and so is a photograph
that PATH itself is.

Beside submission.csv (`image_id,identity`) lie candidates.csv (the five most probable animals of each query, for a
person to review) and findings.json (what of the data was not used). Database rows of metadata.csv whose photographs
the bundle has not seen are counted and not used, unless --extend-gallery adds them for this call.
"""

import argparse
import tempfile
from pathlib import Path

from reid_core import cli, command
from reid_core.data.animals import NEW
from reid_core.data.table.findings import log_findings
from reid_core.errors import UserError
from reid_core.prediction.answer_files import CANDIDATES, FINDINGS, write_answers
from reid_core.prediction.model import open_model
from reid_core.prediction.request import read_request


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m reid_core.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, help="folder written as OUT/best by a sweep or by python -m reid_core")
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="PATH",
        help="folder with metadata.csv and the photographs, folder of photographs, or one photograph",
    )
    parser.add_argument(
        "--out", required=True, type=Path, help=f"submission.csv; {CANDIDATES} and {FINDINGS} are written beside it"
    )
    parser.add_argument(
        "--group",
        metavar="NAME",
        help="species group of all photographs, where no metadata.csv says it (default: the bundle's, if it has only "
        "one)",
    )
    parser.add_argument(
        "--extend-gallery",
        action="store_true",
        help="for this call, compare the queries also with the database rows of metadata.csv that the bundle has not "
        "seen, so that new animals among them can be named; thresholds and calibrators stay the bundle's",
    )
    parser.add_argument("--cache", type=Path, help="keep decoded photographs here for the next call")
    cli.add_reading_flags(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Answer every query."""
    options = make_parser().parse_args(arguments)
    model = open_model(options.bundle, extend=options.extend_gallery)
    request = read_request(options.data, model.groups, cli.reading_of(options), group=options.group)
    log_findings(request.findings)
    if options.extend_gallery and not len(request.database):
        raise UserError(f"--extend-gallery: {options.data} has no database rows, so there is nothing to add")
    command.make_out(options.out.parent)
    with tempfile.TemporaryDirectory() as scratch:
        predictions, of_gallery = model.answer(request, options.cache or Path(scratch))
    findings = [*request.findings, *of_gallery]
    write_answers(options.out, predictions, request.order, findings)
    log_findings(of_gallery)
    new = sum(prediction.identity == NEW for prediction in predictions)
    marked = sum(bool(prediction.note) for prediction in predictions)
    print(f"{len(predictions)} queries: {len(predictions) - new} named, {new} {NEW}, {marked} with a note")
    print(f"answers: {options.out}\nto review: {options.out.with_name(CANDIDATES)}")
    if findings:
        print(f"noticed in the data: {len(findings)}, in {options.out.with_name(FINDINGS)}")
    return 0


if __name__ == "__main__":
    command.run(main)
