"""STDiT3, the transformer of Open-Sora 1.2: attention in each frame, then along time, each with the text.

Zheng et al. 2024 (arXiv:2412.20404), after PixArt (Chen et al. 2023, arXiv:2310.00426). Written anew after the
published code (Apache-2.0, github.com/hpcaitech/Open-Sora, tag v1.2.0, opensora/models/stdit/stdit3.py and
models/layers/blocks.py); the tensors have its names, so its `model.safetensors` is read as it is.

Positions, timesteps and rotations are computed in the weights' own precision: so they were in the published training.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers import ModelMixin as ModelMixin  # diffusers finds a saved model's class only where this name is too
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn

from .attention import attention
from .layers import sinusoid, zeroed
from .published import PublishedModel


class OpenSoraTransformer(PublishedModel, PeftAdapterMixin):
    """Velocity (and an unused variance) from noisy latents, a timestep, text, and what video it is.

    The arguments are fields of the published config.json; its others speak of the published training and kernels.

    Args:
        in_channels: of the latents.
        hidden_size, depth, num_heads, mlp_ratio: of the transformer; `depth` pairs of a spatial and a temporal block.
        patch_size: frames, height and width of the latents in one token.
        caption_channels, model_max_length: width of the text embeddings, and of how many tokens the empty caption is.
        input_sq_size: side of the square, in pixels, at whose scale places are counted.
        pred_sigma: whether the output has twice the channels, of which the second half is not used.
        qk_norm: root-mean-square normalisation of queries and keys.
    """

    published_type = "STDiT3"
    _supports_gradient_checkpointing = True
    _no_split_modules = ["STDiT3Block"]  # noqa: RUF012 - the names and types that diffusers reads
    _repeated_blocks = ["STDiT3Block"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        patch_size: Sequence[int] = (1, 2, 2),
        caption_channels: int = 4096,
        model_max_length: int = 300,
        input_sq_size: int = 512,
        pred_sigma: bool = True,
        qk_norm: bool = True,
    ):
        super().__init__()
        self.patch_size = cast(tuple[int, int, int], tuple(patch_size))
        self.out_channels = 2 * in_channels if pred_sigma else in_channels
        self.rope = Rotation(hidden_size // num_heads)
        self.x_embedder = PatchEmbedding(in_channels, hidden_size, self.patch_size)
        self.t_embedder = ScalarEmbedding(hidden_size)
        self.fps_embedder = ScalarEmbedding(hidden_size)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))
        self.y_embedder = CaptionEmbedding(caption_channels, hidden_size, model_max_length)
        size = (hidden_size, num_heads, mlp_ratio, qk_norm)
        self.spatial_blocks = nn.ModuleList(STDiT3Block(*size) for _ in range(depth))
        self.temporal_blocks = nn.ModuleList(STDiT3Block(*size) for _ in range(depth))
        self.final_layer = FinalLayer(hidden_size, math.prod(self.patch_size) * self.out_channels)
        self.gradient_checkpointing = False
        self._begin()

    def _begin(self) -> None:
        """Untrained weights: time and the frame rate do nothing at first."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        zeroed(self.fps_embedder.mlp[2])
        for block in cast(list[STDiT3Block], self.temporal_blocks):
            for layer in (block.attn.proj, block.cross_attn.proj, block.mlp.fc2):
                zeroed(layer)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        fps: Tensor | None = None,
        height: int = 512,
        width: int = 512,
        frame_mask: Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """The prediction `[B, out_channels, T, H, W]`, float32.

        Args:
            hidden_states: noisy latents `[B, C, T, H, W]`; height and width are filled up to whole patches.
            timestep: `[B]`, 0 (data) to 1000 (noise).
            encoder_hidden_states: token embeddings `[B, L, caption_channels]`.
            encoder_attention_mask: `[B, L]` bool, true where there is text; None: everywhere.
            fps: frames a second `[B]`; None: 24.
            height, width: of the video in pixels.
            frame_mask: `[B, T]` bool, false for frames of latents that are given, without noise: they are seen at
                timestep 0, and what is predicted for them means nothing. None: all are noisy.
        """
        dtype = self.x_embedder.proj.weight.dtype
        b, _, _, rows, columns = hidden_states.shape
        fps = torch.full((b,), 24.0, device=hidden_states.device) if fps is None else fps
        speed = self.fps_embedder(fps)  # [B, C]
        t = (self.t_embedder(timestep) + speed)[:, None]  # [B, 1, C]
        if frame_mask is not None:
            still = (self.t_embedder(torch.zeros_like(timestep)) + speed)[:, None]  # [B, 1, C]
            t = torch.where(frame_mask[:, :, None], t, still)  # [B, T, C]
        modulation = self.t_block(t).unflatten(-1, (6, -1))  # [B, 1 or T, 6, C]

        text = self.y_embedder(encoder_hidden_states.to(dtype))  # [B, L, C]
        mask = None if encoder_attention_mask is None else encoder_attention_mask.bool()
        x = self.x_embedder(hidden_states.to(dtype))  # [B, T, h, w, C]
        grid = x.shape[1:4]
        scale = math.sqrt(height * width) / self.config["input_sq_size"]
        x = x.flatten(2, 3) + places(grid[1], grid[2], scale, x)  # [B, T, h*w, C]
        angles = self.rope(grid[0])  # [T, D/2]
        for spatial, temporal in zip(self.spatial_blocks, self.temporal_blocks, strict=True):
            x = self._block(spatial, x, text, mask, modulation)
            x = self._block(temporal, x, text, mask, modulation, angles)
        x = self.final_layer(x, t)  # [B, T, h*w, p*p*p*out]
        x = self._unpatch(x, grid)[..., :rows, :columns].float()  # [B, out, T, H, W]
        return Transformer2DModelOutput(sample=x) if return_dict else (x,)

    def _block(self, block: nn.Module, *inputs: Tensor | None) -> Tensor:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            checkpointed: Any = self._gradient_checkpointing_func
            return checkpointed(block, *inputs)
        return block(*inputs)

    def _unpatch(self, x: Tensor, grid: Sequence[int]) -> Tensor:
        x = x.unflatten(2, tuple(grid[1:])).unflatten(-1, (*self.patch_size, -1))  # [B, t, h, w, pt, ph, pw, out]
        x = x.permute(0, 7, 1, 4, 2, 5, 3, 6)  # [B, out, t, pt, h, ph, w, pw]
        return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)


