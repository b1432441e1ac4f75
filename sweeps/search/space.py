"""Search spaces, define-by-run: an Optuna trial → values by dotted key. No Ray, no torch.

The same space goes to Ray's OptunaSearch and, in tests, to `optuna.trial.FixedTrial`.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import BaseTrial, FixedTrial

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import flatten, get
from reid_core.errors import UserError
from sweeps.search.candidates import Choices, LeftOut, Range, Searched, Suggester

# Decides which keys are searched, and from what. Importable by name: a sweep's searcher is pickled.
SpaceFunction = Callable[[Suggester], None]
MOST_COUNTED = 2000  # configurations; no sweep has as many trials


def metric_space(suggest: Suggester) -> None:
    """Metric learning: batch size, learning rates, head complexity, stages, embedding dimension, margin (paper §4.1.4).

    A base value outside a range moves the range to one decade around it, so that the base can be tried too.
    """
    for key in ("optim.batch_size", "optim.lr_head", "optim.lr_stages", "optim.lr_norm"):
        suggest(key)
    suggest("model.head", Choices(("linear", "mlp")))
    if suggest.value("model.head") == "mlp":
        suggest("model.head_hidden")
    if suggest.value("model.head") != "none":
        suggest("model.embedding_dim")
    suggest("model.unfrozen_stages")
    _suggest_loss(suggest)


def classification_space(suggest: Suggester) -> None:
    """Classification: batch size, learning rates, classifier, schedule, stages, label smoothing (paper §4.1.3)."""
    suggest("optim.batch_size")
    suggest("optim.lr_head", Range(1e-6, 1e-3, log=True))  # the paper's 1e-5 is for 16 images
    suggest("optim.lr_stages")
    suggest("optim.lr_norm")
    suggest("optim.schedule", Choices(("constant", "onecycle", "cosine")))
    if suggest.value("optim.schedule") == "cosine":
        suggest("optim.warmup_epochs")
    suggest("model.unfrozen_stages")
    _suggest_loss(suggest)


def efficientnet_space(suggest: Suggester) -> None:
    """EfficientNet (paper §4.2): as classification, with rates for a whole network and no more stages than the base.

    A frozen body stays frozen, and then nothing of it is searched.
    """
    most = suggest.base.model.unfrozen_stages
    suggest("optim.batch_size")
    suggest("optim.lr_head", Range(1e-5, 1e-2, log=True))
    suggest("optim.lr_norm", Range(1e-5, 1e-3, log=True))
    if most:
        suggest("model.unfrozen_stages", Choices(tuple(sorted({0, most // 2, most}))))
    if suggest.value("model.unfrozen_stages"):
        suggest("optim.lr_stages", Range(1e-5, 1e-3, log=True))
        suggest("model.drop_path")
    if suggest.value("model.head") != "none":
        suggest("model.embedding_dim")
    _suggest_loss(suggest)


def _suggest_loss(suggest: Suggester) -> None:
    """What belongs to the loss that the trial has."""
    loss = suggest.value("loss.name")
    if loss == "triplet":
        suggest("loss.margin_cosine")
    elif loss == "cross_entropy":
        suggest("loss.label_smoothing")
        suggest("model.classifier", Choices(("linear", "mlp")))
        if suggest.value("model.classifier") == "mlp":
            suggest("model.head_hidden")
    else:
        suggest("loss.margin_deg")
        suggest("loss.scale")


@dataclass(frozen=True)
class SearchSpace:
    """What a sweep searches, around the configuration that it starts from.

    `left_out` depends on the machines and on the program's version, so a resumed sweep may leave out other values than
    the trials in its journal had. It says which trials are begun (`allows`), and changes no distribution: Optuna wants
    the same choices of a key in every trial.
    """

    function: SpaceFunction
    base: TrialConfig
    fixed: frozenset[str] = frozenset()  # dotted keys that are not searched
    searched: Searched = ()  # further keys, or other candidates for the function's own (`search_flag.parse_searched`)
    left_out: LeftOut = ()  # values that no trial can have here (`stages.checks.values`)

    def suggest(self, trial: BaseTrial) -> dict[str, Any]:
        """The trial's values of the searched keys."""
        suggester = Suggester(trial, self.base, self.fixed, self.searched)
        self.function(suggester)
        return suggester.values

    def base_point(self) -> dict[str, Any]:
        """The base configuration's own values of the searched keys: the first trial."""
        return self.restrict(flatten(self.base))

    def restrict(self, values: dict[str, Any]) -> dict[str, Any]:
        """Of the values of a whole configuration those of the searched keys.

        Raises:
            UserError: As `distributions`; or if no trial is begun with them.
        """
        own = {key: values[key] for key in self.distributions(values)}
        for key, left_out in self.left_out:
            if own.get(key) in left_out:
                raise UserError(f"{key}={own[key]!r} is not searched: no trial can have it")
        return own

    def allows(self, values: dict[str, Any]) -> bool:
        """Whether a trial is begun that has these values of the searched keys."""
        return not any(key in values and values[key] in left_out for key, left_out in self.left_out)

    def distributions(self, values: dict[str, Any]) -> dict[str, BaseDistribution]:
        """Optuna's distributions of the keys that are searched where a trial has these values.

        Conditional keys only where their condition holds.

        Raises:
            UserError: If a value is missing or lies outside its distribution.
        """
        trial = FixedTrial(values)
        try:
            with warnings.catch_warnings():  # a value outside is this function's error below
                warnings.filterwarnings("ignore", message="The value .* is out of the range")
                self.suggest(trial)
        except ValueError as error:
            raise UserError(f"these values are not of this search space: {error}") from error
        for key, distribution in trial.distributions.items():
            if not distribution._contains(distribution.to_internal_repr(values[key])):
                raise UserError(f"{key}={values[key]!r} is outside the search space ({distribution})")
        return trial.distributions

    def all_distributions(self) -> dict[str, BaseDistribution]:
        """The distributions of every key that may be searched, with every condition taken."""
        found: dict[str, BaseDistribution] = {}
        todo = [flatten(self.base)]
        while todo:
            values = todo.pop()
            for key, distribution in self.distributions(values).items():
                if key not in found:
                    found[key] = distribution
                    todo += [values | {key: choice} for choice in self._remaining(key, distribution)]
        return found

    def _remaining(self, key: str, distribution: BaseDistribution) -> tuple:
        """The choices of a key that are tried; none of a range."""
        left_out = dict(self.left_out).get(key, ())
        return tuple(choice for choice in getattr(distribution, "choices", ()) if choice not in left_out)

    def identify(self, values: dict[str, Any]) -> str:
        """A text for the configuration that a trial with these values has: equal ones have equal texts."""
        return json.dumps(flatten(self.base) | values, sort_keys=True)

    def configurations(self) -> Iterator[dict[str, Any]]:
        """The values of every trial that can be begun, one after the other.

        Raises:
            _EndlessError: If a range of real numbers is searched.
        """
        path: list[int] = []
        while True:
            walk = _Walk(path, dict(self.left_out))
            yield self.suggest(walk)  # type: ignore[arg-type]
            path = walk.next_path()
            if not path:
                return

    def num_configurations(self) -> int | None:
        """How many different trials there can be; None if they are countless, or more than `MOST_COUNTED`.

        Example:
            >>> def schedules(suggest):
            ...     suggest("optim.schedule", Choices(("constant", "cosine")))
            >>> SearchSpace(schedules, TrialConfig()).num_configurations()
            2
            >>> SearchSpace(metric_space, TrialConfig()).num_configurations()
        """
        listed = self.all_configurations()
        return None if listed is None else len(listed)

    def all_configurations(self) -> list[dict[str, Any]] | None:
        """`configurations` as a list; None if they are countless, or more than `MOST_COUNTED`."""
        try:
            listed = list(islice(self.configurations(), MOST_COUNTED + 1))
        except _EndlessError:
            return None
        return None if len(listed) > MOST_COUNTED else listed

    def most_epochs(self) -> int:
        """The largest number of epochs that a trial can have."""
        found: Any = self.all_distributions().get("optim.epochs")
        if found is None:
            return self.base.optim.epochs
        return max(found.choices) if hasattr(found, "choices") else found.high

    def describe(self) -> str:
        """One line per searched key, with every condition taken: name, range or choices, base value."""
        lines = []
        for key, distribution in self.all_distributions().items():
            if choices := self._remaining(key, distribution):
                text = "{" + ", ".join(map(str, choices)) + "}"
            else:
                text = f"{distribution.low:g} … {distribution.high:g}" + (" (log)" if distribution.log else "")  # type: ignore[attr-defined]
            lines.append(f"  {key:<24}{text:<32}first trial: {get(self.base, key)}")
        return "\n".join(lines) or "  nothing is searched: every key is fixed"


class _EndlessError(Exception):
    """There are more configurations than one can count."""


class _Walk:
    """In the place of an Optuna trial: takes the choices of a path, and the first ones beyond its end.

    What is left out is no choice.
    """

    def __init__(self, path: Sequence[int], left_out: dict[str, tuple]) -> None:
        self._path, self._left_out = list(path), left_out
        self._taken: list[tuple[int, int]] = []  # index of each choice, and how many there were

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices that are tried."""
        choices = [choice for choice in choices if choice not in self._left_out.get(name, ())]
        index = self._path[len(self._taken)] if len(self._taken) < len(self._path) else 0
        self._taken.append((index, len(choices)))
        return choices[index]

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """One of the numbers."""
        return self.suggest_categorical(name, range(low, high + 1))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """The only number of the range."""
        if low != high:
            raise _EndlessError
        return self.suggest_categorical(name, [low])

    def next_path(self) -> list[int]:
        """The path behind this one; empty behind the last."""
        taken = list(self._taken)
        while taken and taken[-1][0] == taken[-1][1] - 1:
            taken.pop()
        return [index for index, _ in taken[:-1]] + [taken[-1][0] + 1] if taken else []
