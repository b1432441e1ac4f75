"""What Ray Tune runs as a trial: it finds a slot, and passes on what that reports. No torch.

configuration of a Tune trial → a slot that is free → one report per step.
"""

import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import ray
import ray.tune
from ray.exceptions import ActorUnavailableError, RayError

from sweeps.search.suggestion import Suggestion
from sweeps.trials.context import SweepContext

POLL_S = 0.05


class TrialOnSlot(ray.tune.Trainable):
    """One trial after the other; Ray Tune keeps the process between them (`reuse_actors`)."""

    def setup(self, config: dict[str, Any], *, slots: Sequence[Any], context: SweepContext) -> None:  # type: ignore[override]
        """Begin the first trial.

        Args:
            config: `Suggestion.to_tune`.
            slots: Handles, as many as there are trials at a time.
            context: What the trials share.
        """
        self._slots, self._context = slots, context
        self._begin(config)

    def step(self) -> dict[str, Any]:
        """The next report of the trial."""
        self._position += 1
        shown = f"{self._name}: report {self._position}"  # in Ray's dashboard and State API, of the slot's actor
        report = ray.get(self._slot.next.options(name=shown).remote(self._trial, self._position - 1))
        return report

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Leave the trial and begin another one."""
        self.cleanup()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        """Leave the trial."""
        with suppress(RayError):  # a slot that was lost has none
            ray.get(self._slot.abandon.remote(self._claim))

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: workers write checkpoints."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Nothing: workers continue from the checkpoint that they find."""

    def _begin(self, config: dict[str, Any]) -> None:
        suggestion = Suggestion.from_tune(config)
        self._name, self._position = suggestion.name, 0
        self._trial = str(self._context.trial_folder(suggestion.name))
        self._claim = secrets.token_hex(8)
        while (slot := find_slot(self._slots, self._trial, self._claim, suggestion, self._context)) is None:
            time.sleep(POLL_S)
        self._slot = slot


def find_slot(slots: Sequence[Any], trial: str, claim: str, suggestion: Suggestion, context: SweepContext) -> Any:
    """The slot that has begun a trial: the one that has it at hand (its Tune process was lost), or one that is free.

    Returns:
        None if there is none now.
    """
    try:
        at_hand = ray.get([slot.at_hand.remote() for slot in slots])
        for slot in sorted(slots, key=lambda each: at_hand[slots.index(each)] != trial):
            if ray.get(slot.begin.remote(trial, claim, suggestion, context)):
                return slot
    except ActorUnavailableError:  # Ray is starting it again
        pass
    return None
