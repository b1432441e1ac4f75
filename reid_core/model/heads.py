"""What is put on a backbone: the embedding head, the classifier, and the ways in for the photographed side.

features (B, F) → embedding (B, D) → logits (B, K) (paper §4.1.3.1, §4.1.4.2, §7.2).
Shape letters: B batch, F backbone features, D embedding, K identities of `training`.
"""

import math
from typing import NamedTuple

import torch
from pytorch_metric_learning.losses import ArcFaceLoss, SubCenterArcFaceLoss
from torch import nn

from reid_core.config.parameters import LossConfig, ModelConfig, TrialConfig

NUM_SIDES = 6  # length of `sides.parse_sides`' vectors
SIDE_FEATURES = 16


class Heads(NamedTuple):
    """What is put on a backbone."""

    embedding: nn.Module
    classifier: nn.Module | None = None
    side_input: "SideInput | None" = None
    side_embedding: "SideEmbedding | None" = None


def make_heads(config: TrialConfig, num_features: int, num_identities: int) -> Heads:
    """Everything new of a trial's model.

    Args:
        config: Of the trial.
        num_features: F, of the backbone.
        num_identities: K, identities that the classifier knows; 0: no classifier, whatever the loss.
    """
    orientation = config.model.orientation
    num_features += SIDE_FEATURES if orientation == "embedding" else 0
    head, classifier = make_head(config.model, num_features), None
    if config.loss.name != "triplet" and num_identities:
        size = embedding_size(config.model, num_features)
        classifier = make_classifier(config.model, config.loss, size, num_identities)
    return Heads(
        head,
        classifier,
        side_input=SideInput() if orientation == "input" else None,
        side_embedding=SideEmbedding() if orientation == "embedding" else None,
    )


def make_head(config: ModelConfig, num_features: int) -> nn.Module:
    """Embedding head: identity, one linear map (the paper's), or a two-layer perceptron (head complexity)."""
    if config.head == "none":
        return nn.Identity()
    if config.head == "linear":
        head = nn.Linear(num_features, config.embedding_dim)
        nn.init.orthogonal_(head.weight)  # starts as a rotation, which keeps the geometry of the pretrained features
        nn.init.zeros_(head.bias)
        return head
    return _make_mlp(config, num_features, config.embedding_dim)


def embedding_size(config: ModelConfig, num_features: int) -> int:
    """D: length of the embedding that `make_head` gives."""
    return num_features if config.head == "none" else config.embedding_dim


def make_classifier(model: ModelConfig, loss: LossConfig, num_features: int, num_identities: int) -> nn.Module:
    """Embedding before normalisation (B, D) → logits (B, K); dropped when animals are compared by their embeddings.

    Linear or complex (normalisation and dropout) for cross-entropy; scaled cosines to learned centers for ArcFace.
    """
    if loss.name != "cross_entropy":
        return AngularClassifier(loss, num_features, num_identities)
    if model.classifier == "mlp":
        return _make_mlp(model, num_features, num_identities)
    return nn.Linear(num_features, num_identities)


def _make_mlp(config: ModelConfig, num_inputs: int, num_outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(num_inputs, config.head_hidden),
        nn.LayerNorm(config.head_hidden),
        nn.GELU(),
        nn.Dropout(config.head_dropout),
        nn.Linear(config.head_hidden, num_outputs),
    )


class AngularClassifier(nn.Module):
    """ArcFace (Deng et al., CVPR 2019) or sub-center ArcFace (ECCV 2020): centers, and the loss with its margin."""

    def __init__(self, config: LossConfig, num_features: int, num_identities: int) -> None:
        super().__init__()
        # The library takes the margin in degrees, and keeps it in radians.
        settings = {"margin": config.margin_deg, "scale": config.scale}
        sizes = {"num_classes": num_identities, "embedding_size": num_features}
        self.centers: ArcFaceLoss = (
            SubCenterArcFaceLoss(**sizes, **settings, sub_centers=config.sub_centers)
            if config.name == "subcenter_arcface"
            else ArcFaceLoss(**sizes, **settings)
        )

    def forward(self, feature_BD: torch.Tensor) -> torch.Tensor:
        """Scaled cosines without margin: logits for prediction; (B, K)."""
        return self.centers.get_logits(feature_BD)

    def loss(self, feature_BD: torch.Tensor, identity_B: torch.Tensor) -> torch.Tensor:
        """Cross-entropy with the margin added to the angle of the true identity; mean over the batch."""
        return self.centers(feature_BD, identity_B)


class SideInput(nn.Module):
    """The photographed side as further image channels, mapped back to three: any backbone can take them."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3 + NUM_SIDES, 3, kernel_size=1)
        with torch.no_grad():  # starts as the image itself
            self.mix.weight.zero_()
            self.mix.weight[:, :3, 0, 0] = torch.eye(3)
            self.mix.bias.zero_()  # type: ignore[union-attr]

    def forward(self, images_BCHW: torch.Tensor, sides_B6: torch.Tensor) -> torch.Tensor:
        """Images of the same shape; (B, 3, H, W)."""
        planes = sides_B6[:, :, None, None].expand(-1, -1, *images_BCHW.shape[2:])
        return self.mix(torch.cat([images_BCHW, planes], dim=1))


class SideEmbedding(nn.Module):
    """The photographed side, embedded and concatenated to the backbone's features before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(NUM_SIDES, SIDE_FEATURES, bias=False)  # an unknown side adds nothing

    def forward(self, feature_BF: torch.Tensor, sides_B6: torch.Tensor) -> torch.Tensor:
        """Features with `SIDE_FEATURES` more, of a size like theirs; (B, F + 16)."""
        size = feature_BF.norm(dim=1, keepdim=True) / math.sqrt(feature_BF.shape[1])
        return torch.cat([feature_BF, size * self.embed(sides_B6)], dim=1)
