"""How good are video tokenizers and an autoregressive model over their tokens, trained in minutes of two CPU cores?

Trains configs/tokenizer-tiny.yaml with finite scalars and, as long, with a codebook of as many codes; then
configs/autoregressive-tiny.yaml over the tokens of the first. On clips of the demo world that none of them saw: the
tokenizers' PSNR, and the share of their codes that occur. On held-out prompts: how often colour, shape and motion are
right, and the seconds of a video, beside the finished models that are named.

    python benchmarks/tokens.py [--runs runs] [--clips 512] [--prompts 256] [--beside runs/transformer-tiny ...]

A run that was stopped goes on, and a finished one is measured as it is.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import trained_in, write_result

from text2video.config import RunConfig
from text2video.data.dataset import to_float
from text2video.data.shapes import ShapesDataset
from text2video.evaluation.shapes import evaluate_shapes
from text2video.families.opening import load, open_model
from text2video.training.trainer import train

CONFIGS = Path(__file__).parents[1] / "configs"
UNSEEN = 1000  # seed of a demo world that no configuration trains on


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--clips", type=int, default=512)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--beside", type=Path, nargs="*", default=[], help="finished diffusion models")
    options, flags = parser.parse_known_args()  # what is left over are flags of `text2video train`

    tokenizers: dict[str, Any] = {}
    for quantizer in ("fsq", "vq"):
        config = RunConfig.load(CONFIGS / "tokenizer-tiny.yaml", flags)
        config.output_dir = options.runs / f"tokenizer-tiny-{quantizer}"
        config.model.model_args |= {"quantizer": quantizer}
        tokenizers[quantizer] = finished(config)
        tokenizers[quantizer] |= reconstruction(config.output_dir, options.clips)
        print(quantizer, tokenizers[quantizer], flush=True)

    config = RunConfig.load(CONFIGS / "autoregressive-tiny.yaml", flags)
    config.output_dir = options.runs / "autoregressive-tiny"
    config.model.codec = options.runs / "tokenizer-tiny-fsq" / "final" / "video_tokenizer"
    models: dict[str, Any] = {"autoregressive-tiny": finished(config)}
    for folder in (config.output_dir, *options.beside):
        models.setdefault(folder.name, {})
        models[folder.name] |= accuracy(folder, options.prompts)
        print(folder.name, models[folder.name], flush=True)
    write_result("tokens", {"clips": options.clips, "tokenizers": tokenizers, "models": models})


def finished(config: RunConfig) -> dict[str, float]:
    """Train what is left of a run; its steps, and the seconds that they took."""
    train(config, resume=True)
    steps, seconds = trained_in(config.output_dir)
    return {"steps": steps, "training_seconds": round(seconds)}


@torch.no_grad()
def reconstruction(run: Path, count: int) -> dict[str, Any]:
    """PSNR in dB, a mean over unseen clips of 17 frames of 32x32 pixels, and the share of codes that occur in them."""
    pipe = load(run, device="cpu")
    model, clips = pipe.video_tokenizer, ShapesDataset(count, UNSEEN, num_frames=17, height=32, width=32)
    found, used = [], torch.zeros(model.vocab_size)
    for index in range(count):
        video = to_float(clips[index]["video"])[None]
        tokens = model.encode(video)
        used += tokens.flatten().bincount(minlength=model.vocab_size)
        error = (model.decode(tokens).clamp(-1, 1) - video).square().mean() / 4  # of values in [0, 1]
        found.append(-10 * error.log10().item())
    share = used / used.sum()
    return {
        "psnr": round(float(np.mean(found)), 2),
        "psnr_of_the_worst_tenth": round(float(np.sort(found)[: max(1, count // 10)].mean()), 2),
        "codes": model.vocab_size,
        "codes_used": round((used > 0).float().mean().item(), 4),
        "perplexity": round(torch.special.entr(share).sum().exp().item(), 1),
        "tokens_of_a_video": round(used.sum().item() / count),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def accuracy(run: Path, prompts: int) -> dict[str, Any]:
    """How often held-out prompts come out right, and the seconds of a video, its check included."""
    family, pipe = open_model(run, torch.device("cpu"))
    result = evaluate_shapes(family, pipe, prompts, model=run.name)
    return {
        "accuracy": round(result.accuracy.rate, 4),
        "interval": [round(result.accuracy.low, 4), round(result.accuracy.high, 4)],
        "rates": {name: round(rate.rate, 4) for name, rate in result.rates.items()},
        "seconds_a_video": round(result.seconds / prompts, 3),
        "parameters": sum(result.parameters.values()),
    }


if __name__ == "__main__":
    main()
