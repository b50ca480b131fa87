"""A causal autoencoder of video: four frames and 8 x 8 pixels to one latent, the first frame alone.

The body is that of `video_autoencoder`; the distribution is that of Kingma and Welling 2014 (arXiv:1312.6114).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ModelMixin as ModelMixin  # diffusers loads a class only where its module has this name
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils import BaseOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from .video_autoencoder import VideoAutoencoder


@dataclass
class VideoVAEOutput(BaseOutput):
    """`sample`: the reconstruction `[B, 3, T, H, W]`; `mean`, `logvar`: of its latents `[B, C, t, h, w]`."""

    sample: Tensor
    mean: Tensor
    logvar: Tensor


class VideoVAE(VideoAutoencoder):
    """Videos `[B, 3, T, H, W]` in [-1, 1] <-> latents `[B, C, 1 + (T - 1) / 4, H / 8, W / 8]`, T = 4k+1.

    No latent depends on a later frame, and no frame on a later latent: the first frame alone is an image.

    Args:
        in_channels: colours.
        latent_channels: numbers of a latent.
        temporal_compression_ratio: frames of a latent after the first; a power of two.
        spatial_compression_ratio: height and width of a latent in pixels; a power of two.
        block_out_channels: widths of the networks' levels, from fine to coarse; the coarsest has the latents' places,
            each finer one twice as many in height and width.
        encoder_layers, decoder_layers: blocks of each of those levels.
        latents_mean, latents_std: of each latent channel over the data, as a denoiser's normalisation; set after
            training by `register_to_config`.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        latent_channels: int = 16,
        temporal_compression_ratio: int = 4,
        spatial_compression_ratio: int = 8,
        block_out_channels: Sequence[int] = (128, 256),
        encoder_layers: Sequence[int] = (2, 2),
        decoder_layers: Sequence[int] = (3, 3),
        latents_mean: Sequence[float] | None = None,
        latents_std: Sequence[float] | None = None,
    ):
        super().__init__(
            in_channels,
            latent_channels,
            temporal_compression_ratio,
            spatial_compression_ratio,
            block_out_channels,
            encoder_layers,
            decoder_layers,
            extra_channels=latent_channels,  # log-variances
        )
        bias = self.encoder.leave.bias
        if bias is not None:
            nn.init.constant_(bias[latent_channels:], -6.0)  # a twentieth of the deviation that a latent has over data

    def forward(self, video: Tensor, noise: Tensor | None = None) -> VideoVAEOutput:
        """A video through its latents, as training sees it: whole, neither in chunks nor in tiles.

        Args:
            video: `[B, 3, T, H, W]` in [-1, 1].
            noise: standard normal, `[B, C, t, h, w]`; None: the mean is decoded.

        Raises:
            UsageError: its frames, height or width are none that can be encoded.
        """
        self.rules.check(video.shape[2:])
        mean, logvar = self._encode(video).chunk(2, dim=1)
        logvar = logvar.clamp(-30, 20)  # as diffusers' distribution does
        latents = mean if noise is None else mean + (logvar / 2).exp() * noise
        return VideoVAEOutput(sample=self._decode(latents), mean=mean, logvar=logvar)

    @apply_forward_hook
    def encode(self, video: Tensor, return_dict: bool = True) -> Any:
        """`[B, 3, T, H, W]` in [-1, 1] -> an `AutoencoderKLOutput`: the distribution of its latents.

        Raises:
            UsageError: its frames, height or width are none that can be encoded.
        """
        found = DiagonalGaussianDistribution(self._encode_whole(video))
        return AutoencoderKLOutput(latent_dist=found) if return_dict else (found,)

    @apply_forward_hook
    def decode(self, latents: Tensor, return_dict: bool = True) -> Any:
        """`[B, C, t, h, w]` -> a `DecoderOutput`: videos `[B, 3, T, H, W]`, about in [-1, 1]."""
        video = self._decode_whole(latents)
        return DecoderOutput(sample=video) if return_dict else (video,)

    @apply_forward_hook
    @torch.no_grad()
    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[DiagonalGaussianDistribution]:
        """A video in chunks of frames -> its latents, some after each chunk, as `encode` gives them for the whole.

        Args:
            chunks: `[B, 3, T, H, W]`, of any lengths that are 4k+1 together. None is kept longer than it is needed.

        Raises:
            UsageError: height or width cannot be encoded, or, after the last chunk, the number of frames.
        """
        yield from (DiagonalGaussianDistribution(found) for found in self._encode_chunks(chunks))

    @apply_forward_hook
    @torch.no_grad()
    def decode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Latents in chunks `[B, C, t, h, w]` of any lengths -> the frames `[B, 3, T, H, W]` that `decode` gives."""
        yield from self._decode_chunks(chunks)
