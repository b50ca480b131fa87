"""How fast clips of many sizes train packed in one row, against padding to the largest and against buckets, on a CPU.

    python benchmarks/packing.py --facts clips/facts.json

The clips have the sixteen commonest sizes of a folder of real ones, scaled so that the longer side has 128 pixels, and
their own durations at 8 frames a second, up to 17 frames. What trains is a `VideoTransformer` on latents of a codec
with 4x8x8 pixels a latent, by forward, backward and AdamW. A step has as many clips, on average, in each way:

- packed: as `--pack` deals them, each clip at its own size;
- padded: every clip is filled up to the largest height, width and duration, without the masks that would be needed;
- buckets: every batch has one size, as `--buckets` deals them.

Tokens that count are those of the clips themselves. The three take turns, step by step, until each has seen every clip
once, on one thread; seconds are those of the processor, so that other programs on the machine do not count. Beside it:
attention alone over one pack, by calls for each size and by one call with a block-diagonal mask.
"""

import argparse
import json
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from machine import write_result
from torch import Tensor

from text2video.data.buckets import BucketSampler
from text2video.data.fitting import native
from text2video.data.packing import PackSampler
from text2video.models.attention import attention
from text2video.models.packing import Row
from text2video.models.transformer import SIZES, VideoTransformer
from text2video.sizes import Bucket, Rule, ShapeRules

CODEC, PATCH, CHANNELS = (4, 8, 8), (1, 2, 2), 16
RULES = ShapeRules(Rule(4, 1), Rule(16), Rule(16))
MOST, FPS, SIDE, COMMONEST = 17, 8.0, 128, 16
TEXT_TOKENS, TEXT_WIDTH = 24, 256
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def shapes_of(facts: Path) -> list[Bucket]:
    """(frames, height, width) of the clips of the commonest sizes, scaled and rounded as `--buckets native` does."""
    found = json.loads(facts.read_text(encoding="utf-8"))
    clips = [clip for clip in found.values() if "display" in clip]
    common = {size for size, _ in Counter(tuple(clip["display"]) for clip in clips).most_common(COMMONEST)}
    shapes = []
    for clip in clips:
        width, height = clip["display"]
        if (width, height) in common:
            shrink = min(1.0, SIDE / max(width, height))
            own = Bucket(min(MOST, int(clip["span"] * FPS) + 1), round(height * shrink), round(width * shrink))
            shape = native(own, False, Bucket(MOST, SIDE, SIDE), RULES)
            if isinstance(shape, Bucket):
                shapes.append(shape)
    return shapes


def latents_of(shape: Bucket) -> tuple[int, int, int]:
    return (shape.frames - 1) // CODEC[0] + 1, shape.height // CODEC[1], shape.width // CODEC[2]


