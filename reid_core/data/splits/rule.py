"""By which rule images are split: what a configuration says about it, and the random numbers that follow from it.

configuration → `SplitRule`; its seed and a name → a generator of random numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reid_core.config.parameters import TrialConfig
from reid_core.data.splits.encounters import read_days
from reid_core.data.table.dates import day_of
from reid_core.errors import UserError
from reid_core.files.checksums import digest_of

STRATEGIES = ("stratified", "paper", "time_proportion", "time_cutoff")


@dataclass(frozen=True, kw_only=True)
class SplitRule:
    """How images are divided into parts.

    Whatever the strategy, an identity of `validating` is in `training`. For all but `paper` a group's parts depend on
    that group and the seed alone, and the new identities of the two query sets are disjoint with none of their images
    in training or validating.

    `stratified`: an identity with a known query, or with an image in validating, keeps at least 2 training images.
    `paper` splits all groups together and promises nothing per group; an identity that is new in `thresholdSet` may
    have a query in `testSet` too (new there as well, since it is not in `training`).
    `time_proportion`: the new identities of `stratified`; of every other one the latest days are queries.
    `time_cutoff`: what was photographed from a day on are queries.
    By time, no day of an identity is in two parts, and the dated training images of an identity are older than its
    queries. A group that its dates cannot split is split as by `stratified` (`assign.stratified_instead`).

    Raises:
        UserError: If the strategy is unknown, or the cut-off of `time_cutoff` is not a date.
    """

    strategy: str  # one of STRATEGIES
    seed: int
    cutoff_date: str | None = None  # of time_cutoff: first day of the queries, YYYY-MM-DD; None: chosen for each group
    # Afterwards make images of one identity and day share a part, by moving some (`encounters.keep_encounters_whole`);
    # what a strategy promises about numbers of images then no longer holds.
    whole_encounters: bool = False

    @classmethod
    def of(cls, config: TrialConfig) -> "SplitRule":
        """The rule that a configuration asks for."""
        data = config.data
        return cls(
            strategy=data.split,
            seed=config.seed,
            cutoff_date=data.cutoff_date,
            whole_encounters=data.whole_encounters,
        )

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise UserError(f"data.split={self.strategy!r}: expected one of {', '.join(STRATEGIES)}")
        cutoff = self.cutoff_date
        if self.strategy == "time_cutoff" and cutoff is not None and day_of(cutoff) != cutoff:
            raise UserError(f"data.cutoff_date={cutoff!r} is not a date; expected YYYY-MM-DD, or null to choose one")

    @property
    def is_by_time(self) -> bool:
        """Whether dates divide the images."""
        return self.strategy.startswith("time")

    def days(self, date_N: Sequence[str | None] | np.ndarray | None, group_N: Sequence[str] | np.ndarray) -> np.ndarray:
        """`read_days` where the rule uses dates; otherwise they are not looked at, and no image has one; shape (N,)."""
        return read_days(date_N if self.is_by_time or self.whole_encounters else None, group_N)

    def generator(self, name: str) -> np.random.Generator:
        """The random numbers of one purpose: other names, other numbers."""
        return np.random.default_rng(int(digest_of(f"{self.seed}\0{name}", num_bytes=16), base=16))
