"""`--refit`: the chosen configuration, trained on all database images after `testSet` was scored (a trial of its own).

best trial → prepared data without query sets → one more trial, which is not evaluated → bundle in OUT/refit.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from reid_core.data.table.metadata import Reading
from reid_core.data.test_set import Use, record_use
from reid_core.errors import UserError
from reid_core.experiment.prepare import read_truth
from reid_core.experiment.prepared import load_prepared
from reid_core.experiment.refit import check_refittable, choose_epochs, export_refit, prepare_refit
from reid_core.experiment.training_setup import make_trainer, plan_of
from reid_core.files.checksums import CHECKSUMS
from reid_core.model.place import local_place
from sweeps.results.journal import Record
from sweeps.results.result_folder import BEST_BUNDLE, REFIT_BUNDLE, REFIT_TRIAL, open_journal
from sweeps.search.suggestion import Suggestion
from sweeps.trials.checkpoints import load_finished
from sweeps.trials.context import SweepContext
from sweeps.trials.driver import MAX_RETRIES
from sweeps.trials.slots.place import hold_worker
from sweeps.trials.tuning import run_fixed


def refit_best(
    best: Record, runs: Sequence[Record], context: SweepContext, root: Path, *, reading: Reading
) -> str | None:
    """Train the best configuration on every image and export it; what was done before is not repeated.

    Args:
        best: Scored on `testSet`, exported as OUT/best.
        runs: Trainings of the same configuration, whose median best epoch is how long this one takes.
        context: Of the sweep.
        root: Data folder.
        reading: As the data were prepared.

    Returns:
        None if it worked, else why the training failed.
    """
    epochs = choose_epochs([run.reports for run in runs])
    try:
        check_refittable(context.configure(best.parameters).predict)
    except UserError as error:
        return str(error)
    out, name = Path(context.out), f"{best.name}-refit-{epochs}"
    if (out / REFIT_BUNDLE / CHECKSUMS).is_file() and name in open_journal(out / REFIT_TRIAL).by_name():
        return None
    with hold_worker("the data of the refit", context) as place:
        use = record_use(out, trial=f"{best.name} (refit)", config=context.configure(best.parameters))
        context.push()
        cache = place.run(open_refit, context, root, use=use, reading=reading)
    suggestion = Suggestion(name=name, parameters=best.parameters, cache=cache, only_train=epochs)
    trained = run_fixed([suggestion], replace(context, out=str(out / REFIT_TRIAL)))[name]
    if trained.status != "completed":
        return f"{trained.status}: {trained.reason}"
    with hold_worker("the refitted model's bundle", context, num_gpus=context.resources.gpus_per_worker) as place:
        place.run(export_trained, trained, context, cache, epochs, max_retries=MAX_RETRIES)
    return None


def open_refit(context: SweepContext, root: Path, *, use: Use, reading: Reading) -> str:
    """Prepare the data; the identities of `testSet` are training labels now, which is recorded as a use of it."""
    truth = read_truth(root, load_prepared(Path(context.cache)), use=use, reading=reading)
    return str(prepare_refit(Path(context.cache), truth))


def export_trained(trained: Record, context: SweepContext, cache: str, epochs: int) -> None:
    """Load the refitted weights and write the bundle."""
    config, prepared = context.configure(trained.parameters), load_prepared(Path(cache))
    place = local_place(config)
    trainer = make_trainer(config, prepared, plan_of(config, prepared), place)
    load_finished(trainer, context.checkpoint(trained))
    out = Path(context.out)
    export_refit(out / BEST_BUNDLE, out / REFIT_BUNDLE, prepared, trainer.restore_best(), place, epochs=epochs)
