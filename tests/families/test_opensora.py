"""Open-Sora: the published parts and the published sampler's answers, the oracle, training, what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import t5_text
from contract import Oracle, aligned, equals_diffusers, full_training_works, lora_training_works, opened, trained
from opensora_parts import published_transformer, published_vae, recorded, some, tiny_transformer, tiny_vae, wave
from PIL import Image

from text2video.cli.main import run
from text2video.data import shapes
from text2video.errors import ModelError, UsageError
from text2video.families.opening import family_of, model_folder
from text2video.families.opensora_pipeline import OpenSoraPipeline, first_given, shift
from text2video.generation import Settings, generate
from text2video.sizes import Bucket

SMALL = Settings(num_frames=17, height=16, width=16, num_inference_steps=3, guidance_scale=3.0, seed=5)
FLAGS = ("--num_frames", "17", "--frame_size", "16", "--fps", "8")


def opensora(folder: Path) -> None:
    """The parts as they are published, each in its folder, and nothing else."""
    text_encoder, tokenizer = t5_text()
    published_transformer(folder / "transformer", caption_channels=16, model_max_length=8)
    published_vae(folder / "vae")
    text_encoder.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")


@pytest.fixture(scope="module")
def few_clips_of_seventeen(tmp_path_factory) -> Path:
    """Four clips of seventeen frames."""
    folder = tmp_path_factory.mktemp("clips") / "data"
    shapes.write(folder, 4, 0, 17, size=16)
    return folder


def picture() -> Image.Image:
    return Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3))


class Opposite(Oracle):
    """The published model predicts x_0 - noise, the schedule's flow is noise - x_0."""

    def forward(self, *args, **kwargs):
        return (-super().forward(*args, **kwargs)[0],)


