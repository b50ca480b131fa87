"""What needs a GPU: peak memory and seconds a step of fine-tuning, beside plain diffusers; MFU of training recipes.

    python benchmarks/gpu.py                 # everything, an hour or so
    python benchmarks/gpu.py --minutes 10    # stop cleanly after ten minutes; the same command goes on later
    python benchmarks/gpu.py --tiny          # toys, on any machine, to try this script

Fine-tuning: adapters of rank 64 on models with random weights in the true sizes, bf16, gradient checkpointing, batch 1,
on prepared data. Ours is the trainer as a user starts it; the other is a plain diffusers loop. Both run in processes of
their own, in turns, and read the same weights. Training: our recipes' steps, and the rate of their floating-point
operations in relation to the card's data sheet (MFU) and to the best of several large matrix products of the same run.
Operations are three times those of a forward pass: what is computed twice to save memory counts once. Each figure is
written as soon as it is there; figures of another card or other versions are measured anew.
"""

import argparse
import json
import platform
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import RESULTS, processor, write_result
from random_models import MODELS, TARGETS, Model

from text2video import video
from text2video.config import RunConfig
from text2video.families.opening import FAMILIES
from text2video.planner.cards import card_named
from text2video.planner.facts import facts_of
from text2video.planner.plan import trace_forward
from text2video.preparing.prepare import prepare
from text2video.training.data import batches
from text2video.training.trainer import Trainer

ROOT = Path(__file__).parents[1]
# Name -> recipe and changes; a transformer's 5 x 64 x 64 positions are those of latents of 17 x 512 x 512 pixels.
RECIPES = {
    "unet3d-base": ("unet3d-base.yaml", ""),
    "demo": ("demo.yaml", ""),
    "transformer-1B": (
        "transformer-base.yaml",
        "--size 1B --num_frames 5 --height 64 --width 64 --batch_size 4 --gradient_accumulation_steps 1 "
        "--gradient_checkpointing false",
    ),
}
TINY_RECIPE = {
    "unet3d": "--model_channels 16 --channel_mult 1 2 --attention time full --downsample_time false --num_res_blocks 1",
    "transformer": "--size 5M --compile false",
}
TINY_SIZE = "--num_frames 4 --height 16 --width 16 --text_width 32 --text_layers 1 --batch_size 2"
PACKAGES = ("torch", "diffusers", "peft", "accelerate")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def timed(step: Callable[[int], Any], steps: int) -> dict[str, float]:
    """Seconds a step (median, after one to warm up) and the peak memory in GB: of the GPU, else of the process."""
    times = []
    for number in range(steps + 1):
        started = time.perf_counter()
        step(number)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    seconds = {"seconds_a_step": statistics.median(times[1:]), "slowest": max(times[1:]), "fastest": min(times[1:])}
    if DEVICE.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        peak = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
        peaks = {f"peak_{name}_gb": value / 1e9 for name, value in peak.items()}
        return seconds | peaks | {"card_used_gb": (total - free) / 1e9}
    return seconds | {"peak_process_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


def folder_of(name: str, model: Model, place: Path, tiny: bool) -> Path:
    """The model's folder, and beside it clips and what was prepared of them; made once."""
    folder = place / f"{name}{'-tiny' if tiny else ''}"
    if not (folder / "ready").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        model.save(folder / "model", tiny)
        frames, height, width = model.tiny_shape if tiny else model.shape
        rng = np.random.default_rng(0)
        captions = {}
        (folder / "data" / "videos").mkdir(parents=True)
        for number in range(2):
            noise = rng.integers(0, 255, (frames, height // 8, width // 8, 3), np.uint8)
            video.write(folder / "data/videos" / f"{number}.mp4", noise.repeat(8, 1).repeat(8, 2), 8)
            captions[f"{number}.mp4"] = "a clip of noise"
        (folder / "data" / "captions.json").write_text(json.dumps(captions), encoding="utf-8")
        prepare(config_of(model, folder, tiny, ["--data_dir", str(folder / "data")]), folder / "prepared")
        (folder / "ready").touch()
    return folder


def config_of(model: Model, folder: Path, tiny: bool, more: list[str]) -> RunConfig:
    """The run that is measured: the preset for small cards, in the model's own size."""
    frames, height, width = model.tiny_shape if tiny else model.shape
    shape = ["--num_frames", str(frames), "--height", str(height), "--width", str(width), "--fps", "8"]
    flags = ["--model", str(folder / "model"), "--preset", "lora-12gb", *shape, "--rank", "4" if tiny else "64"]
    flags += ["--val_fraction", "0", "--num_workers", "0", "--no_wandb", "--no_tensorboard", "--max_steps", "1000"]
    return RunConfig.build({}, [*flags, "--output_dir", str(folder / "run"), "--mixed_precision", "bf16", *more])


def ours(model: Model, folder: Path, tiny: bool, steps: int) -> dict[str, float]:
    """The trainer's own steps on prepared data."""
    trainer = Trainer(config_of(model, folder, tiny, ["--load_tensors", str(folder / "prepared")]))
    stream = batches(trainer.data.train, trainer.sampler, 0)
    return timed(lambda number: trainer.step(number, stream), steps)


def plain(model: Model, folder: Path, tiny: bool, steps: int) -> dict[str, float]:
    """The same with diffusers and peft alone, as its example scripts do it."""
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig, inject_adapter_in_model

    part = folder / "model" / model.component
    denoiser = model.denoiser.from_pretrained(part, dtype=torch.bfloat16).requires_grad_(False)
    rank = 4 if tiny else 64
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS), denoiser)
    cast_training_params([denoiser], torch.float32)
    denoiser.to(DEVICE).train()
    if denoiser._supports_gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    learning = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4, betas=(0.9, 0.99), fused=True)
    scheduler = model.scheduler()
    latents, text = shapes_of(folder)
    latents, text = torch.randn(1, *latents, device=DEVICE), torch.randn(1, *text, device=DEVICE)

    def step(number: int) -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            loss = model.loss(denoiser, scheduler, latents, text.bfloat16())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return timed(step, steps)


