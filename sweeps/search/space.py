"""Search spaces, define-by-run: an Optuna trial → values by dotted key. No Ray, no torch.

The same function goes to Ray's OptunaSearch and, in tests, to `optuna.trial.FixedTrial`.
"""

import warnings
from collections.abc import Callable
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import BaseTrial, FixedTrial

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import flatten, get
from reid_core.errors import UserError
from sweeps.search.candidates import Asker, Choices, Range, Searched

# Optuna trial, base configuration, fixed keys → searched values by dotted key. Keys of `--search` are bound beforehand.
Space = Callable[[BaseTrial, TrialConfig, frozenset[str]], dict[str, Any]]
NOTHING: frozenset[str] = frozenset()


def metric_space(
    trial: BaseTrial, base: TrialConfig, fixed: frozenset[str] = NOTHING, searched: Searched = ()
) -> dict[str, Any]:
    """Metric learning: batch size, learning rates, head complexity, stages, embedding dimension, margin (paper §4.1.4).

    A base value outside a range moves the range to one decade around it, so that the base can be tried too.

    Args:
        trial: Optuna trial that is asked for values.
        base: Configuration that the sweep starts from.
        fixed: Dotted keys that are not searched.
        searched: Further keys, or other candidates for the space's own (`search_flag.parse_searched`).
    """
    ask = Asker(trial, base, fixed, searched)
    for key in ("optim.batch_size", "optim.lr_head", "optim.lr_stages", "optim.lr_norm"):
        ask(key)
    ask("model.head", Choices(("linear", "mlp")))
    if ask.value("model.head") == "mlp":
        ask("model.head_hidden")
    if ask.value("model.head") != "none":
        ask("model.embedding_dim")
    ask("model.unfrozen_stages")
    _ask_loss(ask)
    return ask.values


def classification_space(
    trial: BaseTrial, base: TrialConfig, fixed: frozenset[str] = NOTHING, searched: Searched = ()
) -> dict[str, Any]:
    """Classification: batch size, learning rates, classifier, schedule, stages, label smoothing (paper §4.1.3).

    Arguments as those of `metric_space`.
    """
    ask = Asker(trial, base, fixed, searched)
    ask("optim.batch_size")
    ask("optim.lr_head", Range(1e-6, 1e-3, log=True))  # the paper's 1e-5 is for 16 images
    ask("optim.lr_stages")
    ask("optim.lr_norm")
    ask("optim.schedule", Choices(("constant", "onecycle", "cosine")))
    if ask.value("optim.schedule") == "cosine":
        ask("optim.warmup_epochs")
    ask("model.unfrozen_stages")
    _ask_loss(ask)
    return ask.values


def efficientnet_space(
    trial: BaseTrial, base: TrialConfig, fixed: frozenset[str] = NOTHING, searched: Searched = ()
) -> dict[str, Any]:
    """EfficientNet (paper §4.2): as classification, with rates for a whole network and no more stages than the base.

    A frozen body stays frozen, and then nothing of it is searched. Arguments as those of `metric_space`.
    """
    ask = Asker(trial, base, fixed, searched)
    most = base.model.unfrozen_stages
    ask("optim.batch_size")
    ask("optim.lr_head", Range(1e-5, 1e-2, log=True))
    ask("optim.lr_norm", Range(1e-5, 1e-3, log=True))
    if most:
        ask("model.unfrozen_stages", Choices(tuple(sorted({0, most // 2, most}))))
    if ask.value("model.unfrozen_stages"):
        ask("optim.lr_stages", Range(1e-5, 1e-3, log=True))
        ask("model.drop_path")
    if ask.value("model.head") != "none":
        ask("model.embedding_dim")
    _ask_loss(ask)
    return ask.values


def _ask_loss(ask: Asker) -> None:
    """What belongs to the loss that the trial has."""
    loss = ask.value("loss.name")
    if loss == "triplet":
        ask("loss.margin_cosine")
    elif loss == "cross_entropy":
        ask("loss.label_smoothing")
        ask("model.classifier", Choices(("linear", "mlp")))
        if ask.value("model.classifier") == "mlp":
            ask("model.head_hidden")
    else:
        ask("loss.margin_deg")
        ask("loss.scale")


def distributions(
    space: Space, base: TrialConfig, fixed: frozenset[str], values: dict[str, Any]
) -> dict[str, BaseDistribution]:
    """Optuna's distributions of the keys that `values` answers; conditional keys only where their condition holds.

    Raises:
        UserError: If a value is missing or lies outside its distribution.
    """
    trial = FixedTrial(values)
    try:
        with warnings.catch_warnings():  # a value outside is this function's error below
            warnings.filterwarnings("ignore", message="The value .* is out of the range")
            space(trial, base, fixed)
    except ValueError as error:
        raise UserError(f"these values are not of this search space: {error}") from error
    for key, distribution in trial.distributions.items():
        if not distribution._contains(distribution.to_internal_repr(values[key])):
            raise UserError(f"{key}={values[key]!r} is outside the search space ({distribution})")
    return trial.distributions


def base_point(space: Space, base: TrialConfig, fixed: frozenset[str]) -> dict[str, Any]:
    """The base configuration's own values of the searched keys: the first trial."""
    values = flatten(base)
    return {key: values[key] for key in distributions(space, base, fixed, values)}


def all_distributions(space: Space, base: TrialConfig, fixed: frozenset[str]) -> dict[str, BaseDistribution]:
    """The distributions of every key that the space may ask for, with every condition taken."""
    found: dict[str, BaseDistribution] = {}
    todo = [flatten(base)]
    while todo:
        values = todo.pop()
        for key, distribution in distributions(space, base, fixed, values).items():
            if key not in found:
                found[key] = distribution
                todo += [values | {key: choice} for choice in getattr(distribution, "choices", ())]
    return found


def most_epochs(space: Space, base: TrialConfig, fixed: frozenset[str]) -> int:
    """The largest number of epochs that a trial can have."""
    found: Any = all_distributions(space, base, fixed).get("optim.epochs")
    if found is None:
        return base.optim.epochs
    return max(found.choices) if hasattr(found, "choices") else found.high


def describe_space(space: Space, base: TrialConfig, fixed: frozenset[str]) -> str:
    """One line per searched key, with every condition taken: name, range or choices, base value."""
    lines = []
    for key, distribution in all_distributions(space, base, fixed).items():
        choices = getattr(distribution, "choices", None)
        if choices is not None:
            text = "{" + ", ".join(map(str, choices)) + "}"
        else:
            text = f"{distribution.low:g} … {distribution.high:g}" + (" (log)" if distribution.log else "")  # type: ignore[attr-defined]
        lines.append(f"  {key:<24}{text:<32}first trial: {get(base, key)}")
    return "\n".join(lines) or "  nothing is searched: every key is fixed"