def tiny_pipeline(monkeypatch, noise: torch.Tensor) -> OpenSoraPipeline:
    """With the weights, the text and the noise that the published sampler was given."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    pipe = OpenSoraPipeline(tiny_transformer(), tiny_vae(), None, None, FlowMatchEulerDiscreteScheduler())
    text = {"encoder_hidden_states": wave((2, 6, 12), 2)[:1], "encoder_attention_mask": torch.arange(6)[None] < 3}
    monkeypatch.setattr(pipe, "encode_prompt", lambda prompts: text)
    monkeypatch.setattr(torch, "randn", lambda *shape, **how: noise)
    return pipe


CALL = {"num_frames": 17, "height": 32, "width": 48, "num_inference_steps": 4, "output_type": "latent"}


def test_latents_from_text_are_those_of_the_published_sampler(monkeypatch):
    pipe = tiny_pipeline(monkeypatch, wave((1, 4, 5, 4, 6), 5))
    torch.testing.assert_close(some(pipe("a", **CALL).frames), recorded("sampled"), atol=2e-5, rtol=1e-5)


def test_latents_from_an_image_are_those_of_the_published_sampler(monkeypatch):
    pipe = tiny_pipeline(monkeypatch, wave((1, 4, 5, 4, 6), 5))
    given = torch.zeros(1, 4, 5, 4, 6)
    given[:, :, 0] = wave((4, 4, 6), 6)
    monkeypatch.setattr(pipe, "_first_frame", lambda *_: first_given(given))
    found = pipe("a", image=picture(), **CALL).frames
    torch.testing.assert_close(some(found), recorded("sampled_from_image"), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(("frames", "name"), [(1, "image"), (17, ""), (51, "51_frames")])
def test_timesteps_move_with_the_size_as_published(monkeypatch, frames, name):
    pipe = tiny_pipeline(monkeypatch, wave((1, 4, tiny_vae().latent_frames(frames), 4, 6), 5))
    pipe("a", **CALL | {"num_frames": frames, "guidance_scale": 1.0})
    expected = recorded("_".join(filter(None, ("timesteps", name))))
    torch.testing.assert_close(pipe.scheduler.timesteps, expected, atol=1e-3, rtol=1e-5)


def bare(folder: Path, generator: torch.Generator, image: Image.Image | None = None) -> torch.Tensor:
    pipe = aligned(OpenSoraPipeline.from_pretrained(folder))
    call = {"num_frames": 17, "height": 16, "width": 16, "num_inference_steps": 3, "guidance_scale": 3.0}
    return pipe("a red circle", image, **call, generator=generator, output_type="pt").frames[0]


def test_text_to_video_equals_the_bare_pipeline(made):
    folder = made(opensora)
    equals_diffusers(folder, lambda generator: bare(folder, generator), SMALL)


def test_image_to_video_equals_the_bare_pipeline_and_follows_the_image(made, tmp_path):
    folder, file = made(opensora), tmp_path / "first.png"
    picture().save(file)
    settings = Settings(**{**vars(SMALL), "image": file})
    ours = equals_diffusers(folder, lambda generator: bare(folder, generator, picture()), settings)
    (without,) = generate(*opened(folder), ["a red circle"], SMALL)
    assert not np.array_equal(ours.frames, without.frames)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("sampler", [None, "dpm++"])
def test_the_oracle_lands_on_x_0(made, given, sampler):
    family, pipe = opened(made(opensora))
    if sampler:
        family.use_sampler(pipe, sampler)
    x_0 = torch.randn(1, 4, 5, 2, 2, generator=torch.Generator().manual_seed(9))
    oracle = Opposite(pipe.transformer, family, pipe)
    oracle.show(family, pipe, "transformer", x_0, family.encode_text(pipe, {}, ["a red circle"]))
    pipe.transformer = oracle
    if given:
        pipe._first_frame = lambda *_: first_given(x_0)
    call = {"num_frames": 17, "height": 16, "width": 16, "num_inference_steps": 7, "guidance_scale": 1.0}
    found = pipe("a", picture() if given else None, **call, output_type="latent").frames
    assert oracle.calls > 1
    torch.testing.assert_close(found, x_0, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sampler", ["dpm++", "dpm++sde", "unipc"])
def test_every_sampler_keeps_the_given_frame(made, sampler):
    family, pipe = opened(made(opensora))
    family.use_sampler(pipe, sampler)
    call = {"num_frames": 17, "height": 16, "width": 16, "num_inference_steps": 4, "output_type": "latent"}
    found = pipe("a", picture(), **call, generator=torch.Generator().manual_seed(0)).frames
    wanted = pipe._first_frame(picture(), torch.zeros_like(found), 16, 16)["given"]
    torch.testing.assert_close(found[:, :, 0], wanted[:, :, 0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_given_first_frame_is_drawn_for_a_quarter_of_the_clips_and_counts_nothing(made):
    family, pipe = opened(made(opensora))
    x_0, noise = wave((40, 4, 5, 2, 2), 1), wave((40, 4, 5, 2, 2), 2)
    generators = [torch.Generator().manual_seed(seed) for seed in range(40)]
    condition = family.conditions(pipe, {}, x_0, generators)
    assert 3 <= int((~condition["frame_mask"][:, 0]).sum()) <= 20
    assert condition["frame_mask"][:, 1:].all()
    t = torch.full((40,), 500.0)
    text = family.encode_text(pipe, {}, ["a red circle"] * 40)
    error = family.predict(pipe, family.denoisers(pipe), (x_0 + noise) / 2, t, {**text, **condition}) - (noise - x_0)
    given = ~condition["frame_mask"]
    torch.testing.assert_close(error.movedim(1, 2)[given], torch.zeros(int(given.sum()), 4, 2, 2), atol=1e-5, rtol=0)
    assert error.movedim(1, 2)[~given].abs().min() > 0


@torch.no_grad()
def test_no_prompt_is_the_learned_embedding_of_as_many_tokens(made):
    family, pipe = opened(made(opensora))
    text = pipe.encode_prompt(["a red circle", "a"])
    nothing = pipe.no_prompt(text)
    learned = pipe.transformer.y_embedder.y_embedding
    assert torch.equal(pipe.no_caption, learned)
    assert torch.equal(nothing["encoder_hidden_states"][1], learned[:4])
    assert torch.equal(nothing["encoder_attention_mask"], text["encoder_attention_mask"])
    assert text["encoder_attention_mask"].sum(1).tolist() == [4, 2]
    assert torch.equal(pipe.encode_prompt(["A  Red\ncircle"])["encoder_hidden_states"][0], pipe.encode_prompt(
        ["a red circle"])["encoder_hidden_states"][0])  # fmt: skip
    dropped = family.encode_text(pipe, {}, ["", "a red circle"])
    assert torch.equal(dropped["encoder_hidden_states"][0], learned)
    assert dropped["encoder_attention_mask"].sum(1).tolist() == [8, 4]


def test_the_tokenizer_is_read_as_t5_is_published(made, tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path / "model"
    shutil.copytree(made(opensora), folder)
    shutil.rmtree(folder / "tokenizer")
    (folder / "tokenizer").mkdir()
    (tmp_path / "text").write_text("a red circle moves left\nthe big blue square\n" * 20)
    names = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(folder / "tokenizer" / "spiece"),
        vocab_size=22,
        minloglevel=2,
        **names,
    )
    (folder / "tokenizer" / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer", "extra_ids": 0}')
    _, pipe = opened(folder)
    tokens = pipe.tokenizer("a red circle").input_ids
    assert pipe.tokenizer.decode(tokens) == "a red circle</s>"


def test_a_negative_prompt_takes_the_place_of_none(made):
    family, pipe = opened(made(opensora))
    (usual,) = generate(family, pipe, ["a red circle"], SMALL)
    (other,) = generate(family, pipe, ["a red circle"], Settings(**{**vars(SMALL), "negative_prompt": "blue square"}))
    assert not np.array_equal(usual.frames, other.frames)


def test_full_training(made, few_clips_of_seventeen, tmp_path):
    full_training_works(made(opensora), few_clips_of_seventeen, tmp_path / "run", SMALL, *FLAGS)
    index = json.loads((tmp_path / "run" / "final" / "model_index.json").read_text())
    assert index["transformer"] == ["text2video.models.opensora", "OpenSoraTransformer"]


def test_lora_training(made, few_clips_of_seventeen, tmp_path):
    folder = made(opensora)
    lora_training_works(folder, few_clips_of_seventeen, tmp_path / "run", SMALL, None, *FLAGS)


def test_prepared_data_gives_the_losses_of_the_clips(made, few_clips_of_seventeen, tmp_path):
    folder, losses = made(opensora), []
    words = ["--model", str(folder), "--num_frames", "17", "--frame_size", "16", "--fps", "8", "--device", "cpu"]
    assert run(["data", "prepare", str(few_clips_of_seventeen), str(tmp_path / "prepared"), *words]) == 0
    for name, flags in (
        ("clips", ()),
        ("prepared", ("--load_tensors", str(tmp_path / "prepared"), "--data_dir", "null")),
    ):
        trained(folder, few_clips_of_seventeen, tmp_path / name, *FLAGS, *flags)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses.append([loss for line in lines if (loss := json.loads(line).get("train/loss"))])
    assert len(losses[0]) == 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_training_follows_the_size_of_its_videos(made):
    family, pipe = opened(made(opensora))
    family.adapt(pipe, Bucket(34, 256, 512), 8)
    assert family.schedule(pipe).shift == pytest.approx((256 * 512 / 512**2 * 10) ** 0.5) == shift(10, 256, 512)
    assert family.conditions(pipe, {}, wave((1, 4, 5, 2, 2), 1), [torch.Generator()])["fps"].tolist() == [8]


def test_what_it_cannot_do_is_said(made, tmp_path):
    folder = made(opensora)
    family, pipe = opened(folder)
    with pytest.raises(UsageError, match=r"num_frames 16 is no multiple of 17 \(nearest: 17\); height 20"):
        next(generate(family, pipe, ["a"], Settings(num_frames=16, height=20)))
    file = tmp_path / "first.png"
    picture().save(file)
    with pytest.raises(UsageError, match="takes no last frame"):
        next(generate(family, pipe, ["a"], Settings(image=file, last_image=file)))
    with pytest.raises(UsageError, match="no sampler 'ddim'"):
        family.use_sampler(pipe, "ddim")


def test_missing_parts_are_named_with_the_commands_that_fetch_them(made, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    whole, part = made(opensora), tmp_path / "model"
    shutil.copytree(whole, part)
    shutil.rmtree(part / "vae")
    with pytest.raises(ModelError, match=r"cannot be found: vae\. .*by: hf download \S+-VAE-v1\.2$"):
        opened(part)
    shutil.rmtree(part / "tokenizer")
    shutil.rmtree(part / "text_encoder")
    with pytest.raises(ModelError, match=r'; hf download PixArt\S+ --include "text_encoder/\*" "tokenizer/\*"$'):
        opened(part / "transformer")
    with pytest.raises(ModelError, match=r"no model_index\.json"):
        family_of(tmp_path)
    (part / "vae").mkdir()
    (part / "tokenizer").mkdir()
    (part / "text_encoder").mkdir()
    with pytest.raises(ModelError, match=r"opensora model in .* cannot be opened"):
        opened(part)


def test_downloaded_parts_are_found_by_the_transformer_s_name(made, tmp_path, monkeypatch):
    def download(repository: str, *folders: tuple[str, str]) -> None:
        """Lay folders where the hub's own client would."""
        home = tmp_path / "cache" / f"models--{repository.replace('/', '--')}"
        for source, target in folders:
            shutil.copytree(made(opensora) / source, home / "snapshots" / "abc" / target, dirs_exist_ok=True)
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text("abc")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match="hf download hpcai-tech/OpenSora-STDiT-v3"):
        opened(model_folder("hpcai-tech/OpenSora-STDiT-v3"))
    download("hpcai-tech/OpenSora-STDiT-v3", ("transformer", "."))
    with pytest.raises(ModelError, match=r"hpcai-tech/OpenSora-VAE-v1\.2; hf download PixArt"):
        opened(model_folder("OpenSora-STDiT-v3"))
    download("hpcai-tech/OpenSora-VAE-v1.2", ("vae", "."))
    text = [(part, part) for part in ("text_encoder", "tokenizer")]
    download("PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers", *text)
    (found,) = generate(*opened(model_folder("OpenSora-STDiT-v3")), ["a red circle"], SMALL)
    (usual,) = generate(*opened(made(opensora) / "vae"), ["a red circle"], SMALL)  # a part means its pipeline
    assert np.array_equal(found.frames, usual.frames)
    family, pipe = opened(model_folder("OpenSora-STDiT-v3"))
    family.save(pipe, tmp_path / "saved")
    (again,) = generate(*opened(tmp_path / "saved"), ["a red circle"], SMALL)
    assert np.array_equal(again.frames, usual.frames)
