"""Stages: every parameter in one part, blocks by stride or in groups, and "norm" is normalisation layers only."""

import pytest
import timm
import torch
from torch import nn

from reid_core.errors import UserError
from reid_core.model.micro import convnext_micro_64, swin_micro_patch4_window4_64
from reid_core.model.stages import BLOCK_GROUPS, Part, find_parts
from reid_core.model.trace import trace

SWIN, CONVNEXT = swin_micro_patch4_window4_64.__name__, convnext_micro_64.__name__


def parts_of(name: str, image_px: int = 64, block_groups: int | None = None, **settings) -> list[Part]:
    with torch.device("meta"):
        backbone = timm.create_model(name, num_classes=0, **settings)
    return find_parts(backbone, trace(backbone, image_px), block_groups)


def sizes(parts: list[Part]) -> list[int]:
    return [sum(parameter.numel() for parameter in part.parameters) for part in parts]


def test_swin_large_has_the_papers_stages():
    """Paper, table 5.2: 234, 29 and 2 tensors; its stage 2 is counted without the 3 of the downsampling before it."""
    parts = parts_of("swin_large_patch4_window12_384", 384)
    tensors = {part.name: len(part.parameters) for part in parts}
    assert (tensors["stage 2"], tensors["stage 3"], tensors["norm"]) == (237, 29, 2)
    assert sum(sizes(parts)) == pytest.approx(195.2e6, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "num_stages"),
    [
        (SWIN, 4),
        ("convnext_tiny", 4),
        ("efficientnet_b4", 5),
        ("mobilenetv2_100", 5),
        ("resnet18", 4),
        ("regnety_002", 4),
        ("densenet121", 4),
        ("vgg11_bn", 6),
        ("inception_v3", 3),
    ],
)
def test_a_stage_is_all_blocks_at_one_stride(name, num_stages):
    image_px = 96 if name == "inception_v3" else 64
    with torch.device("meta"):
        backbone = timm.create_model(name, num_classes=0)
    parts = find_parts(backbone, trace(backbone, image_px))
    covered = [id(parameter) for part in parts for parameter in part.parameters]
    assert sorted(covered) == sorted(id(parameter) for parameter in backbone.parameters())
    assert [part.name for part in parts] == ["stem", *(f"stage {i}" for i in range(num_stages)), "norm"]
    assert all(part.parameters for part in parts[1:-1])


def test_groups_of_blocks_at_one_stride_are_one_stage():
    """EfficientNet-B4 has seven groups of blocks at five strides; its stage 3 is the two groups at stride 16."""
    with torch.device("meta"):
        backbone = timm.create_model("efficientnet_b4", num_classes=0)
    parts = find_parts(backbone, trace(backbone, 64))
    blocks = list(backbone.blocks)
    in_stages = [[blocks.index(module) for module in part.modules if module in blocks] for part in parts[1:-1]]
    assert in_stages == [[0], [1], [2], [3, 4], [5, 6]]
    assert len(parts[0].parameters) == 3  # conv_stem and bn1


def test_norm_is_normalisation_layers_only():
    """An EfficientNet's last convolution is a layer like others: it is frozen and trained with the last stage."""
    with torch.device("meta"):
        backbone = timm.create_model("efficientnet_b4", num_classes=0)
    *_, last, norm = find_parts(backbone, trace(backbone, 64))
    assert [id(p) for p in norm.parameters] == [id(backbone.bn2.weight), id(backbone.bn2.bias)]
    assert backbone.conv_head in last.modules


def test_what_pools_after_the_last_block_belongs_to_the_last_stage():
    with torch.device("meta"):
        backbone = timm.create_model("test_vit3", num_classes=0, img_size=64)
    *_, last, norm = find_parts(backbone, trace(backbone, 64))
    assert backbone.attn_pool in last.modules
    assert norm.modules == [backbone.norm]


def test_blocks_that_are_called_in_another_order_than_they_are_registered():
    """Twins lists its four patch embeddings first: only the first one is the stem."""
    with torch.device("meta"):
        backbone = timm.create_model("twins_svt_small", num_classes=0, img_size=64)
    parts = find_parts(backbone, trace(backbone, 64))
    for stage in range(1, 4):
        assert backbone.patch_embeds[stage] in parts[1 + stage].modules
        assert backbone.pos_block[stage] in parts[1 + stage].modules
    assert backbone.patch_embeds[0] in parts[0].modules


def test_a_transformers_blocks_are_cut_into_quarters():
    parts = parts_of("vit_tiny_patch16_224", img_size=64)
    assert len(parts) - 2 == BLOCK_GROUPS == 4
    assert len(set(sizes(parts)[1:-1])) == 1
    assert [len(part.modules) for part in parts[1:-1]] == [
        3,
        3,
        3,
        3 + 3,
    ]  # behind them: fc_norm, head_drop, head


@pytest.mark.parametrize(
    ("block_groups", "blocks"),
    [(None, [3, 2, 2, 2]), (2, [5, 4]), (3, [3, 3, 3]), (9, [1] * 9), (1, [9])],
)
def test_blocks_in_groups(block_groups, blocks):
    with torch.device("meta"):
        backbone = timm.create_model("test_vit3", num_classes=0, img_size=64)
    parts = find_parts(backbone, trace(backbone, 64), block_groups)
    own = [{id(parameter) for parameter in part.parameters} for part in parts]
    first = [id(next(block.parameters())) for block in backbone.blocks]
    assert [sum(block in ids for block in first) for ids in own] == [0, *blocks, 0]


def test_groups_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"model\.block_groups=10: the backbone has 9 blocks"):
        parts_of("test_vit3", block_groups=10, img_size=64)
    with pytest.raises(UserError, match=r"model\.block_groups=4: the stages of this backbone are its 4 strides"):
        parts_of(CONVNEXT, block_groups=4)


def test_a_network_without_blocks_is_refused():
    network = _Plain()
    with pytest.raises(UserError, match=r"model\.backbone: no blocks are found in _Plain"):
        find_parts(network, trace(network, 32))


class _Plain(nn.Module):
    """A single layer."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return self.convolution(images_BCHW).mean(dim=(2, 3))


class _Shared(nn.Module):
    """Two blocks that share their weight, and one behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_info = [{"module": f"blocks.{i}", "reduction": 2**i} for i in range(3)]
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)) for _ in range(3))
        self.blocks[1][0].weight = self.blocks[0][0].weight

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            images_BCHW = block(images_BCHW)
        return images_BCHW.mean(dim=(2, 3))


def test_a_shared_tensor_belongs_to_the_first_stage_that_uses_it():
    network = _Shared()
    parts = find_parts(network, trace(network, 16))
    assert [len(part.parameters) for part in parts] == [0, 4, 3, 4, 0]
    assert network.blocks[0][0].weight.device.type == "cpu"
    assert network.blocks[1][0].weight is network.blocks[0][0].weight
