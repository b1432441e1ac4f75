"""Training learns, resumes bit for bit, stops when it should, and refuses to go on from nonsense."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from reid_core.config.parameters import OptimConfig, TrialConfig
from reid_core.config.presets import make_preset, tiny
from reid_core.config.values import override
from reid_core.errors import TrainingError
from reid_core.metrics.epoch_report import SCORE
from reid_core.model.place import Place
from reid_core.model.reid_model import ReidModel, make_model
from reid_core.training.batches import Batch
from reid_core.training.optim import head_rate, learning_rate_factor, make_optimizer, make_schedule
from reid_core.training.trainer import Trainer

PX, NUM_ANIMALS, STEPS = 32, 8, 4
# Every kind of randomness that a resumed run must draw again: dropout in the head; and a schedule in mid-course.
CONFIG = override(
    TrialConfig(),
    {
        "data.image_px": PX,
        "model.backbone": tiny().model.backbone,
        "model.weights": "random",
        "model.unfrozen_stages": 4,
        "model.head": "mlp",
        "model.head_hidden": 32,
        "model.embedding_dim": 16,
        "loss.miner": "all",
        "optim.epochs": 3,
        "optim.lr_head": 1e-3,
        "optim.lr_stages": 1e-3,
        "optim.lr_norm": 1e-3,
        "optim.schedule": "cosine",
        "optim.warmup_epochs": 0.5,
    },
)


def draw_images(images_per_animal: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy photographs of animals whose coat is a grid of 4 × 4 colours, under light of any colour."""
    coat_KHWC = np.random.default_rng(0).integers(0, 256, (NUM_ANIMALS, 4, 4, 3)).repeat(PX // 4, 1).repeat(PX // 4, 2)
    code_N = np.repeat(np.arange(NUM_ANIMALS), images_per_animal)
    rng = np.random.default_rng(seed)
    light = 60 * rng.normal(size=(len(code_N), 1, 1, 3))
    noise = 60 * rng.normal(size=(len(code_N), PX, PX, 3))
    return np.clip(64 + 0.5 * coat_KHWC[code_N] + light + noise, 0, 255).astype(np.uint8), code_N


def endless_batches() -> Iterator[Batch]:
    """Four images of each of four animals, the same sequence at each call."""
    pixels_NHWC, code_N = draw_images(8, seed=1)
    rng = np.random.default_rng(2)
    while True:
        animals = rng.permutation(NUM_ANIMALS)[:4]
        rows = np.concatenate([rng.choice(np.flatnonzero(code_N == k), 4, replace=False) for k in animals])
        yield Batch(pixels_NHWC[rows], code_N[rows], np.zeros((len(rows), 6), dtype=np.float32))


def make_trainer(config: TrialConfig = CONFIG) -> Trainer:
    return Trainer(config, make_model(config, num_identities=NUM_ANIMALS), Place(), steps_per_epoch=STEPS)


def embed(model: ReidModel, pixels_NHWC: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(model.normalise(torch.from_numpy(pixels_NHWC)))


def accuracy(model: ReidModel) -> float:
    """Share of new photographs whose most similar training photograph shows the same animal."""
    (gallery, gallery_code), (query, query_code) = draw_images(8, seed=1), draw_images(4, seed=3)
    nearest = (embed(model, query) @ embed(model, gallery).T).argmax(dim=1).numpy()
    return float(np.mean(gallery_code[nearest] == query_code))


def scores(*values: float):
    """An evaluation that gives these scores, one per epoch."""
    left = iter(values)
    return lambda model: {SCORE: next(left)}


def same_state(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_training_learns():
    config = override(CONFIG, {"optim.epochs": 10, "model.head": "linear"})
    trainer = make_trainer(config)
    before = accuracy(trainer.model)
    reports = list(trainer.fit(endless_batches(), lambda model: {SCORE: accuracy(model)}))
    assert [report["epoch"] for report in reports] == list(range(1, 11))
    assert reports[-1]["loss"] < 0.4 * reports[0]["loss"]
    assert before < 0.6
    assert reports[-1][SCORE] > 0.9


@pytest.mark.parametrize(
    "changes",
    [
        {"loss.name": "cross_entropy", "model.head": "none"},
        {"loss.name": "cross_entropy", "model.head": "none", "model.classifier": "mlp"},
        {"loss.name": "arcface", "loss.scale": 16.0},
        {"loss.name": "subcenter_arcface", "loss.scale": 16.0, "loss.sub_centers": 2},
    ],
)
def test_classification_learns_and_its_embedding_with_it(changes):
    config = override(CONFIG, {"optim.epochs": 10, "model.head": "linear", "model.embedding_dim": 64, **changes})
    trainer = make_trainer(config)
    reports = list(trainer.fit(endless_batches(), lambda model: {SCORE: accuracy(model)}))
    assert reports[-1]["loss"] < 0.5 * reports[0]["loss"]
    assert reports[-1][SCORE] > 0.9
    pixels_NHWC, code_N = draw_images(4, seed=3)
    with torch.inference_mode():
        feature_ND = trainer.model.eval().features(trainer.model.normalise(torch.from_numpy(pixels_NHWC)))
        assert np.mean(trainer.model.classifier(feature_ND).argmax(dim=1).numpy() == code_N) > 0.9


def test_same_seed_same_training_other_seed_other_training():
    def train(seed: int) -> list[float]:
        config = override(CONFIG, {"seed": seed, "optim.epochs": 2})
        return [report["loss"] for report in make_trainer(config).fit(endless_batches(), scores(0.5, 0.5))]

    assert train(3) == train(3)
    assert train(3) != train(4)


def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(tmp_path):
    whole = make_trainer()
    expected = list(whole.fit(endless_batches(), scores(0.5, 0.7, 0.6)))
    interrupted = make_trainer()
    first = next(iter(interrupted.fit(endless_batches(), scores(0.5))))
    interrupted.save(tmp_path)
    resumed = make_trainer()
    resumed.load(tmp_path)
    assert resumed.history == interrupted.history
    torch.manual_seed(123)  # another process has drawn other numbers before
    rest = list(resumed.fit(itertools.islice(endless_batches(), STEPS, None), scores(0.7, 0.6)))
    assert [report["loss"] for report in (first, *rest)] == [report["loss"] for report in expected]
    assert same_state(resumed.model.trainable_state(), whole.model.trainable_state())
    assert same_state(resumed.best_state, whole.best_state)
    assert not same_state(whole.best_state, whole.model.trainable_state())


def test_a_finished_run_has_nothing_left_to_train(tmp_path):
    config = override(CONFIG, {"optim.epochs": 1})
    trainer = make_trainer(config)
    list(trainer.fit(endless_batches(), scores(0.5)))
    trainer.save(tmp_path)
    again = make_trainer(config)
    again.load(tmp_path)
    assert list(again.fit(iter(()), scores())) == []
    assert same_state(again.restore_best().trainable_state(), trainer.model.trainable_state())


def test_best_is_the_first_of_equals_and_its_weights_are_restored():
    trainer, states = make_trainer(), []
    for _ in trainer.fit(endless_batches(), scores(0.2, 0.6, 0.6)):
        states.append(trainer.model.trainable_state())
    assert trainer.best["epoch"] == 2
    assert not same_state(states[1], states[2])
    assert same_state(trainer.restore_best().trainable_state(), states[1])


def test_untrained_is_best_where_nothing_was_trained():
    config = override(CONFIG, {"optim.epochs": 0})
    trainer = make_trainer(config)
    assert list(trainer.fit(iter(()), scores())) == []
    assert same_state(trainer.restore_best().trainable_state(), make_model(config).trainable_state())


def test_patience_stops_training():
    config = override(CONFIG, {"optim.epochs": 9, "optim.patience_epochs": 2, "optim.lr_stages": 0.0})
    trainer = make_trainer(config)
    reports = list(trainer.fit(endless_batches(), scores(0.5, 0.6, 0.6, 0.3, 0.9)))
    assert [report["epoch"] for report in reports] == [1, 2, 3, 4]
    assert list(trainer.fit(endless_batches(), scores(0.9))) == []  # a resumed run stays stopped


def test_patience_may_look_at_the_validation_loss():
    changes = {"optim.epochs": 9, "optim.patience_epochs": 2, "optim.patience_on": "loss_validating"}
    values = iter([(0.5, 3.0), (0.6, 2.0), (0.7, math.nan), (0.8, 2.5), (0.9, 1.0)])

    def evaluate(model):
        score, loss = next(values)
        return {SCORE: score, "loss_validating": loss}

    reports = list(make_trainer(override(CONFIG, changes)).fit(endless_batches(), evaluate))
    assert [report["epoch"] for report in reports] == [1, 2, 3, 4]  # 2.0 was the smallest; NaN is none


def test_only_the_head_moves_during_the_head_only_epochs():
    config = override(CONFIG, {"optim.head_only_epochs": 2, "loss.name": "cross_entropy"})
    trainer, before = make_trainer(config), make_model(config, num_identities=NUM_ANIMALS)
    moved = []
    for _ in trainer.fit(endless_batches(), scores(0.5, 0.5, 0.5)):
        pairs = [(trainer.model, before), (trainer.model.backbone, before.backbone)]
        pairs += [(trainer.model.head, before.head), (trainer.model.classifier, before.classifier)]
        moved.append([not same_state(new.state_dict(), old.state_dict()) for new, old in pairs])
    assert moved == [[True, False, True, True]] * 2 + [[True, True, True, True]]


def test_another_trials_best_weights_are_the_start(tmp_path):
    teacher = make_trainer()
    list(teacher.fit(endless_batches(), scores(0.2, 0.6, 0.3)))
    teacher.save(tmp_path)
    pupil = make_trainer(override(CONFIG, {"optim.epochs": 0}))
    pupil.start_from(tmp_path)
    assert pupil.history == []
    assert same_state(pupil.model.trainable_state(), teacher.best_state)
    assert same_state(pupil.restore_best().trainable_state(), teacher.best_state)


def test_a_loss_that_is_no_number_raises():
    trainer = make_trainer()
    with torch.no_grad():
        next(trainer.model.head.parameters())[0, 0] = math.nan
    with pytest.raises(TrainingError, match="the loss is nan in epoch 1"):
        next(trainer.fit(endless_batches(), scores(0.5)))
    assert trainer.history == []


def test_a_score_that_is_no_number_raises():
    with pytest.raises(TrainingError, match=f"{SCORE} is nan after epoch 1"):
        next(make_trainer().fit(endless_batches(), scores(math.nan)))


def test_too_few_batches_raise():
    with pytest.raises(TrainingError, match=f"epoch 1 got 3 of {STEPS} batches"):
        next(make_trainer().fit(itertools.islice(endless_batches(), 3), scores(0.5)))


def test_reported_loss_is_that_of_the_global_batch():
    """The triplet loss comes times the world size for DDP's sake; others are means over one rank's images."""
    config = override(CONFIG, {"optim.epochs": 1, "model.head_dropout": 0.0})
    alone = make_trainer(config)
    (expected,) = alone.fit(endless_batches(), scores(0.5))
    twice = make_trainer(config)
    twice.loss_scale, one_rank = 2, twice.wrapped.loss
    twice.wrapped.loss = lambda feature, identity: 2 * one_rank(feature, identity)
    # The other rank's loss is larger by 1.
    twice.place = Place(gather=lambda mine: np.concatenate([mine, mine + (mine.dtype == float)]))
    (report,) = twice.fit(endless_batches(), scores(0.5))
    assert report["loss"] == pytest.approx(expected["loss"] + 0.5, rel=0.02)


def test_what_an_epoch_measures_by_hand(monkeypatch):
    config = override(CONFIG, {"optim.epochs": 1, "optim.clip_norm": 1e-3})
    trainer, norms, losses = make_trainer(config), [], []
    inner, forward = trainer._gradient_norm, trainer.wrapped.forward

    def norm_by_hand() -> torch.Tensor:
        gradients = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
        norms.append(torch.cat(gradients).norm().item())
        return inner()

    def keep(*given, **options):
        loss = forward(*given, **options)
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(trainer, "_gradient_norm", norm_by_hand)
    monkeypatch.setattr(trainer.wrapped, "forward", keep)
    (report,) = trainer.fit(endless_batches(), scores(0.5))
    assert len(norms) == len(losses) == STEPS
    assert report["gradient_norm"] == pytest.approx(np.mean(norms), rel=1e-4)
    assert report["loss_spread"] == pytest.approx(max(losses) - min(losses), abs=1e-6)
    assert report["loss"] == pytest.approx(np.mean(losses), rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"optim.lr_head": 0.0, "optim.lr_stages": 0.0, "optim.lr_norm": 0.0}, ["nothing was learned in epoch 1, 2:"]),
        ({"loss.margin_cosine": 0.01, "loss.miner": "hard"}, []),
    ],
    ids=["learns", "no rates", "hard"],
)
def test_an_epoch_that_teaches_nothing_is_noticed_once(changes, said, caplog):
    trainer = make_trainer(override(CONFIG, {"optim.epochs": 2, **changes}))
    list(trainer.fit(endless_batches(), scores(0.5, 0.5)))
    logged = [record.getMessage() for record in caplog.records]
    assert [text.startswith(f"training: {start}") for text, start in zip(logged, said, strict=True)] == [True] * len(
        said
    )


