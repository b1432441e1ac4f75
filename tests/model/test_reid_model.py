"""The model: stages that cover a backbone exactly, what is frozen stays, weights from local files, normalisation."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from reid_core.config.parameters import ModelConfig, TrialConfig
from reid_core.config.presets import make_preset, tiny
from reid_core.config.values import override
from reid_core.errors import UserError
from reid_core.model.backbone import make_backbone
from reid_core.model.frozen.replay import replaced
from reid_core.model.heads import make_head
from reid_core.model.reid_model import ReidModel, describe_parts, make_model, num_stages, outline_model

SWIN = "swin_micro_patch4_window4_64"
SMALL = {
    "data.image_px": 64,
    "model.backbone": SWIN,
    "model.weights": "random",
    "model.unfrozen_stages": 1,
    "model.embedding_dim": 24,
}


def make(**changes) -> ReidModel:
    return make_model(
        override(TrialConfig(), SMALL | {key.replace("__", "."): value for key, value in changes.items()})
    )


def random_images(size: int, image_px: int = 64) -> torch.Tensor:
    return torch.randn(size, 3, image_px, image_px, generator=torch.Generator().manual_seed(0))


def step(model: ReidModel) -> None:
    """One optimizer step on everything that has a gradient, with a loss that no parameter is neutral to."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.1)
    (model(random_images(4)) * torch.randn(24, generator=torch.Generator().manual_seed(1))).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("unfrozen_stages", [0, 1, 3, 4])
def test_only_what_is_unfrozen_changes(unfrozen_stages):
    model = make(model__unfrozen_stages=unfrozen_stages)
    before = {id(p): p.detach().clone() for p in model.parameters()}
    step(model)
    changed = {part.name: [not torch.equal(before[id(p)], p) for p in part.parameters] for part in model.parts()}
    trained = {"norm", "head"} | {f"stage {i}" for i in range(4 - unfrozen_stages, 4)}
    trained |= {"stem"} if unfrozen_stages == 4 else set()
    for name, tensors in changed.items():
        assert all(tensors) if name in trained else not any(tensors), name


def test_frozen_parts_stay_in_eval_mode():
    model = make(model__unfrozen_stages=2, model__head="mlp").train()
    modes = {part.name: {m.training for module in part.modules for m in module.modules()} for part in model.parts()}
    assert {name for name, mode in modes.items() if mode == {True}} == {"stage 2", "stage 3", "norm", "head"}
    assert {name for name, mode in modes.items() if mode == {False}} == {"stem", "stage 0", "stage 1"}
    assert not any(module.training for module in model.eval().modules())


def test_batch_norm_keeps_its_statistics():
    model = make(model__backbone="resnet10t", model__unfrozen_stages=4)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    step(model)
    assert len(before) > 20
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())


def test_more_stages_than_there_are_is_an_error():
    with pytest.raises(UserError, match=r"model\.unfrozen_stages=5: the backbone has 4 stages"):
        make(model__unfrozen_stages=5)


def test_the_number_of_stages_is_found_without_weights():
    config = override(TrialConfig(), SMALL | {"model.unfrozen_stages": 9, "model.weights": "nowhere.safetensors"})
    assert num_stages(config) == 4
    assert num_stages(override(config, {"model.backbone": "test_vit", "model.block_groups": 6})) == 6


def test_a_local_file_is_loaded_exactly(tmp_path):
    source = timm.create_model("resnet10t", num_classes=0)
    save_file(source.state_dict(), tmp_path / "resnet.safetensors")
    config = ModelConfig(backbone="resnet10t", weights=str(tmp_path / "resnet.safetensors"))
    loaded = make_backbone(config, 64).state_dict()
    assert loaded.keys() == source.state_dict().keys()
    assert all(torch.equal(loaded[name], value) for name, value in source.state_dict().items())


def test_a_local_file_of_another_architecture_is_refused(tmp_path):
    save_file(timm.create_model("resnet10t", num_classes=0).state_dict(), tmp_path / "resnet.safetensors")
    with pytest.raises(UserError, match=r"resnet\.safetensors"):
        make_backbone(ModelConfig(backbone="resnet18", weights=str(tmp_path / "resnet.safetensors")), 64)


def test_files_that_can_execute_code_are_refused(tmp_path):
    torch.save({}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"weights\.pth is not a \.safetensors file"):
        make_backbone(ModelConfig(backbone="resnet10t", weights=str(tmp_path / "weights.pth")), 64)


@pytest.mark.parametrize(
    ("backbone", "weights", "message"),
    [
        ("resnet10t", "nowhere.safetensors", "nowhere.safetensors cannot be read"),
        ("resnet_of_nobody", "random", "model.backbone=resnet_of_nobody"),
        (SWIN, "pretrained", "has no pretrained weights; set model.weights=random"),
    ],
)
def test_backbones_that_cannot_be_had(backbone, weights, message):
    with pytest.raises(UserError, match=message):
        make_backbone(ModelConfig(backbone=backbone, weights=weights), 64)


