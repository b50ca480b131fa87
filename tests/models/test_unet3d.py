"""What a 3D U-Net must do: shapes, conditioning, gradients, saving, subclasses."""

import json
import logging
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from text2video.errors import ModelError, UsageError
from text2video.models import attention as attention_module
from text2video.models.layers import (
    Conv3d,
    CosineField,
    ModulatedNorm,
    _affine,
    _spread,
    cosines,
    depth_to_space,
    sinusoid,
    space_to_depth,
)
from text2video.models.unet3d import UNet3D

TINY = {
    "cross_attention_dim": 12,
    "model_channels": 16,
    "channel_mult": (1, 1.5),
    "num_res_blocks": 1,
    "attention": ("time", "factorised"),
    "downsample_time": (False,),
    "head_dim": 16,
}
FACTORISED = {**TINY, "attention": ("time", "full"), "patch_size": (2, 2, 2), "conv": "factorised"}


def tiny(seed: int = 0, started: bool = True, **changes) -> UNet3D:
    """A tiny model; `started` gives the layers that begin at zero other values, so that everything has an effect."""
    torch.manual_seed(seed)
    model = UNet3D(**{**TINY, **changes})
    if started:
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1)
    return model.eval()


def inputs(batch: int = 2, shape: tuple[int, int, int] = (4, 8, 8), words: int = 5):
    draw = torch.Generator().manual_seed(1)
    sample = torch.randn(batch, 3, *shape, generator=draw)
    text = torch.randn(batch, words, 12, generator=draw)
    return sample, torch.linspace(3.0, 901.5, batch), text


@pytest.mark.parametrize("shape", [(1, 8, 8), (4, 8, 12), (7, 16, 8), (17, 2, 2)])
@torch.no_grad()
def test_any_frame_count_and_size_that_the_strides_allow(shape):
    model = tiny()
    assert model.strides == (1, 2, 2)
    sample, timestep, text = inputs(shape=shape)
    out = model(sample, timestep, text)
    assert out.sample.shape == sample.shape
    assert out.sample.is_contiguous()
    assert torch.equal(model(sample, timestep, text, return_dict=False)[0], out.sample)


@torch.no_grad()
def test_patches_factorised_convolutions_and_halved_time():
    model = tiny(**FACTORISED | {"downsample_time": (True,), "out_channels": 6})
    assert model.strides == (4, 4, 4)
    sample, timestep, text = inputs(shape=(8, 8, 12))
    assert model(sample, timestep, text).sample.shape == (2, 6, 8, 8, 12)


def test_starts_at_zero():
    model = tiny(started=False)
    assert not model(*inputs()).sample.any()


def test_impossible_shapes_are_named_with_the_nearest_possible():
    model = tiny(**FACTORISED)
    with pytest.raises(UsageError, match=r"num_frames 3 .* multiple of 2 \(nearest: 2 or 4\); width 10 .*8 or 12"):
        model(torch.zeros(1, 3, 3, 8, 10), 5.0)
    with pytest.raises(UsageError, match=r"num_frames 1 .*nearest: 2\)"):
        model(torch.zeros(1, 3, 1, 8, 8), 5.0)
    with pytest.raises(ModelError, match="give 2 and 1"):
        UNet3D(**{**TINY, "attention": ("time",)})
    with pytest.raises(ModelError, match="'times'"):
        UNet3D(**{**TINY, "attention": ("time", "times")})
    with pytest.raises(ModelError, match="conv is '1d'"):
        UNet3D(**{**TINY, "conv": "1d"})


@pytest.mark.parametrize("changes", [{}, FACTORISED])
def test_every_parameter_has_a_gradient_after_one_step(changes):
    model = tiny(started=False, **changes).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    sample, timestep, text = inputs()
    for _ in range(3):  # what lies behind two layers that begin at zero moves in the third step
        optimiser.zero_grad()
        (model(sample, timestep, text).sample - 1).square().mean().backward()
        optimiser.step()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


@torch.no_grad()
def test_timestep_text_and_added_embedding_matter():
    model = tiny()
    sample, timestep, text = inputs()
    out = model(sample, timestep, text).sample
    assert not torch.allclose(model(sample, timestep + 0.5, text).sample, out)
    assert not torch.allclose(model(sample, timestep, text.flip(0)).sample, out)
    assert not torch.allclose(model(sample, timestep).sample, out)
    added = torch.ones(2, model.time_embed_dim)
    assert not torch.allclose(model(sample, timestep, text, added_embedding=added).sample, out)
    one_for_all = model(sample, 500, text).sample
    assert torch.equal(model(sample, torch.tensor([500, 500]), text).sample, one_for_all)


