"""Any text after `--set` and `--search`: a configuration and a space, or one line of what is wrong."""

import argparse
import json

from fuzzing import any_text, attempt, bounded
from hypothesis import example, given
from hypothesis import strategies as st

from reid_core.cli import make_config
from reid_core.config.parameters import TrialConfig
from reid_core.config.presets import tiny
from reid_core.config.ranges import Choices
from reid_core.config.values import fingerprint, flatten
from sweeps.search.search_flag import parse_searched

MOST_LETTERS = 2000  # of a message: however long the flag is, it shows its beginning
KEYS = sorted(flatten(TrialConfig()))
numbers = st.one_of(
    st.integers(-3, 1000).map(str),
    st.floats(allow_nan=True).map(json.dumps),
    st.sampled_from(["1e999", "-0", "1" * 5000, "0x10", "1_000", "١", "Infinity", "null", "true", "False", "[1, 2]"]),
)
words = st.sampled_from(
    [*{str(value) for value in flatten(TrialConfig()).values()}, "[" * 5000, "{}", '"', "..", "log:"]
)
value = st.one_of(numbers, words, any_text(max_size=12))
key = st.one_of(st.sampled_from(KEYS), any_text(max_size=8), st.sampled_from(["optim", "optim.", ".", "__class__"]))
spec = st.one_of(
    st.lists(value, max_size=4).map(",".join),
    st.tuples(st.sampled_from(["", "log:"]), value, value).map(lambda parts: f"{parts[0]}{parts[1]}..{parts[2]}"),
)


def configure(*settings: str) -> TrialConfig:
    flags = {"preset": "tiny", "config": None, "scale": None, "seed": None, "data": "x"}
    return make_config(argparse.Namespace(**flags, set=list(settings)))


@bounded(500)
@given(st.one_of(any_text(max_size=20), st.tuples(key, value).map("=".join)))
@example("model.weights=\0")
@example("optim.lr_head=" + "1" * 5000)
@example("optim.lr_head=" + "[" * 100_000)
@example("fusion.second_model=" + "x" * 300)
def test_any_setting_gives_a_configuration_or_a_line(setting):
    name = setting.partition("=")[0].strip()
    config, message = attempt(configure, setting)
    if config is None:
        assert message.startswith(("--set", f"{name}="))
        assert not message.startswith("--set: --set")
        assert len(message) < MOST_LETTERS
        return
    again = configure(f"{name}={json.dumps(flatten(config)[name])}")
    assert fingerprint(again) == fingerprint(config)


@bounded(500)
@given(st.one_of(any_text(max_size=20), key, st.tuples(key, spec).map("=".join)))
@example("optim.lr_head=1e-4.." + "1" * 5000)
@example("optim.epochs=" + "[" * 100_000)
def test_any_search_gives_candidates_or_a_line(setting):
    base = tiny()
    searched, message = attempt(parse_searched, [setting], base)
    if searched is None:
        assert message.startswith("--search")
        assert len(message) < MOST_LETTERS
        return
    ((name, candidates),) = searched
    own = flatten(base)[name]
    assert own in candidates.values if isinstance(candidates, Choices) else candidates.low <= own <= candidates.high
