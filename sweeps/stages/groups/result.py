"""What the sweeps of all groups found, brought together. No Ray, no torch.

result folders of groups → routing bundles OUT/best and OUT/refit, OUT/predictions.parquet, OUT/trials.parquet,
OUT/result.json, and a text. Groups share no query, so the metrics of all follow from every single answer.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reid_core.data.animals import positions_by_group
from reid_core.data.table.findings import Finding, findings_from_json, findings_to_json, format_findings
from reid_core.data.test_set import describe_uses, read_uses
from reid_core.errors import UserError
from reid_core.experiment.bundle.routing import write_routing
from reid_core.files.atomic import new_file
from reid_core.files.checksums import CHECKSUMS, read_sealed, write_sealed
from reid_core.files.escape import escape_line
from reid_core.metrics.gain import summarise_gain
from reid_core.metrics.geo_mean import Shares, compute_shares
from reid_core.metrics.result import RESULT
from reid_core.metrics.summary import format_gain, format_metrics, summarise
from sweeps.results.result_folder import ANSWERS, BEST_BUNDLE, OPTIMISTIC, REFIT_BUNDLE, TRIAL_TABLE
from sweeps.results.trial_table import HOURS, write_rows

SETS = ("thresholdSet", "testSet")
Metrics = dict[str, dict[str, float]]  # "thresholdSet", "testSet" → metrics (`summary.summarise`)


def has_result(folder: Path) -> bool:
    """Whether the sweep of a group has chosen a model."""
    return (folder / RESULT).is_file() and is_bundle(folder / BEST_BUNDLE)


def no_result(failures: Mapping[str, str]) -> UserError:
    """The error of a job in which no group has a result, from why each has none."""
    reasons = "\n".join(f"group {escape_line(group)}: {reason}" for group, reason in failures.items())
    return UserError(f"no group has a result:\n{reasons}")


def is_bundle(folder: Path) -> bool:
    """Whether a folder has a bundle that was written to its end; from a storage its checksums come last."""
    return (folder / CHECKSUMS).is_file()


def read_result(folder: Path) -> dict[str, Any]:
    """What the sweep of a group wrote down of its winner, and of which group its values come.

    Raises:
        UserError: If it is damaged.
    """
    result = {name: read_sealed(folder / RESULT).get(name) for name in ("trial", "confirmation")}
    sources = {trial["trial_id"]: trial["source"] or None for trial in read_rows(folder, TRIAL_TABLE).to_pylist()}
    return result | {"source": sources.get(winner_of(result))}


def winner_of(result: dict[str, Any]) -> str:
    """The trial of the search: the one that was exported may have gone on with it under another name."""
    return (result["confirmation"] or {}).get("winner", result["trial"])


def read_winner(folder: Path) -> str | None:
    """Name of the trial of the search that a group's sweep has chosen; None if it has no result."""
    return winner_of(read_result(folder)) if (folder / RESULT).is_file() else None


def finish_groups(out: Path, folders: Mapping[str, Path], failures: Mapping[str, str]) -> str:
    """Write what all groups have in common; the same as text.

    Args:
        out: Result folder of the job.
        folders: Result folder of each group, in the order of their sweeps.
        failures: Why groups ended without a result this time.

    Raises:
        UserError: If no group has a result; says why.
    """
    done = {group: folder for group, folder in folders.items() if has_result(folder)}
    if not done:
        raise no_result(failures)
    write_all_trials(out / TRIAL_TABLE, folders)
    predictions = pa.concat_tables([read_rows(folder, ANSWERS) for folder in done.values()], promote_options="default")
    with new_file(out / ANSWERS) as part:
        pq.write_table(predictions, part)
    metrics, results = combine(predictions), {group: read_result(folder) for group, folder in done.items()}
    best = {group: folder / BEST_BUNDLE for group, folder in done.items()}
    refitted = {group: folder / REFIT_BUNDLE for group, folder in done.items() if is_bundle(folder / REFIT_BUNDLE)}
    write_routing(out / BEST_BUNDLE, best)
    if refitted:
        write_routing(out / REFIT_BUNDLE, best | refitted)  # a refit that failed leaves its group the evaluated model
    findings, gains = read_findings(list(done.values())), combine_gains(predictions)
    everything = {"groups": results, "metrics": metrics, "gains": gains, "findings": findings_to_json(findings)}
    write_sealed(out / RESULT, everything)
    text = format_groups(out, folders, results, failures, metrics, gains)
    return f"{text}\n\n{format_findings(findings)}" if findings else text


def read_findings(folders: Sequence[Path]) -> list[Finding]:
    """What was noticed in the data of any group, each thing once: a table's findings are those of all its groups."""
    written = [read_sealed(folder / RESULT).get("findings", []) for folder in folders]
    return list(dict.fromkeys(finding for values in written for finding in findings_from_json(values)))


