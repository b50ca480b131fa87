"""Does a model trained on two dozen real clips make the clip that its caption describes?

Trains on the sound natural clips of a folder with a manifest.csv (columns file, caption, kind, expect), evenly sampled,
then generates one video a caption with seed 0 and asks which clip it is nearest to (mean squared error of pixels).

    python benchmarks/real_clips.py CLIPS
"""

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np
from machine import write_result

from text2video.config import RunConfig
from text2video.data.clips import Clip
from text2video.data.dataset import TextVideoDataset
from text2video.evaluation.metrics import wilson_interval
from text2video.families.devices import choose_device
from text2video.families.opening import open_model
from text2video.generation import Settings, generate
from text2video.training.trainer import train
from text2video.video import contact_sheet

CONFIG = Path(__file__).parents[1] / "configs" / "real-clips.yaml"


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="folder with manifest.csv")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/real-clips"))
    parser.add_argument("--max_steps", type=int, help="in place of the configuration's")
    options = parser.parse_args()

    with (options.clips / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "natural" and row["expect"] == "ok"]
    options.output_dir.mkdir(parents=True, exist_ok=True)
    table = options.output_dir / "clips.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "caption"])
        writer.writerows([row["file"], row["caption"]] for row in rows)

    flags = [f"--dataset_file={table}", f"--data_root={options.clips}", f"--output_dir={options.output_dir / 'run'}"]
    config = RunConfig.load(CONFIG, [*flags, *([f"--max_steps={options.max_steps}"] if options.max_steps else [])])
    started = time.perf_counter()
    final = train(config, resume=True)
    minutes = (time.perf_counter() - started) / 60

    height, width = config.data.size
    clips = [Clip(row["file"], options.clips / row["file"], (row["caption"],)) for row in rows]
    dataset = TextVideoDataset(clips, num_frames=config.data.num_frames, height=height, width=width)
    truth = np.stack([dataset[index]["video"].numpy() for index in range(len(clips))])  # [N, C, T, H, W]
    family, pipe = open_model(final, choose_device("auto"))
    prompts = [row["caption"] for row in rows]
    found, sheet = 0, []
    for index, result in enumerate(generate(family, pipe, prompts, Settings(seed=0))):
        video = result.frames.transpose(3, 0, 1, 2) / 127.5 - 1  # [C, T, H, W]
        errors = np.square(truth - video).mean(axis=(1, 2, 3, 4))  # [N]
        found += int(errors.argmin() == index)
        sheet += [result.frames, ((truth[index].transpose(1, 2, 3, 0) + 1) * 127.5).round().astype(np.uint8)]
        print(f"{rows[index]['file']:55} nearest: {rows[int(errors.argmin())]['file']}")
    contact_sheet(options.output_dir / "sheet.png", sheet, columns=config.data.num_frames)
    low, high = wilson_interval(found, len(rows))
    print(f"{found} of {len(rows)} captions: {found / len(rows):.1%} ({low:.1%} to {high:.1%}), {minutes:.1f} minutes")
    write_result(
        "real_clips",
        {
            "clips": len(rows),
            "nearest_is_own": found,
            "interval": [low, high],
            "training_minutes": minutes,
            "config": json.loads(config.model_dump_json(include={"model", "diffusion", "optim", "train"})),
        },
    )


if __name__ == "__main__":
    main()
