"""AnimateDiff: frames of plain diffusers in each task, any LoRA, the oracle, training of motion modules and LoRA."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import stable_diffusion
from contract import (
    CPU,
    aligned,
    equals_diffusers,
    full_training_works,
    lands_on_x_0,
    learned,
    lora_training_works,
    opened,
    trained,
)
from safetensors.torch import save_file
from test_fine_tuning import losses

from text2video import video
from text2video.errors import ModelError, UsageError
from text2video.families.base import Opening
from text2video.families.export import export
from text2video.families.opening import family_of, open_model
from text2video.generation import Settings, generate
from text2video.pipelines import completed
from text2video.sizes import Bucket

SMALL = Settings(num_frames=4, height=16, width=16, num_inference_steps=3, guidance_scale=3.0, seed=5)
FLAGS = ("--num_frames", "4", "--frame_size", "16")
NEGATIVE = "bad quality, worse quality"
TRAINED_WITH = {"beta_schedule": "linear", "timestep_spacing": "linspace", "clip_sample": False, "steps_offset": 1}


def motion_adapter(folder: Path) -> None:
    """`MotionAdapter`, for eight frames."""
    from diffusers import MotionAdapter

    torch.manual_seed(6)
    MotionAdapter(
        block_out_channels=(32, 32), motion_layers_per_block=1, motion_num_attention_heads=2, motion_max_seq_length=8
    ).save_pretrained(folder)


def controlnet(folder: Path) -> None:
    """`ControlNetModel`, which changes something: a fresh one begins with zeros."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    stable_diffusion(folder)
    net = ControlNetModel.from_unet(
        UNet2DConditionModel.from_pretrained(folder / "unet"), conditioning_embedding_out_channels=(4, 8)
    )
    shutil.rmtree(folder)
    torch.manual_seed(7)
    for block in (*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out):
        torch.nn.init.normal_(block.weight, std=0.5)
    net.save_pretrained(folder)


def animatediff(folder: Path) -> None:
    """`AnimateDiffPipeline`, as diffusers saves it: the motion modules are in the U-Net."""
    stable_diffusion(folder / "images")
    motion_adapter(folder / "adapter")
    plain(folder / "images", folder / "adapter").save_pretrained(folder)
    shutil.rmtree(folder / "images")
    shutil.rmtree(folder / "adapter")


def plain(folder: Path, adapter: Path | None = None, kind: str = "AnimateDiffPipeline", **parts):
    """The pipeline as diffusers' documentation opens it."""
    import diffusers

    if adapter is None:
        return aligned(getattr(diffusers, kind).from_pretrained(folder, **parts))
    scheduler = diffusers.DDIMScheduler.from_pretrained(folder, subfolder="scheduler", **TRAINED_WITH)
    parts |= {"motion_adapter": diffusers.MotionAdapter.from_pretrained(adapter), "scheduler": scheduler}
    pipe = getattr(diffusers, kind).from_pretrained(folder, feature_extractor=None, image_encoder=None, **parts)
    return aligned(pipe)


def frames(pipe, generator: torch.Generator, **more) -> torch.Tensor:
    call = {"height": 16, "width": 16, "num_inference_steps": 3, "guidance_scale": 3.0, "negative_prompt": NEGATIVE}
    call |= more if "video" in more else {"num_frames": 4, **more}
    return pipe(prompt="a red circle", **call, generator=generator, output_type="pt").frames[0]


def pictures(clip: Path) -> list:
    from PIL import Image

    return [Image.fromarray(f) for f in video.sample(clip, 4, fps=8.0, height=16, width=16).frames]


def test_text_to_video_equals_diffusers(made):
    images, adapter, whole = made(stable_diffusion), made(motion_adapter), made(animatediff)
    result = equals_diffusers(
        images, lambda g: frames(plain(images, adapter), g), SMALL, parts={"motion_adapter": adapter}
    )
    assert (result.settings.scheduler, result.settings.negative_prompt) == ("ddim", NEGATIVE)
    same = equals_diffusers(whole, lambda g: frames(plain(whole), g), SMALL)
    assert np.array_equal(result.frames, same.frames)


