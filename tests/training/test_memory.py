"""The predicted memory of a step is that of a real one, and what does not fit is made to fit, or refused with why."""

import gc
import pickle

import numpy as np
import pytest
import torch

from reid_core.config.parameters import TrialConfig
from reid_core.config.presets import tiny
from reid_core.config.values import override
from reid_core.model.place import Place
from reid_core.model.reid_model import make_model
from reid_core.training.loss import make_loss
from reid_core.training.step.gradients import Images, LossOfImages, compute_gradients
from reid_core.training.step.memory import (
    MARGIN,
    RESERVED,
    StepMemory,
    TooLargeError,
    describe_step,
    fit_to_memory,
    predict,
)
from reid_core.training.step.meta_device import CudaRules, LiveBytes, backward

NUM_ANIMALS = 4
SWIN = override(
    TrialConfig(),
    {
        "data.image_px": 64,
        "model.backbone": tiny().model.backbone,
        "model.weights": "random",
        "model.unfrozen_stages": 4,
        "model.embedding_dim": 64,
        "loss.name": "cross_entropy",
        "optim.batch_size": 16,
    },
)
EFFICIENTNET = override(SWIN, {"model.backbone": "efficientnet_b0", "model.unfrozen_stages": 3, "model.drop_path": 0.1})
FLOAT = 4  # bytes


def test_live_bytes_by_hand():
    there = torch.zeros(100)  # 400 bytes
    with LiveBytes([there]) as live:
        one = torch.zeros(10)
        view = one[2:4]  # of the same 40 bytes
        assert (live.now, live.peak) == (440, 440)
        two = one + 1
        assert live.now == 480
        del one
        assert live.now == 480  # the view is left
        del view
        assert live.now == 440
        two.add_(1)
        assert live.now == 440
        del two
    assert (live.now, live.peak) == (400, 480)


def real_step(config: TrialConfig) -> tuple[int, int]:
    """A step on the CPU: bytes at its peak, and those that autograd keeps between the passes, weights excepted."""
    model = make_model(config, num_identities=NUM_ANIMALS)
    if config.model.checkpointing == "always":
        model.checkpoint_stages()
    step = LossOfImages(model, make_loss(config.loss, model.classifier), Place(precision="float32")).train()
    size, px = config.optim.batch_size, config.data.image_px
    images = Images(torch.zeros(size, px, px, 3, dtype=torch.uint8), torch.zeros(size, 6), torch.arange(size) % 4)
    weights = [*model.parameters(), *model.buffers()]
    known, kept = {each.untyped_storage()._cdata for each in weights}, {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = step(images, kept=False)
    num_kept = sum(storage.nbytes() for key, storage in kept.items() if key not in known)
    del loss
    kept.clear()
    gc.collect()
    parts, next_BX = config.optim.accumulate or 1, images.input_BX.clone()
    with LiveBytes([*weights, images.input_BX, next_BX]) as live:
        compute_gradients(step, images, kept=False, num_parts=parts, over_pairs=False)
    return live.peak, num_kept


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (SWIN, {}),
        (SWIN, {"model.unfrozen_stages": 1}),
        (SWIN, {"optim.accumulate": 4}),
        (SWIN, {"loss.name": "arcface"}),
        (SWIN, {"model.checkpointing": "always"}),
        (EFFICIENTNET, {}),
        (EFFICIENTNET, {"model.checkpointing": "always"}),
    ],
    ids=["swin", "swin's last stage", "parts", "arcface", "checkpointed", "efficientnet", "efficientnet checkpointed"],
)
def test_the_prediction_is_what_a_real_step_takes(config, changes):
    config = override(config, {"optim.precision": "float32", **changes})
    memory = predict(config, num_identities=NUM_ANIMALS, device="cpu")
    peak, kept = real_step(config)
    assert memory.weights + memory.step == pytest.approx(peak, rel=0.03)
    if not changes:  # not by our own count: most of it is what autograd itself says that it keeps
        assert kept < memory.step < 1.35 * kept


def test_the_parts_of_a_prediction_by_hand():
    model = make_model(SWIN, num_identities=NUM_ANIMALS)
    sizes = {each: each.numel() * each.element_size() for each in (*model.parameters(), *model.buffers())}
    trained = sum(size for each, size in sizes.items() if each.requires_grad)
    alone = predict(SWIN, num_identities=NUM_ANIMALS)
    together = predict(SWIN, num_identities=NUM_ANIMALS, world_size=2)
    assert (alone.weights, alone.moments, alone.exchange) == (sum(sizes.values()), 2 * trained, 0)
    assert together.exchange == trained
    half = predict(override(SWIN, {"optim.batch_size": 8}), num_identities=NUM_ANIMALS)
    assert together.step == half.step  # each worker has half the images
    assert StepMemory(100, 200, 0, 300).needed == int(MARGIN * 600) + RESERVED