@pytest.mark.parametrize("head", ["none", "linear", "mlp"])
def test_embeddings_have_length_one(head):
    model = make(model__head=head).eval()
    with torch.inference_mode():
        embedding_BD = model(100 * random_images(3))
    torch.testing.assert_close(embedding_BD.norm(dim=1), torch.ones(3))
    assert embedding_BD.shape[1] == (model.backbone.num_features if head == "none" else 24)
    assert not torch.allclose(embedding_BD[0], embedding_BD[1], atol=1e-3)


def test_the_linear_head_starts_as_a_rotation():
    """Cosine similarities of the backbone survive, unless the head has fewer dimensions than the backbone."""
    torch.manual_seed(0)
    features_BD = torch.randn(10, 24)
    head = make_head(ModelConfig(embedding_dim=40), 24)
    torch.testing.assert_close(head(features_BD) @ head(features_BD).T, features_BD @ features_BD.T)


def test_embeddings_do_not_depend_on_batch_mates():
    model, images = make().eval(), random_images(5)
    with torch.inference_mode():
        together, alone = model(images), torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        (None, None, [(1 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0 - 0.406) / 0.225]),  # ImageNet's
        (0.5, 0.25, [2, -1.2, -2]),
        ([0.5, 0.2, 0.0], [0.5, 1.0, 2.0], [1, 0, 0]),
    ],
)
def test_normalisation_by_hand(mean, std, expected):
    pixels = torch.tensor([255, 51, 0], dtype=torch.uint8).expand(2, 64, 64, 3)
    images_BCHW = make(data__mean=mean, data__std=std).normalise(pixels)
    assert images_BCHW.shape == (2, 3, 64, 64)
    assert images_BCHW.std(dim=(0, 2, 3)).max() == 0
    assert images_BCHW[0, :, 0, 0].tolist() == pytest.approx(expected, abs=1e-6)


def test_normalisation_comes_with_the_weights():
    vit = make(model__backbone="vit_tiny_patch16_224", data__image_px=64)  # its pretrained config says 0.5
    assert vit.mean.flatten().tolist() == [0.5] * 3
    assert make(model__backbone="resnet10t").std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])


def test_the_seed_draws_the_weights():
    one, same, other = (make(seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])
    assert not torch.equal(one["backbone.patch_embed.proj.weight"], other["backbone.patch_embed.proj.weight"])


def test_trainable_state_is_all_that_a_checkpoint_needs():
    trained, fresh = make(), make()
    step(trained)
    state = trained.trainable_state()
    assert len(state) < len(list(trained.parameters()))
    fresh.load_trainable_state(state)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), trained.parameters(), strict=True))
    next(iter(trained.parameters())).data.zero_()
    trained.head.weight.data.zero_()
    assert state["head.weight"].abs().sum() > 0  # a copy
    with pytest.raises(ValueError, match="not those of this configuration"):
        make(model__unfrozen_stages=2).load_trainable_state(state)


@pytest.mark.parametrize(
    ("backbone", "largest"),
    [
        (SWIN, 0.0),
        (SWIN, 0.3),
        ("convnext_atto", 0.0),
        ("convnext_atto", 0.3),
        ("resnet10t", 0.3),
    ],
)
def test_drop_path_is_what_the_configuration_says(backbone, largest):
    model = make(model__backbone=backbone, model__drop_path=largest)
    rates = [module.drop_prob for module in model.modules() if hasattr(module, "drop_prob")]
    assert max(rates, default=0.0) == pytest.approx(largest)


def test_the_table_of_parts_counts_every_parameter():
    model = make(model__unfrozen_stages=2)
    rows = [line.rsplit(maxsplit=3) for line in describe_parts(model).splitlines()[1:]]
    assert [row[-1] for row in rows] == ["no", "no", "no", "yes", "yes", "yes", "yes"]
    assert sum(int(row[1]) for row in rows) == len(list(model.parameters()))
    assert sum(int(row[2].replace(",", "")) for row in rows) == sum(p.numel() for p in model.parameters())


def test_a_head_of_none_has_no_parameters():
    assert isinstance(make(model__head="none").head, nn.Identity)


def small_model(**changes) -> ReidModel:
    settings = {key.replace("__", "."): value for key, value in changes.items()}
    config = override(tiny(), {"data.image_px": 32, "model.head": "linear", "model.embedding_dim": 8, **settings})
    return make_model(config, num_identities=5).eval()


def one_side(index: int) -> torch.Tensor:
    return torch.eye(6)[index : index + 1]


