"""Generators of videos from the years before diffusion, and the networks that judged them, small and told of captions.

VGAN (Vondrick et al. 2016, arXiv:1609.02612), MoCoGAN (Tulyakov et al. 2018, arXiv:1707.04993) and DVD-GAN (Clark et
al. 2019, arXiv:1907.06571). Each keeps what it brought: a foreground laid over a still background by a mask; codes of
content and of motion; recurrent features with one judge for frames and one for motion. The rest is the same in all, so
that only that differs: captions enter every layer of a generator by normalisation, as in BigGAN (Brock et al. 2018,
arXiv:1809.11096), and judges by projection (Miyato and Koyama 2018, arXiv:1802.05637), whose weights are spectrally
normalised (Miyato et al. 2018, arXiv:1802.05957).
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn

from ..sizes import Rule, ShapeRules
from .layers import Conv3d, ModulatedNorm

STRIDES = (4, 8, 8)
"""Frames, height and width of videos that these train on are multiples of these."""


@dataclass
class Made:
    """`sample`: videos `[B, 3, T, H, W]` in [-1, 1]; `mask`: `[B, 1, T, H, W]` in [0, 1], what of them moves."""

    sample: Tensor
    mask: Tensor | None = None


class VideoGenerator(ModelMixin, ConfigMixin):
    """Noise and a caption's vector -> a video.

    Args:
        caption_dim: of a caption's vector.
        num_frames, height, width: of the videos it is trained on, multiples of `STRIDES`.
        latent_dim: numbers of noise for a video.
        channels: of the last layer but one; the first has four times as many.
    """

    _supports_gradient_checkpointing = False

    def noise_size(self, frames: int) -> int:
        """Numbers of noise that a video of so many frames takes."""
        return self.config["latent_dim"]

    @property
    def rules(self) -> ShapeRules:
        """The videos that it can make: of its own size."""
        sides = (self.config["height"], self.config["width"])
        return ShapeRules(self._frames(), *(Rule(side, most=side) for side in sides))

    def _frames(self) -> Rule:
        return Rule()  # its memory goes on, frame by frame

    @property
    def _grid(self) -> tuple[int, int]:
        return self.config["height"] // STRIDES[1], self.config["width"] // STRIDES[2]


class VGANGenerator(VideoGenerator):
    """A foreground and its mask by convolutions over space and time, over one still background.

    Args: see `VideoGenerator`.
    """

    @register_to_config
    def __init__(
        self,
        caption_dim: int = 256,
        num_frames: int = 16,
        height: int = 32,
        width: int = 32,
        latent_dim: int = 64,
        channels: int = 48,
    ):
        super().__init__()
        c = channels
        self.read = Reader(caption_dim, latent_dim, 4 * c)
        self.enter = nn.Linear(4 * c, 4 * c * num_frames // STRIDES[0] * self._grid[0] * self._grid[1])
        self.moving = nn.ModuleList([Up(4 * c, 2 * c, 4 * c, time=2), Up(2 * c, c, 4 * c, time=2)])
        self.leave_moving = _up(c, 4, time=1)  # colours and the mask
        self.enter_still = nn.Linear(4 * c, 4 * c * self._grid[0] * self._grid[1])
        self.still = nn.ModuleList([Up(4 * c, 2 * c, 4 * c), Up(2 * c, c, 4 * c)])
        self.leave_still = _up(c, 3)

    def _frames(self) -> Rule:
        return Rule(self.config["num_frames"], most=self.config["num_frames"])

    def forward(self, noise: Tensor, caption: Tensor, frames: int) -> Made:
        """`noise` `[B, noise_size]`, `caption` `[B, caption_dim]` -> videos, of its own number of frames."""
        told = self.read(noise, caption)  # [B, 4c]
        x = self.enter(told).unflatten(1, (-1, frames // STRIDES[0], *self._grid))  # [B, 4c, T/4, H/8, W/8]
        for layer in self.moving:
            x = layer(x, told)  # at last [B, c, T, H/2, W/2]
        colours, mask = self.leave_moving(x).split([3, 1], dim=1)  # each [B, ., T, H, W]
        y = self.enter_still(told).unflatten(1, (-1, 1, *self._grid))  # [B, 4c, 1, H/8, W/8]
        for layer in self.still:
            y = layer(y, told)
        mask = mask.sigmoid()
        background = self.leave_still(y).tanh()  # [B, 3, 1, H, W]
        return Made(mask * colours.tanh() + (1 - mask) * background, mask)


class MoCoGANGenerator(VideoGenerator):
    """Frame by frame from one code of content, and codes of motion that a recurrent network makes of fresh noise.

    Args:
        motion_dim: numbers of noise for a frame, and of its code of motion. The others: see `VideoGenerator`.
    """

    @register_to_config
    def __init__(
        self,
        caption_dim: int = 256,
        num_frames: int = 16,
        height: int = 32,
        width: int = 32,
        latent_dim: int = 64,
        channels: int = 48,
        motion_dim: int = 32,
    ):
        super().__init__()
        c = channels
        self.read = Reader(caption_dim, latent_dim, 4 * c)
        self.begin = nn.Linear(4 * c, 4 * c)
        self.motion = nn.GRU(motion_dim + 4 * c, 4 * c, batch_first=True)
        self.code = nn.Linear(4 * c, motion_dim)
        self.enter = nn.Linear(4 * c + motion_dim, 4 * c * self._grid[0] * self._grid[1])
        frame_by_frame: Any = {"per_frame": True}
        self.layers = nn.ModuleList([Up(4 * c, 2 * c, 4 * c, **frame_by_frame), Up(2 * c, c, 4 * c, **frame_by_frame)])
        self.leave = _up(c, 3)

    def noise_size(self, frames: int) -> int:
        """Of the content, and of each frame."""
        return self.config["latent_dim"] + frames * self.config["motion_dim"]

    def forward(self, noise: Tensor, caption: Tensor, frames: int) -> Made:
        """`noise` `[B, noise_size]`, `caption` `[B, caption_dim]` -> videos of so many frames."""
        latent = self.config["latent_dim"]
        told = self.read(noise[:, :latent], caption)  # [B, 4c]
        each = told[:, None].expand(-1, frames, -1)  # [B, T, 4c]
        fresh = noise[:, latent:].unflatten(1, (frames, -1))  # [B, T, motion_dim]
        moved, _ = self.motion(torch.cat([fresh, each], 2), self.begin(told)[None].tanh())  # [B, T, 4c]
        x = self.enter(torch.cat([each, self.code(moved)], 2))  # [B, T, 4c h w]
        x = x.unflatten(2, (-1, *self._grid)).transpose(1, 2)  # [B, 4c, T, H/8, W/8]
        for layer in self.layers:
            x = layer(x, told)
        return Made(self.leave(x).tanh())


class DVDGANGenerator(VideoGenerator):
    """Features of frames from convolutional recurrent units at two sizes, each enlarged by residual blocks.

    Args: see `VideoGenerator`.
    """

    @register_to_config
    def __init__(
        self,
        caption_dim: int = 256,
        num_frames: int = 16,
        height: int = 32,
        width: int = 32,
        latent_dim: int = 64,
        channels: int = 48,
    ):
        super().__init__()
        c = channels
        self.read = Reader(caption_dim, latent_dim, 4 * c)
        self.enter = nn.Linear(4 * c, 4 * c * self._grid[0] * self._grid[1])
        self.units = nn.ModuleList([ConvGRU(4 * c), ConvGRU(2 * c)])
        self.blocks = nn.ModuleList([ResidualUp(4 * c, 2 * c, 4 * c), ResidualUp(2 * c, c, 4 * c)])
        self.last = ResidualUp(c, c, 4 * c)
        self.norm = ModulatedNorm(c, per_frame=True)
        self.leave = Conv3d(c, 3, (1, 3, 3), padding=(0, 1, 1))

    def forward(self, noise: Tensor, caption: Tensor, frames: int) -> Made:
        """`noise` `[B, noise_size]`, `caption` `[B, caption_dim]` -> videos of so many frames."""
        told = self.read(noise, caption)  # [B, 4c]
        x = self.enter(told).unflatten(1, (-1, 1, *self._grid)).expand(-1, -1, frames, -1, -1)
        for unit, block in zip(self.units, self.blocks, strict=True):
            x = block(unit(x), told)
        return Made(self.leave(self.norm(self.last(x, told))).tanh())


class Reader(nn.Module):
    """Noise `[B, latent]` and a caption's vector `[B, caption_dim]` -> what all layers are told, `[B, out]`."""

    def __init__(self, caption_dim: int, latent: int, out: int):
        super().__init__()
        self.caption, self.noise = nn.Linear(caption_dim, out), nn.Linear(latent, out)
        self.last = nn.Linear(out, out)

    def forward(self, noise: Tensor, caption: Tensor) -> Tensor:
        """See the class."""
        return F.silu(self.last(F.silu(self.caption(caption) + self.noise(noise))))


