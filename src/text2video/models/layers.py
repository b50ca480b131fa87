"""Small layers that several models share."""

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ModelError

Layer = TypeVar("Layer", bound=nn.Module)


def sinusoid(positions: Tensor, channels: int, max_period: float = 10_000.0) -> Tensor:
    """Cosines and sines of each position at geometrically spaced frequencies, float32 `[..., channels]`.

    Section 3.5 of Vaswani et al. 2017 (arXiv:1706.03762). An odd last channel is zero.
    """
    half = channels // 2
    exponents = torch.arange(half, dtype=torch.float32, device=positions.device) / half
    angles = positions.float()[..., None] * torch.exp(-math.log(max_period) * exponents)  # [..., half]
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, channels % 2))  # [..., channels]


def zeroed(layer: Layer) -> Layer:
    """The layer with every parameter at zero: a residual branch that ends in it starts as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def check_positive(**sizes: float | Sequence[float]) -> None:
    """Whether a model's sizes, by name, are numbers above zero, or at least one of them each.

    Raises:
        ModelError: one is not.
    """
    for name, given in sizes.items():
        numbers = [*given] if isinstance(given, Sequence) else [given]
        if not numbers or not all(isinstance(number, int | float) and number > 0 for number in numbers):
            raise ModelError(f"{name} is {given!r}: give numbers above zero.")


def patch_of(size: Sequence[int]) -> tuple[int, int, int]:
    """Frames, height and width of a patch.

    Raises:
        ModelError: they are not three whole numbers above zero.
    """
    if len(size) != 3 or not all(isinstance(number, int) and number > 0 for number in size):
        raise ModelError(f"patch_size is {' '.join(map(str, size))}: give three numbers, for frames, height and width.")
    return size[0], size[1], size[2]


def mean_token(text: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of the tokens that there are: `[B, L, D]` -> `[B, D]`; `mask` is bool `[B, L]`, true where one is."""
    if mask is None:
        return text.mean(1)
    kept = mask[..., None].to(text.dtype)
    return (text * kept).sum(1) / kept.sum(1).clamp(min=1)


class TimestepEmbedding(nn.Module):
    """Timesteps `[...]`, whole or fractional, on the scale 0 to 1000 -> `[..., width]`."""

    def __init__(self, frequencies: int, width: int):
        super().__init__()
        self.frequencies = frequencies
        self.first = nn.Linear(frequencies, width)
        self.second = nn.Linear(width, width)

    def forward(self, timestep: Tensor) -> Tensor:
        h = sinusoid(timestep, self.frequencies).to(self.first.weight.dtype)  # [..., frequencies]
        return self.second(F.silu(self.first(h)))  # [..., width]


class Conv3d(nn.Conv3d):
    """A convolution whose gradient can be trusted for two frames as well."""

    def forward(self, input: Tensor) -> Tensor:
        # oneDNN (3.12, in torch 2.13) leaves part of the weight's bfloat16 gradient uninitialised when a kernel of
        # 3 frames meets a video of 2. With a third frame of zeros, which the padding had there anyway, it does not.
        if input.shape[2] == 2 and self.kernel_size[0] == 3 and input.device.type == "cpu":
            padded = super().forward(F.pad(input, (0, 0, 0, 0, 0, 1)))  # [B, C, 3, H, W]
            return padded[:, :, :2].contiguous(memory_format=torch.channels_last_3d)
        return super().forward(input)


