"""The one use of `testSet`: the chosen trial is scored on it and exported.

best trial → its weights → metrics on `thresholdSet` and `testSet`, bundle OUT/best, predictions.parquet.
"""

from dataclasses import replace
from pathlib import Path

from reid_core.data.table.metadata import Reading
from reid_core.data.test_set import Use, record_use
from reid_core.experiment.epoch_zero import find_no_gain, report_epoch_zero
from reid_core.experiment.final_test import run_final_test
from reid_core.experiment.prepare import read_truth
from reid_core.experiment.prepared import load_prepared
from reid_core.experiment.training_setup import make_trainer, plan_of
from reid_core.metrics.result import Result, read_result, write_result
from reid_core.model.place import local_place
from reid_core.training.training_findings import find_in_training
from sweeps.results.journal import Record
from sweeps.trials.checkpoints import load_finished
from sweeps.trials.context import SweepContext
from sweeps.trials.slots.place import hold_worker
from sweeps.trials.worker import make_scorer


def score_test_set(best: Record, context: SweepContext, root: Path, *, reading: Reading) -> Result:
    """Score a trial on `testSet`, export it and write result.json, unless that was done before.

    Args:
        best: Completed trial.
        context: Of the sweep; `context.out` gets the record of the use, and the bundle.
        root: Data folder.
        reading: As the data were prepared.
    """
    out = Path(context.out)
    result = read_result(out, best.name)
    if result is None:
        # Where a worker's GPU is: the script itself may run on a head node that has none.
        what = f"{best.name} is scored on testSet"
        with hold_worker(what, context, num_gpus=context.resources.gpus_per_worker) as place:
            use = record_use(out, trial=best.name, config=context.configure(best.parameters))
            context.push()  # before the use: whoever continues without this folder must know of it
            result = place.run(finish_best, best, context, root, use=use, reading=reading)
        write_result(out, result)
        context.push()
    return result


def finish_best(best: Record, context: SweepContext, root: Path, *, use: Use, reading: Reading) -> Result:
    """Load a trial's best weights and finish it (`reid_core.experiment.final_test.run_final_test`)."""
    config, prepared = context.configure(best.parameters), load_prepared(Path(context.cache))
    place = local_place(config)
    if context.pair_store is not None:
        place = replace(place, share_pairs=make_scorer(context.pair_store, prepared, f"finish/{best.name}"))
    trainer = make_trainer(config, prepared, plan_of(config, prepared), place)
    load_finished(trainer, context.checkpoint(best))
    truth = read_truth(root, prepared, use=use, reading=reading)
    epoch_zero = report_epoch_zero(config, prepared, place)
    found = (*find_in_training(trainer.history), *find_no_gain(trainer.history, epoch_zero))
    model = trainer.restore_best()
    result = run_final_test(config, prepared, truth, model, Path(context.out), place, findings=found)
    return replace(result, trial=best.name)
