"""The model: a backbone, an embedding head, and where the loss needs it a classifier.

normalised images (B, 3, H, W) → embeddings of length 1 (B, D), logits (B, K) (paper §4.1.1, §4.1.3.1, §4.1.4.2).
"""

from functools import partial

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from reid_core.config.parameters import TrialConfig
from reid_core.config.values import override
from reid_core.errors import UserError
from reid_core.model.frozen.replay import Halves
from reid_core.model.heads import NUM_SIDES, Heads, make_heads
from reid_core.model.sizes import make_fitting
from reid_core.model.stages import Cut, Part, cut_backbone


class ReidModel(nn.Module):
    """Backbone, head and classifier; knows which parts are trained and how its input is normalised."""

    def __init__(
        self,
        cut: Cut,
        heads: Heads,
        *,
        num_identities: int,
        unfrozen_stages: int,
        mean: list[float],
        std: list[float],
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.classifier = cut.backbone, heads.embedding, heads.classifier
        self.num_identities = num_identities if heads.classifier is not None else 0  # K
        self.side_input, self.side_embedding = heads.side_input, heads.side_embedding
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self._parts = cut.parts
        if unfrozen_stages > self.num_stages:
            raise UserError(f"model.unfrozen_stages={unfrozen_stages}: the backbone has {self.num_stages} stages")
        frozen_stages = self.num_stages - unfrozen_stages
        # The stem is trained only when every stage is.
        self._frozen = self._parts[: frozen_stages + 1] if frozen_stages else []
        for part in self._frozen:
            for parameter in part.parameters:
                parameter.requires_grad_(False)
        end = self._frozen[-1].end if self._frozen else 0
        self._halves = Halves(self.backbone, cut.trace, end, cut.image_px) if self._frozen else None

    @property
    def num_stages(self) -> int:
        """Stages of the backbone, frozen and trained."""
        return len(self._parts) - 2

    def normalise(self, pixels_BHWC: torch.Tensor) -> torch.Tensor:
        """uint8 RGB (B, H, W, 3) → normalised float32 (B, 3, H, W)."""
        return (pixels_BHWC.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std

    def images_from(self, pixels_BHWC: np.ndarray | torch.Tensor) -> torch.Tensor:
        """uint8 RGB pixels as the network takes them, on its device (`normalise`); (B, 3, H, W), float32."""
        images_BCHW = self.normalise(torch.as_tensor(pixels_BHWC, device=self.mean.device))
        # Convolutions on a GPU are fastest in channels-last memory.
        return images_BCHW.contiguous(memory_format=torch.channels_last) if images_BCHW.is_cuda else images_BCHW

    def features(self, images_BCHW: torch.Tensor, sides_B6: torch.Tensor | None = None) -> torch.Tensor:
        """What the head gives, before normalisation; (B, D), float32.

        Args:
            images_BCHW: From `normalise`.
            sides_B6: Photographed sides (`sides.parse_sides`); None: unknown. Used only where the model has been
                made with `model.orientation`.
        """
        if sides_B6 is None:
            sides_B6 = images_BCHW.new_zeros(len(images_BCHW), NUM_SIDES)
        if self.side_input is not None:
            images_BCHW = self.side_input(images_BCHW, sides_B6)
        return self._finish(self.backbone(images_BCHW), sides_B6)

    def frozen_modules(self) -> list[nn.Module]:
        """The frozen part of the backbone, in the order in which it runs; empty if every stage is trained."""
        return [module for part in self._frozen for module in part.modules]

    def checkpoint_stages(self) -> None:
        """Let the trained stages keep the inputs of their blocks only, and compute the rest again for the gradients.

        timm knows the blocks of most networks; of others each trained module is computed again as a whole. Gradients
        stay the same, and so does what runs without them.
        """
        try:
            self.backbone.set_grad_checkpointing(True)  # type: ignore[operator]
        except (AttributeError, AssertionError):  # timm's way to say that a network cannot
            for part in self._parts[len(self._frozen) :]:
                for module in part.modules:
                    module.forward = partial(checkpoint, module.forward, use_reentrant=False)

    def halves(self) -> Halves:
        """The backbone, cut at the end of the last frozen stage.

        Raises:
            UserError: If every stage is trained.
        """
        if self._halves is None:
            raise UserError("model.unfrozen_stages leaves no stage frozen")
        return self._halves

    def frozen_features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """What the frozen part makes of the images: the same for the same pixels in every epoch of every trial.

        Only for a backbone for which `boundary.find_layout` has proved that this is all that the rest needs.

        Args:
            images_BCHW: From `normalise`.

        Returns:
            Activation at the boundary between frozen and trained stages; (B, ...), without gradient.
        """
        with torch.no_grad():
            return self.halves().until(images_BCHW)

    def features_from(self, activation_BX: torch.Tensor, sides_B6: torch.Tensor | None = None) -> torch.Tensor:
        """`features` from the boundary on; (B, D), float32.

        Args:
            activation_BX: From `frozen_features`.
            sides_B6: As in `features`.
        """
        if sides_B6 is None:
            sides_B6 = activation_BX.new_zeros(len(activation_BX), NUM_SIDES, dtype=torch.float32)
        return self._finish(self.halves().onwards(activation_BX), sides_B6)

    def _finish(self, feature_BF: torch.Tensor, sides_B6: torch.Tensor) -> torch.Tensor:
        if self.side_embedding is not None:
            feature_BF = self.side_embedding(feature_BF, sides_B6)
        return self.head(feature_BF).float()

    def forward(self, images_BCHW: torch.Tensor, sides_B6: torch.Tensor | None = None) -> torch.Tensor:
        """Embeddings of length 1; (B, D)."""
        return nn.functional.normalize(self.features(images_BCHW, sides_B6), dim=1)

    def train(self, mode: bool = True) -> "ReidModel":
        """Training mode for what is trained; frozen parts and every batch norm stay in eval mode.

        M-per-identity batches hold few animals, so their statistics would not be those of the data.
        """
        super().train(mode)
        for part in self._frozen:
            for module in part.modules:
                module.eval()
        for module in self.backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def parts(self) -> list[Part]:
        """All parts in order; the last, the head, is everything that is not the backbone."""
        new = (self.side_input, self.side_embedding, self.head, self.classifier)
        modules = [module for module in new if module is not None]
        return [*self._parts, Part("head", modules, [p for module in modules for p in module.parameters()])]

    def trainable_state(self) -> dict[str, torch.Tensor]:
        """Copies of the trained parameters on the CPU: with the configuration, all that a checkpoint needs."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return {name: value.detach().cpu().clone() for name, value in self.state_dict().items() if name in trained}

    def load_trainable_state(self, state: dict[str, torch.Tensor]) -> None:
        """Put back what `trainable_state` gave.

        Raises:
            ValueError: If names differ from those of the trained parameters.
        """
        if state.keys() != self.trainable_state().keys():
            raise ValueError("the checkpoint's parameters are not those of this configuration")
        self.load_state_dict(state, strict=False)


def make_model(config: TrialConfig, *, num_identities: int = 0, cropped: bool = False) -> ReidModel:
    """The model of a trial, what is new in it initialised from the trial's seed.

    Args:
        config: Of the trial.
        num_identities: K, identities that the classifier knows; 0: no classifier, whatever the loss.
        cropped: Whether patches may leave out pixels of images of this size (`sizes.make_fitting`).

    Raises:
        UserError: If the backbone cannot be made, does not take images of that size, cannot be cut into stages, or has
            fewer than are to be trained.
    """
    torch.manual_seed(config.seed)
    cut = cut_backbone(*make_fitting(config.model, config.data.image_px, cropped=cropped), config)
    pretrained = getattr(cut.backbone, "pretrained_cfg", None) or {}
    mean = config.data.mean if config.data.mean is not None else pretrained.get("mean", (0.485, 0.456, 0.406))
    std = config.data.std if config.data.std is not None else pretrained.get("std", (0.229, 0.224, 0.225))
    return ReidModel(
        cut,
        make_heads(config, int(cut.trace.output.shape[1]), num_identities),
        num_identities=num_identities,
        unfrozen_stages=config.model.unfrozen_stages,
        mean=np.broadcast_to(mean, 3).tolist(),
        std=np.broadcast_to(std, 3).tolist(),
    )


def outline_model(config: TrialConfig, *, num_identities: int = 0) -> ReidModel:
    """The model of a trial without any weights: whether it can be made, at no cost in memory or loading.

    Raises:
        UserError: If it cannot.
    """
    with torch.device("meta"):
        model = make_model(override(config, {"model.weights": "random"}), num_identities=num_identities)
    return model.to("meta")  # ArcFace makes its centers by a function that knows no default device


def num_stages(config: TrialConfig) -> int:
    """How many stages the backbone of a configuration has, found out without its weights.

    Raises:
        UserError: If it cannot be made, or cannot be cut.
    """
    return outline_model(override(config, {"model.unfrozen_stages": 0})).num_stages


def describe_model(config: TrialConfig, *, num_identities: int = 0) -> str:
    """`describe_parts` of a configuration, without its weights: nothing is loaded or allocated.

    Returns:
        The table, or why it cannot be made (a hub name whose architecture only the hub knows).
    """
    try:
        return describe_parts(outline_model(config, num_identities=num_identities))
    except UserError as error:
        return str(error)


def describe_parts(model: ReidModel) -> str:
    """A table of the parts: parameter tensors, parameters, and whether they are trained."""
    lines = [f"{'part':<10}{'tensors':>9}{'parameters':>14}  trained"]
    for part in model.parts():
        count = sum(parameter.numel() for parameter in part.parameters)
        trained = "yes" if any(parameter.requires_grad for parameter in part.parameters) else "no"
        lines.append(f"{part.name:<10}{len(part.parameters):>9}{count:>14,}  {trained}")
    return "\n".join(lines)