@pytest.mark.parametrize("orientation", ["embedding", "input"])
def test_the_photographed_side_is_seen_once_it_is_learned(orientation):
    model, images = small_model(model__orientation=orientation), torch.randn(1, 3, 32, 32)
    new = model.side_embedding.embed if orientation == "embedding" else model.side_input.mix
    assert {id(p) for p in new.parameters()} <= {id(p) for p in model.parts()[-1].parameters}
    with torch.no_grad():
        torch.nn.init.normal_(new.weight)
    unknown, none = model(images, torch.zeros(1, 6)), model(images)
    assert torch.equal(unknown, none)
    left, right = model(images, one_side(0)), model(images, one_side(1))
    assert not torch.allclose(left, right, atol=1e-3)
    assert not torch.allclose(left, none, atol=1e-3)


def test_sides_as_input_change_nothing_at_first():
    images = torch.randn(2, 3, 32, 32)
    with_sides, without = small_model(model__orientation="input"), small_model()
    torch.testing.assert_close(with_sides(images, torch.ones(2, 6)), without(images))


def test_sides_are_ignored_unless_asked_for():
    model, images = small_model(), torch.randn(1, 3, 32, 32)
    assert torch.equal(model(images, one_side(0)), model(images, one_side(1)))


def test_a_classifier_is_there_only_where_the_loss_needs_it():
    assert small_model(loss__name="triplet").classifier is None
    model = small_model(loss__name="cross_entropy")
    assert model.num_identities == 5
    features = model.features(torch.randn(3, 3, 32, 32))
    assert model.classifier(features).shape == (3, 5)
    assert {name.split(".")[0] for name in model.trainable_state()} == {"backbone", "head", "classifier"}
    without = make_model(override(tiny(), {"loss.name": "cross_entropy"}))
    assert (without.classifier, without.num_identities) == (None, 0)


@pytest.mark.parametrize("loss", ["triplet", "cross_entropy", "arcface", "subcenter_arcface"])
def test_an_outline_has_no_values(loss):
    outline = outline_model(override(tiny(), {"loss.name": loss}), num_identities=3)
    assert all(tensor.is_meta for tensor in (*outline.parameters(), *outline.buffers()))


def test_efficientnet_b4_is_cut_into_its_five_strides():
    config = make_preset("efficientnet_b4")
    assert [part.name for part in small_parts(config)] == ["stem", *(f"stage {i}" for i in range(5)), "norm", "head"]
    assert all(p.requires_grad for part in small_parts(config) for p in part.parameters)
    frozen = small_parts(make_preset("efficientnet_b4_frozen"))
    trained = [part.name for part in frozen if any(p.requires_grad for p in part.parameters)]
    assert trained == ["norm", "head"]  # and the norm's learning rate is 0


def small_parts(config):
    with torch.device("meta"):
        return make_model(override(config, {"model.weights": "random"}), num_identities=3).parts()


@pytest.mark.parametrize("unfrozen_stages", [0, 1])
@pytest.mark.parametrize("name", [SWIN, "convnext_micro_64", "test_efficientnet", "mobilenetv2_100", "test_vit3"])
def test_features_and_gradients_are_the_same_from_the_boundary_on(name, unfrozen_stages):
    model = make(model__backbone=name, model__unfrozen_stages=unfrozen_stages, model__orientation="embedding")
    sides = torch.eye(6)[:3]
    for whole in (True, False):
        model.train()
        model.zero_grad()
        images = random_images(3)
        feature_BD = (
            model.features(images, sides) if whole else model.features_from(model.frozen_features(images), sides)
        )
        (feature_BD * torch.randn(24, generator=torch.Generator().manual_seed(1))).sum().backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        if whole:
            expected, expected_gradients = feature_BD.detach(), gradients
    assert torch.equal(feature_BD, expected)
    assert gradients.keys() == expected_gradients.keys() == model.trainable_state().keys()
    assert all(torch.equal(gradients[n], expected_gradients[n]) for n in gradients)
    assert any(gradient.any() for gradient in gradients.values())
    # Afterwards the whole backbone runs again.
    assert torch.equal(model.features(random_images(3), sides), expected)


def test_a_failure_behind_the_boundary_leaves_the_frozen_modules_whole():
    model = make().eval()
    expected = model.features(random_images(2))
    with pytest.raises(Exception, match=r".+"):
        model.features_from(torch.zeros(2, 3))
    assert torch.equal(model.features(random_images(2)), expected)


def test_replaced_modules_leave_the_network_as_it_is():
    model = make(model__unfrozen_stages=1)
    names = list(model.state_dict())
    others = {"patch_embed": nn.Identity(), "layers.0": nn.Identity(), "layers.1": nn.Identity()}
    rest = replaced(model.backbone, others)
    trained = [p for part in model.parts()[3:6] for p in part.parameters]  # stages 2 and 3, norm
    assert {id(p) for p in rest.parameters()} == {id(p) for p in trained}
    assert list(model.state_dict()) == names
    assert rest.layers[0] is others["layers.0"]
    assert rest.layers[3] is model.backbone.layers[3]


def test_no_module_is_frozen_when_every_stage_is_trained():
    assert make(model__unfrozen_stages=4).frozen_modules() == []
    assert len(make(model__unfrozen_stages=1).frozen_modules()) == 4  # the stem and three stages
