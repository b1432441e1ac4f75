"""The triplet loss by hand, and that several processes minimise the loss of the global batch."""

import itertools
import math
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from reid_core.config.parameters import LossConfig, ModelConfig
from reid_core.model.heads import make_classifier
from reid_core.training.loss import make_loss

MINERS = ("semihard", "hard", "all")


def at_angles(*angles_deg: float) -> torch.Tensor:
    """Unit vectors in the plane; their cosine is that of the angle between them."""
    angles = torch.deg2rad(torch.tensor(angles_deg, dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def slow_loss(embedding_BD: torch.Tensor, identity_B: torch.Tensor, margin: float, miner: str) -> float:
    """Mean over mined triplets above 0 of `max(0, cos(a, n) - cos(a, p) + margin)`, triplet by triplet."""
    cosine_BB = (embedding_BD @ embedding_BD.T).tolist()
    losses = []
    for a, p, n in itertools.permutations(range(len(identity_B)), 3):
        if identity_B[a] != identity_B[p] or identity_B[a] == identity_B[n]:
            continue
        gap = cosine_BB[a][p] - cosine_BB[a][n]
        is_mined = {"semihard": 0 < gap <= margin, "hard": gap <= 0, "all": gap <= margin}[miner]
        if is_mined and margin - gap > 0:
            losses.append(margin - gap)
    return sum(losses) / len(losses) if losses else 0.0


def random_batch(seed: int, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs of four animals, four of each, in an order that puts an animal's images on different ranks."""
    generator = torch.Generator().manual_seed(seed)
    identity_B = torch.arange(size) % 4
    centre_KD = torch.randn(4, 6, generator=generator)
    return centre_KD[identity_B] + 0.8 * torch.randn(size, 6, generator=generator), identity_B


def test_semihard_triplet_by_hand():
    embedding_BD = at_angles(0, 40, 60)  # ada, ada, bo
    loss = make_loss(LossConfig(margin_cosine=0.4))(embedding_BD, torch.tensor([0, 0, 1]))
    # From ada at 0: positive cos 40 = .766, negative cos 60 = .5, within the margin. From ada at 40 the negative
    # (cos 20 = .94) is nearer than the positive: hard, left out.
    cos = {deg: math.cos(math.radians(deg)) for deg in (40, 60)}
    assert loss.item() == pytest.approx(cos[60] - cos[40] + 0.4)


def test_separated_animals_cost_nothing():
    embedding_BD = at_angles(0, 5, 120, 125)
    for miner in MINERS:
        assert make_loss(LossConfig(margin_cosine=0.2, miner=miner))(embedding_BD, torch.tensor([0, 0, 1, 1])) == 0


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("margin", [0.1, 0.5])
def test_loss_equals_a_loop_over_triplets(miner, margin):
    values = []
    for seed in range(4):
        input_BD, identity_B = random_batch(seed)
        embedding_BD = nn.functional.normalize(input_BD.double(), dim=1)
        loss = make_loss(LossConfig(margin_cosine=margin, miner=miner))(embedding_BD, identity_B)
        assert loss.item() == pytest.approx(slow_loss(embedding_BD, identity_B, margin, miner), abs=1e-6)
        values.append(loss.item())
    assert max(values) > 0


def test_gradient_pulls_the_positive_and_pushes_the_negative():
    embedding_BD = at_angles(0, 40, 60).requires_grad_()
    make_loss(LossConfig(margin_cosine=0.4))(embedding_BD, torch.tensor([0, 0, 1])).backward()
    anchor, positive, negative = embedding_BD.detach()
    assert embedding_BD.grad[1] @ anchor < 0  # a step against the gradient makes the positive more similar
    assert embedding_BD.grad[2] @ anchor > 0
    assert embedding_BD.grad[0] @ (positive - negative) < 0


def place_centers(name: str, angles_deg: list[float], **settings) -> nn.Module:
    """An angular classifier in the plane, its centers at these angles."""
    config = LossConfig(name=name, sub_centers=2, **settings)
    num_identities = len(angles_deg) // (2 if name == "subcenter_arcface" else 1)
    classifier = make_classifier(ModelConfig(), config, 2, num_identities).double()
    with torch.no_grad():
        classifier.centers.W.copy_(at_angles(*angles_deg).T)
    return classifier


def angular_loss(scale: float, own_deg: float, others_deg: list[float], margin_deg: float) -> float:
    """Cross-entropy of scaled cosines, the margin added to the own angle (ArcFace, equation 3)."""
    own = scale * math.cos(math.radians(own_deg + margin_deg))
    logits = [own, *(scale * math.cos(math.radians(angle)) for angle in others_deg)]
    return math.log(sum(map(math.exp, logits))) - own


@pytest.mark.parametrize("margin_deg", [0.0, 5.0, 30.0])
def test_arcface_takes_its_margin_in_degrees(margin_deg):
    settings = {"margin_deg": margin_deg, "scale": 4.0}
    classifier = place_centers("arcface", [0.0, 90.0, 200.0], **settings)
    loss = make_loss(LossConfig(name="arcface", **settings), classifier)
    value = loss(3 * at_angles(20.0), torch.tensor([0])).item()  # the length of a feature does not matter
    assert value == pytest.approx(angular_loss(4.0, 20, [70, 180], margin_deg), rel=1e-6)


def test_subcenter_arcface_counts_the_nearest_center_of_an_identity():
    settings = {"margin_deg": 10.0, "scale": 4.0}
    classifier = place_centers("subcenter_arcface", [180.0, 30.0, 90.0, 100.0], **settings)
    loss = make_loss(LossConfig(name="subcenter_arcface", **settings), classifier)
    assert loss(at_angles(20.0), torch.tensor([0])).item() == pytest.approx(angular_loss(4.0, 10, [70], 10), rel=1e-6)
    cosines = [math.cos(math.radians(angle)) for angle in (10, 70)]
    assert classifier(at_angles(20.0))[0].tolist() == pytest.approx([4 * cosine for cosine in cosines])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_by_hand(smoothing):
    loss = make_loss(LossConfig(name="cross_entropy", label_smoothing=smoothing), nn.Identity())
    logit_BK = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    logs = [[value - math.log(sum(map(math.exp, row))) for value in row] for row in logit_BK.tolist()]
    own = [row[k] for row, k in zip(logs, (0, 2), strict=True)]
    every = [sum(row) / 3 for row in logs]
    expected = -sum((1 - smoothing) * o + smoothing * e for o, e in zip(own, every, strict=True)) / 2
    assert loss(logit_BK, torch.tensor([0, 2])).item() == pytest.approx(expected)


def test_a_loss_without_its_classifier_is_refused():
    with pytest.raises(ValueError, match="needs a classifier"):
        make_loss(LossConfig(name="arcface"))


def make_linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(6, 5)


def compute(model: nn.Module, input_BD: torch.Tensor, identity_B: torch.Tensor, world_size: int) -> float:
    """Loss as `Trainer` reports it; gradients stay in the model."""
    embedding_BD = nn.functional.normalize(model(input_BD), dim=1)
    loss = make_loss(LossConfig(margin_cosine=0.3), world_size=world_size)(embedding_BD, identity_B)
    loss.backward()
    return loss.item() / world_size


def work(rank: int, world_size: int, folder: str) -> None:
    """One of the processes: its part of each batch through DistributedDataParallel."""
    store, patience = f"file://{folder}/store", timedelta(minutes=2)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size, timeout=patience)
    results = []
    for seed in range(3):
        model = make_linear()
        input_BD, identity_B = (tensor.chunk(world_size)[rank] for tensor in random_batch(seed))
        loss = compute(DistributedDataParallel(model), input_BD, identity_B, world_size)
        results.append([loss, *model.weight.grad.flatten().tolist(), *model.bias.grad.tolist()])
    np.save(Path(folder) / f"rank{rank}.npy", np.array(results))
    dist.destroy_process_group()


def test_two_processes_give_loss_and_gradients_of_one(tmp_path):
    other = torch.multiprocessing.spawn(work, args=(2, str(tmp_path)), nprocs=1, join=False)  # rank 0
    work(1, 2, str(tmp_path))  # here, because starting a process costs seconds
    other.join()
    of_rank = [np.load(tmp_path / f"rank{rank}.npy") for rank in range(2)]
    for seed in range(3):
        model = make_linear()
        loss = compute(model, *random_batch(seed), world_size=1)
        alone = [loss, *model.weight.grad.flatten().tolist(), *model.bias.grad.tolist()]
        assert loss > 0.01
        np.testing.assert_allclose(of_rank[0][seed], alone, atol=1e-5)
        np.testing.assert_allclose(of_rank[1][seed], alone, atol=1e-5)
