"""A causal tokenizer of video: four frames and a square of pixels to one integer, the first frame alone.

The body is that of `video_autoencoder`, with a quantiser between its two halves in place of a distribution.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin as ModelMixin  # diffusers loads a class only where its module has this name
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from safetensors import SafetensorError
from torch import Tensor

from ..errors import ModelError
from ..sizes import ShapeRules
from .quantizers import FSQ, VQ
from .video_autoencoder import VideoAutoencoder


@dataclass
class VideoTokenizerOutput(BaseOutput):
    """`sample`: the reconstruction `[B, 3, T, H, W]`; `tokens`: `[B, t, h, w]`; `loss`: a scalar, the quantiser's."""

    sample: Tensor
    tokens: Tensor
    loss: Tensor


class VideoTokenizer(VideoAutoencoder):
    """Videos `[B, 3, T, H, W]` in [-1, 1] <-> tokens `[B, 1 + (T - 1) / 4, H / 4, W / 4]` below `vocab_size`, T = 4k+1.

    No token depends on a later frame, and no frame on a later token.

    Args:
        in_channels: colours.
        quantizer: fsq or vq, see `quantizers`.
        levels: fsq: of each channel of a latent. The default makes 1,000 codes.
        codebook_size: vq: number of codes.
        latent_channels: vq: numbers of a code.
        temporal_compression_ratio: frames of a token after the first; a power of two.
        spatial_compression_ratio: height and width of a token in pixels; a power of two.
        block_out_channels, encoder_layers, decoder_layers: as of `VideoVAE`.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        quantizer: str = "fsq",
        levels: Sequence[int] = (8, 5, 5, 5),
        codebook_size: int = 1024,
        latent_channels: int = 8,
        temporal_compression_ratio: int = 4,
        spatial_compression_ratio: int = 4,
        block_out_channels: Sequence[int] = (128, 256),
        encoder_layers: Sequence[int] = (2, 2),
        decoder_layers: Sequence[int] = (3, 3),
    ):
        if quantizer not in ("fsq", "vq"):
            raise ModelError(f"quantizer is {quantizer!r}. Choose fsq or vq.")
        super().__init__(
            in_channels,
            len(levels) if quantizer == "fsq" else latent_channels,
            temporal_compression_ratio,
            spatial_compression_ratio,
            block_out_channels,
            encoder_layers,
            decoder_layers,
        )
        self.quantize = FSQ(levels) if quantizer == "fsq" else VQ(codebook_size, latent_channels)

    @property
    def vocab_size(self) -> int:
        """How many different tokens there are."""
        return self.quantize.number

    def forward(self, video: Tensor) -> VideoTokenizerOutput:
        """A video `[B, 3, T, H, W]` in [-1, 1] through its tokens, as training sees it: neither in chunks nor in tiles.

        Raises:
            UsageError: its frames, height or width are none that can be encoded.
        """
        self.rules.check(video.shape[2:])
        found = self.quantize(self._encode(video))
        return VideoTokenizerOutput(sample=self._decode(found.latents), tokens=found.tokens, loss=found.loss)

    @apply_forward_hook
    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """`[B, 3, T, H, W]` in [-1, 1] -> tokens `[B, t, h, w]`.

        Raises:
            UsageError: its frames, height or width are none that can be encoded.
        """
        return self.quantize(self._encode_whole(video)).tokens

    @apply_forward_hook
    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """`[B, t, h, w]` -> videos `[B, 3, T, H, W]`, about in [-1, 1]."""
        return self._decode_whole(self._latents(tokens))

    @apply_forward_hook
    @torch.no_grad()
    def encode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """A video in chunks of frames -> its tokens, some after each chunk, as `encode` gives them for the whole.

        Args:
            chunks: `[B, 3, T, H, W]`, of any lengths that are 4k+1 together.

        Raises:
            UsageError: height or width cannot be encoded, or, after the last chunk, the number of frames.
        """
        yield from (self.quantize(found).tokens for found in self._encode_chunks(chunks))

    @apply_forward_hook
    @torch.no_grad()
    def decode_stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Tokens in chunks `[B, t, h, w]` of any lengths -> the frames `[B, 3, T, H, W]` that `decode` gives."""
        yield from self._decode_chunks(self._latents(chunk) for chunk in chunks)

    @torch.no_grad()
    def fit(self, videos: Iterable[Tensor]) -> None:
        """Fits the linear code to some videos, see `fit_linear`, and then the codebook to their latents."""
        videos = list(videos)
        self.fit_linear(videos)
        latents = [self._encode_whole(video).flatten(2).transpose(0, 1).flatten(1) for video in videos]  # each [C, N]
        self.quantize.start(torch.cat(latents, dim=1)[None, :, :, None, None])

    def _latents(self, tokens: Tensor) -> Tensor:
        return self.quantize.latents_of(tokens).to(self.dtype)


def tokenizer_rules(folder: Path) -> ShapeRules:
    """The videos that the tokenizer in a folder can take, from its configuration alone; see `open_tokenizer`."""
    with torch.device("meta"):
        model: Any = VideoTokenizer.from_config(_config(folder))
    return model.rules


def open_tokenizer(folder: Path) -> VideoTokenizer:
    """The tokenizer in a folder, frozen.

    Raises:
        ModelError: there is none.
    """
    _config(folder)
    try:
        model: Any = VideoTokenizer.from_pretrained(folder, use_safetensors=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"The video tokenizer in {str(folder)!r} cannot be loaded: {reason}") from None
    return model.eval().requires_grad_(False)


def _config(folder: Path) -> dict[str, Any]:
    try:
        config: Any = VideoTokenizer.load_config(folder)
    except (OSError, ValueError):
        config = {}
    if config.get("_class_name") != VideoTokenizer.__name__:
        raise ModelError(
            f"{str(folder)!r} holds no video tokenizer. Train one by `text2video train --kind tokenizer`, and give the "
            "folder `final/video_tokenizer` of that run."
        )
    return config