@pytest.mark.parametrize("loss", ["triplet", "cross_entropy"])
def test_black_photographs_give_a_loss_that_cannot_move_or_teaches_nothing(loss, caplog):
    config = override(CONFIG, {"optim.epochs": 2, "model.head_dropout": 0.0, "loss.name": loss, "optim.lr_head": 1.0})
    black = (Batch(np.zeros_like(b.pixels_BHWC), b.identity_B, b.sides_B6) for b in endless_batches())
    list(make_trainer(config).fit(black, scores(0.5, 0.5)))
    # A classifier still learns how often each animal is asked for; its embeddings are alike (`find_in_training`).
    assert any("the loss was the same" in text or "nothing was learned" in text for text in caplog.messages) == (
        loss == "triplet"
    )


def test_gradients_are_clipped():
    config = override(CONFIG, {"optim.clip_norm": 1e-3, "optim.warmup_epochs": 0.0})
    trainer = make_trainer(config)
    trainer.wrapped.train()
    trainer._train_step(next(endless_batches()))
    gradients = [p.grad.norm() for p in trainer.model.parameters() if p.grad is not None]
    assert torch.stack(gradients).norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_each_part_has_its_learning_rate():
    config = override(
        CONFIG,
        {"model.unfrozen_stages": 2, "optim.lr_head": 3e-3, "optim.lr_stages": 2e-3, "optim.lr_norm": 1e-3},
    )
    model = make_model(config)
    optimizer = make_optimizer(config.optim, model)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups if group["params"]}
    assert rates == {"stage 2": 2e-3, "stage 3": 2e-3, "norm": 1e-3, "head": 3e-3}
    optimised = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(optimised) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_a_learning_rate_of_zero_keeps_its_part():
    config = override(CONFIG, {"optim.epochs": 1, "optim.lr_head": 0.0, "optim.warmup_epochs": 0.0})
    trainer, before = make_trainer(config), make_model(config)
    list(trainer.fit(endless_batches(), scores(0.5)))
    assert same_state(trainer.model.head.state_dict(), before.head.state_dict())
    assert not same_state(trainer.model.backbone.state_dict(), before.backbone.state_dict())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [1, 1, 1, 1, 1, 1, 1, 1]),
        ({"warmup_epochs": 1.0}, [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 1, 1, 1]),
        ({"warmup_epochs": 0.5}, [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1]),
        ({"schedule": "cosine"}, [(1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]),
        (
            {"schedule": "cosine", "warmup_epochs": 1.0},
            [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, (1 + math.sqrt(1 / 2)) / 2, 1 / 2, (1 - math.sqrt(1 / 2)) / 2],
        ),
    ],
)
def test_schedule_by_hand(changes, expected):
    config = OptimConfig(epochs=2, lr_head=0.5, **changes)
    assert [learning_rate_factor(config, step, 4) for step in range(8)] == pytest.approx(expected)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([{"params": [parameter], "name": "head"}], lr=0.5)
    schedule, rates = make_schedule(config, optimizer, 4), []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.5 * factor for factor in expected])


@pytest.mark.parametrize("total", [10, 37, 200])
def test_onecycle_is_torchs(total):
    config = OptimConfig(epochs=1, schedule="onecycle")
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=total, cycle_momentum=False)
    for step in range(total):
        assert learning_rate_factor(config, step, total) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        if step < total - 1:
            schedule.step()


@pytest.mark.parametrize(("preset", "rate"), [("batch16", 1e-5), ("batch32", 2e-5), ("batch64", 5e-5)])
def test_head_learning_rates_are_the_papers(preset, rate):
    assert head_rate(make_preset(preset).optim) == rate


def test_linear_scaling_is_in_the_optimiser():
    changes = {"optim.lr_head": 1e-5, "optim.batch_size": 64, "optim.lr_head_scaling": "linear"}
    config = override(CONFIG, changes)
    rates = {group["name"]: group["lr"] for group in make_optimizer(config.optim, make_model(config)).param_groups}
    assert rates["head"] == pytest.approx(4e-5)
    assert rates["norm"] == config.optim.lr_norm


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    make_trainer(override(CONFIG, {"model.unfrozen_stages": 1})).save(tmp_path)
    with pytest.raises(ValueError, match="not those of this configuration"):
        make_trainer().load(tmp_path)
