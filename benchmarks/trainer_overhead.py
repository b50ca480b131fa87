"""What the trainer costs over a bare loop of the same step, on the demo configuration.

The trainer's step has the loader, noise by sample, averaging of weights, metrics and logging; the bare one has a fixed
batch, forward, backward, clipping and AdamW. Both train the same architecture, in turns of a few steps each.

    python benchmarks/trainer_overhead.py [--rounds 12] [--steps 10]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from machine import write_result

import text2video
from text2video.config import RunConfig
from text2video.diffusion.objectives import Batch
from text2video.training.data import batches
from text2video.training.optim import make_optimizer
from text2video.training.tracking import Tracker
from text2video.training.trainer import Trainer

CONFIG = Path(text2video.__file__).parent / "assets" / "demo.yaml"


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=10, help="in each turn")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig.load(CONFIG, ["--stages=[]", "--max_steps=100000", f"--output_dir={folder}"])
        trainer, bare = Trainer(config), Trainer(config)
        trainer.accelerator.init_trackers("benchmark")
        tracker = Tracker(config, trainer.accelerator, trainer.total_steps, 0, trainer.sampler.batch_size)
        stream = batches(trainer.data.train, trainer.sampler, config.data.num_workers)
        names = {p: name for module in bare.modules.values() for name, p in module.named_parameters()}
        bare_parameters = list(names)
        optimizer = make_optimizer(config.optim, bare_parameters, names)
        (batch,), captions = bare.batch(0, range(config.train.batch_size), config.train.batch_size, next(stream))

        def bare_step() -> None:
            noise, u = torch.randn_like(batch.x_0), torch.rand(len(batch.x_0))
            loss = bare.loss("denoiser", [Batch(batch.x_0, noise, u)], captions)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(bare_parameters, config.optim.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()

        done, times = 0, {"bare": [], "trainer": []}
        for turn in range(options.rounds + 1):
            started = time.perf_counter()
            for _ in range(options.steps):
                bare_step()
            middle = time.perf_counter()
            for _ in range(options.steps):
                losses, norm = trainer.step(done, stream)
                done += 1
                tracker.step(done, trainer.rate(done), losses, norm)
            if turn:  # the first turn warms up
                times["bare"].append((middle - started) / options.steps)
                times["trainer"].append((time.perf_counter() - middle) / options.steps)
        tracker.close()
    ratios = [with_all / alone for with_all, alone in zip(times["trainer"], times["bare"], strict=True)]
    overhead = statistics.median(ratios) - 1
    for name, seconds in times.items():
        print(
            f"{name:8} {statistics.median(seconds) * 1000:7.1f} ms a step ({min(seconds):.3f} to {max(seconds):.3f} s)"
        )
    print(f"overhead {overhead:.1%} (turns from {min(ratios) - 1:.1%} to {max(ratios) - 1:.1%})")
    write_result("trainer_overhead", {"seconds_a_step": times, "overhead": overhead})


if __name__ == "__main__":
    main()
