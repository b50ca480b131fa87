"""A linear code of patches of video: their principal components, put together again with a look at the neighbours.

The latents are those of Karhunen and Loeve, which no linear code of single patches can better. Their decoder also looks
at how the latents around a patch differ from its own, and so has smoother seams: it is the linear regression on that.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Conv3d, depth_to_space, space_to_depth


class PatchCode(nn.Module):
    """Patches of the first frame, and of groups of frames after it, each in its own way.

    Args:
        colours, channels: numbers of a pixel and of a latent.
        patch: frames, height and width of a patch after the first frame.
    """

    reach = 1  # how far a patch sees when it is decoded, in latents

    def __init__(self, colours: int, channels: int, patch: tuple[int, int, int]):
        super().__init__()
        self.first_patch, self.rest_patch = (1, *patch[1:]), patch
        first, rest = (colours * t * h * w for t, h, w in (self.first_patch, self.rest_patch))
        self.first_in, self.rest_in = Conv3d(first, channels, 1), Conv3d(rest, channels, 1)
        # the border is repeated: a neighbour that is not there differs in nothing
        around: Any = {"kernel_size": (1, 3, 3), "padding": (0, 1, 1), "padding_mode": "replicate"}
        self.first_out, self.rest_out = (nn.Conv3d(channels, size, **around) for size in (first, rest))

    def encode(self, video: Tensor, head: int) -> Tensor:
        """Frames `[B, 3, T, H, W]` -> latents `[B, C, t, h, w]`; `head`: 1 where they begin with the first, else 0."""
        parts = (
            (self.first_in, self.first_patch, video[:, :, :head]),
            (self.rest_in, self.rest_patch, video[:, :, head:]),
        )
        return torch.cat([layer(space_to_depth(x, patch)) for layer, patch, x in parts if x.shape[2]], dim=2)

    def decode(self, latents: Tensor, head: int) -> Tensor:
        """The inverse of `encode`, as far as there is one."""
        parts = (
            (self.first_out, self.first_patch, latents[:, :, :head]),
            (self.rest_out, self.rest_patch, latents[:, :, head:]),
        )
        return torch.cat([depth_to_space(layer(x), patch) for layer, patch, x in parts if x.shape[2]], dim=2)

    @torch.no_grad()
    def fit(self, videos: Sequence[Tensor]) -> None:
        """Makes latents the principal components of the patches of these videos, each of mean 0 and variance 1.

        Those of first frames are turned so that a still scene has about the same latents throughout: any rotation of
        them spans the same patches. What is missing of a patch then follows from its neighbours' latents as well as it
        can; where they are its own, it is what the principal components give.
        """
        first, rest = Moments(), Moments()
        for video in videos:
            first.add(space_to_depth(video[:, :, :1], self.first_patch))
            rest.add(space_to_depth(video[:, :, 1:], self.rest_patch))
        mean, axes, std = first.principal(self.first_in.out_channels)  # [3hw], [3hw, C], [C]
        inward, outward = (axes / std).T, axes * std
        if rest.count:
            mean_rest, axes_rest, std_rest = rest.principal(self.rest_in.out_channels)
            inward_rest = (axes_rest / std_rest).T  # [C, 3thw]
            # orthogonal Procrustes (Schonemann 1966) between the two codes of a frame that stands
            still = inward_rest.unflatten(1, (self.rest_patch[0], -1)).sum(1)  # [C, 3hw]
            left, _, right = torch.linalg.svd(still @ outward)
            inward, outward = left @ right @ inward, outward @ (left @ right).T
            _set(self.rest_in, inward_rest, -inward_rest @ mean_rest)
            self._fit_decoder(videos, axes_rest * std_rest, mean_rest, head=0)
        _set(self.first_in, inward, -inward @ mean)
        self._fit_decoder(videos, outward, mean, head=1)

    def _fit_decoder(self, videos: Sequence[Tensor], outward: Tensor, mean: Tensor, head: int) -> None:
        """The regression for first frames (`head` 1) or groups, from what a patch's own latent gives it `[N, C]`."""
        code, into, out = (
            (self.first_patch, self.first_in, self.first_out)
            if head
            else (self.rest_patch, self.rest_in, self.rest_out)
        )
        moments, channels = Moments(), into.out_channels
        for video in videos:
            if not (part := video[:, :, :1] if head else video[:, :, 1:]).shape[2]:
                continue  # an image
            x = space_to_depth(part.to(into.weight), code)
            latents = into(x)
            own = F.conv3d(latents, outward.to(x)[:, :, None, None, None], mean.to(x))
            moments.add(_differences(latents), x - own)
        weight = moments.regression(8 * channels).unflatten(1, (channels, 8))  # [N, C, 8]
        centre = outward - weight.sum(2)
        _set(out, torch.cat([weight[:, :, :4], centre[:, :, None], weight[:, :, 4:]], dim=2), mean)


class Moments:
    """Sums and products of vectors, added up in float64."""

    def __init__(self):
        self.count = 0
        self.sum: Any = 0.0  # [N]
        self.products: Any = 0.0  # [N, N]

    def add(self, *parts: Tensor) -> None:
        """The vectors at each position of `[B, C, T, H, W]`; those of several parts one after another."""
        rows = torch.cat(parts, dim=1).transpose(0, 1).flatten(1).T.cpu().double()  # [positions, N]
        self.count += len(rows)
        self.sum = self.sum + rows.sum(0)
        self.products = self.products + rows.T @ rows

    def principal(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """The mean `[N]`, the axes of the largest variances `[N, number]`, and the deviations along them `[number]`."""
        mean = self.sum / self.count
        variances, axes = torch.linalg.eigh(self.products / self.count - torch.outer(mean, mean))
        floor = 1e-6 * float(variances[-1]) + 1e-12  # what does not vary is not divided by zero
        return mean, axes[:, -number:].flip(1), variances[-number:].flip(0).clamp(min=floor).sqrt()

    def regression(self, inputs: int) -> Tensor:
        """The least squares, with no constant, from the first `inputs` numbers to the others `[N - inputs, inputs]`."""
        products = self.products / self.count
        ridge = 1e-4 * torch.eye(inputs).double()  # of latents of variance 1, where few patches were seen
        return torch.linalg.solve(products[:inputs, :inputs] + ridge, products[:inputs, inputs:]).T


def _differences(latents: Tensor) -> Tensor:
    """Of the eight neighbours' latents from those in the middle: `[B, C, t, h, w]` -> `[B, 8C, t, h, w]`."""
    x = F.pad(latents, (1, 1, 1, 1, 0, 0), mode="replicate").unfold(3, 3, 1).unfold(4, 3, 1).flatten(5)
    x = x[..., [0, 1, 2, 3, 5, 6, 7, 8]] - latents[..., None]  # [B, C, t, h, w, 8]
    return x.permute(0, 1, 5, 2, 3, 4).flatten(1, 2)


def _set(layer: nn.Conv3d, weight: Tensor, bias: Tensor) -> None:
    layer.load_state_dict({"weight": weight.reshape(layer.weight.shape), "bias": bias})
