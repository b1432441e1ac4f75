"""Hypothesis within bounds: the same inputs in every run, no clock, nothing kept between runs."""

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from reid_core.errors import UserError

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def bounded(max_examples: int) -> settings:
    """Settings of a property that is tried on so many inputs."""
    return settings(
        max_examples=max_examples, deadline=None, derandomize=True, database=None, suppress_health_check=SLOW
    )


def any_text(**limits: int) -> st.SearchStrategy[str]:
    """Text of any characters that a file of UTF-8 can hold, often of those that mean something to a reader."""
    special = st.sampled_from(
        [*",;|\t\"'\\/.= \n\r\0\ufeff\u00a0\u200b\u2028\u202e\x1b-:", *"0e\u0301é", "\u0430", "🦭"]
    )
    return st.text(st.one_of(special, st.characters(exclude_categories=["Cs"])), **limits)


def attempt(call: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """What a call gives, or None and the message with which it refuses; any other exception is a fault."""
    try:
        return call(*arguments), ""
    except UserError as error:
        return None, str(error)