def shapes_of(folder: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of a clip's latents and of a caption's embedding, as they were prepared."""
    from text2video.data.cache import Cache

    cache = Cache.open(folder / "prepared")
    text = next(value for value in cache.embedding("").values() if value.ndim == 2)
    return tuple(cache.video(0)["mean"].shape), tuple(text.shape)


def recipe(case: str, tiny: bool, steps: int) -> dict[str, float]:
    """Our training from scratch: seconds a step, operations a second, and their shares of what the card can."""
    name, changes = RECIPES[case]
    with tempfile.TemporaryDirectory() as folder:
        values = RunConfig.load(ROOT / "configs" / name).model_dump(mode="json")
        files = ("data_dir", "data_root", "dataset_file", "caption_file")
        values["data"] |= {**dict.fromkeys(files), "augment": False, "shapes": {"clips": 16}}  # moving shapes in memory
        values["model"]["codec"], values["text"]["text_encoder"] = None, "builtin"
        flags = ["--output_dir", folder, "--stages=[]", "--max_steps=1000", "--no_wandb", "--no_tensorboard"]
        flags += shlex.split(changes)
        flags += shlex.split(f"{TINY_RECIPE[values['model']['kind']]} {TINY_SIZE}") if tiny else []
        config = RunConfig.build(values, flags)
        forward = trace_forward(facts_of(config), 1, DEVICE.type == "cuda")
        trainer = Trainer(config)
        stream = batches(trainer.data.train, trainer.sampler, config.data.num_workers)
        found = timed(lambda number: trainer.step(number, stream), steps)
        clips = trainer.sampler.batch_size
        half = trainer.accelerator.mixed_precision == "bf16"
    size, rates = 256 if tiny else 8192 if DEVICE.type == "cuda" else 4096, []
    a, b = torch.randn(2, size, size, device=DEVICE, dtype=torch.bfloat16 if half else torch.float32).unbind()
    for _ in range(10):
        rates.append(2 * size**3 / timed(lambda number: a @ b, 1)["fastest"])
    operations = 3 * forward.work.flops * clips
    rate = operations / found["seconds_a_step"]
    if DEVICE.type == "cuda":
        card = card_named(torch.cuda.get_device_name())
        found["mfu"] = rate / (card.half if half else card.single)
    found |= {"teraflops_a_step": operations / 1e12, "teraflops_a_second": rate / 1e12}
    return found | {"of_best_product": rate / max(rates)}


def measure(case: str, side: str, place: Path, tiny: bool, steps: int) -> dict[str, float]:
    """One figure, in this process."""
    if side == "recipe":
        return recipe(case, tiny, steps)
    model = MODELS[case]
    folder = folder_of(case, model, place, tiny)
    if side == "model":
        return {}
    return (ours if side == "ours" else plain)(model, folder, tiny, steps)


def in_process(case: str, side: str, options: argparse.Namespace, seconds: float | None) -> dict[str, Any]:
    """The same in a process of its own, so that nothing is in memory before; {'failed': why} where it fails."""
    line = [sys.executable, __file__, "--case", case, "--side", side, "--place", str(options.place)]
    line += ["--steps", str(options.steps), *(["--tiny"] if options.tiny else [])]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=seconds)
    if ended.returncode:
        return {"failed": (ended.stderr.strip() or "killed").splitlines()[-1]}
    return json.loads(ended.stdout.splitlines()[-1])


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing after these")
    parser.add_argument("--steps", type=int, default=10, help="in each measurement")
    parser.add_argument("--rounds", type=int, default=2, help="turns of ours and plain diffusers")
    parser.add_argument("--place", type=Path, default=Path(tempfile.gettempdir()) / "text2video-gpu", help="for models")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json", help="the result")
    parser.add_argument("--tiny", action="store_true", help="toys, to try this script")
    parser.add_argument("--case")
    parser.add_argument("--side")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options.side, options.place, options.tiny, options.steps)))
        return

    deadline = time.monotonic() + 60 * options.minutes
    card = torch.cuda.get_device_name() if DEVICE.type == "cuda" else processor()
    same = {
        "card": card,
        "packages": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
    }
    before = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    known = before.get("figures", {}) if {name: before.get(name) for name in same} == same else {}
    figures: dict[str, Any] = {name: value for name, value in known.items() if "failed" not in value}
    wanted = [(name, side, turn) for name in MODELS for turn in range(options.rounds) for side in ("ours", "diffusers")]
    wanted += [(name, "recipe", 0) for name in RECIPES]
    for case, side, turn in wanted:
        key = f"{case} {side} {turn}"
        if key in figures:
            continue
        if side != "recipe" and MODELS[case].pipeline not in FAMILIES:
            print(f"{case}: this version has no such family")
            continue
        left = deadline - time.monotonic()
        try:
            if left <= 0:
                raise subprocess.TimeoutExpired(case, 0)
            limit = left if left < 1e9 else None
            made = in_process(case, "model", options, limit) if side != "recipe" else {}
            figures[key] = made or in_process(case, side, options, limit)
        except subprocess.TimeoutExpired:
            print("the time is over: the same command goes on")
            break
        print(f"{key}: {figures[key]}", flush=True)
        values = {**same, "steps": options.steps, "tiny": options.tiny, "figures": figures}
        write_result("gpu", values, PACKAGES, options.out)
    for line in table(figures):
        print(line)


def table(figures: dict[str, dict[str, Any]]) -> list[str]:
    """A line a figure."""
    lines = []
    for key, values in figures.items():
        if "failed" in values:
            lines.append(f"{key:28} failed: {values['failed']}")
            continue
        peak = values.get("peak_reserved_gb") or values.get("peak_process_gb")
        mfu = f", MFU {values['mfu']:.1%}" if "mfu" in values else ""
        if "of_best_product" in values:
            mfu += f", {values['of_best_product']:.1%} of the best matrix product"
        lines.append(f"{key:28} {values['seconds_a_step']:8.3f} s a step, peak {peak:6.2f} GB{mfu}")
    return lines


if __name__ == "__main__":
    main()
