"""Herds whose photographs have dates."""

from collections import defaultdict

import numpy as np


def draw(seed: int = 0, group: str = "turtle", num_identities: int = 60):
    """Identities with 1 to 8 days of 1 to 4 images over ten years; one image in 20 is undated. Rows are shuffled."""
    rng = np.random.default_rng(seed)
    rows = []
    for k in range(num_identities):
        for _ in range(rng.integers(1, 9)):
            day = f"{rng.integers(2010, 2020)}-{rng.integers(1, 13):02d}-{rng.integers(1, 29):02d}"
            time = "T08:15:00" if rng.random() < 0.2 else ""
            rows += [(f"{group}{k:02d}", day + time if rng.random() < 0.95 else None)] * rng.integers(1, 5)
    identity_N, date_N = (np.array(column, dtype=object) for column in zip(*rng.permutation(rows), strict=True))
    return identity_N, np.full(len(rows), group, dtype=object), date_N


def days_in(part_N, identity_N, date_N) -> dict[str, dict[str, set[str]]]:
    """Days of each identity in each part."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for part, identity, date in zip(part_N, identity_N, date_N, strict=True):
        if date:
            found[identity][str(part)].add(date[:10])
    return found
