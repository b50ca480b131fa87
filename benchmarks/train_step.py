"""How fast a training step of `UNet3D` is, and how fast it learns, beside two peers, on a CPU.

    pip install --no-deps video-diffusion-pytorch einops einops-exts rotary-embedding-torch
    python benchmarks/train_step.py                    # the speed of a step
    python benchmarks/train_step.py --learn 600        # then ten minutes of training each: validation loss

A step is forward, backward and AdamW on 3 x 16 x 64 x 64 videos with a text of 24 tokens. The models have the same base
channels, levels and blocks as far as they go. The floating-point rate counts the products of forward and backward
(`FlopCounterMode`; attention in a fused kernel by hand: forward two products, backward four) and is compared with the
best of ten or more 4096 x 4096 matrix products in the same type, made between the steps.

Learning: every model sees the same clips, noise, times and text embeddings in the same order, is trained for equal
wall time in turns, and predicts v; the loss is that of unseen clips at fixed noise and times.
"""

import argparse
import datetime
import json
import math
import statistics
import sys
import time
import types
from importlib.metadata import version
from pathlib import Path

import torch
from machine import RESULTS, processor
from stepping import Contender, Predict, measure
from torch import Tensor, nn

from text2video.data import shapes
from text2video.models.unet3d import UNet3D

TEXT_TOKENS, TEXT_WIDTH = 24, 512
MULTIPLES, BLOCKS = (1, 2, 4), 2


def ours(channels: int) -> tuple[nn.Module, Predict]:
    model = UNet3D(
        model_channels=channels,
        channel_mult=MULTIPLES,
        num_res_blocks=BLOCKS,
        cross_attention_dim=TEXT_WIDTH,
        head_dim=min(64, channels),
    )
    return model, lambda x, t, text: model(x, t, text).sample


def video_diffusion_pytorch(channels: int) -> tuple[nn.Module, Predict]:
    """Takes one vector as its text: the mean of the tokens."""
    if "torchvision" not in sys.modules:  # it reads GIFs with torchvision, which a step does not need
        stand_in = types.ModuleType("torchvision")
        vars(stand_in).update(transforms=types.SimpleNamespace(ToTensor=lambda: None), utils=None)
        sys.modules["torchvision"] = stand_in
    from video_diffusion_pytorch import Unet3D

    model = Unet3D(dim=channels, dim_mults=MULTIPLES, cond_dim=TEXT_WIDTH)
    return model, lambda x, t, text: model(x, t, cond=text.mean(1))


def diffusers_unet3d(channels: int) -> tuple[nn.Module, Predict]:
    """Spatial attention where ours has it: not in the finest level."""
    from diffusers import UNet3DConditionModel

    model = UNet3DConditionModel(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownBlock3D", "CrossAttnDownBlock3D", "CrossAttnDownBlock3D"),
        up_block_types=("CrossAttnUpBlock3D", "CrossAttnUpBlock3D", "UpBlock3D"),
        block_out_channels=tuple(channels * multiple for multiple in MULTIPLES),
        layers_per_block=BLOCKS,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=min(64, channels),
    )
    return model, lambda x, t, text: model(x, t, text).sample


CONTENDERS = {
    "text2video UNet3D": ours,
    "video-diffusion-pytorch": video_diffusion_pytorch,
    "diffusers UNet3DConditionModel": diffusers_unet3d,
}


