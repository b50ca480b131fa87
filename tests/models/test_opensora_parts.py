import json

import pytest
import torch
import torch.nn.functional as F
from opensora_parts import (
    published_shapes,
    published_transformer,
    published_vae,
    recorded,
    some,
    tiny_transformer,
    tiny_vae,
    wave,
)

from text2video.errors import ModelError, UsageError
from text2video.models.opensora import OpenSoraTransformer, Rotation, STDiT3Block, rotated
from text2video.models.opensora_vae import CausalConv, OpenSoraVAE

TEXT_MASK = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]])
GIVEN = torch.tensor([[False, True, True], [True, True, False]])


def ask(**change):
    """Two videos of latents of 5 x 6, which is no multiple of the patch, with texts of 3 and 5 tokens."""
    inputs = {"hidden_states": wave((2, 4, 3, 5, 6), 1), "timestep": torch.tensor([900.5, 300.25])}
    inputs |= {"encoder_hidden_states": wave((2, 6, 12), 2), "encoder_attention_mask": TEXT_MASK}
    return inputs | {"fps": torch.full((2,), 24.0), "height": 40, "width": 48} | change


@pytest.mark.parametrize(("kind", "part"), [(OpenSoraTransformer, "transformer"), (OpenSoraVAE, "vae")])
def test_every_published_tensor_has_its_name_and_shape(kind, part):
    with torch.device("meta"):
        model = kind()
    published = published_shapes(part)
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == published
    assert len(published) == {"transformer": 973, "vae": 517}[part]


@torch.no_grad()
def test_the_transformer_answers_as_the_published_code_did():
    model = tiny_transformer()
    close = {"atol": 5e-5, "rtol": 1e-5}  # processors differ by 1e-5
    torch.testing.assert_close(some(model(**ask()).sample), recorded("transformer"), **close)
    noisy = model(**ask(frame_mask=GIVEN)).sample.movedim(2, 1)[GIVEN]
    torch.testing.assert_close(some(noisy), recorded("transformer_with_frame_mask"), **close)


@torch.no_grad()
def test_the_autoencoder_answers_as_the_published_code_did():
    vae, clip, latents = tiny_vae(), wave((1, 3, 22, 16, 24), 3), wave((1, 4, 7, 2, 3), 4)
    close = {"atol": 5e-5, "rtol": 1e-5}  # processors differ by 1e-5
    torch.testing.assert_close(some(vae.encode(clip).latent_dist.mean), recorded("vae_latents"), **close)
    torch.testing.assert_close(
        some(vae.encode(clip[:, :, :1]).latent_dist.mean), recorded("vae_image_latents"), **close
    )
    torch.testing.assert_close(some(vae.decode(latents).sample), recorded("vae_decoded"), **close)
    torch.testing.assert_close(some(vae.decode(latents[:, :, :1]).sample), recorded("vae_image_decoded"), **close)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_published_folder_is_read_as_it_is_and_saved_as_a_diffusers_folder(tmp_path, dtype):
    found = OpenSoraTransformer.from_pretrained(published_transformer(tmp_path / "transformer"), torch_dtype=dtype)
    assert found.dtype == dtype
    assert not found.training
    assert torch.equal(found(**ask()).sample, tiny_transformer().to(dtype)(**ask()).sample)
    found.save_pretrained(tmp_path / "saved")
    again = OpenSoraTransformer.from_pretrained(tmp_path / "saved", torch_dtype=dtype)
    assert torch.equal(again(**ask()).sample, found(**ask()).sample)


@torch.no_grad()
def test_the_autoencoder_s_published_folder_with_its_own_normalisation(tmp_path):
    latents = wave((1, 4, 1, 2, 3), 4)
    change = {"latent_shift": [0.5] * 4, "latent_scale": [2.0] * 4}
    folder = published_vae(tmp_path / "vae", **change)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"shift": [0.5] * 4, "scale": [2.0] * 4}))
    found = OpenSoraVAE.from_pretrained(folder)
    expected = tiny_vae()
    normal = (latents * 2 + 0.5 - expected.shift) / expected.scale
    torch.testing.assert_close(found.decode(latents).sample, expected.decode(normal).sample)
    found.save_pretrained(tmp_path / "saved")
    again = OpenSoraVAE.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.decode(latents).sample, found.decode(latents).sample)


def test_a_folder_that_does_not_fit_is_named_with_what_is_wrong(tmp_path):
    folder = published_transformer(tmp_path / "transformer")
    with pytest.raises(ModelError, match="is a STDiT3, and a VideoAutoencoderPipeline was expected"):
        OpenSoraVAE.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"depth": 3}))
    with pytest.raises(ModelError, match=r"does not fit its config\.json: Missing key\(s\).*spatial_blocks\.2"):
        OpenSoraTransformer.from_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"{}")
    with pytest.raises(ModelError, match="Download the folder again"):
        OpenSoraTransformer.from_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"no config\.json that can be read"):
        OpenSoraTransformer.from_pretrained(folder)


