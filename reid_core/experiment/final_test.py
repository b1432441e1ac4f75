"""The end of an experiment: `testSet` once, every answer written down, and the model exported.

prepared data + truth + chosen model → metrics, predictions.parquet, leaks.csv, bundle (paper §6.3).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reid_core.config.parameters import TrialConfig
from reid_core.data.splits.parts import Parts
from reid_core.data.table.findings import Finding, log_findings
from reid_core.experiment.bundle.folder import Bundle, Second, write_bundle
from reid_core.experiment.epoch_zero import FrozenAnswers, answer_both_sets
from reid_core.experiment.evaluation import outputs_of, pair_scorer
from reid_core.experiment.prepared import SEEN, UNREADABLE, Prepared
from reid_core.experiment.second_model import load_second
from reid_core.metrics.gain import summarise_gain
from reid_core.metrics.result import Result
from reid_core.metrics.summary import summarise
from reid_core.model.place import Place
from reid_core.model.reid_model import ReidModel
from reid_core.scoring.decision import Answers, Decision, Outputs
from reid_core.scoring.evaluate import answer_queries, decide, shares_of
from reid_core.scoring.leaks import leak_report, write_leaks
from reid_core.training.training_findings import find_in_model
from reid_core.training.validation import mean_cosine

SETS = ("thresholdSet", "testSet")  # whose queries are answered


def run_final_test(
    config: TrialConfig,
    prepared: Prepared,
    truth: Parts,
    model: ReidModel,
    out: Path,
    place: Place,
    *,
    findings: Sequence[Finding] = (),
) -> Result:
    """Score `testSet` once and write the bundle (`out/best`) and every single answer (`out/predictions.parquet`).

    Args:
        config: The chosen configuration.
        prepared: The data its trials saw.
        truth: From `prepare.read_truth`: the same parts with the identities of `testSet`.
        model: With the chosen weights.
        out: Result folder; gets `leaks.csv` too (`leaks.leak_report`).
        place: Of the one process that does this.
        findings: Of the training; those of the data are in `prepared`, and the embeddings are judged here. Result and
            bundle have them all.

    Returns:
        Metrics (`summary.summarise`) on `thresholdSet`, which chose the thresholds, and on `testSet`, which did not;
        what training added to the frozen backbone (`epoch_zero`), which answers the same queries; all findings. The
        caller writes it down (`result.write_result`) before anything else.
    """
    outputs = outputs_of(config, prepared, model, place, (*SEEN, "testSet"))
    score_pairs = pair_scorer(config.match, prepared.local_features, place)
    decision, of_thresholds, threshold_metrics = decide(config, truth, outputs, score_pairs, device=place.device)
    rows = truth.rows("testSet")
    of_test = answer_queries(config, decision, truth, outputs, rows, score_pairs, device=place.device)
    answers, frozen = {SETS[0]: of_thresholds, SETS[1]: of_test}, answer_both_sets(config, prepared, truth, place)
    tables = [_table_of_answers(part, answers[part], decision, truth, prepared, frozen) for part in SETS]
    pq.write_table(pa.concat_tables(tables), out / "predictions.parquet", write_page_checksum=True)
    leaks = leak_report(truth.part_N, truth.identity_N, truth.group_N, prepared.date_N, prepared.fingerprints)
    write_leaks(out / "leaks.csv", leaks)
    shares = {part: shares_of(answers[part], decision, truth) for part in SETS}
    metrics = {SETS[0]: threshold_metrics, SETS[1]: summarise(shares[SETS[1]])}
    gains = {
        part: summarise_gain(shares[part], frozen.shares(part, truth), config.threshold.objective) for part in SETS
    }
    of_model = _judge_embeddings(truth, outputs)
    result = Result(metrics=metrics, gains=gains, findings=(*prepared.findings, *findings, *of_model))
    write_bundle(out / "best", _bundle(config, prepared, truth, model, decision, outputs, result))
    return result


def _judge_embeddings(truth: Parts, outputs: Outputs) -> tuple[Finding, ...]:
    """What is said, and logged, of the embeddings of all photographs; also where no epoch was there to be judged."""
    readable = np.flatnonzero(truth.part_N != UNREADABLE)
    found = find_in_model(mean_cosine(outputs.embedding_ND[readable], truth.group_N[readable]))
    log_findings(found)
    return found


def _bundle(
    config: TrialConfig,
    prepared: Prepared,
    truth: Parts,
    model: ReidModel,
    decision: Decision,
    outputs: Outputs,
    result: Result,
) -> Bundle:
    everything = np.flatnonzero(truth.part_N != UNREADABLE)
    second = None
    if outputs.second_ND is not None:
        second = Second(*load_second(config), outputs.second_ND[everything])
    return Bundle(
        config=config,
        model=model,
        decision=decision,
        identity_G=truth.identity_N[everything],
        group_G=truth.group_N[everything],
        embedding_GD=outputs.embedding_ND[everything],
        sides_G6=prepared.sides_N6[everything],
        features=prepared.local_features.select(everything) if prepared.local_features else None,
        metrics=result.metrics,
        gains=result.gains,
        findings=result.findings,
        class_identity_K=outputs.class_identity_K,
        class_group_K=outputs.class_group_K,
        second=second,
        key_G=np.array(prepared.images.keys, dtype=object)[everything],
    )


def _table_of_answers(
    part: str, answers: Answers, decision: Decision, truth: Parts, prepared: Prepared, frozen: FrozenAnswers
) -> pa.Table:
    return pa.table(
        {
            "part": [part] * len(answers.query_Q),
            "image_id": list(prepared.image_id_N[answers.query_Q]),
            "group": list(answers.group_Q),
            "identity": list(truth.identity_N[answers.query_Q]),
            "known": truth.known(answers.query_Q),
            "answer": list(answers.name(decision.thresholds)),
            "candidate": list(answers.identity_Q),
            "probability": answers.score_Q.astype(np.float32),
            "answer_epoch0": list(frozen.name(part)),
        }
    )