class CosineField(nn.Module):
    """A vector for each sample -> a smooth field over its video, a sum of the lowest cosine waves of each axis.

    It says in one product where and when something belongs: a network that knows places only from the edges of its
    convolutions, and what is wanted only as a scale for each channel, takes thousands of steps to bring the two
    together. Waves are measured in the video's own length, height and width, so that every size has the same field.

    Args:
        width: of the vector.
        channels: of the field.
        waves: of time, height and width, the constant one among them; with one of time, the field is the same in
            every frame and does not know how many frames there are.
    """

    def __init__(self, width: int, channels: int, waves: tuple[int, int, int] = (3, 3, 3)):
        super().__init__()
        self.waves = waves
        self.amplitudes = nn.Linear(width, math.prod(waves) * channels)

    def forward(self, vector: Tensor, sizes: tuple[int, int, int]) -> Tensor:
        """`[B, width]` and (T, H, W) -> `[B, C, T, H, W]`."""
        field = self.amplitudes(vector).unflatten(1, (*self.waves, -1))  # [B, I, J, K, C]
        t, h, w = (cosines(size, waves, field) for size, waves in zip(sizes, self.waves, strict=True))
        field = torch.einsum("bijkc,ti->btjkc", field, t)
        field = torch.einsum("btjkc,hj->bthkc", field, h)
        return torch.einsum("bthkc,wk->bthwc", field, w).permute(0, 4, 1, 2, 3)  # channels last in memory


def cosines(size: int, waves: int, like: Tensor) -> Tensor:
    """The first waves of the discrete cosine transform (DCT-II), each of mean square 1: `[size, waves]`."""
    places = (torch.arange(size, device=like.device) + 0.5) / size  # [size], in (0, 1)
    frequencies = torch.arange(waves, device=like.device)  # in half periods
    scale = torch.where(frequencies == 0, 1.0, math.sqrt(2))
    return (scale * torch.cos(math.pi * places[:, None] * frequencies)).to(like.dtype)


