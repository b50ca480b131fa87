"""From the demo world to a tokenizer of video, and over its tokens to videos from text."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from text2video import load, video
from text2video.cli.dry_run import describe
from text2video.cli.main import run
from text2video.config import RunConfig
from text2video.errors import ModelError, UsageError
from text2video.families.opening import open_model
from text2video.generation import Settings, generate, stream
from text2video.planner.plan import plan
from text2video.training.trainer import train

DATA = [
    *("--shapes", "--clips", "12", "--num_frames", "5", "--frame_size", "16", "--num_workers", "0", "--device", "cpu"),
    *("--batch_size", "4", "--val_fraction", "0.25", "--val_samples", "4", "--warmup_steps", "1", "--ema_decay", "0.9"),
    *("--no_wandb", "--no_tensorboard", "--learning_rate", "4e-3"),
    *("--save_steps", "2", "--eval_steps", "4", "--sample_steps", "0", "--num_samples", "1"),
]
BODY = {"levels": [5, 4, 3], "codebook_size": 24, "block_out_channels": [16], "encoder_layers": [1]}
TEXT = ("--text_width", "32", "--text_layers", "1")
TRANSFORMER = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 12}


def of_tokenizer(folder, quantizer: str, *flags: str) -> RunConfig:
    args = {**BODY, "decoder_layers": [1], "quantizer": quantizer}
    settings = {"model": {"kind": "tokenizer", "model_args": args}, "vae": {"measured_clips": 12}}
    return RunConfig.build(settings, [*DATA, "--output_dir", str(folder), *flags])


def over_tokens(folder, tokenizer, *flags: str) -> RunConfig:
    model = {"kind": "autoregressive", "model_args": TRANSFORMER, "codec": str(tokenizer)}
    return RunConfig.build({"model": model}, [*DATA, *TEXT, "--output_dir", str(folder), *flags])


def losses(folder, name: str = "train/loss") -> list[float]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row[name] for row in found if name in row]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The folder of a tokenizer trained for a few steps."""
    muon = ("--max_steps", "40", "--optimizer", "muon", "--save_steps", "40")
    final = train(of_tokenizer(tmp_path_factory.mktemp("fsq") / "run", "fsq", *muon))
    return final / "video_tokenizer"


@pytest.fixture(scope="module")
def trained(tokenizer, tmp_path_factory):
    """The folder of an autoregressive model over its tokens."""
    return train(over_tokens(tmp_path_factory.mktemp("tokens") / "run", tokenizer, "--max_steps", "4"))


def test_a_tokenizer_learns_to_give_back_its_clips(tokenizer):
    run_folder = tokenizer.parents[1]
    assert {path.name for path in tokenizer.parent.iterdir()} == {"model_index.json", "video_tokenizer"}
    first, last = (np.mean(part) for part in (losses(run_folder)[:4], losses(run_folder)[-4:]))
    assert last < 0.8 * first
    with pytest.raises(UsageError, match=r"tokenizer: it gives back videos.*--kind autoregressive --codec"):
        list(generate(*open_model(run_folder, torch.device("cpu")), ["a red circle"]))


@pytest.mark.parametrize("kind", ["vq", "autoregressive"])
def test_a_step_repeats_exactly(kind, tokenizer, tmp_path):
    def config(name: str, steps: int) -> RunConfig:
        flags = ("--max_steps", str(steps), "--lr_schedule", "constant")
        folder = tmp_path / name
        return of_tokenizer(folder, "vq", *flags) if kind == "vq" else over_tokens(folder, tokenizer, *flags)

    unbroken = train(config("unbroken", 4))
    train(config("resumed", 2))
    (tmp_path / "resumed" / "final").rename(tmp_path / "earlier")
    resumed = train(config("resumed", 4), resume=True)
    part = "video_tokenizer" if kind == "vq" else "transformer"
    ours, theirs, before = (
        load_file(folder / part / "diffusion_pytorch_model.safetensors")
        for folder in (resumed, unbroken, tmp_path / "earlier")
    )
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    changed = "quantize.codebook" if kind == "vq" else "token_embedding.weight"
    assert not torch.equal(ours[changed], before[changed])


def test_the_folder_holds_all_parts_and_opens_anywhere(trained):
    names = {"model_index.json", "transformer", "video_tokenizer", "text_encoder", "tokenizer"}
    assert {path.name for path in trained.iterdir()} == names
    pipe = load(trained, device="cpu")
    made = pipe("a red circle", generator=torch.Generator().manual_seed(3), output_type="np").frames
    assert made.shape == (1, 5, 16, 16, 3)
    (again,) = generate(*open_model(trained, torch.device("cpu")), ["a red circle"], Settings(seed=3))
    assert np.array_equal(np.round(made[0] * 255).astype(np.uint8), again.frames)
    weights = load_file(trained / "video_tokenizer" / "diffusion_pytorch_model.safetensors")
    pipe.transformer.leave.bias.data[7] += 1e4  # it always says 7
    tokens = torch.full((1, 2, 4, 4), 7)
    always = pipe("a", output_type="pt").frames[0].permute(1, 0, 2, 3)  # [3, T, H, W]
    torch.testing.assert_close(always, (pipe.video_tokenizer.decode(tokens)[0].clamp(-1, 1) + 1) / 2)
    assert weights["linear.first_in.weight"].any()


