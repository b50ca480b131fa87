"""Large pictures in tiles and long videos in pieces: what a network of convolutions does to them, bounded in memory.

A tile is read with all that its places can see around it, and only those places are kept. So tiles give what the whole
gives, and there is no seam to be blended.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Span(NamedTuple):
    """What one tile reads along one axis, and what it keeps of that, in latents."""

    read: slice
    start: int  # of what is kept, in the whole
    stop: int

    def source(self, scale: int) -> slice:
        """What is read, where a latent is `scale` numbers."""
        return slice(self.read.start * scale, self.read.stop * scale)

    def kept(self, scale: int) -> slice:
        """What is kept, counted from where reading starts."""
        return slice((self.start - self.read.start) * scale, (self.stop - self.read.start) * scale)

    def target(self, scale: int) -> slice:
        """Where that belongs in the whole."""
        return slice(self.start * scale, self.stop * scale)


def spans(length: int, side: int, reach: int) -> list[Span]:
    """The tiles of `side` latents that cover `length` latents, each read with `reach` more on both sides."""
    return [
        Span(slice(max(0, start - reach), min(length, stop + reach)), start, stop)
        for start in range(0, length, side)
        for stop in [min(length, start + side)]
    ]


def in_tiles(
    function: Callable[[Tensor, tuple[int, int]], Tensor],
    x: Tensor,
    side: int | None,
    reach: int,
    scales: tuple[int, int],
) -> Tensor:
    """What `function` makes of `x` `[..., H, W]`, tile by tile.

    Args:
        function: from a tile and its row and column in the grid; it sees no further than `reach`.
        side: of a tile in latents; None: all of it is one.
        reach: in latents.
        scales: numbers of a latent along height and width, in `x` and in what is made of it.
    """
    if side is None:
        return function(x, (0, 0))
    read, made = scales
    height, width = (length // read for length in x.shape[-2:])
    whole = None
    for row, down in enumerate(spans(height, side, reach)):
        for column, across in enumerate(spans(width, side, reach)):
            tile = function(x[..., down.source(read), across.source(read)], (row, column))
            if whole is None:
                whole = tile.new_empty(*tile.shape[:-2], height * made, width * made)
            whole[..., down.target(made), across.target(made)] = tile[..., down.kept(made), across.kept(made)]
    assert whole is not None  # a picture has a tile
    return whole


def in_pieces(chunks: Iterable[Tensor], step: int, most: int) -> Iterator[Tensor]:
    """A video in chunks `[B, C, T, H, W]` of any lengths -> itself in pieces that can be encoded or decoded.

    The first piece has a frame and then groups of `step` frames, the others have groups; the first frame and each group
    are a latent, and no piece has more than `most`. What is no group at the end is a last piece that cannot be encoded.
    """
    rest, head = None, 1
    for chunk in chunks:
        rest = chunk if rest is None else torch.cat([rest, chunk], dim=2)
        while (groups := min((rest.shape[2] - head) // step, most - head)) + head > 0:
            piece, rest = rest.split([head + groups * step, rest.shape[2] - head - groups * step], dim=2)
            yield piece
            head = 0
    if rest is not None and rest.shape[2]:
        yield rest
