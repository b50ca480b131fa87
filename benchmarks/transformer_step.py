"""How fast a training step of `VideoTransformer` is beside diffusers' Latte and CogVideoX, on a CPU.

    python benchmarks/transformer_step.py
    python benchmarks/transformer_step.py --one_thread   # CPU seconds of one thread: others may use the machine too

A step is forward, backward and AdamW on 4 x 8 x 32 x 32 latents, 2048 tokens in patches of 1 x 2 x 2, with a text of 77
tokens. Latte's attention is factorised (frames, then places), CogVideoX's is full, with the text among the tokens; each
is measured against ours of the same attention, depth, width and heads. Latte and ours look at the text in every second
block. All take turns, eager and then compiled; shares of the matrix rate as in `train_step.py`.
"""

import argparse
import time
from pathlib import Path

import torch
from machine import write_result
from stepping import Contender, Predict, measure, products
from torch import nn

from text2video.models.transformer import VideoTransformer

CHANNELS, SIZE, PATCH = 4, 32, 2
TEXT_TOKENS, TEXT_WIDTH, HEAD = 77, 512, 64


def ours(width: int, depth: int, attention: str) -> tuple[nn.Module, Predict]:
    model = VideoTransformer(
        CHANNELS, CHANNELS, TEXT_WIDTH, depth, width // HEAD, HEAD, (1, PATCH, PATCH), time_attention=attention
    )
    return model, lambda x, t, text: model(x, t, text, return_dict=False)[0]


def latte(width: int, depth: int, frames: int) -> tuple[nn.Module, Predict]:
    from diffusers import LatteTransformer3DModel

    model = LatteTransformer3DModel(
        num_attention_heads=width // HEAD,
        attention_head_dim=HEAD,
        in_channels=CHANNELS,
        num_layers=depth // 2,  # pairs
        cross_attention_dim=width,
        attention_bias=True,
        sample_size=SIZE,
        patch_size=PATCH,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        caption_channels=TEXT_WIDTH,
        video_length=frames,
    )
    return model, lambda x, t, text: model(x, t, text, return_dict=False)[0]


def cogvideox(width: int, depth: int, frames: int) -> tuple[nn.Module, Predict]:
    from diffusers import CogVideoXTransformer3DModel
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    model = CogVideoXTransformer3DModel(
        num_attention_heads=width // HEAD,
        attention_head_dim=HEAD,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_embed_dim=TEXT_WIDTH,
        num_layers=depth,
        sample_width=SIZE,
        sample_height=SIZE,
        sample_frames=frames,
        patch_size=PATCH,
        max_text_seq_length=TEXT_TOKENS,
        use_rotary_positional_embeddings=True,
    )
    side = SIZE // PATCH
    rotation = get_3d_rotary_pos_embed(HEAD, ((0, 0), (side, side)), (side, side), frames)

    def predict(x, t, text):
        found = model(x.transpose(1, 2), text, t, image_rotary_emb=rotation, return_dict=False)[0]
        return found.transpose(1, 2)

    return model, predict


def contenders(width: int, depth: int, frames: int) -> dict[str, Contender]:
    torch.manual_seed(0)
    made = {
        "text2video factorised": ours(width, depth, "factorised"),
        "diffusers Latte": latte(width, depth, frames),
        "text2video full": ours(width, depth, "full"),
        "diffusers CogVideoX": cogvideox(width, depth, frames),
    }
    for model, _ in made.values():  # what starts at zero could make steps faster than they are
        for parameter in model.parameters():
            parameter.data += 0.01 * torch.randn_like(parameter)
    return {name: Contender(*parts, lr=1e-4) for name, parts in made.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--one_thread", action="store_true", help="measure CPU seconds of one thread")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--steps", type=int, default=7, help="measured steps of each model and type (7)")
    parser.add_argument("--eager_only", action="store_true")
    arguments = parser.parse_args()

    clock = time.process_time if arguments.one_thread else time.perf_counter
    if arguments.one_thread:
        torch.set_num_threads(1)
    size = arguments.batch_size
    video = (size, CHANNELS, arguments.frames, SIZE, SIZE)
    batch = (torch.randn(video), torch.linspace(100, 900, size), torch.randn(size, TEXT_TOKENS, TEXT_WIDTH))
    batch = (*batch, torch.randn(video))
    models = contenders(arguments.width, arguments.depth, arguments.frames)
    flops = {name: products(model, batch) for name, model in models.items()}
    result = {"eager": measure(models, batch, arguments.steps, flops, clock)}
    if not arguments.eager_only:
        for contender in models.values():
            contender.model.compile()
        result["compiled"] = measure(models, batch, arguments.steps, flops, clock)
    for how, found in result.items():
        for own, peer in (("factorised", "Latte"), ("full", "CogVideoX")):
            seconds = [found["models"][f"{name}"] for name in (f"text2video {own}", f"diffusers {peer}")]
            for precision in ("float32", "bfloat16"):
                mine, theirs = (each[precision]["seconds"]["median"] for each in seconds)
                print(f"{how}, {precision}: {own} is {theirs / mine:.2f} times as fast as {peer}")
    write_result("transformer_step", result, ("torch", "diffusers"), arguments.output)


if __name__ == "__main__":
    main()