def test_guidance_and_settings_change_what_is_drawn(trained):
    family, pipe = open_model(trained, torch.device("cpu"))
    for parameter in pipe.transformer.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))

    def made(**how) -> np.ndarray:
        (result,) = generate(family, pipe, ["a red circle"], Settings(**how))
        return result.frames

    ways = [{}, {"guidance_scale": 1.0}, {"negative_prompt": "blue"}, {"seed": 1}, {"options": {"temperature": 3.0}}]
    videos = [made(**how).tobytes() for how in ways]
    assert len(set(videos)) == len(videos)
    likeliest = [{"options": {"top_k": 1}}, {"options": {"temperature": 0.0}, "seed": 5}, {"options": {"top_p": 1e-9}}]
    assert len({made(**how).tobytes() for how in likeliest}) == 1
    together = generate(family, pipe, ["a red circle", "a blue square"], Settings(), batch_size=2)
    assert abs(next(iter(together)).frames.astype(int) - made()).max() <= 1


def test_a_stream_gives_the_same_frames_and_more(trained):
    family, pipe = open_model(trained, torch.device("cpu"))
    (whole,) = generate(family, pipe, ["a red circle"], Settings(seed=4))
    (streamed,) = stream(family, pipe, ["a red circle"], Settings(seed=4))
    taken = [next(streamed.frames)]  # there after a quarter of the tokens
    taken += list(streamed.frames)
    assert np.array_equal(np.stack(taken), whole.frames)
    (longer,) = stream(family, pipe, ["a red circle"], Settings(seed=4, num_frames=23))
    frames = np.stack(list(longer.frames))
    assert frames.shape == (23, 16, 16, 3)
    assert np.array_equal(frames[:5], whole.frames)


def test_the_verbs_know_it(trained, tmp_path, capsys):
    model = ["--model", str(trained), "--device", "cpu"]
    out = ["--output_dir", str(tmp_path)]
    assert run(["generate", *model, *out, "--prompt", "a red circle", "--stream", "--top_k", "5"]) == 0
    assert video.probe(tmp_path / "a-red-circle.mp4").num_frames == 5
    assert video.read_metadata(tmp_path / "a-red-circle.mp4")["options"] == {"top_k": 5}
    assert run(["evaluate", *model, *out, "--num_prompts", "2", "--temperature", "0.5", "--report"]) == 0
    assert "tokens one after another" in (tmp_path / "report.html").read_text(encoding="utf-8")
    capsys.readouterr()
    for wrong, said in (
        (["--num_inference_steps", "5"], "has no noise levels and no sampler. Leave out --num_inference_steps"),
        (["--scheduler", "ddim"], "has no noise levels and no sampler. Leave out --scheduler"),
        (["--num_frames", "6"], "frames"),
        (["--top_p", "1.5"], "top_p is 1.5"),
    ):
        assert run(["generate", *model, *out, "--prompt", "a", *wrong]) == 2
        assert said in " ".join(capsys.readouterr().err.split())


def test_a_run_over_tokens_can_be_planned_looked_at_and_gone_on_from(trained, tokenizer, tmp_path):
    config = over_tokens(tmp_path / "planned", tokenizer)
    assert "latents: [4, 1, 2, 4, 4]" in describe(config)
    for each in (config, of_tokenizer(tmp_path / "other", "vq")):
        assert plan(each, on_gpu=False).needed > 0
    more = over_tokens(tmp_path / "more", tokenizer, "--init_from", str(trained), "--max_steps", "1")
    more.preview.sample_steps = 1
    assert (train(more) / "transformer").is_dir()
    assert len(list((tmp_path / "more" / "samples").glob("*/*.mp4"))) == 1


def test_what_does_not_fit_is_refused(trained, tokenizer, tiny_model, codecs, tmp_path):
    with pytest.raises(UsageError, match=r"over the tokens of a video tokenizer.*--codec"):
        train(RunConfig.build({"model": {"kind": "autoregressive"}}, [*DATA, "--output_dir", str(tmp_path)]))
    with pytest.raises(ModelError, match="holds no video tokenizer"):
        train(over_tokens(tmp_path, codecs("VideoVAE")))
    with pytest.raises(UsageError, match=r"model\.kind is autoregressive, there unet3d"):
        train(over_tokens(tmp_path, tokenizer, "--init_from", str(tiny_model)))
    with pytest.raises(UsageError, match=r"num_frames (is )?6"):
        train(over_tokens(tmp_path, tokenizer, "--num_frames", "6"))
    with pytest.raises(ModelError, match="VideoTokenizer"):  # a denoiser of tokens
        train(RunConfig.build({}, [*DATA, "--codec", str(tokenizer), "--output_dir", str(tmp_path)]))
