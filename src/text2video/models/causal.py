"""Layers that look back in time and never ahead, with a memory between the chunks of a video.

A convolution over time is padded before the first frame only. Read in chunks, a video gives what it gives as a whole
where each layer keeps the last frames of its input for the next chunk (the cache of causal convolutions of van den Oord
et al. 2016, arXiv:1609.03499, and of Wan, arXiv:2503.20314).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Conv3d, zeroed


class TimeCache:
    """What layers keep of the frames so far: as much at any length. Every video has its own."""

    def __init__(self):
        self.frames: dict[nn.Module, Tensor] = {}
        self.started = False  # whether the first frame has been seen

    def after_past(self, layer: nn.Module, x: Tensor, past: int) -> Tensor:
        """`x` `[B, C, T, H, W]` behind the `past` frames before it, zeros at the start: `[B, C, past + T, H, W]`."""
        x = torch.cat([self.frames[layer], x], dim=2) if layer in self.frames else F.pad(x, (0, 0, 0, 0, past, 0))
        self.frames[layer] = x[:, :, -past:].clone(memory_format=torch.channels_last_3d)
        return x


class CausalConv3d(Conv3d):
    """A convolution of odd kernels (time, height, width) that keeps sizes and sees no later frame."""

    def __init__(self, channels: int, out_channels: int, kernel: tuple[int, int, int]):
        super().__init__(channels, out_channels, kernel, padding=(0, kernel[1] // 2, kernel[2] // 2))

    def forward(self, input: Tensor, cache: TimeCache | None = None) -> Tensor:
        """`[B, C, T, H, W]` -> `[B, out_channels, T, H, W]`."""
        if past := self.kernel_size[0] - 1:
            input = F.pad(input, (0, 0, 0, 0, past, 0)) if cache is None else cache.after_past(self, input, past)
        return super().forward(input)


def same_size(channels: int, out_channels: int, kernel: tuple[int, int, int], causal: bool = False) -> Conv3d:
    """A convolution with an odd kernel (frames, height, width) whose output is as large as its input."""
    if causal:
        return CausalConv3d(channels, out_channels, kernel)
    time, height, width = kernel
    return Conv3d(channels, out_channels, kernel, padding=(time // 2, height // 2, width // 2))


class CausalBlock(nn.Module):
    """A residual block, over space and then back in time; at the start it changes nothing.

    It has no norm, and its activation is the same at every scale: what a network adds to a picture grows with the
    picture's contrast, which a norm would hide (as in EDSR, Lim et al. 2017, arXiv:1707.02921).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.space = CausalConv3d(channels, channels, (1, 3, 3))
        self.time = zeroed(CausalConv3d(channels, channels, (3, 1, 1)))
        nn.init.kaiming_normal_(self.space.weight, nonlinearity="relu")

    def forward(self, x: Tensor, cache: TimeCache | None = None) -> Tensor:
        """`[B, C, T, H, W]` in the same shape."""
        return x + self.time(F.leaky_relu(self.space(x), 0.1), cache)
