"""`--search`: any key that may vary between trials, by naming it; everything else is refused with its reason."""

import optuna
import pytest

from reid_core.config.parameters import TrialConfig
from reid_core.config.presets import batch32, tiny
from reid_core.config.values import flatten, get, override
from reid_core.errors import UserError
from sweeps.search.candidates import DEFAULTS, Choices, Range, Suggester
from sweeps.search.search_flag import NOT_SEARCHED, describe_searched, parse_searched

NOTHING: frozenset[str] = frozenset()
SEARCHABLE = sorted(set(flatten(TrialConfig())) - set(NOT_SEARCHED))
SPECS = {  # of the keys that have no default candidates; values other than the base's
    "fusion.second_model": "null,mobilenetv2_100",
    "data.mean": "0.5,[0.4, 0.5, 0.6]",
    "data.std": "0.2,0.5",
    "model.backbone": "swin_tiny,convnext_tiny",
    "model.block_groups": "6,12",
    "model.weights": "random,pretrained",
    "optim.epochs": "3..9",
    "optim.patience_epochs": "null,3",
    "threshold.smallest": "0..0.2",
    "threshold.largest": "0.7,0.8",
}


def parse(*settings, base=None, fixed=NOTHING):
    return parse_searched(list(settings), base or TrialConfig(), frozenset(fixed))


@pytest.mark.parametrize("key", SEARCHABLE)
def test_every_key_that_may_vary_is_searched_by_naming_it(key):
    base = TrialConfig()
    searched = parse(f"{key}={SPECS[key]}" if key in SPECS else key)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial({key: flatten(base)[key]})  # the first trial is the base
    values = [Suggester(study.ask(), base, NOTHING, searched).values[key] for _ in range(12)]
    assert values[0] == flatten(base)[key]
    assert any(value != values[0] for value in values)
    free = override(base, {"loss.name": "cross_entropy", "match.matcher": "none"})
    for value in values:
        checked = flatten(override(free, {key: value}))[key]
        assert (checked, type(checked)) == (value, type(value))


def test_the_two_halves_are_the_whole_configuration():
    parts = ("data", "augment", "model", "loss", "optim", "match", "fusion", "predict", "threshold", "seed")
    assert {key.split(".")[0] for key in SEARCHABLE} | {"seed"} == set(parts)
    assert set(NOT_SEARCHED) <= set(flatten(TrialConfig()))
    assert set(DEFAULTS) <= set(SEARCHABLE)


@pytest.mark.parametrize("key", sorted(NOT_SEARCHED))
def test_what_prepares_or_measures_is_refused_by_name(key):
    with pytest.raises(UserError, match=f"--search {key}: cannot be searched: .*(per split|per value|compared)"):
        parse(f"{key}=1,2")


def test_another_split_is_another_measuring_stick():
    with pytest.raises(UserError, match=r"--search data\.split: .* another measuring stick.*one sweep per split"):
        parse("data.split")


@pytest.mark.parametrize(
    ("setting", "candidates"),
    [
        ("predict.aggregate", Choices(("max", "mean", "mean_top", "vote"))),
        ("augment.flip", Choices((False, True))),
        ("match.shortlist=10,50,150", Choices((10, 50, 150, 20))),
        ("match.shortlist=20,10,20", Choices((20, 10))),
        ("match.shortlist=5..50", Range(5, 50)),
        ("match.shortlist=30..50", Range(20, 50)),  # stretched to the base's 20
        ("optim.lr_head=log:1e-6..1e-4", Range(1e-6, 1e-4, log=True)),
        ("optim.lr_head=log:1e-4..1e-2", Range(5e-5, 1e-2, log=True)),
        ("loss.margin_deg=5..45", Range(5.0, 45.0)),
        ("optim.warmup_epochs=0,1", Choices((0.0, 1.0))),
        ("data.variants=null,3", Choices((None, 3))),
        ("optim.clip_norm=0.5,2", Choices((0.5, 2.0, 1.0))),
        ("data.mean=0.5,[0.4,0.5,0.6]", Choices((0.5, [0.4, 0.5, 0.6], None))),
        ("model.backbone=../a..b,c", Choices(("../a..b", "c", TrialConfig().model.backbone))),
        (" loss.miner = hard , all ", Choices(("hard", "all", "semihard"))),
    ],
)
def test_specs_as_a_person_types_them(setting, candidates):
    ((key, found),) = parse(setting)
    assert found == candidates
    assert str(found) == str(candidates)  # 5 is not 5.0
    assert key == setting.split("=")[0].strip()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optim.lr", "--search: unknown key 'optim.lr'; 'optim' has: epochs"),
        ("optim", "--search: unknown key 'optim'"),
        ("", "--search: unknown key ''"),
        (
            "optim.epochs",
            "--search optim.epochs: no default is known; say what to try: --search optim.epochs=LOW..HIGH",
        ),
        ("model.backbone", "--search model.backbone: no default is known; .*=A,B"),
        ("optim.batch_size=16,many", "--search: optim.batch_size='many' has the wrong type; expected int"),
        ("optim.batch_size=16,1", "--search: optim.batch_size=1 is outside 2"),
        ("optim.batch_size=16.5..32", "--search: optim.batch_size=16.5 has the wrong type"),
        ("optim.batch_size=1..32", "--search: optim.batch_size=1 is outside 2"),
        ("optim.batch_size=", "--search optim.batch_size=: one value only|wrong type"),
        ("optim.batch_size=32", "one value only; --set optim.batch_size=VALUE fixes a key"),
        ("optim.lr_head=1e-3..1e-5", "expected LOW..HIGH with LOW < HIGH"),
        ("optim.lr_head=log:0..1e-5", r"above 0 after log:"),
        ("optim.clip_norm=0.1..Infinity", "Infinity is not a number that a range can end at"),
        ("data.undersample_to=5..50", "the first trial is the base, data.undersample_to=null, and null is in no range"),
        ("model.drop_path=log:0.01..0.3", "model.drop_path=0.0, and 0 is on no logarithmic range"),
        ("loss.miner=hard,soft", "loss.miner='soft' has the wrong type; expected one of semihard, hard, all"),
        ("augment.flip=0..1", "augment.flip='0..1' has the wrong type"),
    ],
)
def test_mistakes_are_reported_before_anything_is_run(setting, message):
    with pytest.raises(UserError, match=message):
        parse(setting)


def test_a_key_is_fixed_or_searched_and_only_once():
    with pytest.raises(UserError, match=r"--search match\.shortlist: --set fixes it"):
        parse("match.shortlist", fixed={"match.shortlist"})
    with pytest.raises(UserError, match=r"--search match\.shortlist: given twice"):
        parse("match.shortlist", "match.shortlist=1,2")


def test_contradictions_between_keys_are_left_to_the_trials():
    """Types and ranges are checked here; that openmax needs a classifier depends on the trial's loss."""
    searched = parse("predict.rule", "loss.name=triplet,cross_entropy")
    assert dict(searched)["predict.rule"].values == ("threshold", "softmax", "openmax")
    with pytest.raises(UserError, match="needs a classifier"):
        override(TrialConfig(), {"predict.rule": "openmax"})


@pytest.mark.parametrize("setting", ["optim.lr_head=log:1e-06..0.1", "match.shortlist=5,20", "data.variants=null,5"])
def test_candidates_are_described_as_they_are_typed(setting):
    for base in (tiny(), batch32()):
        searched = parse(setting, base=base)
        key, spec = next(iter(describe_searched(searched).items()))
        assert parse(f"{key}={spec}", base=base) == searched
        assert get(base, key) is None or str(get(base, key)) in spec or ".." in spec
