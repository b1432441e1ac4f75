"""What is noticed in training: embeddings that are all alike, and a loss that cannot move.

reports of the epochs → findings. By value, whatever the cause. No torch: the journal of a sweep keeps the same reports.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from reid_core.data.table.findings import Finding, make_finding

WHERE = "training"
ALIKE = 0.999  # mean cosine of a group; untrained networks with random weights have 0.95 and less
NO_GRADIENT = 1e-8  # AdamW's epsilon: what is smaller hardly moves anything
SAME_LOSS = 1e-6  # of the loss: some roundings of float32
SAYINGS = {
    "alike": "all embeddings of a group are alike after epoch {}: no photograph of it can be "
    "distinguished from another; are the photographs black, or the learning rates too large?",
    "still": "nothing was learned in epoch {}: the gradient was 0 in every step; are the learning rates 0, is nothing "
    "trained, or is no triplet within the margin?",
    "same": "the loss was the same in every step of epoch {}: it cannot move; are the learning rates too large, or the "
    "photographs black?",
}


def find_in_training(reports: Sequence[Mapping[str, Any]]) -> tuple[Finding, ...]:
    """A finding for each kind of trouble, with the epochs that had it.

    Args:
        reports: Of `Trainer.fit`. A report without one of the numbers (of an earlier version, or where nothing is
            evaluated) is not judged by it.

    Example:
        >>> find_in_training([{"epoch": 1, "loss": 0.3, "gradient_norm": 0.1, "mean_cosine": 0.4}])
        ()
    """
    epochs_of: dict[str, list[str]] = {kind: [] for kind in SAYINGS}
    for report in reports:
        for kind in _troubles(report):
            epochs_of[kind].append(str(report["epoch"]))
    said = {kind: saying.format(", ".join(epochs_of[kind])) for kind, saying in SAYINGS.items()}
    found = tuple(Finding(WHERE, said[kind], len(epochs)) for kind, epochs in epochs_of.items() if epochs)
    return (*found, *_find_not_augmented(reports))


def _find_not_augmented(reports: Sequence[Mapping[str, Any]]) -> tuple[Finding, ...]:
    """A finding if images were trained with as they are, because they could not be augmented."""
    count = sum(int(report.get("not_augmented", 0)) for report in reports)
    examples = dict.fromkeys(line for report in reports for line in report.get("not_augmented_examples", ()))
    what = f"{count} times a photograph could not be augmented, and was trained with as it is"
    return (make_finding(WHERE, what, list(examples), count),) if count else ()


def find_in_model(mean_cosine: float) -> tuple[Finding, ...]:
    """A finding if the embeddings of the model that is exported are alike, also where nothing was trained.

    Args:
        mean_cosine: Of all photographs (`validation.mean_cosine`).

    Example:
        >>> print(*find_in_model(1.0), find_in_model(0.9))  # doctest: +ELLIPSIS
        training: all embeddings of a group are alike in the chosen model: ... ()
    """
    what = (
        "all embeddings of a group are alike in the chosen model: no photograph of it can be "
        "distinguished from another; are the photographs black, or the weights wrong?"
    )
    return (Finding(WHERE, what, 1),) if mean_cosine > ALIKE else ()


def _troubles(report: Mapping[str, Any]) -> list[str]:
    cosine, norm, spread = (report.get(key) for key in ("mean_cosine", "gradient_norm", "loss_spread"))
    found = ["alike"] if cosine is not None and cosine > ALIKE else []
    if norm is not None and norm < NO_GRADIENT:
        return [*found, "still"]
    is_same = spread is not None and spread <= SAME_LOSS * abs(report["loss"])
    return [*found, "same"] if is_same else found