class ModulatedNorm(nn.Module):
    """`silu(norm(x) * (1 + scale) + shift)`: group normalisation, a scale and a shift for each sample, SiLU.

    Groups of 16 channels or more, at most 32 of them. Statistics are float32 whatever the input's type.

    Args:
        groups: in place of those.
        per_frame: whether each frame has statistics of its own, as where no frame may tell of a later one.
    """

    def __init__(self, channels: int, groups: int | None = None, per_frame: bool = False):
        super().__init__()
        self.groups = groups or math.gcd(channels, min(32, max(1, channels // 16)))
        self.per_frame = per_frame
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """`x` `[B, C, T, H, W]`, `scale` and `shift` `[B, C]`, both or neither."""
        if not self.per_frame:
            return self._whole(x, scale, shift)
        frames = x.shape[2]
        told = (None if each is None else each.repeat_interleave(frames, 0) for each in (scale, shift))  # [B*T, C]
        y = self._whole(x.transpose(1, 2).flatten(0, 1)[:, :, None], *told)  # [B*T, C, 1, H, W]
        return y[:, :, 0].unflatten(0, (-1, frames)).transpose(1, 2)

    def _whole(self, x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
        gain, offset = self.weight.float()[None], self.bias.float()[None]  # each [1, C]
        if scale is not None and shift is not None:
            gain = gain * (1 + scale.float())
            offset = self.bias.float() * (1 + scale.float()) + shift.float()  # each [B, C]
        gain, offset = gain.expand(len(x), -1), offset.expand(len(x), -1)
        if x.device.type != "cpu":
            return F.silu(_affine(F.group_norm(x.float(), self.groups).to(x.dtype), gain, offset))
        x = x.contiguous(memory_format=torch.channels_last_3d)
        return _NormAffineSiLU.apply(x, gain, offset, self.groups)


class _NormAffineSiLU(torch.autograd.Function):
    """`y = silu(z)`, `z = n * gain + offset`, `n = (x - mean) / std` in each group, with its gradients by hand.

    The same as the three operations in turn, but over a channels-last tensor on a CPU their backward passes take
    3 to 9 times as long: the sums behind the gradients of gain and offset run along the slow axis, and
    the group norm's own backward pass is slow in bfloat16.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, offset: Tensor, groups: int) -> Tensor:
        b, c, positions = len(x), x.shape[1], x[0, 0].numel()
        one, zero = torch.ones_like(gain[0]), torch.zeros_like(gain[0])  # float32, so the statistics are too
        n, _, inverse_std = torch.native_group_norm(x, one, zero, b, c, positions, groups, 1e-5)
        ctx.save_for_backward(n, inverse_std, gain, offset)
        return F.silu(_affine(n, gain, offset), inplace=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor):
        n, inverse_std, gain, offset = ctx.saved_tensors
        groups = inverse_std.shape[-1]
        dz = torch.ops.aten.silu_backward(gradients[0], _affine(n, gain, offset))
        d_offset = dz.sum((2, 3, 4)).float()  # [B, C]
        d_gain = (dz * n).sum((2, 3, 4)).float()  # [B, C]
        # dx = (dn - mean(dn) - n mean(dn n)) / std, dn = dz gain, the means over each group
        count = n[0].numel() / groups
        mean_dn = (d_offset * gain).unflatten(1, (groups, -1)).sum(-1) / count  # [B, G]
        mean_dn_n = (d_gain * gain).unflatten(1, (groups, -1)).sum(-1) / count  # [B, G]
        per_channel = n.shape[1] // groups
        inverse_std = inverse_std.view(mean_dn.shape)
        along_n = (-inverse_std * mean_dn_n).repeat_interleave(per_channel, 1)  # [B, C]
        constant = (-inverse_std * mean_dn).repeat_interleave(per_channel, 1)  # [B, C]
        along_dz = inverse_std.repeat_interleave(per_channel, 1) * gain  # [B, C]
        dx = torch.addcmul(_affine(n, along_n, constant), dz, _spread(along_dz, dz))
        return dx, d_gain, d_offset, None


def _affine(x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    b, c, t, h, w = x.shape
    packed = x.is_contiguous(memory_format=torch.channels_last_3d) and (t * h * w) % 4 == 0
    if x.dtype != torch.bfloat16 or c >= 64 or not packed:
        return torch.addcmul(_spread(offset, x), x, _spread(gain, x))
    # A CPU takes 64 bfloat16 numbers that lie side by side at once, and fewer one at a time: four positions together
    # are as many, and take a third of the time.
    gain, offset = (value.to(x.dtype).repeat(1, 4)[:, None] for value in (gain, offset))  # [B, 1, 4 * C]
    y = torch.addcmul(offset, x.permute(0, 2, 3, 4, 1).reshape(b, -1, 4 * c), gain)
    return y.view(b, t, h, w, c).permute(0, 4, 1, 2, 3)


def _spread(per_channel: Tensor, x: Tensor) -> Tensor:
    """`[B, C]` -> `[B, C, 1, 1, 1]` in the type of `x`."""
    return per_channel.to(x.dtype)[:, :, None, None, None]


def space_to_depth(x: Tensor, factors: tuple[int, int, int]) -> Tensor:
    """`[B, C, T, H, W]` -> `[B, t*h*w*C, T/t, H/h, W/w]`: each block of t x h x w positions becomes one."""
    t, h, w = factors
    b, c, frames, height, width = x.shape
    x = x.permute(0, 2, 3, 4, 1).reshape(b, frames // t, t, height // h, h, width // w, w, c)
    x = x.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4)  # [B, T/t, H/h, W/w, t*h*w*C]
    return x.permute(0, 4, 1, 2, 3)


def depth_to_space(x: Tensor, factors: tuple[int, int, int]) -> Tensor:
    """The inverse of `space_to_depth`: `[B, t*h*w*C, T, H, W]` -> `[B, C, T*t, H*h, W*w]`."""
    t, h, w = factors
    b, c, frames, height, width = x.shape
    x = x.permute(0, 2, 3, 4, 1).reshape(b, frames, height, width, t, h, w, c // (t * h * w))
    x = x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(b, frames * t, height * h, width * w, -1)
    return x.permute(0, 4, 1, 2, 3)  # [B, C, T*t, H*h, W*w], in memory as it was: channels last
