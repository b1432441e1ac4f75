"""Every family of timm's: built, cut, frozen, trained for a step, exported and loaded, with equal answers."""

from pathlib import Path

import pytest
import timm
import torch

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import override
from reid_core.errors import UserError
from reid_core.experiment.bundle.files import load_model, write_model
from reid_core.model.frozen.boundary import find_layout
from reid_core.model.place import Place
from reid_core.model.reid_model import ReidModel, make_model, outline_model

NOT_KEPT = "no activations"  # the family's frozen part hands more on than one tensor
# A small member of each of timm's modules, and a size in pixels that it takes.
SMALL = {
    "coat": ("coat_lite_tiny", 64),
    "convit": ("convit_tiny", 64),
    "convnext": ("test_convnext", 64),
    "crossvit": ("crossvit_tiny_240", 120, NOT_KEPT),
    "cspnet": ("cs3darknet_focus_s", 64),
    "dla": ("dla46x_c", 64),
    "edgenext": ("edgenext_xx_small", 64),
    "efficientnet": ("test_efficientnet", 64),
    "efficientvim": ("efficientvim_m1", 64, NOT_KEPT),
    "efficientvit_mit": ("efficientvit_b0", 64),
    "eva": ("vit_tiny_patch16_dinov3_qkvb", 64),
    "fasternet": ("fasternet_t0", 64),
    "ghostnet": ("ghostnet_050", 64),
    "iformer": ("iformer_t", 64),
    "levit": ("levit_128s", 64),
    "mambaout": ("test_mambaout", 64),
    "mobilenetv3": ("lcnet_035", 64),
    "mobilevit": ("mobilevit_xxs", 64),
    "pit": ("pit_ti_224", 64, NOT_KEPT),
    "pvt_v2": ("pvt_v2_b0", 64),
    "regnet": ("regnetx_002", 64),
    "repghost": ("repghostnet_050", 64),
    "resnet": ("test_resnet", 64),
    "starnet": ("starnet_s050", 64),
    "swiftformer": ("swiftformer_xs", 64),
    "swin_transformer": ("swin_micro_patch4_window4_64", 64),  # ours: timm's smallest has 28 M parameters
    "vision_transformer": ("test_vit3", 64),
    "vision_transformer_relpos": ("test_vit_relpos", 64),
    "visformer": ("visformer_tiny", 64),
    "vovnet": ("ese_vovnet19b_slim_dw", 64),
    "xcit": ("xcit_nano_12_p8_224", 64),
}
# Up to 31 million parameters, or slow: `make test-real` has them.
MEDIUM = {
    "byoanet": ("halonet_h1", 256),
    "byobnet": ("mobileone_s2", 64),
    "cait": ("cait_xxs24_224", 64),
    "convmixer": ("convmixer_768_32", 70),
    "cpubone": ("cpubone_nano", 64),
    "csatv2": ("csatv2", 64),
    "cspnext": ("cspnext_tiny", 64),
    "davit": ("davit_tiny", 64),
    "deit": ("deit_tiny_distilled_patch16_224", 64),
    "densenet": ("densenet121", 64),
    "dpn": ("dpn48b", 64),
    "efficientformer": ("efficientformer_l1", 224),
    "efficientformer_v2": ("efficientformerv2_s0", 64),
    "efficientvit_msra": ("efficientvit_m0", 64),
    "fastvit": ("fastvit_t8", 64),
    "focalnet": ("focalnet_tiny_srf", 64),
    "gcvit": ("gcvit_xxtiny", 64),
    "hardcorenas": ("hardcorenas_b", 64),
    "hgnet": ("hgnetv2_b0", 64),
    "hiera": ("hiera_tiny_224", 64),
    "hieradet_sam2": ("sam2_hiera_tiny", 64),
    "hrnet": ("hrnet_w18_small", 64, NOT_KEPT),
    "inception_next": ("inception_next_atto", 64),
    "inception_v3": ("inception_v3", 76),
    "lcnetv2": ("lcnetv2_small", 64),
    "lowformer": ("lowformer_b0", 64),
    "maxxvit": ("maxvit_rmlp_pico_rw_256", 64),
    "metaformer": ("poolformerv2_s12", 64),
    "mlp_mixer": ("gmlp_ti16_224", 64),
    "mvitv2": ("mvitv2_tiny", 64, NOT_KEPT),
    "nest": ("nest_tiny", 64),
    "nextvit": ("nextvit_small", 64),
    "nfnet": ("nf_regnet_b0", 64),
    "rdnet": ("rdnet_tiny", 64),
    "repvit": ("repvit_m1", 64),
    "res2net": ("res2next50", 64),
    "resnest": ("resnest14d", 64),
    "resnetv2": ("resnetv2_18", 64),
    "rexnet": ("rexnet_100", 64),
    "selecsls": ("selecsls42", 64),
    "senet": ("legacy_seresnet18", 64),
    "sequencer": ("sequencer2d_s", 70),
    "shvit": ("shvit_s1", 64),
    "sknet": ("skresnet18", 64),
    "swin_transformer_v2": ("swinv2_tiny_window8_256", 64),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224", 64),
    "tiny_vit": ("tiny_vit_5m_224", 64),
    "tnt": ("tnt_s_legacy_patch16_224", 64, NOT_KEPT),
    "tresnet": ("tresnet_m", 64),
    "twins": ("twins_svt_small", 64),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", 64),
    "vitamin": ("vitamin_small_224", 64),
    "volo": ("volo_d1_224", 64),
    "xception": ("legacy_xception", 64),
    "xception_aligned": ("xception41p", 64),
}
# Larger ones are cut, but not run.
LARGE = {
    "beit": ("beit_base_patch16_224", 64),
    "deepseek_vit": ("deepseek_vit_412m", 70),
    "gemma4_vit": ("gemma4_vit_167m", 96),
    "inception_resnet_v2": ("inception_resnet_v2", 96),
    "inception_v4": ("inception_v4", 96),
    "mobilenetv5": ("mobilenetv5_base", 64),
    "naflexvit": ("naflexvit_base_patch16_gap", 64),
    "nasnet": ("nasnetalarge", 96),
    "pnasnet": ("pnasnet5large", 96),
    "qwen3_vit": ("qwen3_vit_88m", 64),
    "vgg": ("vgg11_bn", 64),
    "vision_transformer_sam": ("samvit_base_patch16_224", 64),
}