@torch.no_grad()
def test_masked_words_are_not_seen():
    model = tiny()
    sample, timestep, text = inputs()
    mask = torch.tensor([[True] * 3 + [False] * 2, [False] * 5])
    out = model(sample, timestep, text, mask).sample
    changed = torch.where(mask[..., None], text, 1e3 * torch.randn_like(text))
    assert torch.equal(model(sample, timestep, changed, mask).sample, out)
    short = model(sample[:1], timestep[:1], text[:1, :3]).sample  # masked is as if it were not there
    assert torch.allclose(out[:1], short, atol=1e-5)
    assert out.isfinite().all()


def test_text_is_learned():
    model = tiny(started=False).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    draw = torch.Generator().manual_seed(2)
    text = torch.randn(2, 5, 12, generator=draw)
    target = torch.tensor([-0.5, 1.0])[:, None, None, None, None].expand(2, 3, 4, 8, 8)
    for _ in range(40):
        sample = torch.randn(1, 3, 4, 8, 8, generator=draw).expand(2, -1, -1, -1, -1)  # only the text differs
        loss = F.mse_loss(model(sample, 999.0, text).sample, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1  # 0.56 without the text


@torch.no_grad()
@pytest.mark.parametrize("kind", ["time", "full"])
def test_attention_along_time_sees_every_other_frame_and_their_order(kind):
    # The convolutions reach 11 frames on either side here; only attention sees further.
    model = tiny(attention=(kind, kind))
    sample, timestep, text = inputs(1, (33, 4, 4))
    changed = sample.clone()
    changed[:, :, 0] += 1
    difference = (model(sample, timestep, text).sample - model(changed, timestep, text).sample).abs()
    assert (difference.amax((0, 1, 3, 4)) > 0).all()
    layer = next(layer for layer in model.modules() if isinstance(layer, attention_module.SelfAttention))
    x = torch.randn(1, 6, 16)
    positions = sinusoid(torch.arange(6), 16)
    assert not torch.allclose(layer(x.flip(1), positions).flip(1), layer(x, positions), atol=1e-4)


@torch.no_grad()
def test_a_video_in_a_batch_is_the_video_alone():
    model = tiny()
    sample, timestep, text = inputs(3)
    together = model(sample, timestep, text).sample
    alone = torch.cat([model(sample[i : i + 1], timestep[i : i + 1], text[i : i + 1]).sample for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("changes", [{}, FACTORISED])
@pytest.mark.parametrize("half", [False, True])
def test_training_is_the_same_bit_for_bit_when_repeated(changes, half):
    def weights():
        model = tiny(started=False, **changes).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(3):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = (model(*inputs()).sample.float() - 1).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(), weights())


def test_gradient_checkpointing_gives_the_same_gradients():
    model = tiny(**FACTORISED).train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
        model.zero_grad()
        model(*inputs()).sample.square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
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
    model = tiny(**FACTORISED)
    model.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        again = UNet3D.from_pretrained(tmp_path)
    assert not caplog.records
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert again.strides == model.strides
    assert (tmp_path / "diffusion_pytorch_model.safetensors").is_file()


class ConditionalUNet3D(UNet3D):
    def __init__(self, additional_condition_dim, **kwargs):
        super().__init__(**kwargs)
        self.proj = nn.Linear(additional_condition_dim, self.model_channels)
        self.embed = nn.Linear(self.model_channels, self.time_embed_dim)

    def forward(self, sample, timestep, encoder_hidden_states=None, condition=None, **kwargs):
        if condition is not None:  # [B, additional_condition_dim]
            kwargs["added_embedding"] = self.embed(self.proj(condition))
        return super().forward(sample, timestep, encoder_hidden_states, **kwargs)


def test_the_example_in_the_documentation_is_the_one_tested():
    lines = textwrap.dedent(UNet3D.__doc__.split("something more:\n\n")[1]).rstrip()
    assert lines in Path(__file__).read_text(encoding="utf-8")


def test_a_plain_subclass_trains_saves_and_loads_without_a_warning(tmp_path, caplog, recwarn):
    torch.manual_seed(0)
    model = ConditionalUNet3D(7, **TINY)
    assert model.config["additional_condition_dim"] == 7
    assert model.config["cross_attention_dim"] == 12
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    sample, timestep, text = inputs()
    condition = torch.randn(2, 7)
    for _ in range(3):
        loss = (model(sample, timestep, text, condition).sample - 1).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert model.proj.weight.grad.any()
    with caplog.at_level(logging.WARNING):
        model.save_pretrained(tmp_path)
        again = ConditionalUNet3D.from_pretrained(tmp_path)
    assert not caplog.records
    assert not recwarn.list
    saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert saved["_class_name"] == "ConditionalUNet3D"
    assert saved["additional_condition_dim"] == 7
    assert saved["channel_mult"] == [1, 1.5]
    with torch.no_grad():
        expected = model.eval()(sample, timestep, text, condition).sample
        assert torch.allclose(again(sample, timestep, text, condition).sample, expected, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_a_subclass_of_a_subclass_and_arguments_by_default_and_position(tmp_path):
    class Further(ConditionalUNet3D):
        def __init__(self, gain=2.0, **kwargs):
            super().__init__(**kwargs)
            self.gain = gain

    Further(additional_condition_dim=3, **TINY).save_pretrained(tmp_path / "default")
    Further(5.0, additional_condition_dim=3, **TINY).save_pretrained(tmp_path / "position")
    assert Further.from_pretrained(tmp_path / "default").gain == 2.0
    again = Further.from_pretrained(tmp_path / "position")
    assert (again.gain, again.config["additional_condition_dim"], again.model_channels) == (5.0, 3, 16)


def test_a_subclass_defined_in_main_loads_from_a_pipeline_folder(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        from diffusers import DiffusionPipeline
        from torch import nn
        from text2video.models.unet3d import UNet3D

        class Mine(UNet3D):
            def __init__(self, additional_condition_dim, **kwargs):
                super().__init__(**kwargs)
                self.proj = nn.Linear(additional_condition_dim, self.model_channels)

        class Pipe(DiffusionPipeline):
            def __init__(self, unet):
                super().__init__()
                self.register_modules(unet=unet)

        Pipe(Mine(3, **{TINY!r})).save_pretrained(sys.argv[1])
        again = Pipe.from_pretrained(sys.argv[1])
        assert type(again.unet) is Mine and again.unet.proj.in_features == 3
        """),
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "pipe")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("masked", "causal"), [(False, False), (True, False), (False, True)])
def test_attention_written_out_equals_the_fused_kernel(masked, causal):
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, length, 2, 8, generator=draw, requires_grad=True) for length in (6, 5, 5))
    mask = torch.tensor([[True] * 5, [True, False] * 2 + [True], [True] + [False] * 4]) if masked else None
    explicit = attention_module._explicit(q, k, v, mask, causal)
    fused = attention_module._fused(q, k, v, mask, causal)
    assert torch.allclose(explicit, fused, atol=1e-5)
    weight = torch.randn(explicit.shape, generator=draw)
    for a, b in zip(
        torch.autograd.grad((explicit * weight).sum(), (q, k, v)),
        torch.autograd.grad((fused * weight).sum(), (q, k, v)),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("core", ["_explicit", "_fused"])
def test_a_row_without_any_key_is_zero(core, monkeypatch):
    monkeypatch.setattr(attention_module, "_fastest", lambda q, k, masked: getattr(attention_module, core))
    q, k, v = torch.randn(2, 3, 1, 8), torch.randn(2, 4, 1, 8), torch.randn(2, 4, 1, 8)
    mask = torch.tensor([[True] * 4, [False] * 4])
    out = attention_module.attention(q, k, v, mask)
    assert out[0].any()
    assert not out[1].any()


@pytest.mark.parametrize("channels", [24, 32])
@pytest.mark.parametrize("memory_format", [torch.channels_last_3d, torch.contiguous_format])
def test_modulated_norm_is_group_norm_scale_shift_silu(channels, memory_format):
    torch.manual_seed(0)
    layer = ModulatedNorm(channels)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    x = (3 + torch.randn(2, channels, 3, 4, 5)).to(memory_format=memory_format).requires_grad_()
    scale, shift = torch.randn(2, 2, channels, requires_grad=True).unbind()
    normalised = F.group_norm(x, layer.groups, layer.weight, layer.bias)
    spread = (..., None, None, None)
    expected = F.silu(normalised * (1 + scale[spread]) + shift[spread])
    out = layer(x, scale, shift)
    assert torch.allclose(out, expected, atol=1e-5)
    weight = torch.randn(out.shape)
    leaves = (x, layer.weight, layer.bias, scale, shift)
    for ours, theirs in zip(
        torch.autograd.grad((out * weight).sum(), leaves),
        torch.autograd.grad((expected * weight).sum(), leaves),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert torch.allclose(layer(x), F.silu(normalised), atol=1e-5)


@pytest.mark.parametrize("channels", [24, 48, 96])
@pytest.mark.parametrize("frames", [3, 4])
def test_scale_and_shift_in_bfloat16_are_those_of_each_channel(channels, frames):
    torch.manual_seed(0)
    x = torch.randn(2, channels, frames, 3, 5).bfloat16().to(memory_format=torch.channels_last_3d)
    gain, offset = torch.randn(2, 2, channels).unbind()
    wanted = torch.addcmul(_spread(offset, x), x, _spread(gain, x))
    found = _affine(x, gain, offset)
    assert torch.equal(found, wanted)
    assert found.stride() == x.stride()


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_bfloat16_gradient_of_a_convolution_over_few_frames(frames):
    torch.manual_seed(0)
    layer = Conv3d(16, 24, 3, padding=1)
    x = torch.randn(2, 16, frames, 4, 4).to(memory_format=torch.channels_last_3d)
    weight = torch.randn(2, 24, frames, 4, 4)
    gradients = []
    for half in (False, True, True, True):
        torch.full((24, 16, 3, 3, 3), float("nan"))  # what stands in memory that is not written
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = layer(x)
        assert out.shape == weight.shape
        gradients.append(torch.autograd.grad((out.float() * weight).sum(), layer.weight)[0])
    for rounded in gradients[1:]:
        assert (rounded - gradients[0]).norm() < 0.02 * gradients[0].norm()


def test_cosine_waves_are_orthonormal():
    waves = cosines(16, 4, torch.zeros(()))  # [16, 4]
    torch.testing.assert_close(waves.T @ waves / 16, torch.eye(4), atol=1e-5, rtol=0)


def test_a_cosine_field_is_the_same_at_every_size():
    torch.manual_seed(0)
    field, vector = CosineField(6, 5), torch.randn(2, 6)
    fine = field(vector, (32, 48, 64))
    coarse = field(vector, (16, 24, 32))
    assert fine.shape == (2, 5, 32, 48, 64)
    torch.testing.assert_close(F.avg_pool3d(fine, 2), coarse, atol=0.05, rtol=0)
    torch.testing.assert_close(fine.mean((2, 3, 4)), coarse.mean((2, 3, 4)), atol=1e-5, rtol=0)  # the constant wave
    assert fine[0, 0].std() > 0.3


def test_a_caption_can_say_where_and_when():
    """Pure noise and two captions, "early on the left" and "late on the right": learned within a hundred steps."""
    torch.manual_seed(0)
    model = UNet3D(**FACTORISED)
    words = torch.eye(12)[:2, None]  # [2, 1, 12]
    wanted = torch.zeros(2, 3, 4, 16, 16)
    wanted[0, :, :2, :, :8] = 1
    wanted[1, :, 2:, :, 8:] = 1
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(100):
        loss = F.mse_loss(model(torch.randn_like(wanted), 999.0, words).sample, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.06  # without the caption 0.125 is the best


def test_space_to_depth_round_trip():
    x = torch.randn(2, 3, 4, 6, 8)
    deep = space_to_depth(x, (2, 3, 4))
    assert deep.shape == (2, 72, 2, 2, 2)
    assert torch.equal(deep[0, :3, 1, 0, 1], x[0, :, 2, 0, 4])  # the block's first place comes first
    assert torch.equal(depth_to_space(deep, (2, 3, 4)), x)


@pytest.mark.parametrize("kind", [TINY, FACTORISED])
def test_weights_can_be_held_as_fp8(kind):
    model, cast = tiny(**kind), tiny(**kind)
    cast.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    assert any(weight.dtype == torch.float8_e4m3fn for weight in cast.parameters())
    with torch.no_grad():
        exact = model(*inputs(shape=(4, 16, 16))).sample
        assert (cast(*inputs(shape=(4, 16, 16))).sample - exact).norm() < 0.3 * exact.norm()