def read_rows(folder: Path, name: str) -> pa.Table:
    """A Parquet file of a group's folder.

    Raises:
        UserError: If it is damaged.
    """
    try:
        return pq.read_table(folder / name)
    except (OSError, ValueError) as error:  # Arrow's errors are ValueErrors
        raise UserError(
            f"{folder / name}: damaged ({escape_line(str(error))}); delete {folder / RESULT}, and the same command "
            "scores this group's best trial again"
        ) from error


def write_all_trials(path: Path, folders: Mapping[str, Path]) -> None:
    """The groups' trials.parquet as one, with a column `group`; the hours in its metadata are those of all."""
    begun = {group: folder for group, folder in folders.items() if (folder / TRIAL_TABLE).is_file()}
    tables = {group: read_rows(folder, TRIAL_TABLE) for group, folder in begun.items()}
    rows = [{"group": group} | row for group, table in tables.items() for row in table.to_pylist()]
    in_all = [table.schema.metadata or {} for table in tables.values()]
    write_rows(path, rows, {name: sum(float(hours.get(name.encode(), 0.0)) for hours in in_all) for name in HOURS})


def combine(predictions: pa.Table) -> Metrics:
    """Metrics of all groups together, from every answer on both sets (`final_test.run_final_test` writes them).

    A group's own numbers are those of its sweep: each depends on the answers to its own queries only.

    Args:
        predictions: Columns `part, group, identity, known, answer`.
    """
    return {part: summarise(_shares_of(predictions, part, "answer")) for part in SETS}


def combine_gains(predictions: pa.Table) -> Metrics:
    """What fine-tuning added in all groups together; empty if an earlier version scored one of them.

    Args:
        predictions: As in `combine`, with a column `answer_epoch0`.
    """
    if "answer_epoch0" not in predictions.column_names or predictions["answer_epoch0"].null_count:
        return {}
    both = {part: [_shares_of(predictions, part, name) for name in ("answer", "answer_epoch0")] for part in SETS}
    return {part: summarise_gain(mine, frozen, "mean_of_groups") for part, (mine, frozen) in both.items()}


def _shares_of(predictions: pa.Table, part: str, answer: str) -> dict[str, Shares]:
    """Group → shares of its identities, by a column of answers."""
    rows = predictions.filter(pc.equal(predictions["part"], part))
    answer_Q, identity_Q, group_Q = (
        np.array(rows[name].to_pylist(), dtype=str) for name in (answer, "identity", "group")
    )
    columns = (answer_Q, identity_Q, np.array(rows["known"].to_pylist(), dtype=bool))
    return {
        group: compute_shares(*(column[positions] for column in columns))
        for group, positions in positions_by_group(group_Q)
    }


def format_groups(
    out: Path,
    folders: Mapping[str, Path],
    results: Mapping[str, dict[str, Any]],
    failures: Mapping[str, str],
    metrics: Metrics,
    gains: Metrics,
) -> str:
    """Who won in each group, the metrics of all on both sets, what fine-tuning added, and where everything lies."""
    lines = ["", f"{'group':<30}{'trial':<18}confirmed score"]
    for group, result in results.items():
        source = f"  found by {escape_line(result['source'])}" if result["source"] else ""
        lines.append(f"{escape_line(group):<30}{result['trial']:<18}{_confirmed(result['confirmation'])}{source}")
    for group in folders:
        if group in failures or group not in results:
            why = failures.get(group, "its sweep has no result")
            model = (
                "its model is that of an earlier session"
                if group in results
                else "no model, its queries are called new"
            )
            lines.append(f"{escape_line(group)}: {model}: {why}")
    uses_of = {group: read_uses(folders[group]) for group in results}
    often = [f"{escape_line(group)}: {describe_uses(uses)}" for group, uses in uses_of.items() if len(uses) > 1]
    once = "" if often else " testSet was used once for each group."
    lines += ["", format_metrics(metrics)]
    lines += ["", format_gain(gains["testSet"], "testSet")] if gains else []
    lines += ["", OPTIMISTIC + once, *often]
    lines += ["", f"{'trials':<20}{out / TRIAL_TABLE}", f"{'every answer':<20}{out / ANSWERS}"]
    lines += [f"{'models':<20}{out / BEST_BUNDLE}  (each photograph goes to the model of its group)"]
    lines += [f"{'refitted models':<20}{out / REFIT_BUNDLE}"] if (out / REFIT_BUNDLE).is_dir() else []
    lines += [f"{'of each group':<20}{folder}" for folder in folders.values()]
    return "\n".join(lines)


def _confirmed(confirmation: dict[str, Any] | None) -> str:
    if not confirmation or confirmation.get("score") is None:
        return "unconfirmed"
    score, low, high = (confirmation[f"score{end}"] for end in ("", "_low", "_high"))
    return f"{score:.3f}" + ("" if low is None or high is None else f"  {low:.3f} … {high:.3f}")
