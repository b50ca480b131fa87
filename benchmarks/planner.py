"""How far is the planner's prediction from the memory that training really takes?

    python benchmarks/planner.py [CASE ...]

Each case is a run of two steps by the trainer, or by a plain loop over a random model of diffusers, in a process of its
own, forked after the imports and a tiny run that loads what is imported late. What the process has then is taken from
the most that it ever has; the planner predicts the rest from shapes alone. Cases that are
not named keep their result. The C library is told to give freed blocks
back at once (`MALLOC`): otherwise it keeps some between those in use. Linux only.
"""

import json
import os
import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    CogVideoXTransformer3DModel,
    DDIMScheduler,
    TextToVideoSDPipeline,
    UNet3DConditionModel,
    WanTransformer3DModel,
)
from machine import write_result

from text2video.config import RunConfig
from text2video.families import lora as adapters
from text2video.planner.facts import Facts
from text2video.planner.plan import plan
from text2video.sizes import Bucket
from text2video.training.optim import make_optimizer
from text2video.training.trainer import train

LIBRARIES = ("torch", "diffusers", "transformers", "peft")
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}
FEW = "--shapes --clips 16 --max_steps 2 --sample_steps 0 --num_workers 0 --device cpu --no_wandb --no_tensorboard"
SMALL = "--model_channels 32 --num_frames 16 --frame_size 64 --batch_size 1 --val_fraction 0"
WIDE = "--model_channels 96 --num_frames 4 --frame_size 16 --batch_size 1 --val_fraction 0"
TINY = (
    "--num_frames 4 --frame_size 16 --model_channels 16 --channel_mult 1 2 --attention time full --head_dim 16 "
    "--downsample_time false --num_res_blocks 1 --text_width 32 --text_layers 1 --batch_size 4 --val_fraction 0.25 "
    "--val_samples 4"
)
# Case -> flags of a run, or a model of diffusers and how it is trained.
CASES: dict[str, str | tuple[str, dict[str, Any]]] = {
    "U-Net, fp32": SMALL,
    "U-Net, bf16": f"{SMALL} --mixed_precision bf16",
    "U-Net, checkpointing": f"{SMALL} --gradient_checkpointing --model_channels 16 --batch_size 8",
    "U-Net, 2 micro-steps": f"{SMALL} --gradient_accumulation_steps 2 --num_frames 12",
    "U-Net, factorised, full attention": f"{SMALL} --conv factorised --attention none none full --batch_size 2",
    "U-Net, 8 frames of 96x96": f"{SMALL} --num_frames 8 --frame_size 96",
    "U-Net, validation in fp32": f"{SMALL} --val_fraction 0.25 --val_samples 2 --mixed_precision bf16",
    "77M weights, AdamW": WIDE,
    "77M weights, Muon": f"{WIDE} --optimizer muon",
    "ModelScope, all weights": ("modelscope", {"flags": "--ema_decay 0 --mixed_precision no"}),
    "ModelScope, LoRA, bf16": ("modelscope", {"flags": "--preset lora --mixed_precision bf16 --num_frames 24"}),
    "CogVideoX, LoRA": ("cogvideox", {"lora": True}),
    "CogVideoX, all weights, bf16": ("cogvideox", {"autocast": True}),
    "Wan, all weights": ("wan", {"size": 2}),
    "Wan, checkpointing": ("wan", {"checkpointing": True, "size": 5}),
    "Wan, LoRA, bf16": ("wan", {"lora": True, "autocast": True, "size": 3}),
}


def warm_up() -> None:
    """A tiny run, planned and trained, that loads what is imported late."""
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig.build({}, [*FEW.split(), *TINY.split(), "--output_dir", folder])
        plan(config, on_gpu=False)
        train(config)


def child(name: str, result: Path) -> None:
    """Predict and run one case; both in GB into a file."""
    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if isinstance(case, tuple) and "flags" not in case[1]:
            config, facts, run = loop(case[0], **case[1])
        else:
            flags = case
            if isinstance(case, tuple):
                modelscope(place / "model")
                sizes = "--num_frames 8 --frame_size 256 --fps null --val_fraction 0 --shapes"
                flags = f"--model {place / 'model'} {sizes} {case[1]['flags']}"
            config = RunConfig.build({}, [*FEW.split(), *flags.split(), "--output_dir", f"{folder}/run"])
            facts, run = None, lambda: train(config)
        found = plan(config, on_gpu=False, facts=facts)
        del facts
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the most there was starts anew
        run()
        measured = resident("VmHWM") - before
    values = {"predicted_GB": found.peak / 1e9, "measured_GB": measured / 1e9, "phase": found.worst}
    values["error"] = values["predicted_GB"] / values["measured_GB"] - 1
    sizes = f"{values['predicted_GB']:6.2f} GB {values['measured_GB']:6.2f} GB {values['error']:+7.1%}"
    print(f"{name:36s} {sizes}  {values['phase']}", flush=True)
    result.write_text(json.dumps(values), encoding="utf-8")