def tokens_of(shape: Bucket) -> int:
    sizes = [size // step for size, step in zip(latents_of(shape), PATCH, strict=True)]
    return sizes[0] * sizes[1] * sizes[2]


class Way:
    """A model of its own, and a stream of steps: what the model is given, and the tokens in it that count."""

    def __init__(self, model: VideoTransformer, stream: Iterator[tuple[Any, int, int]], dtype: torch.dtype):
        self.model, self.stream, self.dtype = model, stream, dtype
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        self.seconds: list[float] = []
        self.tokens: list[int] = []

    def step(self) -> None:
        sample, clips, tokens = next(self.stream)
        t, text = torch.rand(clips) * 1000, torch.randn(clips, TEXT_TOKENS, TEXT_WIDTH)
        mask = torch.ones(clips, TEXT_TOKENS, dtype=torch.bool)
        began = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            found: Any = self.model(sample, t, text, mask, return_dict=False)[0]
        answers = found if isinstance(found, list) else [found]
        torch.stack([answer.float().square().mean() for answer in answers]).mean().backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.seconds.append(time.process_time() - began)
        self.tokens.append(tokens)


def drawn(shape: Bucket, *batch: int) -> Tensor:
    return torch.randn(*batch, CHANNELS, *latents_of(shape))


def packed(shapes: list[Bucket], budget: int, clips: int) -> Iterator[tuple[Any, int, int]]:
    sampler = PackSampler([tokens_of(shape) for shape in shapes], budget)
    for pack in sampler:
        own = [shapes[index] for index, _ in pack]
        yield [drawn(shape) for shape in own], len(own), sum(map(tokens_of, own))


def a_step(shapes: list[Bucket], budget: int) -> int:
    """Clips in a pack, on average."""
    return PackSampler([tokens_of(shape) for shape in shapes], budget).batch_size


def padded(shapes: list[Bucket], budget: int, clips: int) -> Iterator[tuple[Any, int, int]]:
    largest = Bucket(*(max(sides) for sides in zip(*shapes, strict=True)))
    for batch in BucketSampler([0] * len(shapes), clips):
        yield drawn(largest, clips), clips, sum(tokens_of(shapes[index]) for index, _ in batch)


def bucketed(shapes: list[Bucket], budget: int, clips: int) -> Iterator[tuple[Any, int, int]]:
    for batch in BucketSampler(shapes, clips):
        shape = shapes[batch[0][0]]
        yield drawn(shape, clips), clips, clips * tokens_of(shape)


def computed(sample: Any) -> int:
    """Tokens that the model works on."""
    numbers = sum(clip.numel() for clip in sample)
    return numbers // CHANNELS // math.prod(PATCH)


def attend_alone(model: VideoTransformer, shapes: list[Bucket], budget: int, rounds: int) -> dict[str, float]:
    """Milliseconds, forward and backward, of self-attention over a pack: a call for each size, and one with a mask."""
    sample = next(packed(shapes, budget, 0))[0]
    row = Row.of([model.grid(clip[None]) for clip in sample])
    heads, width = model.config["num_attention_heads"], model.config["attention_head_dim"]
    own = torch.arange(len(row.lengths)).repeat_interleave(torch.tensor(row.lengths))
    mask = own[:, None] == own

    def core(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None) -> Tensor:
        return attention(q, k, v, hidden)

    def masked(*qkv: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in qkv)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)

    ways: dict[str, Callable[..., Tensor]] = {
        "a call for each size": lambda *qkv: row.tokens(0)(core, *qkv),
        "one call with a block mask": masked,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            qkv = [torch.randn(1, len(own), heads, width, requires_grad=True) for _ in range(3)]
            began = time.process_time()
            way(*qkv).square().mean().backward()
            seconds[name].append(time.process_time() - began)
    return {name: 1e3 * statistics.median(found[1:]) for name, found in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", type=Path, required=True, help="JSON of {file: {display, span, frames}}")
    parser.add_argument("--size", choices=SIZES, default="5M", help="of the transformer (5M)")
    parser.add_argument("--tokens", type=int, default=1280, help="of a pack (1280)")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    once = shapes_of(arguments.facts)
    clips_a_step = a_step(once * 8, arguments.tokens)
    shapes = once * clips_a_step  # so that each size makes whole batches
    sampler = PackSampler([tokens_of(shape) for shape in shapes], arguments.tokens)
    clips = f"{len(shapes)} clips of {len(set(shapes))} shapes, {sampler.tokens.min()} to {sampler.tokens.max()} tokens"
    print(f"{clips}; packs of up to {arguments.tokens}: {sampler.full:.1%} full")
    ways = {"packed": packed, "padded": padded, "buckets": bucketed}
    result: dict[str, Any] = {"clips": clips, "packs full": sampler.full}
    for kind in arguments.precisions:
        dtype = PRECISIONS[kind]
        running, largest = {}, {}
        for name, way in ways.items():
            torch.manual_seed(0)
            model = VideoTransformer(CHANNELS, CHANNELS, TEXT_WIDTH, patch_size=PATCH, **SIZES[arguments.size])
            running[name] = Way(model, way(shapes, arguments.tokens, clips_a_step), dtype)
            steps = islice(way(shapes, arguments.tokens, clips_a_step), len(once))
            largest[name] = max(computed(sample) for sample, _, _ in steps)
        epoch = {name: sampler.packs if name == "packed" else len(once) for name in ways}
        for number in range(max(epoch.values()) + 1):  # the first step warms up
            for name, way in running.items():
                if number <= epoch[name]:
                    way.step()
        rates = {}
        for name, way in running.items():
            rates[name] = sum(way.tokens[1:]) / sum(way.seconds[1:])
        result[kind] = {"tokens that count a second": rates} | {
            f"packed over {name}": rates["packed"] / rates[name] for name in ("padded", "buckets")
        }
        result[kind]["tokens that count a step"] = {
            name: statistics.mean(way.tokens[1:]) for name, way in running.items()
        }
        result[kind]["tokens computed in the largest step"] = largest
        result[kind]["seconds a step"] = {name: statistics.median(way.seconds[1:]) for name, way in running.items()}
        summary = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
        print(f"{kind}: tokens that count a second: {summary}; packed is", end=" ")
        print(" and ".join(f"{rates['packed'] / rates[name]:.2f}x {name}" for name in ("padded", "buckets")))
    alone = attend_alone(running["packed"].model, shapes, arguments.tokens, 5)
    result["attention over one pack, ms"] = alone
    print("attention over one pack: " + ", ".join(f"{name} {ms:.1f} ms" for name, ms in alone.items()))
    write_result("packing", result, ("torch", "diffusers"))


if __name__ == "__main__":
    main()
