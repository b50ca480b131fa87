"""Conditions of denoisers: how they are read, how they enter, and that zeros, dropped and left out are the same."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from text2video import LatentUNet3D, UNet3D, VideoTransformer, video
from text2video.diffusion.guidance import guided
from text2video.errors import DataError, ModelError, UsageError, VideoError
from text2video.families.native import NativeFamily
from text2video.models.conditions import Class, Vector, conditions_of, kept, keywords, make
from text2video.video import Sound, View

VIEW = View(4, 16, 16, fps=8)
DESCRIBED = {
    "first_frame": {},
    "depth": {"guidance_scale": 2.0},
    "mask": {"dropout": 0.3},
    "audio": {"hidden": 8, "beside": 3},
    "shape": {"kind": "class", "names": ["circle", "square"]},
    "place": {"kind": "vector", "size": 2},
}
UNET = {"model_channels": 16, "channel_mult": (1, 2), "attention": ("time", "full"), "downsample_time": (False,)}
KINDS = {
    UNet3D: {**UNET, "num_res_blocks": 1, "head_dim": 16},
    LatentUNet3D: {"in_channels": 3, "out_channels": 3, "model_channels": 64, "channel_mult": (1, 1)}
    | {"attention": ("none", "causal"), "num_res_blocks": 1},
    VideoTransformer: {"num_layers": 2, "num_attention_heads": 1, "attention_head_dim": 16},
}


def values() -> dict[str, object]:
    rng = np.random.default_rng(0)
    return {
        "first_frame": rng.integers(0, 256, (16, 16, 3), np.uint8),
        "depth": rng.integers(0, 256, (4, 16, 16), np.uint8),
        "mask": rng.integers(0, 256, (4, 16, 16, 3), np.uint8),
        "audio": Sound(rng.normal(0, 0.3, 8000).astype(np.float32)),
        "shape": "square",
        "place": [0.25, 0.75],
    }


def told(model, given=None) -> dict[str, torch.Tensor]:
    own = conditions_of(model)
    given = values() if given is None else given
    return {name: own[name].encode(own[name].read(v, VIEW)[None], lambda x: x) for name, v in given.items()}


def some_model(kind, **more):
    torch.manual_seed(0)
    model = kind(cross_attention_dim=8, **KINDS[kind], conditions=DESCRIBED, **more)
    for parameter in model.parameters():  # nothing is at zero, where it begins
        torch.nn.init.normal_(parameter, std=0.2)
    conditions_of(model)["shape"].embed.weight.data[0] = 0
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_each_condition_matters_and_zeros_are_nothing_given(kind):
    model = some_model(kind)
    x_t, all_told = torch.randn(2, 3, 4, 16, 16), {n: v.repeat_interleave(2, 0) for n, v in told(model).items()}
    plain = model(x_t, 500.0).sample
    assert plain.shape == x_t.shape
    for name, value in all_told.items():
        found = model(x_t, 500.0, conditions={name: value}).sample
        assert (found - plain).abs().max() > 1e-4, name
        nothing = model(x_t, 500.0, conditions={name: torch.zeros_like(value)}).sample
        torch.testing.assert_close(nothing, plain, msg=name)
        one = model(x_t, 500.0, conditions={name: kept(value, torch.tensor([True, False]))}).sample
        torch.testing.assert_close(one, torch.cat([found[:1], plain[1:]]), atol=1e-4, rtol=1e-4)
    whole = model(x_t, 500.0, conditions=all_told).sample
    rest = {name: value for name, value in all_told.items() if name != "shape"}
    assert (model(x_t, 500.0, conditions=rest).sample - whole).abs().max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_it_is_saved_and_loaded_exactly(kind, tmp_path):
    model = some_model(kind)
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert saved["conditions"] == DESCRIBED
    again = kind.from_pretrained(tmp_path).eval()
    own = conditions_of(again)
    assert (own["depth"].guidance_scale, own["mask"].dropout, own["shape"].names) == (2.0, 0.3, ["circle", "square"])
    x_t = torch.randn(1, 3, 4, 16, 16)
    both = [one(x_t, 5.0, conditions=told(one)).sample for one in (model, again)]
    torch.testing.assert_close(*both, atol=1e-5, rtol=1e-5)


def test_a_model_without_conditions_is_as_it_was():
    model = UNet3D(cross_attention_dim=8, **KINDS[UNet3D])
    assert not any("conditioning" in name for name in model.state_dict())
    assert conditions_of(model) == {}
    assert keywords(model, {"encoder_hidden_states": 1, "depth": 2}) == {"encoder_hidden_states": 1, "depth": 2}
    with pytest.raises(UsageError, match="knows no depth"):
        model(torch.zeros(1, 3, 4, 16, 16), 5.0, conditions={"depth": torch.zeros(1)})


def test_dropout_follows_from_the_draws_and_from_nothing_else():
    class Pipe:
        denoiser, vae = some_model(UNet3D), None

    own = conditions_of(Pipe.denoiser)
    raw = {
        name: own[name].read(value, VIEW).expand(200, *own[name].read(value, VIEW).shape)
        for name, value in values().items()
    }
    x_0 = torch.zeros(200, 3, 4, 16, 16)

    def draws():
        return [torch.Generator().manual_seed(n) for n in range(200)]

    family = NativeFamily()
    found = family.conditions(Pipe, {"conditions": raw}, x_0, draws())
    again = family.conditions(Pipe, {"conditions": {"mask": raw["mask"]}}, x_0, draws())
    assert torch.equal(found["mask"], again["mask"])  # whatever else the data has
    for name, value in found.items():
        share = (value.view(200, -1) == 0).all(1).float().mean()
        assert abs(share - own[name].dropout) < 0.08, name


def test_guidance_is_a_sum_of_differences():
    def predict(x_t, t, condition):
        return condition["text"] + 10 * condition["depth"] + 100 * condition["text"] * condition["depth"]

    one = torch.ones(2, 1)
    ask = {"text": 3 * one, "depth": 2 * one}
    without_text, without_depth = {**ask, "text": 0 * one}, {**ask, "depth": 0 * one}
    x_t, t = torch.zeros(2, 1), torch.zeros(2)
    positive, textless, depthless = (predict(x_t, t, each) for each in (ask, without_text, without_depth))
    found = guided(predict, 4.0, without_text, None, [(3.0, without_depth)])(x_t, t, ask)
    assert torch.allclose(found, positive + 3 * (positive - textless) + 2 * (positive - depthless))
    only_depth = guided(predict, 1.0, None, None, [(3.0, without_depth)])(x_t, t, ask)
    assert torch.allclose(only_depth, positive + 2 * (positive - depthless))
    assert guided(predict, 1.0, None, None, [(1.0, without_depth)]) is predict


def test_a_sound_is_heard_when_it_is_there():
    samples = np.zeros(16_000, np.float32)
    samples[8000:9000] = np.sin(np.arange(1000) * 0.4)  # from 0.5 to 0.56 s, at 1019 Hz
    audio = make("audio", bands=16, parts=2)
    heard = audio.read(Sound(samples), View(8, 16, 16, fps=8))
    assert heard.shape == (8, 33)
    assert (heard[:, -1] == 1).all()
    loudness = heard[:, :-1].amax(1)
    assert int(loudness.argmax()) == 4
    assert loudness[[0, 1, 2, 6, 7]].max() < -0.9 < 0 < loudness[4]
    bands = heard[4, :16]  # the first half of the frame
    assert 3 <= int(bands.argmax()) <= 7


def test_files_are_read(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    first = make("first_frame").read(str(tmp_path / "a.png"), VIEW)
    assert first.shape == (3, 4, 16, 16)
    assert torch.equal(first[:, 3], torch.from_numpy(picture).permute(2, 0, 1))
    video.write(tmp_path / "d.mp4", np.stack([np.full((32, 32, 3), 60 * n, np.uint8) for n in range(4)]), 8)
    depth = make("depth").read(tmp_path / "d.mp4", VIEW)
    assert depth.shape == (3, 4, 16, 16)
    assert depth.float().mean((0, 2, 3)).diff().min() > 30
    np.save(tmp_path / "v.npy", np.array([0.5, 1.0]))
    vector = Vector(2)
    expected = [0.5, 1.0, 1.0]
    for value in (tmp_path / "v.npy", str(tmp_path / "v.npy"), "0.5, 1", "[0.5, 1.0]", [0.5, 1.0], np.array([0.5, 1])):
        assert vector.read(value, VIEW).tolist() == expected
    (tmp_path / "c.txt").write_text("square\n", encoding="utf-8")
    named = Class(["circle", "square"])
    assert named.read(tmp_path / "c.txt", VIEW) == named.read("square", VIEW) == 2
    assert Class(count=5).read(3, VIEW) == 4


@pytest.mark.parametrize(
    ("kind", "value", "error", "match"),
    [
        ("first_frame", "nowhere.png", VideoError, "nowhere.png"),
        ("first_frame", None, VideoError, "no clip to take"),
        ("depth", np.zeros((3, 16, 16), np.uint8), DataError, "3 frames are given for a video of 4"),
        ("mask", np.zeros((4, 16, 16)), DataError, "uint8"),
        ("audio", "nowhere.wav", VideoError, "nowhere.wav"),
        ("shape", "star", DataError, "no class 'star'.*circle, square"),
        ("place", "1, 2, 3", DataError, "give 2"),
        ("place", "here", DataError, "holds no numbers"),
    ],
)
def test_what_cannot_be_read_is_named(kind, value, error, match):
    with pytest.raises(error, match=match):
        make(kind, **DESCRIBED[kind]).read(value, VIEW)


def test_wrong_descriptions_are_named(monkeypatch):
    for name, how, match in (
        ("pose", {}, "kind 'pose', which there is not.*first_frame"),
        ("shape", {"kind": "class"}, "no classes"),
        ("place", {"kind": "vector", "length": 2}, "place cannot be made"),
        ("type", {"kind": "mask"}, "cannot be called 'type'"),
        ("pose", {"kind": "not_imported_yet:Pose"}, "Import its module first"),
    ):
        with pytest.raises(ModelError, match=match):
            make(name, **how)
    module = type(sys)("of_mine")
    module.Speed = Vector
    monkeypatch.setitem(sys.modules, "of_mine", module)
    assert make("speed", kind="of_mine:Speed", size=1).size == 1


def test_another_size_than_the_videos_is_refused():
    model = some_model(UNet3D)
    with pytest.raises(UsageError, match=r"4 x 16 x 16 frames.*4 x 32 x 32"):
        model(torch.zeros(1, 3, 4, 32, 32), 5.0, conditions=told(model, {"depth": values()["depth"]}))
