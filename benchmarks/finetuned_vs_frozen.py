"""Is the sweep's best model better than its frozen backbone on `testSet`?

    python benchmarks/finetuned_vs_frozen.py --data PATH --out OUT        # OUT: a finished sweep on PATH
    python benchmarks/finetuned_vs_frozen.py                              # sweeps the embedded data set first

Both sides share split, seed, matcher, calibration and the way thresholds are chosen; the frozen side has no head and
trains nothing. The difference is paired: each bootstrap resample draws the same animals for both.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reid_core import __main__ as one_configuration
from reid_core.config.values import override
from reid_core.config.yaml_files import read_config, write_config
from reid_core.metrics.geo_mean import Shares, mean_of_groups
from reid_core.metrics.intervals import bootstrap_mean_of_groups, interval
from sweeps import metric
from sweeps.comparison.answers import shares_on_test_set

FROZEN = {"model.head": "none", "model.unfrozen_stages": 0, "optim.epochs": 0}


def run_frozen(data: str, out: Path) -> Path:
    """Score the frozen backbone of a finished sweep; its result folder."""
    folder = out / "frozen"
    folder.mkdir(exist_ok=True)
    write_config(folder / "frozen.yaml", override(read_config(out / "best.yaml"), FROZEN))
    source = str(out / "data" / "synthetic") if data == "synthetic" else data
    one_configuration.main(["--data", source, "--config", str(folder / "frozen.yaml"), "--out", str(folder / "run")])
    return folder / "run"


def main() -> None:
    """Print both numbers and their paired difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic", help="what the sweep ran on")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="the sweep's result folder")
    options = parser.parse_args()
    if not (options.out / "best").exists():
        metric.main(["--data", options.data, "--out", str(options.out), "--trials", "3"])
    frozen = run_frozen(options.data, options.out)
    tuned_shares = shares_on_test_set(options.out / "predictions.parquet")
    frozen_shares = shares_on_test_set(frozen / "predictions.parquet")
    for group in tuned_shares:
        one, other = ({group: shares[group]} for shares in (tuned_shares, frozen_shares))
        print_difference(f"testSet GEO_MEAN {group}", one, other)
    tuned, base = print_difference("testSet GEO_MEAN mean of groups", tuned_shares, frozen_shares)
    verdict = "ok" if tuned > base else "short"
    print(f"RESULT finetuned_vs_frozen value={tuned:.4f} peer={base:.4f} ratio={tuned / base:.3f} bar=1.000 {verdict}")


def print_difference(name: str, tuned: dict[str, Shares], frozen: dict[str, Shares]) -> tuple[float, float]:
    """One line: both means, their difference and its paired 95 % interval."""
    low, high = interval(bootstrap_mean_of_groups(tuned) - bootstrap_mean_of_groups(frozen))
    values = mean_of_groups(tuned), mean_of_groups(frozen)
    difference = values[0] - values[1]
    print(f"{name}: tuned {values[0]:.3f}  frozen {values[1]:.3f}  {difference:+.3f}  95 % {low:+.3f} … {high:+.3f}")
    return values


if __name__ == "__main__":
    main()
