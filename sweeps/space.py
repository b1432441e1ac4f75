"""Search spaces, define-by-run: an Optuna trial → values by dotted key. No Ray, no torch.

The same function goes to Ray's OptunaSearch and, in tests, to `optuna.trial.FixedTrial`.
"""

from collections.abc import Callable
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import BaseTrial, FixedTrial

from reid_core.config import TrialConfig, UserError, flatten, get, override

# Optuna trial, base configuration, fixed keys → searched values by dotted key.
Space = Callable[[BaseTrial, TrialConfig, frozenset[str]], dict[str, Any]]


def metric_space(trial: BaseTrial, base: TrialConfig, fixed: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Metric learning: batch size, learning rates, head complexity, stages, embedding dimension, margin (paper §4.1.4).

    A base value outside a range moves the range to one decade around it, so that the base can be tried too.

    Args:
        trial: Optuna trial that is asked for values.
        base: Configuration that the sweep starts from.
        fixed: Dotted keys that are not searched.
    """
    ask = _Asker(trial, base, fixed)
    ask.choice("optim.batch_size", (16, 32, 64))
    ask.log_range("optim.lr_head", 1e-5, 1e-3)
    ask.log_range("optim.lr_stages", 1e-6, 1e-4)
    ask.log_range("optim.lr_norm", 1e-6, 1e-4)
    ask.choice("model.head", ("linear", "mlp"))
    if ask.value("model.head") == "mlp":
        ask.choice("model.head_hidden", (512, 1024, 2048))
    if ask.value("model.head") != "none":
        ask.choice("model.embedding_dim", (256, 512, 1024))
    ask.choice("model.unfrozen_stages", (0, 1, 2))
    ask.range("loss.margin_cosine", 0.05, 0.5)
    return ask.values


class _Asker:
    """Asks a trial for the keys that are not fixed, and remembers the answers."""

    def __init__(self, trial: BaseTrial, base: TrialConfig, fixed: frozenset[str]) -> None:
        self.trial, self.base, self.fixed = trial, base, fixed
        self.values: dict[str, Any] = {}

    def value(self, key: str) -> Any:
        return self.values.get(key, get(self.base, key))

    def choice(self, key: str, options: tuple) -> None:
        if key not in self.fixed:
            base = get(self.base, key)
            options = options if base in options else (*options, base)
            self.values[key] = self.trial.suggest_categorical(key, options)

    def log_range(self, key: str, low: float, high: float) -> None:
        if key not in self.fixed:
            base = get(self.base, key)
            low, high = (low, high) if low <= base <= high else (base / 10, base * 10)
            self.values[key] = self.trial.suggest_float(key, low, high, log=True)

    def range(self, key: str, low: float, high: float) -> None:
        if key not in self.fixed:
            base = get(self.base, key)
            self.values[key] = self.trial.suggest_float(key, min(low, base), max(high, base))


def distributions(
    space: Space, base: TrialConfig, fixed: frozenset[str], values: dict[str, Any]
) -> dict[str, BaseDistribution]:
    """Optuna's distributions of the keys that `values` answers; conditional keys only where their condition holds.

    Raises:
        UserError: If a value is missing or lies outside its distribution.
    """
    trial = FixedTrial(values)
    try:
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


def describe_space(space: Space, base: TrialConfig, fixed: frozenset[str]) -> str:
    """One line per searched key, with every condition taken: name, range or choices, base value."""
    found: dict[str, BaseDistribution] = {}
    for head in ("linear", "mlp"):
        variant = base if "model.head" in fixed else override(base, {"model.head": head})
        found |= distributions(space, variant, fixed, flatten(variant))
    lines = []
    for key, distribution in found.items():
        choices = getattr(distribution, "choices", None)
        if choices is not None:
            text = "{" + ", ".join(map(str, choices)) + "}"
        else:
            text = f"{distribution.low:g} … {distribution.high:g}" + (" (log)" if distribution.log else "")  # type: ignore[attr-defined]
        lines.append(f"  {key:<24}{text:<32}first trial: {get(base, key)}")
    return "\n".join(lines) or "  nothing is searched: every key is fixed"
