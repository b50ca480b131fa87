"""Blocks of frames denoised one after another, with what is kept of those before, equal one pass over all of them."""

from dataclasses import dataclass

import pytest
import torch

from text2video.models.kv_cache import Continued, KeyValueCache
from text2video.models.layout import Grid
from text2video.models.transformer import VideoTransformer


def causal(patch=(1, 2, 2), block=2) -> VideoTransformer:
    """A random one, in which every layer does something."""
    torch.manual_seed(0)
    sizes = {"num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 12, "cross_attention_dim": 6}
    model = VideoTransformer(**sizes, patch_size=patch, time_attention="causal", causal_block=block)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Windowed(Grid):
    """Causal attention where a block sees that many before it, written with masks."""

    window: int = 1

    def tokens(self, layer):
        block = torch.arange(self.sizes[0]).repeat_interleave(self.sizes[1] * self.sizes[2]) // self.block

        def attend(core, q, k, v):
            rows = []
            for token, own in enumerate(block.tolist()):
                seen = (block <= own) & (block >= own - self.window)
                rows.append(core(q[:, token : token + 1], k, v, seen[None].expand(len(q), -1)))
            return torch.cat(rows, 1)

        return attend


@torch.no_grad()
@pytest.mark.parametrize(("patch", "block"), [((1, 2, 2), 1), ((1, 2, 2), 3), ((2, 2, 2), 2)])
@pytest.mark.parametrize("window", [1, 2, 4])
def test_a_noisy_block_after_clean_ones_is_as_in_one_pass_over_all(patch, block, window):
    model, blocks, frames = causal(patch, block), 4, block * patch[0]
    clean, noisy = normal(1, 2, 3, blocks * frames, 4, 6), normal(2, 2, 3, blocks * frames, 4, 6)
    text = normal(3, 2, 5, 6)
    cache = KeyValueCache(window, rows=2)
    for index in range(blocks):
        part = slice(index * frames, (index + 1) * frames)
        layout = Continued.of(model.grid(noisy[:, :, part]), cache)
        # other passes before it leave nothing behind
        model(normal(4, 2, 3, frames, 4, 6), torch.tensor([900.0, 900.0]), text, layout=layout)
        found = model(noisy[:, :, part], torch.tensor([500.0, 300.0]), text, layout=layout).sample
        model(clean[:, :, part], torch.zeros(2), text, layout=layout)
        cache.finish()

        whole = torch.cat([clean[:, :, : part.start], noisy[:, :, part]], 2)
        t = torch.zeros(2, (index + 1) * block)
        t[:, -block:] = torch.tensor([[500.0], [300.0]])
        grid = model.grid(whole)
        masked = Windowed(grid.sizes, grid.patch, "causal", block, window=window)
        wanted = model(whole, t, text, layout=grid if window >= blocks else masked).sample[:, :, part]
        assert wanted.std() > 0.1
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_fewer_rows_are_the_last_ones():
    model, cache, alone = causal(), KeyValueCache(2, rows=2), KeyValueCache(2)
    text = normal(3, 2, 5, 6)
    for index in range(3):
        clean, noisy = normal(index, 1, 3, 2, 4, 4), normal(10 + index, 1, 3, 2, 4, 4)
        grid, t = model.grid(clean), torch.tensor([400.0])
        both, own = Continued.of(grid, cache), Continued.of(grid, alone)
        found = model(noisy, t, text[1:], layout=both).sample
        torch.testing.assert_close(found, model(noisy, t, text[1:], layout=own).sample)
        model(clean.expand(2, -1, -1, -1, -1), torch.zeros(2), text, layout=both)
        model(clean, torch.zeros(1), text[1:], layout=own)
        cache.finish(), alone.finish()


@torch.no_grad()
def test_only_distances_in_time_matter():
    """So that positions may count on beyond the length that was trained."""
    model, x, t = causal(), normal(1, 1, 3, 4, 4, 4), torch.tensor([300.0])
    here = model.grid(x)
    there = Grid(here.sizes, here.patch, "causal", here.block, first_frame=1440)
    torch.testing.assert_close(model(x, t, layout=there).sample, model(x, t, layout=here).sample, atol=1e-3, rtol=1e-3)
