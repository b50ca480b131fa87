"""What a video transformer must do: positions, who sees whom, conditioning, sizes, and what diffusers does with it."""

import dataclasses
import logging
import os
import sys

import pytest
import torch
from torch import nn
from two_processes import run_in_two

from text2video.errors import ModelError, UsageError
from text2video.families import lora
from text2video.families.native import NativeFamily
from text2video.models import attention as attention_module
from text2video.models.fused import _NormRotate, gated, modulated, normed_rotated, rotated
from text2video.models.layout import Grid
from text2video.models.transformer import SIZES, Processor, Rotation, SelfAttention, VideoTransformer

TINY = {"cross_attention_dim": 12, "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16}
KINDS = ("full", "factorised", "causal")


def tiny(seed: int = 0, started: bool = True, **changes) -> VideoTransformer:
    """A tiny model; `started` gives what begins at zero other values, so that everything has an effect."""
    torch.manual_seed(seed)
    model = VideoTransformer(**{**TINY, **changes})
    if started:
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1)
    return model.eval()


def inputs(batch: int = 2, shape: tuple[int, int, int] = (4, 4, 6), words: int = 5):
    draw = torch.Generator().manual_seed(1)
    sample = torch.randn(batch, 3, *shape, generator=draw)
    return sample, torch.linspace(3.0, 901.5, batch), torch.randn(batch, words, 12, generator=draw)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 2, 10), (9, 6, 4)])
@torch.no_grad()
def test_any_frame_count_and_size_that_the_patches_allow(kind, shape):
    model = tiny(time_attention=kind)
    assert model.strides == (1, 2, 2)
    sample, timestep, text = inputs(shape=shape)
    out = model(sample, timestep, text)
    assert out.sample.shape == sample.shape
    assert out.sample.is_contiguous()
    assert torch.equal(model(sample, timestep, text, return_dict=False)[0], out.sample)


def test_what_it_cannot_take_is_named():
    with pytest.raises(UsageError, match=r"height 5 is no multiple of 2 \(nearest: 4 or 6\)"):
        tiny()(torch.zeros(1, 3, 1, 5, 4), 5.0)
    with pytest.raises(ModelError, match="time_attention is 'space'; choose one of factorised, full, causal"):
        tiny(time_attention="space")
    with pytest.raises(ModelError, match="attention_head_dim is 15"):
        tiny(attention_head_dim=15)
    sample, _, text = inputs()  # two videos of four frames
    with pytest.raises(UsageError, match=r"timestep is \[2, 2\]: give one for each video, \[2\], or .* \[2, 4\]"):
        tiny()(sample, torch.full((2, 2), 5.0), text)
    with pytest.raises(UsageError, match=r"timestep is \[2, 4\]: give one for each video, \[2\]\."):
        tiny()(list(sample), torch.full((2, 4), 5.0), text)


def test_starts_as_nothing_and_its_blocks_as_the_identity():
    model = tiny(started=False)
    assert not model(*inputs()).sample.any()
    seen = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, args, out: seen.append(torch.equal(args[0], out)))
    model(*inputs()).sample.sub(1).square().mean().backward()
    assert seen == [True, True]
    assert model.leave.weight.grad.any()  # the first step moves the last layer, the second what is behind it


@pytest.mark.parametrize("name", SIZES)
def test_names_of_sizes_are_true_within_a_tenth(name):
    with torch.device("meta"):
        width = 4096 if name.endswith("B") else 512  # of a T5, and of CLIP and our own
        model = VideoTransformer(16, 16, width, **SIZES[name])
    named = float(name[:-1]) * {"M": 1e6, "B": 1e9}[name[-1]]
    assert 0.9 < sum(p.numel() for p in model.parameters()) / named < 1.1


# --- positions --------------------------------------------------------------------------------------------------------


