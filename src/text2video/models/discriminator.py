"""Judges patches of videos: real, or given back by an autoencoder (PatchGAN of Isola et al. 2017, arXiv:1611.07004,
over time too)."""

from itertools import pairwise

import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn

from .layers import Conv3d


class PatchDiscriminator(ModelMixin, ConfigMixin):
    """Videos `[B, 3, T, H, W]`, at least 1 x 8 x 8 -> judgements `[B, 1, t, h, w]`, higher where a patch looks real.

    Args:
        in_channels: colours.
        width: channels of the first layer; each of the next two has twice as many.
    """

    @register_to_config
    def __init__(self, in_channels: int = 3, width: int = 64):
        super().__init__()
        widths = (in_channels, width, 2 * width, 4 * width)
        self.layers = nn.ModuleList(
            Conv3d(before, after, 4, stride=(1 if index == 0 else 2, 2, 2), padding=(2, 1, 1))
            for index, (before, after) in enumerate(pairwise(widths))
        )
        self.leave = Conv3d(widths[-1], 1, 3, padding=1)

    def forward(self, video: Tensor) -> Tensor:
        """See the class."""
        x = video
        for layer in self.layers.children():
            x = F.leaky_relu(layer(x), 0.2)
        return self.leave(x)