class STDiT3Block(nn.Module):
    """Self-attention, attention to the text, and an MLP over `[B, T, S, C]`; along time where it is given angles."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float, qk_norm: bool):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attn = SelfAttention(width, num_heads, qk_norm)
        self.cross_attn = CrossAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = MLP(width, int(width * mlp_ratio), width)
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)

    def forward(
        self, x: Tensor, text: Tensor, mask: Tensor | None, modulation: Tensor, angles: Tensor | None = None
    ) -> Tensor:
        """`x` `[B, T, S, C]`; `text` `[B, L, C]`, `mask` `[B, L]`, `modulation` `[B, 1 or T, 6, C]`,
        `angles` `[T, D/2]`.
        """
        b = len(x)
        modulation = (self.scale_shift_table + modulation)[:, :, :, None]  # [B, 1 or T, 6, 1, C]
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = modulation.unbind(2)
        h = self.norm1(x) * (1 + scale) + shift
        if angles is None:
            h = self.attn(h.flatten(0, 1)).unflatten(0, (b, -1))  # over [B*T, S, C]
        else:
            h = self.attn(h.transpose(1, 2).flatten(0, 1), angles)  # over [B*S, T, C]
            h = h.unflatten(0, (b, -1)).transpose(1, 2)  # [B, T, S, C]
        x = x + gate * h
        x = x + self.cross_attn(x.flatten(1, 2), text, mask).view_as(x)
        return x + gate_mlp * self.mlp(self.norm2(x) * (1 + scale_mlp) + shift_mlp)


class SelfAttention(nn.Module):
    """Over `[B, L, C]`, rotated by `angles` `[L, D/2]` where they are given."""

    def __init__(self, width: int, num_heads: int, qk_norm: bool):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.RMSNorm(width // num_heads, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(width // num_heads, eps=1e-6) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, angles: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(2)  # each [B, L, N, D]
        q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            q, k = rotated(q, angles), rotated(k, angles)
        return self.proj(attention(q, k, v).flatten(2))


class CrossAttention(nn.Module):
    """From `[B, L, C]` to the text `[B, S, C]`."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_linear = nn.Linear(width, width)
        self.kv_linear = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        q = self.q_linear(x).unflatten(-1, (self.num_heads, -1))  # [B, L, N, D]
        k, v = self.kv_linear(text).unflatten(-1, (2, self.num_heads, -1)).unbind(2)  # each [B, S, N, D]
        return self.proj(attention(q, k, v, mask).flatten(2))


