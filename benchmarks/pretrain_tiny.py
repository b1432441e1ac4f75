"""Make the weights in reid_core/model/weights: the tiny backbone, trained on drawn animals that nothing else shows.

    python benchmarks/pretrain_tiny.py                # about three minutes on two cores, most of them to draw

An ordinary training of this project, as a classifier, on one of the three drawn species: other animals than the demo's,
because the seed is another, and two of its species are new to the network, as a user's are to a published backbone. It
stops long before the network has learned all that it could: after ten epochs the backbone tells the demo's animals of
all three species apart as well as fine-tuning would make it, and the demo is to show what fine-tuning gains. Written
are the backbone's values as 16-bit floating-point numbers and, beside them, where they come from.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reid_core.config.parameters import TrialConfig
from reid_core.config.presets import make_preset
from reid_core.config.values import override
from reid_core.data.synthetic import VERSION, write_synthetic
from reid_core.experiment.environment import describe_environment
from reid_core.experiment.evaluation import epoch_evaluation
from reid_core.experiment.prepare import prepare
from reid_core.experiment.training_setup import make_trainer, training_data_of
from reid_core.model.micro import PRETRAINED, WEIGHTS
from reid_core.model.place import Place
from reid_core.training.batches import local_batches
from reid_core.training.trainer import Trainer

DATA = {"seed": 1000, "scale": 8.0}  # of `write_synthetic`; the demo's are 0 and 1.0
GROUP = "SpotsID"
SETTINGS: dict[str, Any] = {
    "seed": DATA["seed"],
    "augment.probability": 0.0,  # there are enough photographs
    "data.images_per_identity": None,
    "data.oversample_to": None,
    "model.backbone": PRETRAINED,
    "model.weights": "random",
    "model.head": "linear",  # thrown away, as the classifier behind it
    "loss.name": "cross_entropy",
    "optim.epochs": 3,
    "optim.batch_size": 32,
    "optim.lr_head": 2e-3,
    "optim.lr_stages": 2e-3,
    "optim.lr_norm": 2e-3,
    "optim.schedule": "constant",
    "match.matcher": "none",
}
PACKAGES = ("numpy", "opencv-python-headless", "timm", "torch")  # what the values depend on
WHY = (
    "one species and few epochs on purpose: after ten epochs the network tells the demo's animals apart without any "
    "fine-tuning, and then no choice of a hyperparameter matters"
)


def pretrain(root: Path, cache: Path, config: TrialConfig) -> Trainer:
    """Train the last of all epochs; the trainer has the weights and the reports."""
    prepared = prepare(root.resolve(), cache, config, group=GROUP)
    data = training_data_of(config, prepared)
    trainer = make_trainer(config, prepared, data.plan, Place())
    for report in trainer.fit(local_batches(data.plan, data.source), epoch_evaluation(config, prepared, Place())):
        print("  ".join(f"{name} {value:.4g}" for name, value in report.items()), flush=True)
    return trainer


def write_weights(folder: Path, trainer: Trainer, data: dict[str, Any]) -> Path:
    """The backbone's values as float16, and their provenance; the file of the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{PRETRAINED}.safetensors"
    save_file({name: value.half().contiguous() for name, value in trainer.model.backbone.state_dict().items()}, file)
    environment = describe_environment()
    last = {name: round(value, 4) for name, value in trainer.history[-1].items() if name != "seconds"}
    provenance = {
        "architecture": PRETRAINED,
        "script": "benchmarks/pretrain_tiny.py",
        "data": {"drawn by": "reid_core.data.synthetic", "version": VERSION, **data, "group": GROUP},
        "training": {"preset": "tiny", "settings": SETTINGS | {"optim.epochs": trainer.config.optim.epochs}},
        "steps": trainer.steps_per_epoch * len(trainer.history),
        "animals": trainer.model.num_identities,
        "why": WHY,
        "last epoch, on other animals of the same data": last,
        "python": environment["python"],
        "packages": {name: environment["packages"][name] for name in PACKAGES},
        "license": "Apache-2.0, as the rest of this project",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    target = file.with_suffix(".json")
    target.write_text(json.dumps(provenance, indent=1) + "\n", encoding="utf-8")
    return target


def main(arguments: list[str] | None = None) -> None:
    """Draw, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where the weights are written")
    parser.add_argument("--cache", type=Path, default=Path("runs/bench-cache/pretrain"), help="drawn data")
    parser.add_argument("--scale", type=float, default=DATA["scale"], help="of the drawn data")
    parser.add_argument("--epochs", type=int, default=SETTINGS["optim.epochs"])
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the same sums on every machine
    data = DATA | {"scale": options.scale}
    root = write_synthetic(options.cache / "drawn", **data)
    config = override(make_preset("tiny"), SETTINGS | {"optim.epochs": options.epochs})
    print(write_weights(options.out, pretrain(root, options.cache, config), data))


if __name__ == "__main__":
    main()
