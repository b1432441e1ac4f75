"""Train and score one configuration on one machine, without Ray: `python -m reid_core --data … --out …`."""

import argparse
import json
import shutil
from pathlib import Path

from reid_core import cli, command
from reid_core.config.yaml_files import write_config
from reid_core.data.synthetic import resolve_data
from reid_core.data.test_set import describe_uses, read_uses, record_use
from reid_core.experiment.environment import describe_environment
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
from reid_core.metrics.summary import format_metrics
from reid_core.model.place import local_place
from reid_core.model.reid_model import describe_parts
from reid_core.scoring.leaks import format_leaks, read_leaks
from reid_core.training.batches import local_batches
from reid_core.training.trainer import KEPT_CHECKPOINTS, Trainer, load_newest


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m reid_core", description=__doc__)
    cli.add_common_flags(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Prepare, train (continuing where a former call stopped), score `testSet` once, export."""
    options = make_parser().parse_args(arguments)
    config = cli.make_config(options)
    out = command.make_out(options.out)
    command.claim(out, config, options.data)
    root = resolve_data(options.data, out / "data")
    prepared = prepare(root, out / "cache", config, reading=cli.reading_of(options))
    place = local_place(config)
    data = training_data_of(config, prepared)
    trainer = make_trainer(config, prepared, data.plan, place)
    print(describe_parts(trainer.model))
    train(trainer, data, prepared, out / "checkpoints")
    use = record_use(out, trial="single run", config=config)
    truth = read_truth(root, prepared, use=use, reading=cli.reading_of(options))
    metrics = run_final_test(config, prepared, truth, trainer.restore_best(), out, place)
    write_config(out / "best.yaml", config)
    (out / "reports.json").write_text(json.dumps(trainer.history, indent=1), encoding="utf-8")
    (out / "environment.json").write_text(
        json.dumps(describe_environment() | {"seed": config.seed}, indent=1), encoding="utf-8"
    )
    print(f"{format_metrics(metrics)}\n\n{describe_uses(read_uses(out))}\n")
    print(f"{format_leaks(read_leaks(out / 'leaks.csv'))}\n")
    if prepared.num_unreadable:
        print(f"{prepared.num_unreadable} unreadable photographs were left out")
    print(f"model: {out / 'best'}\nanswers: {out / 'predictions.parquet'}")
    return 0


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
        print("  ".join(f"{name} {value:.4g}" for name, value in report.items()), flush=True)


if __name__ == "__main__":
    command.run(main)
