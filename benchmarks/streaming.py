"""What does the key/value cache save in a stream, and does memory grow with its length?

    python benchmarks/streaming.py [--frames 1440] [--side 16] [--rounds 2]

A random causal transformer of six layers streams pixels in blocks of two frames with a window of fourteen: once through
the cache, and once with every pass over all blocks of the window anew, in turns. Then a stream of so many frames of 8x8
pixels, in one step each: the numbers in all tensors after 40, 400 and all frames, and the time of a frame, early and
late. Time is that of one core, whatever else the machine does.
"""

import argparse
import gc
import time
from collections.abc import Iterator

import torch
from machine import write_result

from text2video.diffusion.guidance import sample
from text2video.diffusion.schedules import Schedule
from text2video.models.text import TextEncoder
from text2video.models.transformer import VideoTransformer
from text2video.pipelines import TextToVideoPipeline

BLOCK, CLIP, STEPS = 2, 16, 4
PROMPT = "a red circle moves left"


def pipeline(side: int) -> TextToVideoPipeline:
    torch.manual_seed(0)
    text = TextEncoder.builtin([PROMPT], 32, 1, 300, 16)
    model = VideoTransformer(
        num_layers=6, num_attention_heads=4, cross_attention_dim=32, time_attention="causal", causal_block=BLOCK
    )
    return TextToVideoPipeline(
        Schedule("flow").sampler(),
        text.model.eval(),
        text.tokenizer,
        transformer=model.eval(),
        prediction="flow",
        num_frames=CLIP,
        height=side,
        width=side,
        guidance_scale=1.0,
        num_inference_steps=STEPS,
    )


@torch.no_grad()
def whole_passes(pipe: TextToVideoPipeline, frames: int, side: int) -> Iterator[torch.Tensor]:
    """A stream without a cache: each pass is one over the finished blocks of the window and the present one."""
    _, ask = pipe.encode_prompts([PROMPT], "", 1.0, {})
    past = torch.empty(1, 3, 0, side, side)

    def predict(x_t, t, condition):
        times = torch.zeros(1, past.shape[2] + BLOCK)
        times[:, -BLOCK:] = t
        return pipe.predict(torch.cat([past, x_t], 2), times, condition)[:, :, -BLOCK:]

    for block in range(frames // BLOCK):
        noise = torch.randn(1, 3, BLOCK, side, side, generator=torch.Generator().manual_seed(block))
        found = sample(predict, pipe.scheduler, noise, ask, "flow", STEPS)
        past = torch.cat([past, found], 2)[:, :, BLOCK - CLIP :]
        yield found[0]


def seconds(stream: Iterator[torch.Tensor], frames: int) -> float:
    begun, taken = time.process_time(), 0
    while taken < frames:
        taken += next(stream).shape[1]
    return time.process_time() - begun


def numbers_held() -> int:
    gc.collect()
    return sum(thing.numel() for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1440)
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipe, generator = pipeline(options.side), torch.Generator().manual_seed(0)
    rates: dict[str, list[float]] = {"cached": [], "whole_passes": []}
    for _ in range(options.rounds):
        for name, stream in (
            ("cached", pipe.stream(PROMPT, 3 * CLIP, generator)),
            ("whole_passes", whole_passes(pipe, 3 * CLIP, options.side)),
        ):
            seconds(stream, CLIP)  # until the window is full
            rates[name].append(CLIP / seconds(stream, CLIP))
            print(name, f"{rates[name][-1]:.2f} frames/s", flush=True)
    stream = pipe.stream(PROMPT, options.frames, generator, height=8, width=8, num_inference_steps=1)
    seconds(stream, 40)
    held = {40: numbers_held()}
    early = seconds(stream, 360) / 360
    held[400] = numbers_held()
    middle = options.frames - 400 - 360
    seconds(stream, middle)
    late = seconds(stream, 360 - BLOCK) / (360 - BLOCK)
    held[options.frames - BLOCK] = numbers_held()
    best = {name: max(values) for name, values in rates.items()}
    found = {
        "frames_per_second": rates,
        "cached_over_whole_passes": best["cached"] / best["whole_passes"],
        "numbers_in_tensors_after_frames": held,
        "seconds_a_frame": {"frames 40 to 400": early, "the last 360": late},
    }
    print(found)
    write_result("streaming", found, ("torch", "diffusers"))


if __name__ == "__main__":
    main()