def resident(field: str) -> float:
    """Bytes of this process's memory, or of the most that it ever had."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024


def modelscope(folder: Path) -> None:
    """A random ModelScope pipeline, a fifth as wide as the published one."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "families"))
    from checkpoints import clip_text

    torch.manual_seed(0)
    encoder, tokenizer = clip_text(64, 77)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    TextToVideoSDPipeline(
        vae=AutoencoderKL(block_out_channels=(16, 16, 32, 32), layers_per_block=1, norm_num_groups=8, **blocks),
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=UNet3DConditionModel(block_out_channels=(64, 128, 256, 256), cross_attention_dim=64),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    ).save_pretrained(folder)


def loop(kind: str, lora: bool = False, checkpointing: bool = False, autocast: bool = False, size: int = 1):
    """A configuration, the facts of a model of diffusers, and a function that trains it for two steps."""
    flags = [*FEW.split(), "--val_fraction", "0", "--ema_decay", "0", "--batch_size", str(size)]
    flags += ["--gradient_checkpointing"] * checkpointing + ["--mixed_precision"] * autocast
    config = RunConfig.build({}, flags)
    dtype = torch.bfloat16 if lora and autocast else torch.float32
    heads = {"num_attention_heads": 8, "attention_head_dim": 64}

    def made() -> Any:
        if kind == "cogvideox":
            model: Any = CogVideoXTransformer3DModel(**heads, num_layers=4, text_embed_dim=256, sample_frames=17)
        else:
            model = WanTransformer3DModel(**heads, num_layers=6, text_dim=256, ffn_dim=2048, freq_dim=128)
        torch.nn.Module.to(model, dtype)
        if checkpointing:
            model.enable_gradient_checkpointing()
        if lora:
            adapters.add({kind: model}, ("to_q", "to_k", "to_v", "to_out.0"), rank=16)
            for parameter in model.parameters():
                parameter.data = parameter.data.to(dtype)
        return model

    channels, frames, height, width = (16, 5, 60, 90) if kind == "cogvideox" else (16, 2, 60, 104)

    def predicting(model: Any) -> Any:
        def predict(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            x_t = x_t.to(dtype)
            text = torch.empty(len(t), 226, 256, dtype=dtype)
            if kind == "cogvideox":
                return model(x_t.transpose(1, 2), text, t, return_dict=False)[0].transpose(1, 2)
            return model(x_t, t, text, return_dict=False)[0]

        return predict

    with torch.device("meta"):
        bare = made()
    video = Bucket(4 * frames - 3, 8 * height, 8 * width)
    facts = Facts({kind: bare}, predicting(bare), video, (channels, frames, height, width))

    def run() -> None:
        torch.manual_seed(0)
        model = made()
        predict = predicting(model)
        named = {p: name for name, p in model.named_parameters() if p.requires_grad}
        optimizer = make_optimizer(config.optim, named, named)
        for _ in range(2):
            x_0, noise = torch.randn(2, size, channels, frames, height, width)
            t = torch.full((size,), 500.0)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = (predict(x_0 + noise, t).float() - noise).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            del loss

    return config, facts, run


def main() -> None:
    if any(os.environ.get(name) != value for name, value in MALLOC.items()):  # it is read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | MALLOC | {"OMP_NUM_THREADS": "1"})
    chosen = [name for name in CASES if not sys.argv[1:] or name in sys.argv[1:]]
    torch.set_num_threads(1)
    warm_up()
    print(f"{'case':36s} predicted measured   error  phase", flush=True)
    file = Path(__file__).parent / "results" / "planner.json"
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:  # one after another: together they would not fit into memory
            result = Path(folder) / "result.json"
            process = get_context("fork").Process(target=child, args=(name, result))
            process.start()
            process.join()
            if result.is_file():
                known = json.loads(file.read_text(encoding="utf-8"))["cases"] if file.is_file() else {}
                known[name] = json.loads(result.read_text(encoding="utf-8"))
                result.unlink()
                cases = {name: known[name] for name in CASES if name in known}
                write_result("planner", {"malloc": MALLOC, "cases": cases}, LIBRARIES)


if __name__ == "__main__":
    main()
