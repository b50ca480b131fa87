"""The autoencoder of Open-Sora 1.2: each frame by an image autoencoder, then time four to one by causal convolutions.

Zheng et al. 2024 (arXiv:2412.20404); the second part is after MAGVIT-v2 (Yu et al. 2023, arXiv:2310.05737). Written
anew after the published code (Apache-2.0, github.com/hpcaitech/Open-Sora, tag v1.2.0, opensora/models/vae/vae.py and
vae_temporal.py); the tensors have its names, so its `model.safetensors` is read as it is.

A video is taken in chunks of 17 frames that know nothing of each other, each of 5 latents: three frames of zeros go
before a chunk, so its first frame has a latent of its own, and one frame is an image. In a chunk the convolutions see
no later frame; the group norms, as published, average over the whole chunk.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ModelMixin as ModelMixin  # diffusers finds a saved model's class only where this name is too
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from ..errors import UsageError
from .published import PublishedModel

IMAGE_SCALE = 0.18215  # of the image latents between the two parts, whatever the image autoencoder's own is
# The image autoencoder of PixArt-Sigma, which is that of Stable Diffusion XL.
SDXL = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "sample_size": 512,
}
_NO_SHAPE = ("type", "from_pretrained", "subfolder", "micro_batch_size", "local_files_only", "cache_dir")


class OpenSoraVAE(PublishedModel):
    """Videos `[B, 3, T, H, W]` in [-1, 1] <-> normalised latents `[B, 4, t, H/8, W/8]`.

    The arguments are fields of the published config.json.

    Args:
        vae_2d: of the image autoencoder: `micro_batch_size`, the frames it takes at a time, and where it differs from
            that of SDXL.
        vae_temporal: arguments of `TemporalVAE`.
        micro_frame_size: frames of a chunk; None: the whole video is one.
        latent_shift, latent_scale: `shift` and `scale` there: latents are normalised as (z - shift) / scale.
    """

    published_type = "VideoAutoencoderPipeline"
    published_names = {"latent_shift": "shift", "latent_scale": "scale"}  # noqa: RUF012 - those are tensors here

    @register_to_config
    def __init__(
        self,
        vae_2d: dict[str, Any] | None = None,
        vae_temporal: dict[str, Any] | None = None,
        micro_frame_size: int | None = 17,
        latent_shift: Sequence[float] = (-0.10, 0.34, 0.27, 0.98),
        latent_scale: Sequence[float] = (3.85, 2.32, 2.33, 3.06),
    ):
        super().__init__()
        image, time = vae_2d or {}, vae_temporal or {}
        self.frames_at_a_time: int | None = image.get("micro_batch_size", 4)
        self.spatial_vae = nn.Module()
        self.spatial_vae.module = AutoencoderKL(**SDXL | {k: v for k, v in image.items() if k not in _NO_SHAPE})
        self.temporal_vae = TemporalVAE(**{k: v for k, v in time.items() if k not in _NO_SHAPE})
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", torch.tensor(latent_scale).view(1, -1, 1, 1, 1))
        self.register_buffer("shift", torch.tensor(latent_shift).view(1, -1, 1, 1, 1))

    @property
    def strides(self) -> tuple[int, int, int]:
        """Frames, height and width of the video for each latent."""
        space = 2 ** (len(self._image.config["block_out_channels"]) - 1)
        return self.temporal_vae.stride, space, space

    @property
    def _image(self) -> Any:
        return self.spatial_vae.module

    def latent_frames(self, frames: int) -> int:
        """How many frames of latents a video has.

        Raises:
            UsageError: its last chunk has a number of frames that is not 4k+1.
        """
        chunk, stride = self.config["micro_frame_size"] or frames, self.strides[0]
        whole, rest = divmod(frames, chunk)
        if rest and rest % stride != 1:
            raise UsageError(
                f"num_frames is {frames}: after chunks of {chunk} frames {rest} are left, which is not {stride}k+1. "
                f"Take a multiple of {chunk}, or one frame."
            )
        return whole * math.ceil(chunk / stride) + math.ceil(rest / stride)

    @apply_forward_hook
    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """The distribution of the normalised latents; of the image latents in between the mean is taken."""
        self.latent_frames(x.shape[2])
        frames = x.transpose(1, 2).flatten(0, 1)  # [B*T, 3, H, W]
        parts = frames.split(self.frames_at_a_time or len(frames))
        z = torch.cat([self._image.encode(part).latent_dist.mode() for part in parts]) * IMAGE_SCALE
        z = z.unflatten(0, (len(x), -1)).transpose(1, 2)  # [B, C, T, h, w]
        chunks = z.split(self.config["micro_frame_size"] or z.shape[2], dim=2)
        mean, logvar = torch.cat([self.temporal_vae.encode(chunk) for chunk in chunks], dim=2).chunk(2, dim=1)
        shift, scale = self.shift.to(mean), self.scale.to(mean)  # they may be offloaded
        mean, logvar = (mean - shift) / scale, logvar.clamp(-30, 20) - 2 * scale.log()
        found = DiagonalGaussianDistribution(torch.cat([mean, logvar], dim=1))
        return AutoencoderKLOutput(latent_dist=found) if return_dict else (found,)

    @apply_forward_hook
    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """The video of normalised latents."""
        z = z * self.scale.to(z) + self.shift.to(z)
        chunk = self.config["micro_frame_size"]
        latents = math.ceil(chunk / self.strides[0]) if chunk else z.shape[2]
        x = torch.cat([self.temporal_vae.decode(part) for part in z.split(latents, dim=2)], dim=2)  # [B, C, T, h, w]
        frames = x.transpose(1, 2).flatten(0, 1) / IMAGE_SCALE  # [B*T, C, h, w]
        parts = frames.split(self.frames_at_a_time or len(frames))
        x = torch.cat([self._image.decode(part).sample for part in parts])  # [B*T, 3, H, W]
        x = x.unflatten(0, (len(z), -1)).transpose(1, 2)
        return DecoderOutput(sample=x) if return_dict else (x,)


class TemporalVAE(nn.Module):
    """Image latents `[B, 4, T, h, w]` <-> latents `[B, 4, t, h, w]` of one chunk, T = 4t - 3.

    Args:
        in_out_channels, latent_embed_dim, embed_dim: channels of the image latents, and of the latents.
        filters, channel_multipliers, num_res_blocks, num_groups: width of each level, blocks a level, group norms.
        temporal_downsample: for each step to the next level, whether it halves time.
    """

    def __init__(
        self,
        in_out_channels: int = 4,
        latent_embed_dim: int = 4,
        embed_dim: int = 4,
        filters: int = 128,
        num_res_blocks: int = 4,
        channel_multipliers: Sequence[int] = (1, 2, 2, 4),
        temporal_downsample: Sequence[bool] = (False, True, True),
        num_groups: int = 32,
    ):
        super().__init__()
        widths = [filters * multiple for multiple in channel_multipliers]
        shape = (widths, list(temporal_downsample), num_res_blocks, num_groups)
        self.stride = 2 ** sum(temporal_downsample)
        self.encoder = Encoder(in_out_channels, 2 * latent_embed_dim, *shape)
        self.quant_conv = CausalConv(2 * latent_embed_dim, 2 * embed_dim, 1)
        self.post_quant_conv = CausalConv(embed_dim, latent_embed_dim, 1)
        self.decoder = Decoder(in_out_channels, latent_embed_dim, *shape)

    def encode(self, x: Tensor) -> Tensor:
        """Mean and log-variance `[B, 8, t, h, w]`."""
        x = F.pad(x, (0, 0, 0, 0, -x.shape[2] % self.stride, 0))  # zeros before the first frame
        return self.quant_conv(self.encoder(x))

    def decode(self, z: Tensor) -> Tensor:
        """The image latents; those of the zeros before the first frame are left out."""
        return self.decoder(self.post_quant_conv(z))[:, :, self.stride - 1 :]


class CausalConv(nn.Module):
    """A 3D convolution that sees no later frame; `stride` is in time alone."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = True):
        super().__init__()
        self.padding = (*(kernel // 2,) * 4, max(kernel - stride, 0), 0)
        self.conv = nn.Conv3d(inputs, outputs, kernel, (stride, 1, 1), bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.padding))


class ResBlock(nn.Module):
    """Two causal convolutions, each after a group norm and SiLU, around which the input goes."""

    def __init__(self, inputs: int, outputs: int, num_groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(num_groups, inputs)
        self.conv1 = CausalConv(inputs, outputs, 3, bias=False)
        self.norm2 = nn.GroupNorm(num_groups, outputs)
        self.conv2 = CausalConv(outputs, outputs, 3, bias=False)
        if inputs != outputs:
            self.conv3 = CausalConv(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.conv3(x) if hasattr(self, "conv3") else x)


def _blocks(inputs: int, outputs: int, count: int, num_groups: int) -> nn.Sequential:
    return nn.Sequential(*(ResBlock(outputs if k else inputs, outputs, num_groups) for k in range(count)))


class Encoder(nn.Module):
    """Levels of residual blocks; between them time is halved where `halves` says so."""

    def __init__(self, inputs: int, outputs: int, widths: list[int], halves: list[bool], blocks: int, num_groups: int):
        super().__init__()
        self.conv_in = CausalConv(inputs, widths[0], 3, bias=False)
        entering = [widths[0], *widths[:-1]]
        self.block_res_blocks = nn.ModuleList(
            _blocks(before, width, blocks, num_groups) for before, width in zip(entering, widths, strict=True)
        )
        self.conv_blocks = nn.ModuleList(
            CausalConv(width, width, 3, stride=2) if half else nn.Identity()
            for width, half in zip(widths[:-1], halves, strict=True)
        )
        self.res_blocks = _blocks(widths[-1], widths[-1], blocks, num_groups)
        self.norm1 = nn.GroupNorm(num_groups, widths[-1])
        self.conv2 = CausalConv(widths[-1], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, T, h, w]` -> `[B, outputs, t, h, w]`, T a multiple of the stride."""
        x = self.conv_in(x)
        for level, blocks in enumerate(self.block_res_blocks):
            if level:
                x = self.conv_blocks[level - 1](x)  # [B, C, T/2, h, w] where time is halved
            x = blocks(x)
        return self.conv2(F.silu(self.norm1(self.res_blocks(x))))


class Decoder(nn.Module):
    """The encoder's mirror image: time is doubled by making two frames of the channels of one."""

    def __init__(self, outputs: int, inputs: int, widths: list[int], halves: list[bool], blocks: int, num_groups: int):
        super().__init__()
        self.halves = halves
        self.conv1 = CausalConv(inputs, widths[-1], 3)
        self.res_blocks = _blocks(widths[-1], widths[-1], blocks, num_groups)
        entering = [*widths[1:], widths[-1]]
        self.block_res_blocks = nn.ModuleList(
            _blocks(before, width, blocks, num_groups) for before, width in zip(entering, widths, strict=True)
        )
        self.conv_blocks = nn.ModuleList(
            CausalConv(width, 2 * width, 3) if half else nn.Identity()
            for width, half in zip(widths[1:], halves, strict=True)
        )
        self.norm1 = nn.GroupNorm(num_groups, widths[0])
        self.conv_out = CausalConv(widths[0], outputs, 3)

    def forward(self, z: Tensor) -> Tensor:
        """`[B, C, t, h, w]` -> `[B, outputs, T, h, w]`."""
        x = self.res_blocks(self.conv1(z))
        for level in reversed(range(len(self.block_res_blocks))):
            x = self.block_res_blocks[level](x)
            if level and self.halves[level - 1]:
                x = self.conv_blocks[level - 1](x)  # [B, 2C, t, h, w]
                x = x.unflatten(1, (-1, 2)).movedim(2, 3).flatten(2, 3)  # [B, C, 2t, h, w]
        return self.conv_out(F.silu(self.norm1(x)))
