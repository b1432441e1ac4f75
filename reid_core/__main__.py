"""Train and score one configuration on one machine, without Ray: `python -m reid_core --data … --out …`."""

import argparse
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from reid_core import cli, command
from reid_core.config.parameters import TrialConfig
from reid_core.config.yaml_files import write_config
from reid_core.data.synthetic import resolve_data
from reid_core.data.table.findings import format_findings
from reid_core.data.table.metadata import Reading
from reid_core.data.test_set import describe_uses, read_uses, record_use
from reid_core.experiment.bundle.files import write_json
from reid_core.experiment.environment import describe_environment
from reid_core.experiment.epoch_zero import find_no_gain, report_epoch_zero
from reid_core.experiment.evaluation import epoch_evaluation
from reid_core.experiment.final_test import run_final_test
from reid_core.experiment.prepare import prepare, read_truth
from reid_core.experiment.prepared import Prepared
from reid_core.experiment.training_setup import (
    TrainingData,
    keep_activations,
    kept_batches,
    make_trainer,
    rest_of,
    training_data_of,
)
from reid_core.files.atomic import new_folder
from reid_core.metrics.result import SINGLE, Result, read_result, write_result
from reid_core.metrics.summary import format_gain, format_metrics
from reid_core.model.place import gpu_memory, local_place
from reid_core.model.reid_model import describe_parts
from reid_core.scoring.leaks import format_leaks, read_leaks
from reid_core.training.batches import local_batches
from reid_core.training.trainer import KEPT_CHECKPOINTS, Trainer, load_newest
from reid_core.training.training_findings import find_in_training


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m reid_core", description=__doc__)
    cli.add_common_flags(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Prepare, train (continuing where a former call stopped), score `testSet` once, export.

    A result that a former call has written is printed as it is.
    """
    options = make_parser().parse_args(arguments)
    config = cli.make_config(options)
    out = command.make_out(options.out)
    command.claim(out, config, options.data)
    result = read_result(out, SINGLE)
    if result is None:
        result = run_once(config, options.data, out, cli.reading_of(options))
    else:
        print(f"{out} holds the result already: nothing was run, testSet was not used again\n")
    print(describe_result(result, out))
    return 0


def run_once(config: TrialConfig, data: str, out: Path, reading: Reading) -> Result:
    """The experiment from data to result.json, which is written last, and before anything of it is printed."""
    root = resolve_data(data, out / "data")
    prepared = prepare(root, out / "cache", config, reading=reading)
    place = replace(local_place(config), memory_bytes=gpu_memory())
    training = training_data_of(config, prepared)
    epoch_zero = {"epoch": 0, **report_epoch_zero(config, prepared, place)}
    trainer = make_trainer(config, prepared, training.plan, place)
    print(describe_parts(trainer.model))
    print_report(epoch_zero)
    train(trainer, training, prepared, out / "checkpoints")
    write_config(out / "best.yaml", config)
    write_json(out / "reports.json", [epoch_zero, *trainer.history])
    write_json(out / "environment.json", describe_environment() | {"seed": config.seed})
    use = record_use(out, trial=SINGLE, config=config)
    truth = read_truth(root, prepared, use=use, reading=reading)
    found = (*find_in_training(trainer.history), *find_no_gain(trainer.history, epoch_zero))
    result = run_final_test(config, prepared, truth, trainer.restore_best(), out, place, findings=found)
    write_result(out, result)
    return result


def describe_result(result: Result, out: Path) -> str:
    """Everything that a person wants to know of it."""
    paragraphs = [
        format_metrics(result.metrics),
        *(format_gain(gain, part) for part, gain in result.gains.items() if part == "testSet"),
        describe_uses(read_uses(out)),
        format_leaks(read_leaks(out / "leaks.csv")),
        format_findings(result.findings),
        f"model: {out / 'best'}\nanswers: {out / 'predictions.parquet'}",
    ]
    return "\n\n".join(filter(None, paragraphs))


def train(trainer: Trainer, data: TrainingData, prepared: Prepared, checkpoints: Path) -> None:
    """Train what is left, with a checkpoint after each epoch; a checkpoint is there whole or not at all."""
    if load_newest(trainer, sorted(checkpoints.glob("epoch-*[0-9]"), reverse=True)):
        print(f"continuing after epoch {len(trainer.history)}")
    config = trainer.config
    place = keep_activations(config, prepared, data, trainer.model, trainer.place)
    rest = rest_of(data.plan, trainer)
    batches = kept_batches(rest, data.source, trainer.model, place) or local_batches(rest, data.source)
    for report in trainer.fit(batches, epoch_evaluation(config, prepared, place)):
        folder = checkpoints / f"epoch-{report['epoch']:06d}"
        with new_folder(folder) as part:
            trainer.save(part)
        for old in sorted(checkpoints.iterdir(), reverse=True)[KEPT_CHECKPOINTS:]:
            shutil.rmtree(old)
        print_report(report)


def print_report(report: Mapping[str, Any]) -> None:
    """One line for an epoch: its numbers."""
    numbers = {name: value for name, value in report.items() if isinstance(value, int | float)}
    print("  ".join(f"{name} {value:.4g}" for name, value in numbers.items()), flush=True)


if __name__ == "__main__":
    command.run(main)