def test_what_needs_less_is_predicted_to():
    def needed(**changes) -> int:
        config = override(SWIN, {key.replace("__", "."): value for key, value in changes.items()})
        return predict(config, num_identities=NUM_ANIMALS).step

    whole = needed()
    assert needed(optim__precision="float32") > 1.2 * whole
    assert needed(optim__accumulate=4) < 0.6 * whole
    assert needed(model__checkpointing="always") < 0.85 * whole  # of stages with one block each
    assert needed(model__unfrozen_stages=1) < 0.8 * whole
    assert needed(model__unfrozen_stages=1, model__keep_activations=True, data__variants=1) < needed(
        model__unfrozen_stages=1
    )


def test_cuda_chooses_dtypes_and_keeps_no_attention_matrix():
    query = torch.empty(2, 4, 512, 32, device="meta", requires_grad=True)
    with CudaRules("cuda", bfloat16=True), LiveBytes([query]) as live:
        attended = torch.nn.functional.scaled_dot_product_attention(query, query, query)
        assert attended.dtype == torch.bfloat16
        assert live.peak < 2 * 4 * 512 * 512 * 2  # bytes of the matrix
        normed = torch.nn.functional.layer_norm(attended, (32,))
        assert normed.dtype == torch.float32
        assert (normed @ normed.mT).dtype == torch.bfloat16
        assert (normed + attended).dtype == torch.float32
        backward(normed.sum())
    assert query.grad is not None
    assert query.grad.shape == query.shape


def limit(config: TrialConfig, **changes) -> int:
    """Memory into which a configuration just fits."""
    changed = override(config, {key.replace("__", "."): value for key, value in changes.items()})
    return predict(changed, num_identities=NUM_ANIMALS).needed


def place_with(memory_bytes: int | None, **more) -> Place:
    return Place(device="cuda", memory_bytes=memory_bytes, **more)


def fit(config: TrialConfig, place: Place) -> tuple:
    fitted = fit_to_memory(config, place, num_identities=NUM_ANIMALS)
    assert override(fitted, {"optim.accumulate": None, "model.checkpointing": "auto"}) == override(
        config, {"optim.accumulate": None, "model.checkpointing": "auto"}
    )
    return fitted.optim.accumulate, fitted.model.checkpointing


def test_parts_are_doubled_until_a_step_fits_and_then_it_is_checkpointed():
    assert fit(SWIN, place_with(None)) == (None, "auto")
    assert fit(SWIN, place_with(limit(SWIN))) == (1, "never")
    assert fit(SWIN, place_with(limit(SWIN) - 1)) == (2, "never")
    assert fit(SWIN, place_with(limit(SWIN, optim__accumulate=4))) == (4, "never")
    smallest = limit(SWIN, optim__accumulate=16)
    found = fit(SWIN, place_with(smallest - 1))
    assert found[1] == "always"
    assert limit(SWIN, optim__accumulate=found[0], model__checkpointing="always") < smallest


def test_what_is_asked_for_is_kept():
    tight = limit(SWIN, optim__accumulate=4)
    with pytest.raises(TooLargeError, match=r"it fits with optim\.accumulate=4 and model\.checkpointing=never$"):
        fit(override(SWIN, {"optim.accumulate": 2, "model.checkpointing": "never"}), place_with(tight))
    assert fit(override(SWIN, {"optim.accumulate": 8}), place_with(tight)) == (8, "never")
    assert fit(override(SWIN, {"model.checkpointing": "always"}), place_with(10**12)) == (1, "always")


def test_after_an_error_of_memory_there_are_twice_as_many_parts():
    assert fit(SWIN, place_with(None, halvings=1)) == (2, "auto")
    assert fit(SWIN, place_with(limit(SWIN, optim__accumulate=2), halvings=1)) == (4, "never")


def test_all_ranks_go_by_the_smallest_memory():
    small = limit(SWIN, optim__accumulate=4)
    gather = lambda mine: np.append(mine, small)  # noqa: E731
    assert fit(SWIN, place_with(10**12, gather=gather)) == (4, "never")


def test_what_no_way_makes_fit_is_refused_with_numbers():
    with pytest.raises(
        TooLargeError, match=r"optim\.batch_size=16 .* needs about 1\.0 GB .* a worker gets 0\.5 GB"
    ) as info:
        fit(SWIN, place_with(500_000_000))
    assert 0.5 < info.value.over_gb < 0.6
    copied = pickle.loads(pickle.dumps(info.value))  # Ray sends it from process to process
    assert (str(copied), copied.over_gb) == (str(info.value), info.value.over_gb)
    assert fit(override(SWIN, {"optim.epochs": 0}), place_with(1)) == (None, "auto")  # nothing is trained


def test_the_record_of_a_trial_gets_how_its_steps_are_run():
    assert describe_step(SWIN, Place(), num_identities=NUM_ANIMALS) == {}
    place = place_with(limit(SWIN, optim__accumulate=2))
    fitted = fit_to_memory(SWIN, place, num_identities=NUM_ANIMALS)
    about = describe_step(fitted, place, num_identities=NUM_ANIMALS)
    assert (about["accumulate"], about["checkpointing"]) == (2, False)
    assert about["predicted_memory_gb"] == pytest.approx((place.memory_bytes - RESERVED) / MARGIN / 1e9, rel=1e-6)
    assert FLOAT * sum(each.numel() for each in make_model(SWIN).parameters()) < 1e9 * about["predicted_memory_gb"]