def test_rotation_is_a_product_of_complex_numbers():
    draw = torch.Generator().manual_seed(0)
    positions = torch.randint(0, 50, (1, 7, 3), generator=draw)
    x = torch.randn(2, 7, 3, 24, generator=draw)
    ours = rotated(x, *Rotation(24)(positions))
    # 12 pairs: 4 for the frame, 4 for the row, 4 for the column
    rates = 10_000.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
    angles = torch.cat([positions[0, :, axis, None] * rates for axis in range(3)], dim=1)  # [7, 12]
    turned = torch.complex(x[..., :12].double(), x[..., 12:].double()) * torch.exp(1j * angles)[None, :, None]
    torch.testing.assert_close(ours.double(), torch.cat([turned.real, turned.imag], dim=-1), atol=1e-5, rtol=1e-5)


def test_rotation_is_that_of_diffusers():
    from diffusers.models.embeddings import apply_rotary_emb, get_3d_rotary_pos_embed

    grid = (3, 4, 2)  # frames, rows, columns; diffusers' halves of rows and columns are as wide as its frames' share
    cos, sin = get_3d_rotary_pos_embed(48, ((0, 0), grid[1:]), grid[1:], grid[0], grid_type="slice", max_size=(4, 4))
    x = torch.randn(1, 2, 24, 48)  # [B, N, L, D], neighbouring channels as pairs
    theirs = apply_rotary_emb(x, (cos, sin))
    mine = Rotation(48)
    mine.pairs = (6, 9, 9)  # the shares that CogVideoX gives to frame, row and column
    apart = x.transpose(1, 2).unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)  # pairs half a head apart
    ours = rotated(apart, *mine(Grid(grid, (1, 1, 1)).positions))
    back = ours.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2).transpose(1, 2)
    torch.testing.assert_close(back, theirs, atol=1e-5, rtol=1e-5)