class Up(nn.Module):
    """Normalisation by what is told, then twice as high and wide, and `time` times as long."""

    def __init__(self, channels: int, out: int, told: int, time: int = 1, per_frame: bool = False):
        super().__init__()
        self.modulation = Modulation(channels, told, per_frame)
        self.up = _up(channels, out, time)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """`[B, C, T, H, W]` and `[B, told]` -> `[B, out, time T, 2 H, 2 W]`."""
        return self.up(self.modulation(x, told))


class ResidualUp(nn.Module):
    """The same frame by frame, as a residual block."""

    def __init__(self, channels: int, out: int, told: int):
        super().__init__()
        self.first, self.second = (Modulation(width, told, per_frame=True) for width in (channels, out))
        self.up = _up(channels, out)
        self.conv = Conv3d(out, out, (1, 3, 3), padding=(0, 1, 1))
        self.skip = Conv3d(channels, out, 1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """`[B, C, T, H, W]` and `[B, told]` -> `[B, out, T, 2 H, 2 W]`."""
        skipped = F.interpolate(self.skip(x), scale_factor=(1, 2, 2))
        return skipped + self.conv(self.second(self.up(self.first(x, told)), told))


class Modulation(nn.Module):
    """`ModulatedNorm` whose scale and shift are linear in what is told."""

    def __init__(self, channels: int, told: int, per_frame: bool = False):
        super().__init__()
        self.norm = ModulatedNorm(channels, per_frame=per_frame)
        self.told = nn.Linear(told, 2 * channels)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """`[B, C, T, H, W]` and `[B, told]` -> `[B, C, T, H, W]`."""
        return self.norm(x, *self.told(told).chunk(2, dim=1))


class ConvGRU(nn.Module):
    """A gated recurrent unit over frames whose products are convolutions (Ballas et al. 2015, arXiv:1511.06432)."""

    def __init__(self, channels: int):
        super().__init__()
        same: Any = {"kernel_size": (1, 3, 3), "padding": (0, 1, 1)}
        self.given = Conv3d(channels, 3 * channels, **same)
        self.gates, self.candidate = Conv3d(channels, 2 * channels, **same), Conv3d(channels, channels, **same)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, T, H, W]` -> its states, of the same shape; the first one follows a state of zeros."""
        given, state, states = self.given(x), torch.zeros_like(x[:, :, :1]), []
        for now in given.split(1, dim=2):  # [B, 3C, 1, H, W]
            of_gates, of_candidate = now.split([2 * x.shape[1], x.shape[1]], dim=1)
            update, reset = (of_gates + self.gates(state)).sigmoid().chunk(2, dim=1)
            candidate = F.relu(of_candidate + self.candidate(reset * state))
            state = update * state + (1 - update) * candidate
            states.append(state)
        return torch.cat(states, dim=2)


def _up(channels: int, out: int, time: int = 1) -> nn.ConvTranspose3d:
    if time == 1:
        return nn.ConvTranspose3d(channels, out, (1, 4, 4), stride=(1, 2, 2), padding=(0, 1, 1))
    return nn.ConvTranspose3d(channels, out, 4, stride=2, padding=1)


class Discriminator(nn.Module):
    """Judges videos with captions, higher where they look real and fit: one number from each of several judges.

    Args:
        judges: of VGAN whole clips; of MoCoGAN clips and one frame; of DVD-GAN clips of half the height and width and
            some of their frames.
        caption_dim: of a caption's vector.
        channels: of the first layer.
    """

    def __init__(self, kind: str, caption_dim: int, channels: int = 48):
        super().__init__()
        clips, shrunk = Judge(caption_dim, channels), Judge(caption_dim, channels, shrink=2)
        one, some = Judge(caption_dim, channels, frames=1), Judge(caption_dim, channels, frames=4)
        self.judges = nn.ModuleList({"vgan": [clips], "mocogan": [clips, one], "dvdgan": [shrunk, some]}[kind])

    def forward(self, video: Tensor, u: Tensor, captions: Tensor) -> Tensor:
        """Videos `[B, 3, T, H, W]`, each with N captions `[B, N, caption_dim]` -> judgements `[B, N, judges]`.

        Args:
            u: `[B]` in (0, 1), what decides which frames are looked at.
        """
        return torch.stack([judge(video, u, captions) for judge in self.judges], dim=2)


class Judge(nn.Module):
    """Convolutions over the clip, or over some of its frames, whose features' sum is held against a caption.

    Args:
        frames: how many frames are judged, each by itself; None: the clip.
        shrink: how much smaller height and width are made first.
    """

    def __init__(self, caption_dim: int, channels: int, frames: int | None = None, shrink: int = 1):
        super().__init__()
        self.frames, self.shrink = frames, shrink
        widths = (3, channels, 2 * channels, 4 * channels)
        strides = (1, 1, 1) if frames else (2, 2, 1)
        self.layers = nn.ModuleList(
            Normalised(
                widths[i], widths[i + 1], (4 if step == 2 else 1, 4, 4), stride=(step, 2, 2), padding=(step // 2, 1, 1)
            )
            for i, step in enumerate(strides)
        )
        self.leave = Normalised(widths[-1], 1, 1)
        self.caption = nn.Sequential(nn.Linear(caption_dim, widths[-1]), nn.SiLU(), nn.Linear(widths[-1], widths[-1]))

    def forward(self, video: Tensor, u: Tensor, captions: Tensor) -> Tensor:
        """As of `Discriminator` -> `[B, N]`."""
        x = video if self.frames is None else some_frames(video, u, self.frames)
        if self.shrink > 1:
            x = F.avg_pool3d(x, (1, self.shrink, self.shrink))
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        features = x.float().sum((3, 4), keepdim=True).mean(2, keepdim=True)  # [B, 4c, 1, 1, 1]
        fits = torch.einsum("bnc,bc->bn", self.caption(captions).float(), features.flatten(1))
        return self.leave(features).flatten(1) + fits / features.shape[1] ** 0.5


class Normalised(Conv3d):
    """A convolution whose weight, as a matrix, has the spectral norm 1.

    The norm is found anew each time, by squaring: nothing is remembered from step to step, so that a resumed run equals
    an unbroken one.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        kind = input.device.type
        # a plan runs on a device without autocast
        with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
            weight = (weight / spectral_norm(weight.float())).to(weight.dtype)
        return super()._conv_forward(input, weight, bias)


def spectral_norm(weight: Tensor) -> Tensor:
    """The largest singular value of a weight as a matrix `[out, rest]`, with a gradient."""
    matrix = weight.flatten(1)
    with torch.no_grad():
        power = matrix @ matrix.T
        for _ in range(7):  # to the power of 128: what is left is the axis of the largest
            power = power / power.norm()
            power = power @ power
        longest = power.norm(dim=0).argmax()
        axis = F.normalize(power.index_select(1, longest[None])[:, 0], dim=0)  # [out]
    return (axis @ matrix).norm()


def some_frames(video: Tensor, u: Tensor, count: int) -> Tensor:
    """Some frames of each video, evenly spaced from one that u `[B]` in (0, 1) decides: `[B, C, count, H, W]`."""
    frames = video.shape[2]
    steps = torch.arange(count, device=video.device) * frames // count
    places = ((u[:, None] * frames).long() + steps) % frames  # [B, count]
    return video.gather(2, places[:, None, :, None, None].expand(-1, video.shape[1], -1, *video.shape[3:]))


GENERATORS: dict[str, type[VideoGenerator]] = {
    "vgan": VGANGenerator,
    "mocogan": MoCoGANGenerator,
    "dvdgan": DVDGANGenerator,
}
"""`model.kind` -> its generator."""
