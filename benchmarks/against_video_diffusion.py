"""The demo's recipe beside video-diffusion-pytorch: the same clips, the same minutes of training, the same check.

    pip install --no-deps video-diffusion-pytorch einops einops-exts rotary-embedding-torch
    python benchmarks/against_video_diffusion.py [--minutes 20] [--prompts 32] [OPTIONS OF TRAIN ...]

Ours is trained first. Its text encoder, as trained, then gives the other one its text: the mean of a caption's tokens,
for that model takes one vector. The other one is trained as its `Trainer` does, with its own loss, rate and average, at
batches of ours; once at the width of its README, once at about the size of ours. It samples by its own sampler, in as
many steps as ours: a model of it has the steps that it was trained with. It needs 13 GB of memory. What is finished is
not done again.
"""

import argparse
import json
import sys
import time
import types
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import write_result
from same_minutes import steps_in, trained
from torch import Tensor

from text2video.config import RunConfig
from text2video.data.shapes import ShapesDataset, check
from text2video.evaluation.metrics import MAIN, MAIN_ATTRIBUTES, Rate, summarise
from text2video.evaluation.shapes import evaluate_shapes, split_prompts
from text2video.families.devices import choose_device
from text2video.families.opening import open_model
from text2video.models.layers import mean_token

RECIPE = Path(__file__).parents[1] / "configs" / "demo.yaml"
RIVALS = {"as in its README": (64, (1, 2, 4, 8)), "about as large as ours": (32, (1, 2, 4))}
RATE, EMA, DROPPED, GUIDANCE = 1e-4, 0.995, 0.1, 2.0  # its own, but for the captions that are dropped
AVERAGED_EVERY, AVERAGED_FROM = 10, 2000
AT_ONCE = 4  # clips of a batch whose gradients are taken together: sixteen need more than 20 GB


class Text:
    """A trained model's text encoder, as one vector a caption."""

    def __init__(self, folder: Path):
        self.family, self.pipe = open_model(folder, choose_device("cpu"))
        self.modules = self.family.trainable(self.pipe)

    @torch.no_grad()
    def __call__(self, captions: list[str]) -> Tensor:
        told = self.family.encode_text(self.pipe, self.modules, captions)
        return mean_token(told["encoder_hidden_states"], told["encoder_attention_mask"]).float()


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20, help="of training, for each model")
    parser.add_argument("--prompts", type=int, default=32, help="held-out prompts for each model")
    parser.add_argument("--trial", type=int, default=30, help="steps that say how long a step of ours takes")
    parser.add_argument("--place", type=Path, default=Path("runs/against"), help="folder of our run")
    parser.add_argument("--out", type=Path, help="file of the result, in place of results/against_video_diffusion.json")
    options, flags = parser.parse_known_args()
    config, folder = RunConfig.load(RECIPE, flags), options.place / "ours"
    rows = {"text2video": once(folder.with_suffix(".json"), lambda: ours(folder, options, flags))}
    for name, (width, multiples) in RIVALS.items():

        def found() -> dict[str, Any]:
            torch.manual_seed(config.seed)
            text = Text(folder / "final")
            steps = rows["text2video"]["sampling_steps"]
            diffusion = rival(width, multiples, text(["a"]).shape[1], config, steps)  # noqa: B023 - called at once
            return theirs(diffusion, text, config, rows["text2video"]["minutes"], options.prompts)

        rows[f"video-diffusion-pytorch, {name}"] = once(options.place / f"{name.replace(' ', '-')}.json", found)
    for name, figures in rows.items():
        print(f"{name:48}{figures['weights'] / 1e6:6.1f}M{figures['steps']:6d} steps", end="")
        print("".join(f"  {each} {figures['rates'][each]['rate']:.1%}" for each in (*MAIN_ATTRIBUTES, MAIN)))
    values = {"minutes": options.minutes, "prompts": options.prompts, "options": flags, "models": rows}
    write_result("against_video_diffusion", values, ("torch", "video-diffusion-pytorch"), options.out)