def test_attention_knows_only_how_far_apart_tokens_are():
    draw = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 24, 2, 16, generator=draw)
    rope, positions = Rotation(16), Grid((2, 3, 4), (1, 1, 1)).positions
    scores = []
    for moved in (positions, positions + torch.tensor([5, 2, 9])):
        cos, sin = rope(moved)
        scores.append(torch.einsum("rlnd,rsnd->rnls", rotated(q, cos, sin), rotated(k, cos, sin)))
    torch.testing.assert_close(*scores, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(scores[0], torch.einsum("rlnd,rsnd->rnls", q, k), atol=0.1)


def test_tokens_lie_by_frame_row_and_column_and_go_back():
    video = torch.arange(2 * 3 * 4 * 4 * 6).float().view(2, 3, 4, 4, 6)
    grid = Grid((2, 2, 3), (2, 2, 2))
    tokens = grid.fold(video)
    assert tokens.shape == (2, 12, 24)
    assert torch.equal(grid.unfold(tokens), video)
    frame, row, column = (int(n) for n in grid.positions[0, 7])
    own = video[1, :, 2 * frame : 2 * frame + 2, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
    assert sorted(tokens[1, 7].tolist()) == sorted(own.flatten().tolist())


# --- who sees whom ----------------------------------------------------------------------------------------------------


def reached(model: VideoTransformer, frame: int, row: int, column: int) -> torch.Tensor:
    """Which places of a 4 x 3 x 3 grid of tokens answer otherwise when one of them is changed."""
    sample, timestep, _ = inputs(1, (4, 6, 6))
    other = sample.clone()
    other[:, :, frame, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 1
    with torch.no_grad():
        change = model(other, timestep).sample - model(sample, timestep).sample
    return change.abs().amax((0, 1)).view(4, 3, 2, 3, 2).amax((2, 4)) > 1e-6


def test_full_attention_reaches_everywhere():
    assert reached(tiny(num_layers=1), 2, 1, 1).all()


def test_factorised_attention_reaches_its_frame_then_its_place():
    one = reached(tiny(num_layers=1, time_attention="factorised"), 2, 1, 1)
    assert one[2].all()
    assert one.sum() == 9
    assert reached(tiny(num_layers=2, time_attention="factorised"), 2, 1, 1).all()
    model = tiny(num_layers=2, time_attention="factorised")
    model.blocks = model.blocks[1:]  # with the layer of places as the first, it is one of frames
    assert reached(model, 2, 1, 1).sum() == 9
    places = Grid((4, 3, 3), (1, 1, 1), "factorised").tokens(1)
    seen = places(lambda q, k, v, _: k.new_tensor(k.shape[1]).expand(q.shape), *torch.zeros(3, 1, 36, 2, 4))
    assert (seen == 4).all()  # a place sees itself in four frames


@pytest.mark.parametrize("block", [1, 2])
def test_causal_attention_never_reaches_back(block):
    found = reached(tiny(time_attention="causal", causal_block=block), 2, 1, 1)
    assert not found[:2].any()
    assert found[2:].all()
    first = reached(tiny(time_attention="causal", causal_block=3), 2, 1, 1)  # the last block has one frame
    assert first.all()


@torch.no_grad()
def test_a_causal_start_is_what_it_would_be_alone():
    model = tiny(time_attention="causal")
    sample, timestep, text = inputs(shape=(5, 4, 4))
    whole = model(sample, timestep, text).sample
    torch.testing.assert_close(model(sample[:, :, :3], timestep, text).sample, whole[:, :, :3], atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_a_timestep_for_each_frame():
    model = tiny(time_attention="causal")
    sample, timestep, text = inputs()
    same = model(sample, timestep[:, None].expand(2, 4), text).sample
    torch.testing.assert_close(same, model(sample, timestep, text).sample, atol=1e-6, rtol=1e-5)
    each = timestep[:, None].repeat(1, 4)
    each[:, 3] = 0
    change = model(sample, each, text).sample - same
    assert not change[:, :, :3].any()
    assert change[:, :, 3].any()


@torch.no_grad()
def test_another_layout_takes_the_place_of_the_grid():
    model = tiny()
    sample, timestep, text = inputs()
    whole = model(sample, timestep, text).sample
    grid = model.grid(sample)
    moved = model(sample, timestep, text, layout=dataclasses.replace(grid, first_frame=7)).sample
    torch.testing.assert_close(moved, whole, atol=1e-5, rtol=1e-5)  # only distances count
    causal = model(sample, timestep, text, layout=dataclasses.replace(grid, time_attention="causal")).sample
    assert torch.equal(causal, tiny(time_attention="causal")(sample, timestep, text).sample)


# --- conditions -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_masked_words_do_nothing_and_the_others_do():
    model = tiny()
    sample, timestep, text = inputs()
    mask = torch.tensor([[True, True, True, False, False], [True] * 5])
    out = model(sample, timestep, text, mask).sample
    other = text.clone()
    other[0, 3:] = 100
    assert torch.equal(model(sample, timestep, other, mask).sample, out)
    torch.testing.assert_close(model(sample[:1], timestep[:1], text[:1, :3]).sample, out[:1], atol=1e-5, rtol=1e-5)
    other[0, 0] = 100
    changed = model(sample, timestep, other, mask).sample - out
    assert changed[0].any()
    assert not changed[1].any()
    assert model(sample, timestep, text, torch.zeros(2, 5)).sample.isfinite().all()


@torch.no_grad()
def test_text_is_read_in_every_second_block():
    assert [block.text_attention is not None for block in tiny(num_layers=4).blocks] == [True, False, True, False]
    model = tiny()
    model.text_embedding.weight.zero_()  # so that only attention tells
    sample, timestep, text = inputs()
    assert not torch.equal(model(sample, timestep, text).sample, model(sample, timestep, text + 1).sample)
    assert not torch.equal(model(sample, timestep).sample, model(sample, timestep + 9).sample)
    more = torch.ones(2, 32)
    assert not torch.equal(model(sample, timestep, added_embedding=more).sample, model(sample, timestep).sample)


# --- fast forms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turned", [False, True])
def test_norm_and_rotation_in_one_have_the_gradients_of_their_formula(turned):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, 2, 6, dtype=torch.float64, generator=draw, requires_grad=True)
    weight = torch.randn(6, dtype=torch.float64, generator=draw, requires_grad=True)
    angles = torch.randn(1, 3, 1, 3, dtype=torch.float64, generator=draw)
    rotation = (angles.cos(), angles.sin()) if turned else (None, None)
    assert torch.autograd.gradcheck(lambda x, w: _NormRotate.apply(x, w, *rotation), (x, weight))
    normed = nn.functional.rms_norm(x, (6,), weight, 1e-6)
    wanted = rotated(normed, *rotation) if turned else normed
    torch.testing.assert_close(normed_rotated(x, weight, rotation if turned else None), wanted)


@pytest.mark.parametrize("groups", [1, 2, 4, 16])
def test_modulation_of_few_groups_of_tokens_and_of_many(groups):
    draw = torch.Generator().manual_seed(0)
    x, change = torch.randn(2, 2, 128, 6, generator=draw)
    shift, scale, gate = torch.randn(3, groups, 6, generator=draw)
    each = [part.repeat_interleave(256 // groups, 0).view(2, 128, 6) for part in (shift, scale, gate)]
    wanted = nn.functional.layer_norm(x, (6,), eps=1e-6) * (1 + each[1]) + each[0]
    torch.testing.assert_close(modulated(x, shift, scale), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gated(x, gate, change), x + each[2] * change)


@pytest.mark.parametrize("lengths", [[256], [64, 192], [128, 96, 32], [8, 240, 4, 4]])
def test_modulation_of_groups_of_any_lengths(lengths):
    draw = torch.Generator().manual_seed(0)
    x, change = torch.randn(2, 1, 256, 6, generator=draw)
    values = torch.randn(3, len(lengths), 6, generator=draw)
    values[:, -1] += 10  # as the last group's alone
    shift, scale, gate = values.requires_grad_()
    each = [part.repeat_interleave(torch.tensor(lengths), 0)[None] for part in (shift, scale, gate)]
    wanted = [nn.functional.layer_norm(x, (6,), eps=1e-6) * (1 + each[1]) + each[0], x + each[2] * change]
    found = [modulated(x, shift, scale, lengths), gated(x, gate, change, lengths)]
    gradients = [torch.autograd.grad(torch.stack(way).square().mean(), values)[0] for way in (wanted, found)]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_attention_piece_by_piece_equals_the_fused_kernel(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, n, 3, 8, generator=draw, requires_grad=True) for n in (700, 600, 600))
    ways = [attention_module._in_pieces(q, k, v), attention_module._fused(q, k, v, None, causal=False)]
    torch.testing.assert_close(*ways, atol=1e-5, rtol=1e-5)
    weight = torch.randn(ways[0].shape, generator=draw)
    for a, b in zip(*(torch.autograd.grad((way * weight).sum(), (q, k, v)) for way in ways), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    chosen = attention_module._fastest(*torch.zeros(2, 1, 600, 1, 8, dtype=torch.bfloat16), False)
    assert chosen is attention_module._in_pieces


@torch.no_grad()
def test_self_attention_is_that_of_diffusers():
    from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor

    # Wan's norm goes over all heads together, so there is one
    theirs = WanAttention(16, heads=1, dim_head=16, eps=1e-6, processor=WanAttnProcessor())
    ours = SelfAttention(16, 16)
    for part in (theirs.to_q, theirs.to_k, theirs.to_v):
        part.bias.zero_()
    # Wan turns neighbouring channels, ours channels half a head apart
    apart = torch.arange(16).view(8, 2).T.flatten()
    weights = [theirs.to_q.weight[apart], theirs.to_k.weight[apart], theirs.to_v.weight]
    ours.qkv.weight.copy_(torch.cat(weights))
    for norm, own in ((theirs.norm_q, ours.q_norm), (theirs.norm_k, ours.k_norm)):
        norm.weight.copy_(torch.rand(16) + 0.5)
        own.copy_(norm.weight[apart])
    ours.out.load_state_dict(theirs.to_out[0].state_dict())
    grid = Grid((2, 3, 2), (1, 1, 1))
    cos, sin = Rotation(16)(grid.positions)
    pairs = tuple(table.repeat_interleave(2, dim=-1) for table in (cos, sin))
    x = torch.randn(2, 12, 16)
    torch.testing.assert_close(ours(x, (cos, sin), grid.tokens(0)), theirs(x, rotary_emb=pairs), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_timestep_embedding_is_that_of_diffusers():
    from diffusers.models.embeddings import TimestepEmbedding, Timesteps

    model, timestep = tiny(), torch.tensor([0.0, 17.5, 999.0])
    theirs = TimestepEmbedding(256, 32)
    for own, name in ((model.time_embedding.first, "linear_1"), (model.time_embedding.second, "linear_2")):
        getattr(theirs, name).load_state_dict(own.state_dict())
    wanted = theirs(Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)(timestep))
    torch.testing.assert_close(model.time_embedding(timestep), wanted, atol=1e-5, rtol=1e-5)


# --- as a model of diffusers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_gradients_are_equal(kind):
    model, gradients = tiny(time_attention=kind).train(), []
    for again in (False, True):
        if again:
            model.enable_gradient_checkpointing()
        model.zero_grad()
        model(*inputs()).sample.square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@torch.no_grad()
def test_bfloat16_is_close_to_float32():
    model = tiny()
    sample, timestep, text = inputs()
    exact = model(sample, timestep, text).sample
    with torch.autocast("cpu", torch.bfloat16):
        autocast = model(sample, timestep, text).sample
    pure = model.bfloat16()(sample.bfloat16(), timestep, text.bfloat16()).sample
    assert pure.dtype == torch.bfloat16
    for rounded in (autocast, pure):
        assert (rounded.float() - exact).norm() < 0.03 * exact.norm()


@torch.no_grad()
def test_saved_and_loaded_is_equal_bit_for_bit(tmp_path, caplog):
    model = tiny(time_attention="factorised", patch_size=(2, 2, 2))
    model.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        again = VideoTransformer.from_pretrained(tmp_path)
    assert not caplog.records
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert again.strides == (2, 2, 2)
    assert again.config.time_attention == "factorised"


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_diffusers_attention_backends(kind):
    model = tiny(time_attention=kind)
    mask = torch.tensor([[True, True, False, False, False], [False] * 5])
    plain = model(*inputs(), mask).sample
    assert len(model.attn_processors) == 3
    for backend in ("native", "_native_math"):
        model.set_attention_backend(backend)
        assert all(p._attention_backend == backend for p in model.attn_processors.values())
        torch.testing.assert_close(model(*inputs(), mask).sample, plain, atol=1e-5, rtol=1e-5)
    model.reset_attention_backend()
    model.set_attn_processor(Processor())
    assert torch.equal(model(*inputs(), mask).sample, plain)


IN_PARALLEL = """
import torch
from diffusers import ContextParallelConfig
from test_transformer import inputs, tiny
from text2video.errors import UsageError

torch.distributed.init_process_group("gloo")
torch.accelerator.device_count = lambda: 1  # diffusers looks for GPUs
model, (sample, timestep, text) = tiny(), inputs()
mask = torch.tensor([[True, True, False, False, False], [True] * 5])
with torch.no_grad():
    plain, unmasked = model(sample, timestep, text, mask).sample, model(sample, timestep, text).sample
    tokens = []
    model.blocks[0].register_forward_pre_hook(lambda _, inputs: tokens.append(inputs[0].shape[1]))
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    torch.testing.assert_close(model(sample, timestep, text, mask).sample, plain, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(sample, timestep, text).sample, unmasked, atol=1e-5, rtol=1e-5)
    assert tokens == [12, 12]  # of 24
    try:
        model(sample, timestep[:, None].expand(-1, 4), text)
    except UsageError as error:
        assert "one timestep" in str(error)
    else:
        raise AssertionError("timesteps of frames were taken")
torch.distributed.destroy_process_group()
"""


def test_context_parallelism_gives_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    run_in_two(tmp_path / "none", [], IN_PARALLEL)
    with pytest.raises(UsageError, match=r"for full attention, and this model's time_attention is causal"):
        _ = tiny(time_attention="causal")._cp_plan


@torch.no_grad()
def test_first_block_cache_skips_the_other_blocks():
    from diffusers import FirstBlockCacheConfig

    model = tiny(num_layers=4)
    calls = []
    for block in model.blocks:
        block.attention.register_forward_hook(lambda *_: calls.append(1))
    model.enable_cache(FirstBlockCacheConfig(threshold=0.5))
    sample, timestep, text = inputs()
    with model.cache_context("cond"):
        first = model(sample, timestep, text).sample
        assert len(calls) == 4
        again = model(sample, timestep - 1, text).sample
    assert len(calls) == 5
    assert 0 < (again - first).norm() < 0.1 * first.norm()
    model.disable_cache()
    torch.testing.assert_close(model(sample, timestep, text).sample, first, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_pyramid_attention_broadcast_skips_attention():
    from diffusers import PyramidAttentionBroadcastConfig

    model, now = tiny(), [500]
    plain = model(*inputs()).sample
    calls = []
    for block in model.blocks:
        block.attention.qkv.register_forward_hook(lambda *_: calls.append(1))
    model.enable_cache(
        PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(100, 800),
            current_timestep_callback=lambda: now[0],
        )
    )
    with model.cache_context("cond"):
        for _ in range(4):
            torch.testing.assert_close(model(*inputs()).sample, plain, atol=1e-6, rtol=1e-5)
    assert 2 <= len(calls) < 8


def test_adapters_and_casting_by_layer():
    model = tiny()
    lora.add({"transformer": model}, NativeFamily.lora_targets, rank=2)
    trained = {name.split(".lora_")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".", 2)[2] for name in trained} == {
        *("attention.qkv", "attention.out", "text_attention.q", "text_attention.kv", "text_attention.out")
    }
    cast = tiny()
    exact = cast(*inputs()).sample
    cast.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    assert cast.blocks[0].widen.weight.dtype == torch.float8_e4m3fn
    assert cast.blocks[0].table.dtype == torch.float32
    with torch.no_grad():
        assert (cast(*inputs()).sample - exact).norm() < 0.3 * exact.norm()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_blocks_give_the_same(kind):
    model = tiny(time_attention=kind).train()
    plain = model(*inputs()).sample
    plain.square().mean().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.compile_repeated_blocks()
    out = model(*inputs()).sample
    torch.testing.assert_close(out, plain, atol=1e-5, rtol=1e-4)
    out.square().mean().backward()
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-3)


def test_learns_one_clip_by_heart():
    model = tiny(started=False).train()
    sample, _, text = inputs(1, (2, 4, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    draw = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(120):
        noise = torch.randn(4, *sample.shape[1:], generator=draw)
        t = torch.rand(4, generator=draw).mul(0.9).add(0.1)
        level = t.view(-1, 1, 1, 1, 1)
        x_t = (1 - level) * sample + level * noise
        loss = (model(x_t, 1000 * t, text.expand(4, -1, -1)).sample - sample).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.1 * losses[0]


def test_blocks_can_be_sharded(tmp_path):
    import torch.distributed as dist
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    exact = tiny()(*inputs()).sample
    dist.init_process_group("gloo", init_method=(tmp_path / "meet").as_uri(), rank=0, world_size=1)
    try:
        for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 0.05)):
            model = tiny().train()
            for part in (*model.blocks, model):
                fully_shard(part, mp_policy=MixedPrecisionPolicy(param_dtype=dtype))
            model.enable_gradient_checkpointing()
            out = model(*inputs()).sample.float()
            assert (out - exact).norm() < tolerance * exact.norm()
            out.square().mean().backward()
            assert all(parameter.grad is not None for parameter in model.parameters())
    finally:
        dist.destroy_process_group()