def config_of(name: str, image_px: int, **changes) -> TrialConfig:
    settings = {
        "model.backbone": name,
        "data.image_px": image_px,
        "model.weights": "random",
        "model.unfrozen_stages": 1,
        "model.embedding_dim": 8,
        "optim.precision": "float32",
    }
    return override(TrialConfig(), settings | {key.replace("__", "."): value for key, value in changes.items()})


def random_images(image_px: int) -> torch.Tensor:
    return torch.randn(2, 3, image_px, image_px, generator=torch.Generator().manual_seed(0))


def train_a_step(model: ReidModel, image_px: int) -> tuple[set[int], set[int]]:
    """Ids of the parameters that have a gradient, and of those that a step changes."""
    before = {id(p): p.detach().clone() for p in model.parameters()}
    model.train()
    (model(random_images(image_px)) * torch.randn(8, generator=torch.Generator().manual_seed(1))).sum().backward()
    with_gradient = {id(p) for p in model.parameters() if p.grad is not None}
    torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.1).step()
    return with_gradient, {id(p) for p in model.parameters() if not torch.equal(before[id(p)], p)}


def check_parts(model: ReidModel) -> None:
    """Every parameter is in one part, every stage has some, and norm is normalisation layers only."""
    *stages, norm = model.parts()[:-1]
    in_parts = [id(p) for part in model.parts()[:-1] for p in part.parameters]
    assert sorted(in_parts) == sorted(id(p) for p in model.backbone.parameters())
    assert all(part.parameters for part in stages[1:])
    assert all("norm" in type(module).__name__.lower() for module in norm.modules)
    assert sum(p.numel() for p in norm.parameters) < 0.02 * sum(p.numel() for p in model.backbone.parameters())


def why_not_kept(model: ReidModel, config: TrialConfig) -> str | None:
    """Why activations cannot be kept; None where it is proved that they can."""
    try:
        with torch.inference_mode():
            find_layout(model, config, Place(precision="float32"))
    except UserError as error:
        return str(error)
    return None


def check_family(folder: Path, name: str, image_px: int, kept: str = "") -> None:
    """What is frozen stays, what is trained changes, and what was exported answers as before."""
    config = config_of(name, image_px)
    model = make_model(config)
    check_parts(model)
    with_gradient, changed = train_a_step(model, image_px)
    last, norm, head = model.parts()[-3:]
    assert changed <= with_gradient <= {id(p) for part in (last, norm, head) for p in part.parameters}
    assert any(id(p) in changed for p in last.parameters)
    write_model(folder, config, model)
    loaded, images = load_model(folder)[1], random_images(image_px)
    with torch.inference_mode():
        expected = model.eval()(images)
        assert torch.equal(loaded(images), expected)
    assert torch.isfinite(expected).all()
    reason = why_not_kept(model, config)
    assert (reason is None) == (kept != NOT_KEPT), reason


@pytest.mark.parametrize("family", SMALL)
def test_a_small_family(tmp_path, family):
    check_family(tmp_path, *SMALL[family])


@pytest.mark.slow
@pytest.mark.parametrize("family", MEDIUM)
def test_a_family(tmp_path, family):
    check_family(tmp_path, *MEDIUM[family])


@pytest.mark.parametrize("family", LARGE)
def test_a_large_family_is_cut(family):
    check_parts(outline_model(config_of(*LARGE[family])))


def test_the_table_has_every_family_of_timms():
    families = {family for family in timm.list_modules() if hasattr(timm.models, family)}  # the others are ours
    assert {*SMALL, *MEDIUM, *LARGE} == families
    for family, (name, *_) in (SMALL | MEDIUM | LARGE).items():
        assert name in timm.list_models(module=family) or family == "swin_transformer"


def test_a_bundle_of_a_model_that_would_be_refused_today_is_read(tmp_path):
    """Patches of 16 px once took 64 of 70 px without a word, and a RegNet's stem was once a stage."""
    config = config_of("test_vit3", 70)
    model = make_model(config, cropped=True)
    write_model(tmp_path, override(config, {"model.unfrozen_stages": 9}), model)
    images = random_images(70)
    with torch.inference_mode():
        assert torch.equal(load_model(tmp_path)[1](images), model.eval()(images))
    with pytest.raises(UserError, match="sizes near it that fit: 64, 80"):
        make_model(config)
