"""A tokenizer is causal, gives in chunks and tiles what it gives whole, and its codes are used."""

import json
from itertools import product

import pytest
import torch

from text2video.errors import ModelError, UsageError
from text2video.models.quantizers import FSQ, VQ
from text2video.models.video_tokenizer import VideoTokenizer, open_tokenizer, tokenizer_rules

LEVELS = (4, 3, 2)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small(**changes) -> VideoTokenizer:
    """A random one, in which every layer does something."""
    torch.manual_seed(0)
    sizes = {"block_out_channels": (8, 12), "encoder_layers": (1, 1), "decoder_layers": (1, 1)}
    model = VideoTokenizer(**{"levels": (5, 4, 3, 3), "codebook_size": 40, "latent_channels": 6, **sizes, **changes})
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def clip(frames: int, height: int = 16, width: int = 24) -> torch.Tensor:
    coarse = normal(1, 1, 3, frames, height // 4, width // 4)
    return torch.nn.functional.interpolate(coarse, (frames, height, width), mode="trilinear").clamp(-1, 1)


@pytest.mark.parametrize("quantizer", [FSQ(LEVELS), VQ(24, 3)])
def test_tokens_say_the_latents_that_the_decoder_sees(quantizer):
    found = quantizer(normal(0, 2, 3, 4, 5, 6))
    assert found.tokens.shape == (2, 4, 5, 6)
    torch.testing.assert_close(quantizer.latents_of(found.tokens), found.latents)
    every = torch.arange(quantizer.number)[None, :, None, None]
    codes = quantizer.latents_of(every)[0, :, :, 0, 0].T
    assert len(codes.unique(dim=0)) == quantizer.number == 24


def test_finite_scalars_are_the_levels_of_each_channel():
    levels = FSQ(LEVELS)
    codes = levels.latents_of(torch.arange(24)[None, :, None, None])[0, :, :, 0, 0]  # [C, 24]
    torch.testing.assert_close(codes.square().mean(1), torch.ones(3))
    steps = (codes / codes.amax(1, keepdim=True) * 3).round().int().T.tolist()
    assert {tuple(code) for code in steps} == set(product((-3, -1, 1, 3), (-3, 0, 3), (-3, 3)))
    spread = levels(normal(0, 1, 3, 10, 100, 100)).tokens.flatten().bincount(minlength=24) / 100_000
    assert spread.min() > 0.5 / 24
    assert spread.max() < 1.5 / 24


def test_gradients_pass_as_if_nothing_was_rounded():
    latents = normal(0, 2, 3, 1, 4, 4).requires_grad_()
    (FSQ(LEVELS)(latents).latents * normal(1, 2, 3, 1, 4, 4)).sum().backward()
    assert (latents.grad != 0).all()
    latents.grad, wanted = None, normal(1, 2, 3, 1, 4, 4)
    found = VQ(24, 3).eval()(latents)
    (found.latents * wanted).sum().backward()
    assert torch.equal(latents.grad, wanted)
    assert found.loss.item() == pytest.approx(0.25 * (found.latents - latents).square().mean().item(), rel=1e-4)


def test_a_codebook_becomes_the_means_of_what_falls_to_its_codes():
    torch.manual_seed(0)
    quantizer = VQ(2, 2, decay=0.5)
    quantizer.codebook.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    quantizer.sums.copy_(quantizer.codebook)
    points = torch.cat([normal(0, 100, 2) * 0.1 + torch.tensor([2.0, 1.0]), normal(1, 100, 2) * 0.1 - 3.0])
    latents = points.T[None, :, :, None, None].requires_grad_()
    for _ in range(20):
        quantizer(latents)
    torch.testing.assert_close(quantizer.codebook, torch.stack([points[:100].mean(0), points[100:].mean(0)]))
    before = quantizer.codebook.clone()
    quantizer.eval()(latents + 1)
    with torch.no_grad():
        quantizer.train()(latents + 1)
    assert torch.equal(quantizer.codebook, before)


def test_dead_codes_are_put_where_latents_are():
    torch.manual_seed(0)
    quantizer = VQ(64, 4)
    quantizer.codebook.add_(50.0)  # far from everything: at first one code has it all
    quantizer.sums.copy_(quantizer.codebook)
    assert quantizer(normal(0, 1, 4, 4, 16, 16)).tokens.unique().numel() < 8
    for step in range(800):
        quantizer(normal(step, 1, 4, 4, 16, 16).requires_grad_())
    assert quantizer(normal(0, 1, 4, 4, 16, 16)).tokens.unique().numel() == 64


@torch.no_grad()
@pytest.mark.parametrize("quantizer", ["fsq", "vq"])
def test_in_chunks_and_tiles_a_video_gives_what_it_gives_whole(quantizer, tmp_path):
    model, video = small(quantizer=quantizer), clip(13)
    whole = model(video)
    assert whole.tokens.shape == (1, 4, 4, 6)
    assert whole.tokens.unique().numel() > 10
    assert torch.equal(model.encode(video), whole.tokens)
    torch.testing.assert_close(model.decode(whole.tokens), whole.sample, atol=1e-5, rtol=1e-4)
    chunks = list(model.encode_stream(video.split([1, 5, 7], dim=2)))
    assert torch.equal(torch.cat(chunks, 1), whole.tokens)
    frames = list(model.decode_stream(whole.tokens.split(1, dim=1)))
    assert [part.shape[2] for part in frames] == [1, 4, 4, 4]  # each as soon as its tokens are there
    torch.testing.assert_close(torch.cat(frames, 2), whole.sample, atol=1e-5, rtol=1e-4)
    model.save_pretrained(tmp_path)
    again = open_tokenizer(tmp_path)
    torch.testing.assert_close(again(video).sample, whole.sample, atol=1e-5, rtol=1e-4)
    assert again.vocab_size == model.vocab_size == (180 if quantizer == "fsq" else 40)
    assert tokenizer_rules(tmp_path) == model.rules
    model.enable_tiling(8)
    assert torch.equal(model.encode(video), whole.tokens)
    torch.testing.assert_close(model.decode(whole.tokens), whole.sample, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_no_token_and_no_frame_sees_what_comes_later():
    model, video = small(), clip(13)
    other = torch.cat([video[:, :, :5], -video[:, :, 5:]], 2)
    ours, theirs = model.encode(video), model.encode(other)
    assert torch.equal(ours[:, :2], theirs[:, :2])
    assert not torch.equal(ours[:, 2:], theirs[:, 2:])
    torch.testing.assert_close(model.decode(ours)[:, :, :5], model.decode(theirs)[:, :, :5])


def test_what_is_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"'lfq'\. Choose fsq or vq"):
        small(quantizer="lfq")
    with pytest.raises(ModelError, match="at least 2"):
        small(levels=(8, 1))
    with pytest.raises(UsageError, match="frames"):
        small().encode(clip(4))
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "VideoVAE"}), encoding="utf-8")
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ModelError, match=r"holds no video tokenizer.*--kind tokenizer"):
            open_tokenizer(folder)