def test_video_to_video_equals_diffusers(made, few_clips):
    folder, clip = made(animatediff), min((few_clips / "videos").iterdir())
    pipe = plain(folder, kind="AnimateDiffVideoToVideoPipeline")
    settings = replace(SMALL, video=clip, strength=0.7)
    equals_diffusers(folder, lambda g: frames(pipe, g, video=pictures(clip), strength=0.7), settings)


def test_control_equals_diffusers(made, few_clips):
    folder, adapter, net = made(stable_diffusion), made(motion_adapter), made(controlnet)
    clip, other = sorted((few_clips / "videos").iterdir())[:2]
    parts = {"motion_adapter": adapter, "controlnet": net}
    settings = replace(SMALL, video=clip)

    def theirs(generator: torch.Generator) -> torch.Tensor:
        from diffusers import ControlNetModel

        control = ControlNetModel.from_pretrained(net)
        pipe = plain(folder, adapter, "AnimateDiffControlNetPipeline", controlnet=control)
        return frames(pipe, generator, conditioning_frames=pictures(clip))

    ours = equals_diffusers(folder, theirs, settings, parts=parts)
    family, pipe = opened(folder, parts=parts)
    (elsewhere,) = generate(family, pipe, ["a red circle"], replace(settings, video=other))
    assert not np.array_equal(ours.frames, elsewhere.frames)
    with pytest.raises(UsageError, match="only steers"):
        next(generate(family, pipe, ["a"], replace(settings, strength=0.5)))
    with pytest.raises(UsageError, match="only video-to-video"):
        next(generate(family, pipe, ["a"], SMALL))


def kohya(file: Path) -> None:
    """A LoRA of Stable Diffusion as kohya-ss writes it, of U-Net and text encoder, with an alpha of its own."""
    torch.manual_seed(8)
    unet = ["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "mid_block.attentions.0.proj_in",
            "up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_out.0"]  # fmt: skip
    text = ["text_model.encoder.layers.0.self_attn.q_proj", "text_model.encoder.layers.1.self_attn.out_proj",
            "text_model.encoder.layers.1.mlp.fc1"]  # fmt: skip
    state = {}
    for prefix, names, width in (("lora_unet", unet, 32), ("lora_te", text, 16)):
        for name in names:
            key = f"{prefix}_{name.replace('.', '_')}"
            out = 32 if name.endswith("fc1") else width
            one = (1, 1) if name.endswith("proj_in") else ()
            state[f"{key}.lora_down.weight"] = torch.randn(2, width, *one)
            state[f"{key}.lora_up.weight"] = torch.randn(out, 2, *one)
            state[f"{key}.alpha"] = torch.tensor(1.0)
    save_file(state, file)


def test_a_lora_of_another_tool_equals_diffusers(made, tmp_path):
    folder, file = made(animatediff), tmp_path / "style.safetensors"
    kohya(file)

    def theirs(generator: torch.Generator) -> torch.Tensor:
        pipe = plain(folder)
        pipe.load_lora_weights(file)
        return frames(pipe, generator)

    styled = equals_diffusers(folder, theirs, SMALL, lora=[file])
    (usual,) = generate(*opened(folder), ["a red circle"], SMALL)
    assert not np.array_equal(styled.frames, usual.frames)


def test_the_oracle_lands_on_x_0(made):
    def run(pipe):
        pipe.scheduler.final_alpha_cumprod = torch.tensor(1.0)
        call = {"num_frames": 4, "height": 16, "width": 16, "num_inference_steps": 7, "guidance_scale": 1.0}
        return pipe("a", **call, output_type="latent").frames

    lands_on_x_0(made(animatediff), "unet", run, (1, 4, 4, 8, 8))


def test_each_clip_of_a_batch_has_its_own_caption_and_noise_level(made):
    family, pipe = opened(made(animatediff))
    x_t, t = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([100, 900])
    text = family.encode_text(pipe, {}, ["a red circle", "the big blue square moves"])
    with torch.no_grad():
        both = family.predict(pipe, {"unet": pipe.unet}, x_t, t, text)
        for row in range(2):
            own = {name: value[row : row + 1] for name, value in text.items()}
            one = family.predict(pipe, {"unet": pipe.unet}, x_t[row : row + 1], t[row : row + 1], own)
            torch.testing.assert_close(both[row : row + 1], one, atol=1e-5, rtol=1e-5)
        swapped = family.predict(pipe, {"unet": pipe.unet}, x_t, t, {name: v.flip(0) for name, v in text.items()})
    assert (both - swapped).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-4


