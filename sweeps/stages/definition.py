"""What defines a sweep, whatever it runs on: search space, data, number of trials, and what follows the search."""

from dataclasses import dataclass, field
from typing import Any

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import flatten
from reid_core.data.table.metadata import Reading
from sweeps.machines.limits import Limits
from sweeps.search.goals import Sampler
from sweeps.search.search_flag import describe_searched
from sweeps.search.space import SearchSpace
from sweeps.stages.flags import ConfirmSettings, Epochs


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """All that defines a sweep."""

    name: str  # of the script
    space: SearchSpace
    num_trials: int
    data: str
    reading: Reading
    each_group: bool = False  # the GEO_MEAN of each group is a goal of its own
    sampler: Sampler = "tpe"
    confirm: ConfirmSettings = field(default_factory=ConfirmSettings)
    then_online: Epochs | None = None  # None: no additional training
    refit: bool = False
    warm_start: tuple[str, ...] = ()  # result folders of other sweeps, or "paper"
    group: str | None = None  # whose rows alone are swept; None: every group's
    after: tuple[tuple[str, str], ...] = ()  # groups that are swept before, and their result folders
    pair_store: str | None = None  # its folder; None: in OUT

    @property
    def base(self) -> TrialConfig:
        """The configuration that the sweep starts from."""
        return self.space.base

    def search_limits(self, limits: Limits) -> Limits:
        """The part of its limits that the search may use."""
        return limits.search_share() if self.confirm.num_best else limits

    def settings(self) -> dict[str, Any]:
        """What must be the same when the sweep is resumed, by name; the number of trials may grow."""
        rows = {"data": self.data, "group": self.group, **self.reading.settings()}
        own = {"script": self.name, **rows, "fixed": sorted(self.space.fixed)}
        goal = {"each_group": self.each_group, "sampler": self.sampler, "warm_start": list(self.warm_start)}
        return own | goal | {"searched": describe_searched(self.space.searched)} | flatten(self.base)
