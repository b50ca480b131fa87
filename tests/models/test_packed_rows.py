"""Clips in one row give what they give one by one: predictions and gradients, of every time attention."""

import random

import pytest
import torch
from torch import Tensor

from text2video.errors import UsageError
from text2video.models import packing
from text2video.models.attention import attention
from text2video.models.layout import Grid
from text2video.models.packing import Row
from text2video.models.transformer import VideoTransformer

SHAPES = [(4, 8, 4), (2, 4, 6), (4, 8, 4), (1, 2, 2), (6, 4, 4)]


def transformer(**options) -> VideoTransformer:
    """A tiny one whose weights are all random: fresh ones predict nothing."""
    torch.manual_seed(0)
    sizes = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16, "cross_attention_dim": 8}
    model = VideoTransformer(in_channels=4, out_channels=4, **{**sizes, **options})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def clips() -> tuple[list[Tensor], Tensor, dict[str, Tensor]]:
    """Videos, timesteps and texts with their mask."""
    draw = torch.Generator().manual_seed(1)
    videos = [torch.randn(4, *shape, generator=draw) for shape in SHAPES]
    text = torch.randn(len(SHAPES), 7, 8, generator=draw)
    mask = torch.arange(7) < torch.tensor([7, 1, 3, 0, 2])[:, None]
    return (
        videos,
        torch.tensor([10.0, 500.0, 999.0, 0.5, 250.0]),
        {
            "encoder_hidden_states": text,
            "encoder_attention_mask": mask,
        },
    )


def one_by_one(model, videos, t, text) -> list[Tensor]:
    own = [{name: value[n : n + 1] for name, value in text.items()} for n in range(len(videos))]
    return [model(x[None], t[n : n + 1], **own[n], return_dict=False)[0][0] for n, x in enumerate(videos)]


def gradients(model, found: list[Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    torch.stack([answer.square().mean() for answer in found]).mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("time_attention", ["full", "factorised", "causal"])
def test_a_row_predicts_what_its_clips_do_one_by_one(time_attention):
    model = transformer(time_attention=time_attention)
    videos, t, text = clips()
    wanted, found = one_by_one(model, videos, t, text), model(videos, t, **text).sample
    for own, answer, video in zip(wanted, found, videos, strict=True):
        assert answer.shape == video.shape
        assert torch.allclose(answer, own, atol=5e-5)
    alone, packed = gradients(model, wanted), gradients(model, found)
    assert alone.keys() == packed.keys()
    assert len(packed) > 20
    for name, gradient in alone.items():
        assert torch.allclose(packed[name], gradient, atol=5e-5), name


def test_it_also_holds_without_text_with_an_added_embedding_and_recomputed():
    model = transformer()
    videos, t, _ = clips()
    added = torch.randn(len(videos), 32)
    wanted = [model(x[None], t[n], added_embedding=added[n : n + 1]).sample[0] for n, x in enumerate(videos)]
    model.enable_gradient_checkpointing()
    found = model(videos, t, added_embedding=added).sample
    assert all(torch.allclose(*pair, atol=5e-5) for pair in zip(wanted, found, strict=True))
    assert torch.allclose(model(videos, 500).sample[2], model(videos[2][None], 500).sample[0], atol=5e-5)


def test_no_clip_sees_another():
    model = transformer()
    videos, t, text = clips()
    before = model(videos, t, **text).sample
    videos[1], t[1] = torch.randn_like(videos[1]), 700.0
    text["encoder_hidden_states"][1] += 1
    after = model(videos, t, **text).sample
    same = [torch.equal(*pair) for pair in zip(before, after, strict=True)]
    assert same == [True, False, True, True, True]


def test_a_row_is_as_long_as_its_clips_and_keeps_their_order():
    grids = [Grid(shape, (1, 1, 1)) for shape in SHAPES]
    row, videos = Row.of(grids), clips()[0]
    tokens = row.fold(videos)
    assert tokens.shape == (1, sum(video[0].numel() for video in videos), 4)
    assert all(torch.equal(*pair) for pair in zip(row.unfold(tokens), videos, strict=True))
    assert len(row.grids) == 4  # those of one size lie side by side
    told = row.ordered(torch.arange(5.0)[:, None]).repeat_interleave(torch.tensor(row.lengths), dim=0)[None]
    assert all((own == n).all() for n, own in enumerate(Row.of(grids).unfold(told.expand(-1, -1, 4))))
    assert row.positions.shape == (1, tokens.shape[1], 3)


def test_a_clip_that_the_model_cannot_take_is_said():
    with pytest.raises(UsageError, match="width 5"):
        transformer()([torch.randn(4, 2, 4, 5), torch.randn(4, 2, 4, 4)], 1.0)


def test_the_kernel_for_sequences_of_any_lengths_is_told_where_they_end(monkeypatch):
    """It runs on GPUs only: here a loop stands in for it, called in the same way."""
    calls = []

    def by_loop(q, k, v, ends_q, ends_k, longest_q, longest_k):
        calls.append((ends_q.dtype, longest_q))
        assert longest_q == ends_q.diff().max()
        assert longest_k == ends_k.diff().max()
        parts = [x.split(ends.diff().tolist()) for x, ends in ((q, ends_q), (k, ends_k), (v, ends_k))]
        return torch.cat([attention(*(x[None] for x in own))[0] for own in zip(*parts, strict=True)])

    monkeypatch.setattr(packing, "varlen_attn", by_loop)
    model, (videos, t, text) = transformer(), clips()
    wanted = model(videos, t, **text).sample
    monkeypatch.setattr(packing, "_kernel_dtype", lambda core, q: torch.float32)
    found = model(videos, t, **text).sample
    assert calls == [(torch.int32, 32)] * 3  # two layers, the first of which reads the texts
    assert all(torch.allclose(*pair, atol=5e-5) for pair in zip(wanted, found, strict=True))


def test_any_clips_of_any_sizes():
    draws, model = random.Random(0), transformer()
    for _ in range(5):
        shapes = [(draws.randint(1, 5), 2 * draws.randint(1, 4), 2 * draws.randint(1, 4)) for _ in range(6)]
        videos = [torch.randn(4, *shape) for shape in shapes]
        t = torch.rand(6) * 1000
        for n, answer in enumerate(model(videos, t).sample):
            assert torch.allclose(answer, model(videos[n][None], t[n]).sample[0], atol=5e-5)
