"""The body of our causal autoencoders of video: what `VideoVAE` and `VideoTokenizer` have in common.

It is a linear code of patches, better than their principal components from the start (`fit_linear`), and two
convolutional networks that add to its latents and to its pixels what a linear map cannot. Frames are taken
in groups at the entrance already, as in LeanVAE (Cheng and Yuan 2025, arXiv:2503.14325), so that all of it runs at a
quarter of the resolution and less.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin
from torch import Tensor, nn

from ..errors import ModelError
from ..sizes import Rule, ShapeRules
from .causal import CausalBlock, TimeCache
from .layers import Conv3d, check_positive, depth_to_space, space_to_depth, zeroed
from .patch_code import PatchCode
from .tiling import in_pieces, in_tiles


class VideoAutoencoder(ModelMixin, ConfigMixin):
    """Videos `[B, 3, T, H, W]` in [-1, 1] <-> latents `[B, C, 1 + (T - 1) / time, H / space, W / space]`.

    No latent depends on a later frame, and no frame on a later latent: the first frame alone is an image.

    Args:
        in_channels: colours.
        latent_channels: numbers of a latent.
        time, space: frames of a latent after the first, its height and width in pixels; powers of two.
        widths: of the networks' levels, from fine to coarse; the coarsest has the latents' places, each finer one
            twice as many in height and width.
        encoder_layers, decoder_layers: blocks of each of those levels.
        extra_channels: what the encoder says of a latent besides.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["CausalBlock"]  # noqa: RUF012 - the name and type that diffusers reads
    _repeated_blocks = ["CausalBlock"]  # noqa: RUF012

    def __init__(
        self,
        in_channels: int,
        latent_channels: int,
        time: int,
        space: int,
        widths: Sequence[int],
        encoder_layers: Sequence[int],
        decoder_layers: Sequence[int],
        extra_channels: int = 0,
    ):
        super().__init__()
        widths = tuple(widths)
        check_positive(latent_channels=latent_channels, block_out_channels=widths)
        check_positive(encoder_layers=encoder_layers, decoder_layers=decoder_layers)
        finest = _finest(time, space, widths, encoder_layers, decoder_layers)
        self.gradient_checkpointing = False
        self.latents_at_a_time = 4  # that are encoded or decoded together
        self.tile: int | None = None  # side in latents
        self.strides = (time, space, space)
        self.fine_patch = (time, finest, finest)
        if latent_channels > in_channels * space**2:
            raise ModelError(
                f"latent_channels is {latent_channels}, and a patch of the first frame has {in_channels * space**2} "
                "numbers only. Give at most as many."
            )
        depth = in_channels * time * finest**2
        self.linear = PatchCode(in_channels, latent_channels, self.strides)
        self.encoder = Encoder(depth, latent_channels + extra_channels, widths, encoder_layers)
        self.decoder = Decoder(latent_channels, depth, widths, decoder_layers)

    @property
    def latent_channels(self) -> int:
        """Numbers of a latent."""
        return self.linear.first_in.out_channels

    @property
    def rules(self) -> ShapeRules:
        """The videos that it can take."""
        time, height, width = self.strides
        return ShapeRules(Rule(time, 1), Rule(height), Rule(width))

    def _encode_whole(self, video: Tensor) -> Tensor:
        """What the encoder says of a video `[B, 3, T, H, W]`, in chunks and tiles.

        Raises:
            UsageError: its frames, height or width are none that can be encoded.
        """
        self.rules.check(video.shape[2:])

        def encoded(part: Tensor, place: tuple[int, int]) -> Tensor:
            cache, pieces = TimeCache(), in_pieces([part], self.strides[0], self.latents_at_a_time)
            return torch.cat([self._encode(piece, cache) for piece in pieces], dim=2)

        return self._encode_tiles(encoded, video)

    def _decode_whole(self, latents: Tensor) -> Tensor:
        """Latents `[B, C, t, h, w]` -> videos, in chunks and tiles."""

        def decoded(part: Tensor, place: tuple[int, int]) -> Tensor:
            cache, pieces = TimeCache(), in_pieces([part], 1, self.latents_at_a_time)
            return torch.cat([self._decode(piece, cache) for piece in pieces], dim=2)

        return self._decode_tiles(decoded, latents)

    def _encode_chunks(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """A video in chunks of frames, of any lengths that are 4k+1 together -> what the encoder says, after each."""
        caches, frames = defaultdict[tuple[int, int], TimeCache](TimeCache), 0
        for piece in in_pieces(chunks, self.strides[0], self.latents_at_a_time):
            frames += piece.shape[2]
            self.rules.check((frames, *piece.shape[3:]))
            yield self._encode_tiles(lambda part, place: self._encode(part, caches[place]), piece)

    def _decode_chunks(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Latents in chunks `[B, C, t, h, w]` of any lengths -> their frames, after each."""
        caches = defaultdict[tuple[int, int], TimeCache](TimeCache)
        for piece in in_pieces(chunks, 1, self.latents_at_a_time):
            yield self._decode_tiles(lambda part, place: self._decode(part, caches[place]), piece)

    def enable_tiling(self, tile: int = 256) -> None:
        """From now on no layer works on more than a tile of this many pixels a side, and what its places see around it.

        The result is the same; small tiles cost time. In a stream each tile keeps its own past.
        """
        self.tile = max(1, tile // self.strides[1])

    def disable_tiling(self) -> None:
        """From now on all of a picture is encoded and decoded at once."""
        self.tile = None

    @torch.no_grad()
    def fit_linear(self, videos: Iterable[Tensor]) -> None:
        """Fits the linear code to some videos, each `[B, 3, T, H, W]`; see `PatchCode.fit`.

        The networks are left as they are: new ones add nothing, so the whole is then as good as the linear code.

        Raises:
            UsageError: frames, height or width of one cannot be encoded.
        """
        videos = list(videos)
        for video in videos:
            self.rules.check(video.shape[2:])
        self.linear.fit(videos)

    def _encode_tiles(self, function: Callable[[Tensor, tuple[int, int]], Tensor], video: Tensor) -> Tensor:
        return in_tiles(function, video, self.tile, self.encoder.reach, (self.strides[1], 1))

    def _decode_tiles(self, function: Callable[[Tensor, tuple[int, int]], Tensor], latents: Tensor) -> Tensor:
        reach = max(self.linear.reach, self.decoder.reach)
        return in_tiles(function, latents, self.tile, reach, (1, self.strides[1]))

    def _encode(self, video: Tensor, cache: TimeCache | None = None) -> Tensor:
        """Latents of the next frames of a video, and then what else the encoder says: `[B, C + extra, t, h, w]`."""
        head = int(cache is None or not cache.started)
        linear = self.linear.encode(video, head)
        still = video[:, :, :head].repeat_interleave(self.strides[0] - 1, 2)  # the first frame is a group that stands
        x = space_to_depth(torch.cat([still, video], dim=2), self.fine_patch)
        x = x.contiguous(memory_format=torch.channels_last_3d)  # as a CPU convolves fastest
        found = self.encoder(x, cache, self._run)
        if cache is not None:
            cache.started = True
        more, extra = found.tensor_split([linear.shape[1]], dim=1)
        return torch.cat([linear + more, extra], dim=1)

    def _decode(self, latents: Tensor, cache: TimeCache | None = None) -> Tensor:
        """The frames of the next latents of a video."""
        head = int(cache is None or not cache.started)
        latents = latents.contiguous(memory_format=torch.channels_last_3d)
        linear = self.linear.decode(latents, head)
        more = depth_to_space(self.decoder(latents, cache, self._run), self.fine_patch)
        if cache is not None:
            cache.started = True
        return linear + more[:, :, head * (self.strides[0] - 1) :]  # of the first group, the last frame

    def _run(self, block: nn.Module, x: Tensor, cache: TimeCache | None) -> Tensor:
        if cache is None and self.gradient_checkpointing and torch.is_grad_enabled():
            checkpointed: Any = self._gradient_checkpointing_func
            return checkpointed(block, x)
        return block(x, cache)


class Encoder(nn.Module):
    """Fine patches -> what is added to the linear latents, and what else is said of them.

    Args:
        channels: of a patch.
        latents: channels of all that.
        widths, layers: width and number of blocks of each level, from fine to coarse.
    """

    def __init__(self, channels: int, latents: int, widths: Sequence[int], layers: Sequence[int]):
        super().__init__()
        self.enter = Conv3d(channels, widths[0], 1)
        self.levels = nn.ModuleList(_level(*pair) for pair in zip(widths, layers, strict=True))
        self.shrink = nn.ModuleList(Conv3d(4 * fine, coarse, 1) for fine, coarse in pairwise(widths))
        self.leave = zeroed(Conv3d(widths[-1], latents, 1))
        self.reach = _reach(layers)

    def forward(self, x: Tensor, cache: TimeCache | None, run: Any) -> Tensor:
        x = self.enter(x)
        for index, blocks in enumerate(self.levels.children()):
            if index:
                x = self.shrink[index - 1](space_to_depth(x, (1, 2, 2)))
            for block in blocks.children():
                x = run(block, x, cache)
        return self.leave(x)


class Decoder(nn.Module):
    """Latents -> what is added to the linear code's pixels, as fine patches; arguments as of `Encoder`."""

    def __init__(self, latents: int, channels: int, widths: Sequence[int], layers: Sequence[int]):
        super().__init__()
        self.enter = Conv3d(latents, widths[-1], 1)
        self.levels = nn.ModuleList(_level(*pair) for pair in zip(widths, layers, strict=True))
        self.grow = nn.ModuleList(Conv3d(coarse, 4 * fine, 1) for fine, coarse in pairwise(widths))
        self.leave = zeroed(Conv3d(widths[0], channels, 1))
        self.reach = _reach(layers)

    def forward(self, x: Tensor, cache: TimeCache | None, run: Any) -> Tensor:
        x = self.enter(x)
        for index, blocks in reversed(list(enumerate(self.levels.children()))):
            for block in blocks.children():
                x = run(block, x, cache)
            if index:
                x = depth_to_space(self.grow[index - 1](x), (1, 2, 2))
        return self.leave(x)


def _level(width: int, layers: int) -> nn.ModuleList:
    return nn.ModuleList(CausalBlock(width) for _ in range(layers))


def _reach(layers: Sequence[int]) -> int:
    """How far a place sees, in latents: a block one place further, and two places are one at the next level."""
    reach = 0
    for count in layers:
        reach = math.ceil(reach / 2) + count
    return reach


def _finest(
    time: int, space: int, widths: Sequence[int], encoder_layers: Sequence[int], decoder_layers: Sequence[int]
) -> int:
    """The side in pixels of a position of the finest level."""
    for name, ratio in (("temporal_compression_ratio", time), ("spatial_compression_ratio", space)):
        if ratio < 1 or ratio & (ratio - 1):
            raise ModelError(f"{name} is {ratio}. Give a power of two, such as 4 or 8.")
    levels = len(widths)
    if not levels == len(encoder_layers) == len(decoder_layers):
        raise ModelError(
            f"block_out_channels has {levels} levels, encoder_layers {len(encoder_layers)} and decoder_layers "
            f"{len(decoder_layers)}. Give as many of each."
        )
    if 2 ** (levels - 1) > space:
        raise ModelError(
            f"block_out_channels has {levels} levels, and a latent of {space} pixels a side can be halved "
            f"{space.bit_length() - 1} times only. Give at most {space.bit_length()}."
        )
    return space // 2 ** (levels - 1)
