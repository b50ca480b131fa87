"""The latent U-Net: shapes, conditioning, gradients, saving. As an image model in every frame: see test_inflation."""

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from text2video.errors import ModelError, UsageError
from text2video.models.latent_unet import LatentUNet3D, doubled

TINY = {
    "cross_attention_dim": 12,
    "model_channels": 16,
    "channel_mult": (1, 1.5),
    "num_res_blocks": 1,
    "attention": ("none", "factorised"),
    "head_dim": 8,
}


def tiny(started: bool = True, **changes) -> LatentUNet3D:
    """A tiny model; `started` gives the layers that begin at zero other values, so that everything has an effect."""
    torch.manual_seed(0)
    model = LatentUNet3D(**{**TINY, **changes})
    for parameter in model.parameters() if started else ():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


def inputs(batch: int = 2, shape: tuple[int, int, int] = (3, 4, 6), channels: int = 4):
    draw = torch.Generator().manual_seed(1)
    sample = torch.randn(batch, channels, *shape, generator=draw)
    return sample, torch.linspace(3.0, 901.5, batch), torch.randn(batch, 5, 12, generator=draw)


def test_the_defaults_are_a_small_stable_diffusion_over_time():
    with torch.device("meta"):
        model = LatentUNet3D()
    config = model.config
    assert (config["in_channels"], config["out_channels"], config["cross_attention_dim"]) == (4, 4, 768)
    assert [blocks[0].conv_out.out_channels for blocks in model.down] == [64, 128, 256]
    assert model.time_embed_dim == 256
    assert all(block.transformer for block in [*model.down[0], *model.down[2], *model.up[0], model.middle[0]])
    assert set(model.down[0][0].transformer.attentions) == {"space", "time"}


@pytest.mark.parametrize("shape", [(1, 2, 2), (4, 6, 8), (7, 2, 10)])
@torch.no_grad()
def test_any_frame_count_and_size_that_the_strides_allow(shape):
    model = tiny()
    assert model.strides == (1, 2, 2)
    sample, timestep, text = inputs(shape=shape)
    out = model(sample, timestep, text)
    assert out.sample.shape == sample.shape
    assert out.sample.is_contiguous()
    assert torch.equal(model(sample, timestep, text, return_dict=False)[0], out.sample)


def test_what_does_not_fit_is_said():
    with pytest.raises(UsageError, match=r"width 5 is no multiple of 2 \(nearest: 4 or 6\)"):
        tiny()(torch.zeros(1, 4, 3, 4, 5), 5.0)
    with pytest.raises(ModelError, match="2 levels, attention 1"):
        tiny(attention=("time",))
    with pytest.raises(ModelError, match="attention 2 and head_dim 3"):
        tiny(head_dim=(8, 8, 8))


def test_every_parameter_has_a_gradient_after_some_steps():
    model = tiny(started=False).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    sample, timestep, text = inputs()
    for _ in range(4):  # what lies behind three layers that begin at zero moves in the fourth step
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
    assert not torch.allclose(
        model(sample, timestep, text, added_embedding=torch.ones(2, model.time_embed_dim)).sample, out
    )
    mask = torch.tensor([[True] * 3 + [False] * 2, [False] * 5])
    masked = model(sample, timestep, text, mask).sample
    assert torch.equal(model(sample, timestep, torch.where(mask[..., None], text, 7.0), mask).sample, masked)
    alone = model(sample[:1], timestep[:1], text[:1, :3]).sample  # masked is as if it were not there
    assert torch.allclose(masked[:1], alone, atol=1e-5)


def test_two_captions_are_learned_by_heart():
    """Pure noise and two captions: the latents of each come out, which without the caption have an error of 0.56."""
    model = tiny(started=False).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    _, _, text = inputs()
    target = torch.tensor([-0.5, 1.0])[:, None, None, None, None].expand(2, 4, 3, 4, 6)
    draw = torch.Generator().manual_seed(2)
    for _ in range(40):
        noise = torch.randn(1, 4, 3, 4, 6, generator=draw).expand(2, -1, -1, -1, -1)
        loss = F.mse_loss(model(noise, 999.0, text).sample, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.05


def test_gradient_checkpointing_gives_the_same_gradients():
    model = tiny(attention=("full", "factorised")).train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
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
    for rounded in (autocast, pure):
        assert (rounded.float() - exact).norm() < 0.03 * exact.norm()


class Conditional(LatentUNet3D):
    def __init__(self, additional_condition_dim, **kwargs):
        super().__init__(**kwargs)
        self.embed = nn.Linear(additional_condition_dim, self.time_embed_dim)


@torch.no_grad()
def test_it_and_a_subclass_are_saved_and_loaded_bit_for_bit(tmp_path, caplog):
    for model in (tiny(), Conditional(7, **TINY)):
        model.save_pretrained(tmp_path / type(model).__name__)
        with caplog.at_level(logging.WARNING):
            again = type(model).from_pretrained(tmp_path / type(model).__name__)
        assert not caplog.records
        assert again.config["attention"] == ["none", "factorised"]
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert again.embed.in_features == 7


def test_doubled_is_the_nearest_neighbour():
    x = torch.randn(2, 3, 4, 5, 6).to(memory_format=torch.channels_last_3d)
    assert torch.equal(doubled(x), F.interpolate(x, scale_factor=(1, 2, 2), mode="nearest"))
    assert doubled(x).is_contiguous(memory_format=torch.channels_last_3d)