@torch.no_grad()
def test_a_spatial_block_sees_its_own_frame_and_a_temporal_one_its_own_place():
    block, x, text = STDiT3Block(32, 2, 4.0, True), wave((1, 4, 6, 32), 1), wave((1, 3, 32), 2)
    changed = x.clone()
    changed[:, 2, 3] += 1
    modulation = wave((1, 1, 6, 32), 3)
    spatial = block(changed, text, None, modulation) - block(x, text, None, modulation)
    angles = Rotation(16)(4)
    temporal = block(changed, text, None, modulation, angles) - block(x, text, None, modulation, angles)
    assert spatial.abs().amax((0, 2, 3)).nonzero().flatten().tolist() == [2]
    assert temporal.abs().amax((0, 1, 3)).nonzero().flatten().tolist() == [3]


def test_rotary_positions_count_only_distances():
    angles = Rotation(8)(9)
    q, k = wave((1, 1, 2, 8), 1).expand(1, 9, 2, 8), wave((1, 1, 2, 8), 2).expand(1, 9, 2, 8)
    scores = torch.einsum("blnd,bsnd->bnls", rotated(q, angles), rotated(k, angles))
    torch.testing.assert_close(scores[..., 1:, 1:], scores[..., :-1, :-1])
    assert not torch.allclose(scores[..., 0, 0], scores[..., 0, 4])


@torch.no_grad()
def test_what_the_video_is_reaches_the_transformer_and_masked_text_does_not():
    model = tiny_transformer()
    usual = model(**ask()).sample
    assert not torch.allclose(model(**ask(fps=torch.full((2,), 8.0))).sample, usual)
    assert not torch.allclose(model(**ask(height=400, width=480)).sample, usual)
    other = ask()["encoder_hidden_states"].clone()
    other[TEXT_MASK == 0] = 9
    assert torch.equal(model(**ask(encoder_hidden_states=other)).sample, usual)


@torch.no_grad()
def test_frames_that_are_given_are_seen_at_timestep_zero():
    model = tiny_transformer()
    none, every = torch.zeros(2, 3, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    torch.testing.assert_close(model(**ask(frame_mask=every)).sample, model(**ask()).sample)
    still = model(**ask(timestep=torch.zeros(2))).sample
    torch.testing.assert_close(model(**ask(frame_mask=none)).sample, still)
    assert not torch.allclose(model(**ask(frame_mask=GIVEN)).sample, still)


def test_checkpointed_gradients_are_the_same():
    gradients = []
    for checkpointed in (False, True):
        model = tiny_transformer()
        if checkpointed:
            model.enable_gradient_checkpointing()
        model.train()(**ask()).sample.square().mean().backward()
        gradients.append(model.temporal_blocks[0].attn.qkv.weight.grad)
    assert torch.equal(*gradients)
    assert not model.rope.freqs.requires_grad


def test_a_causal_convolution_is_a_plain_one_that_sees_no_later_frame():
    x, later = wave((1, 3, 6, 4, 4), 1), wave((1, 3, 6, 4, 4), 1)
    later[:, :, 4:] += 1
    plain = CausalConv(3, 2, 3)
    padded = F.pad(x, (1, 1, 1, 1, 2, 0))
    torch.testing.assert_close(plain(x), F.conv3d(padded, plain.conv.weight, plain.conv.bias))
    assert torch.equal(plain(later)[:, :, :4], plain(x)[:, :, :4])
    halved = CausalConv(3, 2, 3, stride=2)
    assert halved(x).shape == (1, 2, 3, 4, 4)
    assert torch.equal(halved(later)[:, :, :2], halved(x)[:, :, :2])


@torch.no_grad()
def test_chunks_of_seventeen_frames_are_alone_and_so_is_an_image():
    vae, clip, latents = tiny_vae(), wave((1, 3, 18, 16, 16), 1), wave((1, 4, 6, 2, 2), 2)
    found = vae.encode(clip).latent_dist
    assert found.mean.shape == (1, 4, vae.latent_frames(18), 2, 2)
    assert vae.strides == (4, 8, 8)
    for part, own in ((slice(0, 5), clip[:, :, :17]), (slice(5, 6), clip[:, :, 17:])):
        alone = vae.encode(own).latent_dist
        torch.testing.assert_close(found.mean[:, :, part], alone.mean)
        torch.testing.assert_close(found.logvar[:, :, part], alone.logvar)
    video = vae.decode(latents).sample
    assert video.shape == clip.shape
    torch.testing.assert_close(video[:, :, 17:], vae.decode(latents[:, :, 5:]).sample)


def test_frames_that_do_not_fit_the_chunks_are_refused():
    with torch.device("meta"):
        vae = OpenSoraVAE(vae_temporal={"filters": 32, "num_res_blocks": 1})
    assert [vae.latent_frames(n) for n in (1, 17, 18, 51, 102)] == [1, 5, 6, 15, 30]
    with pytest.raises(UsageError, match=r"num_frames is 20: after chunks of 17 frames 3 are left, which is not 4k\+1"):
        vae.latent_frames(20)