def test_its_frozen_parts_can_stay_on_the_disk(made, tmp_path):
    folder, opening = made(stable_diffusion), Opening(parts={"motion_adapter": made(motion_adapter)})
    family = family_of(folder)
    pipe = family.open(folder, CPU, torch.float32, trainable_only=True, opening=opening)
    assert pipe.vae is None
    assert pipe.text_encoder is None
    family.rules(pipe).check(Bucket(4, 16, 16))
    with completed(pipe):
        told = family.embed(pipe, "a red circle")["encoder_hidden_states"]
    other, whole = opened(made(animatediff))
    assert torch.equal(told, other.embed(whole, "a red circle")["encoder_hidden_states"])
    family.save(pipe, tmp_path / "saved")
    assert not learned(whole, opened(tmp_path / "saved")[1], "unet")


def test_prepared_data_gives_the_losses_of_the_clips(made, few_clips, tmp_path):
    from text2video.cli.main import run

    images, out = made(stable_diffusion), tmp_path / "prepared"
    (tmp_path / "run.yaml").write_text(f"train: {{init_from: {images}, device: cpu}}\n", encoding="utf-8")
    assert run(["data", "prepare", str(few_clips), str(out), "--model", str(tmp_path / "run.yaml"), *FLAGS]) == 0
    flags = (*FLAGS, "--fps", "null", "--motion_adapter", str(made(motion_adapter)))
    trained(images, few_clips, tmp_path / "clips", *flags)
    trained(images, few_clips, tmp_path / "tensors", *flags, "--load_tensors", str(out), "--data_dir", "null")
    live, ahead = (losses(tmp_path / name) for name in ("clips", "tensors"))
    assert len(live) == 3
    assert ahead == pytest.approx(live, rel=1e-5)