def noised(x_0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """`x_t` and the velocity at t in [0, 1] on the cosine schedule."""
    alpha, sigma = ((t * math.pi / 2)[:, None, None, None, None].apply_(f) for f in (math.cos, math.sin))
    return alpha * x_0 + sigma * noise, alpha * noise - sigma * x_0


def speed(contenders: dict[str, Contender], steps: int, batch_size: int) -> dict[str, dict]:
    """The speed of a step of each, in both types."""
    x_0, noise = torch.randn(2, batch_size, 3, 16, 64, 64)
    t = torch.linspace(0.1, 0.9, batch_size)
    x_t, velocity = noised(x_0, noise, t)
    return measure(contenders, (x_t, 1000 * t, torch.randn(batch_size, TEXT_TOKENS, TEXT_WIDTH), velocity), steps)


def clips(indices: range, split: shapes.Split) -> tuple[Tensor, list[str]]:
    """Videos uint8 `[N, 3, 16, 64, 64]` of the demo world and their captions."""
    made = [shapes.make_clip(index, seed=0, split=split) for index in indices]
    videos = [torch.from_numpy(shapes.render(scene, 16, 64, 64)).permute(3, 0, 1, 2) for scene, _ in made]
    return torch.stack(videos), [caption for _, caption in made]


def embed(captions: list[str]) -> Tensor:
    """`[B, L, D]`: a fixed random vector for each word, zeros after the last."""
    out = torch.zeros(len(captions), TEXT_TOKENS, TEXT_WIDTH)
    for i, caption in enumerate(captions):
        for j, word in enumerate(caption.lower().split()[:TEXT_TOKENS]):
            seed = int(shapes.seeded("word", word).integers(2**31))
            out[i, j] = torch.randn(TEXT_WIDTH, generator=torch.Generator().manual_seed(seed))
    return out


def learn(contenders: dict[str, Contender], seconds: float, batch_size: int) -> dict[str, dict]:
    """Train each for `seconds` in four turns, bfloat16; the validation loss after every turn."""
    videos, captions = clips(range(2000), "train")
    held_videos, held_captions = clips(range(16), "heldout")
    draw = torch.Generator().manual_seed(0)
    held_x_0 = held_videos / 127.5 - 1
    held_t = torch.linspace(0.02, 0.98, len(held_videos))
    held_x_t, held_velocity = noised(held_x_0, torch.randn(held_x_0.shape, generator=draw), held_t)
    held_text = embed(held_captions)

    def batch(step: int) -> tuple[Tensor, ...]:
        draw = torch.Generator().manual_seed(step)
        chosen = torch.randint(len(videos), (batch_size,), generator=draw)
        x_0 = videos[chosen] / 127.5 - 1
        t = torch.rand(batch_size, generator=draw)
        x_t, velocity = noised(x_0, torch.randn(x_0.shape, generator=draw), t)
        return x_t, 1000 * t, embed([captions[i] for i in chosen]), velocity

    @torch.no_grad()
    def validate(contender: Contender) -> float:
        losses = []
        for x_t, t, text, velocity in zip(held_x_t, held_t, held_text, held_velocity, strict=True):
            with torch.autocast("cpu", torch.bfloat16):
                predicted = contender.predict(x_t[None], 1000 * t[None], text[None])
            losses.append((predicted.float() - velocity).square().mean().item())
        return statistics.mean(losses)

    spent, done = dict.fromkeys(contenders, 0.0), dict.fromkeys(contenders, 0)
    losses: dict[str, list[float]] = {name: [] for name in contenders}
    turns = 4
    for turn in range(1, turns + 1):
        for name, contender in contenders.items():
            contender.model.train()
            while spent[name] < seconds * turn / turns:
                given = batch(done[name])
                start = time.perf_counter()
                contender.step(*given, torch.bfloat16)
                spent[name] += time.perf_counter() - start
                done[name] += 1
            contender.model.eval()
            losses[name].append(validate(contender))
        summary = ", ".join(f"{name} {losses[name][-1]:.4f} ({done[name]} steps)" for name in contenders)
        print(f"after {seconds * turn / turns:.0f} s each, validation loss: {summary}", flush=True)
    return {name: {"steps": done[name], "validation_loss": losses[name]} for name in contenders}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=64, help="channels of the first level (64)")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--steps", type=int, default=7, help="measured steps of each model and type (7)")
    parser.add_argument("--learn", type=float, default=0, metavar="SECONDS", help="then train each for so long")
    parser.add_argument("--learning_rate", type=float, default=3e-4)
    parser.add_argument("--output", type=Path, default=RESULTS / "train_step.json")
    arguments = parser.parse_args()

    def fresh() -> dict[str, Contender]:
        torch.manual_seed(0)
        return {
            name: Contender(*make(arguments.channels), lr=arguments.learning_rate) for name, make in CONTENDERS.items()
        }

    result = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "benchmarks/train_step.py", *sys.argv[1:]]),
        "machine": f"{processor()}, {torch.get_num_threads()} threads",
        "versions": {name: version(name) for name in ("text2video", "torch", "diffusers", "video-diffusion-pytorch")},
    }
    result["speed"] = speed(fresh(), arguments.steps, arguments.batch_size)
    if arguments.learn:
        result["learning"] = learn(fresh(), arguments.learn, arguments.batch_size)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