def once(file: Path, figures: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was found and written to the file, now or before: a stopped benchmark goes on with the next model."""
    if not file.is_file():
        file.write_text(json.dumps(figures(), indent=1) + "\n", encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def ours(folder: Path, options: argparse.Namespace, flags: list[str]) -> dict[str, Any]:
    """The recipe, trained and asked."""
    steps = steps_in(RECIPE, folder.with_name("ours-trial"), options, flags, options.minutes)
    minutes = trained(RECIPE, folder, steps, flags)
    family, pipe = open_model(folder / "final", choose_device("cpu"))
    found = evaluate_shapes(family, pipe, options.prompts, batch_size=16, model=str(folder))
    weights, seconds = sum(found.parameters.values()), found.seconds / options.prompts
    sampling = found.settings["num_inference_steps"]
    return row(found.rates, minutes, steps, weights, seconds) | {"sampling_steps": sampling}


def theirs(diffusion: Any, text: Text, config: RunConfig, minutes: float, prompts: int) -> dict[str, Any]:
    """The other model, trained for as long and asked for the same."""
    steps, average = learn(diffusion, text, config, 60 * minutes)
    started = time.perf_counter()
    rates = asked(average, text, prompts)
    weights = sum(p.numel() for p in diffusion.denoise_fn.parameters())
    return row(rates, minutes, steps, weights, (time.perf_counter() - started) / prompts)


def row(rates: dict[str, Rate], minutes: float, steps: int, weights: int, seconds: float) -> dict[str, Any]:
    """The figures of a model."""
    tables = {name: asdict(rate) for name, rate in rates.items()}
    return {"steps": steps, "minutes": minutes, "weights": weights, "seconds_a_video": seconds, "rates": tables}


def rival(width: int, multiples: tuple[int, ...], text_width: int, config: RunConfig, steps: int) -> Any:
    """Its diffusion over its U-Net."""
    if "torchvision" not in sys.modules:  # it reads GIFs with torchvision, which is not needed here
        stand_in = types.ModuleType("torchvision")
        vars(stand_in).update(transforms=types.SimpleNamespace(ToTensor=lambda: None), utils=None)
        sys.modules["torchvision"] = stand_in
    from video_diffusion_pytorch import GaussianDiffusion, Unet3D

    model = Unet3D(dim=width, dim_mults=multiples, cond_dim=text_width)
    data = config.data
    return GaussianDiffusion(model, image_size=data.frame_size, num_frames=data.num_frames, timesteps=steps)


def learn(diffusion: Any, text: Text, config: RunConfig, seconds: float) -> tuple[int, Any]:
    """Train for so long, as its `Trainer` does; steps, and the averaged model."""
    world = config.data.shapes
    assert world is not None
    shape = config.data.num_frames, config.data.frame_size, config.data.frame_size
    data = ShapesDataset(world.clips, world.shapes_seed, *shape, max_objects=world.max_objects, world=world.world)
    loader = torch.utils.data.DataLoader(
        data,
        config.train.batch_size,
        shuffle=True,
        num_workers=config.data.num_workers,
        collate_fn=lambda items: (torch.stack([i["video"] for i in items]), [i["caption"] for i in items]),
    )
    optimizer, average, step = torch.optim.Adam(diffusion.parameters(), lr=RATE), deepcopy(diffusion), 0
    started = time.perf_counter()
    while True:
        for videos, captions in loader:
            told, loss = text(captions), 0.0
            for some, their in zip(videos.split(AT_ONCE), told.split(AT_ONCE), strict=True):
                part = diffusion((some + 1) / 2, cond=their, null_cond_prob=DROPPED) * (len(some) / len(videos))
                part.backward()
                loss += part.item()
            optimizer.step()
            optimizer.zero_grad()
            if step % AVERAGED_EVERY == 0:
                share = 1 - EMA if step >= AVERAGED_FROM else 1.0
                with torch.no_grad():
                    for mean, weight in zip(average.parameters(), diffusion.parameters(), strict=True):
                        mean.lerp_(weight, share)
            step += 1
            if step % 10 == 0:
                print(f"step {step}  loss {loss:.4f}  {time.perf_counter() - started:.0f} s", flush=True)
            if time.perf_counter() - started >= seconds:
                return step, average if step > AVERAGED_FROM else diffusion


def asked(diffusion: Any, text: Text, count: int, batch: int = 16) -> dict[str, Rate]:
    """Its videos of the held-out prompts, one each, checked."""
    prompts, results = split_prompts("heldout", count), []
    torch.manual_seed(0)
    for first in range(0, count, batch):
        some = prompts[first : first + batch]
        videos = diffusion.sample(cond=text(some), cond_scale=GUIDANCE)  # [B, 3, T, H, W] in [0, 1]
        frames = (videos.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 4, 1).numpy()
        results += [check(np.ascontiguousarray(each), prompt) for each, prompt in zip(frames, some, strict=True)]
    return summarise(results)


if __name__ == "__main__":
    main()