def test_only_motion_modules_learn(made, few_clips, tmp_path):
    folder, adapter, run = made(stable_diffusion), made(motion_adapter), tmp_path / "run"
    final = trained(folder, few_clips, run, "--motion_adapter", str(adapter), *FLAGS)
    _, before = opened(folder, parts={"motion_adapter": adapter})
    family, after = opened(final)
    old, new = before.unet.state_dict(), after.unet.state_dict()
    changed = {key for key in old if not torch.equal(old[key], new[key])}
    assert changed == {key for key in old if ".motion_modules." in key and not key.endswith(".pe")}
    assert (final / "unet/diffusion_pytorch_model.safetensors").samefile(
        folder / "unet/diffusion_pytorch_model.safetensors"
    )
    (ours,) = generate(family, after, ["a red circle"], SMALL)
    whole = frames(plain(final), torch.Generator().manual_seed(5))
    beside = frames(plain(folder, final / "motion_adapter"), torch.Generator().manual_seed(5))
    assert torch.equal(whole, beside)
    assert np.array_equal(ours.frames, (whole.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy())
    (other,) = generate(*opened(folder, parts={"motion_adapter": run}), ["a red circle"], SMALL)
    assert np.array_equal(ours.frames, other.frames)


def test_full_training_of_a_whole_folder(made, few_clips, tmp_path):
    folder, run = made(animatediff), tmp_path / "run"
    full_training_works(folder, few_clips, run, SMALL, *FLAGS, "--gradient_checkpointing")
    theirs = frames(plain(run / "final"), torch.Generator().manual_seed(5))
    (ours,) = generate(*opened(run / "final"), ["a red circle"], SMALL)
    assert np.array_equal(ours.frames, (theirs.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy())
    # its modules, for the model as it was
    _, other = opened(folder, parts={"motion_adapter": run / "final" / "motion_adapter"})
    assert not learned(opened(run / "final")[1], other, "unet")


def test_a_motion_adapter_by_its_name_on_the_hub(made, tmp_path, monkeypatch):
    kept = tmp_path / "models--someone--adapter"
    shutil.copytree(made(motion_adapter), kept / "snapshots" / "0")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0", encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    _, pipe = opened(made(stable_diffusion), parts={"motion_adapter": Path("someone/adapter")})
    assert not learned(opened(made(animatediff))[1], pipe, "unet")
    with pytest.raises(ModelError, match=r"not on this machine.* hf download someone/other"):
        opened(made(stable_diffusion), parts={"motion_adapter": Path("someone/other")})


def test_lora_training(made, few_clips, tmp_path):
    folder, adapter = made(stable_diffusion), made(motion_adapter)

    def theirs(lora: Path, generator: torch.Generator) -> torch.Tensor:
        pipe = plain(folder, adapter)
        pipe.load_lora_weights(lora)
        return frames(pipe, generator)

    flags = (*FLAGS, "--motion_adapter", str(adapter))
    parts = {"motion_adapter": adapter}
    final = lora_training_works(folder, few_clips, tmp_path / "run", SMALL, theirs, *flags, parts=parts)
    (whole,) = export(final, "merged", tmp_path / "merged")
    (ours,) = generate(*opened(final), ["a red circle"], SMALL)
    (merged,) = generate(*opened(whole.path), ["a red circle"], SMALL)
    assert np.abs(ours.frames.astype(int) - merged.frames).max() <= 1


def test_a_base_in_half_precision_takes_noise_in_full(made):
    family, pipe = open_model(made(animatediff), CPU, torch.bfloat16)
    text = family.encode_text(pipe, {}, ["a red circle"])
    with torch.no_grad():  # as validation asks, where nothing casts by itself
        found = family.predict(pipe, {"unet": pipe.unet}, torch.randn(1, 4, 3, 8, 8), torch.tensor([100]), text)
    assert found.dtype == torch.bfloat16


def test_from_the_command_line(made, tmp_path, capsys):
    from text2video.cli.main import run

    size = ["--num_frames", "3", "--frame_size", "16", "--num_inference_steps", "3", "--device", "cpu"]
    asked = ["generate", "--model", str(made(stable_diffusion)), "--prompts", "a circle", *size]
    beside = ["--motion_adapter", str(made(motion_adapter)), "--output_dir", str(tmp_path / "adapter")]
    assert run([*asked, *beside]) == 0
    zero = ["--pipeline", "TextToVideoZeroPipeline", "--motion_field_strength_x", "3", "--output_dir", str(tmp_path)]
    assert run([*asked, *zero]) == 0
    settings = json.loads((tmp_path / "adapter" / "a-circle.json").read_text(encoding="utf-8"))
    assert (settings["negative_prompt"], settings["guidance_scale"], settings["fps"]) == (NEGATIVE, 7.5, 8)
    assert json.loads((tmp_path / "a-circle.json").read_text(encoding="utf-8"))["fps"] == 4
    capsys.readouterr()
    assert run(asked) == 2
    assert "--motion_adapter" in capsys.readouterr().err


def test_what_it_cannot_do_is_said(made, few_clips, tmp_path):
    images, adapter = made(stable_diffusion), made(motion_adapter)
    with pytest.raises(UsageError, match=r"hf download guoyww/animatediff-motion-adapter-v1-5-2. .*--motion_adapter"):
        opened(images)
    with pytest.raises(ModelError, match=r"is no MotionAdapter: it holds a ControlNetModel"):
        opened(images, parts={"motion_adapter": made(controlnet)})
    with pytest.raises(ModelError, match=r"is no ControlNetModel"):
        opened(images, parts={"motion_adapter": adapter, "controlnet": images})
    with pytest.raises(UsageError, match="takes no depth"):
        opened(images, parts={"motion_adapter": adapter, "depth": images})
    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    config = json.loads((other / "config.json").read_text(encoding="utf-8")) | {"block_out_channels": [32, 32, 32]}
    (other / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError, match=r"cannot be opened|no MotionAdapter"):
        opened(images, parts={"motion_adapter": other})
    family, pipe = opened(made(animatediff))
    with pytest.raises(UsageError, match="num_frames 9 is more than 8"):
        next(generate(family, pipe, ["a"], replace(SMALL, num_frames=9)))
    with pytest.raises(UsageError, match="height 17"):
        family.rules(pipe).check(Bucket(4, 17, 16))
    with pytest.raises(UsageError, match="does not do image-to-video"):
        next(generate(family, pipe, ["a"], replace(SMALL, image=min((few_clips / "videos").iterdir()))))