class MLP(nn.Module):
    """Two layers with a GELU (tanh) between."""

    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.fc2 = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class ScalarEmbedding(nn.Module):
    """A number for each sample, `[B]`, such as a timestep or a frame rate -> `[B, width]`."""

    def __init__(self, width: int, frequencies: int = 256):
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, number: Tensor) -> Tensor:
        dtype = next(self.parameters()).dtype
        return self.mlp(sinusoid(number.to(dtype), self.frequencies).to(dtype))


class CaptionEmbedding(nn.Module):
    """Token embeddings -> the transformer's width; `y_embedding` stands for no caption."""

    y_embedding: Tensor

    def __init__(self, caption_channels: int, width: int, tokens: int):
        super().__init__()
        self.y_proj = MLP(caption_channels, width, width)
        self.register_buffer("y_embedding", torch.randn(tokens, caption_channels) / caption_channels**0.5)

    def forward(self, text: Tensor) -> Tensor:
        return self.y_proj(text)


class PatchEmbedding(nn.Module):
    """`[B, C, T, H, W]` -> `[B, t, h, w, width]`: one token for each patch, the last ones filled up with zeros."""

    def __init__(self, channels: int, width: int, patch: tuple[int, int, int]):
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv3d(channels, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        missing = [n for size, step in zip(x.shape[:1:-1], self.patch[::-1], strict=True) for n in (0, -size % step)]
        return self.proj(F.pad(x, missing)).permute(0, 2, 3, 4, 1)


class FinalLayer(nn.Module):
    """Normalisation, a scale and a shift from the timestep, and the projection to pixels of latents."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.norm_final = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(width, outputs)
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """`x` `[B, T, S, C]`, `t` `[B, 1 or T, C]`."""
        shift, scale = (self.scale_shift_table + t[:, :, None])[:, :, :, None].unbind(2)  # each [B, 1 or T, 1, C]
        return self.linear(self.norm_final(x) * (1 + scale) + shift)


class Rotation(nn.Module):
    """Rotary positions along time (Su et al. 2021, arXiv:2104.09864): `freqs` is a tensor of the published file."""

    freqs: Tensor

    def __init__(self, head_dim: int):
        super().__init__()
        self.register_buffer("freqs", 10_000.0 ** -(torch.arange(0, head_dim, 2).float() / head_dim))

    def forward(self, length: int) -> Tensor:
        """Angles `[length, D/2]`."""
        return torch.arange(length, device=self.freqs.device, dtype=self.freqs.dtype)[:, None] * self.freqs


def rotated(x_BLND: Tensor, angles: Tensor) -> Tensor:
    """Each pair of neighbouring channels turned by its angle, `[L, D/2]`."""
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]  # each [L, 1, D/2]
    even, odd = x_BLND.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)


def places(rows: int, columns: int, scale: float, like: Tensor) -> Tensor:
    """Sines and cosines of the column, then of the row, of each token: `[rows * columns, C]`.

    They are counted so that a square of as many tokens as there are here spans the same places at every shape, and a
    larger picture spans the same places as a smaller one.
    """
    quarter = like.shape[-1] // 4
    frequencies = 10_000.0 ** -(torch.arange(quarter, device=like.device).float() / quarter)
    frequencies = frequencies.to(like.dtype).float()
    side = round(math.sqrt(rows * columns))
    waves = []
    for count in (columns, rows):
        place = torch.arange(count, device=like.device) / scale * (side / count)
        angles = place[:, None] * frequencies  # [count, C/4]
        waves.append(torch.cat([angles.sin(), angles.cos()], dim=-1))  # [count, C/2]
    x, y = waves[0][None].expand(rows, -1, -1), waves[1][:, None].expand(-1, columns, -1)
    return torch.cat([x, y], dim=-1).flatten(0, 1).to(like.dtype)
