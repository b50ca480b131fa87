"""How good is the demo's model, and how long did it train? Gathered from its run, which has both:

    text2video train configs/demo.yaml
    text2video evaluate --model runs/demo
    python benchmarks/demo.py [runs/demo] [--picture docs/images/demo.png]

`text2video demo` does the first two by itself, and is another way to the same files. A model of latents is measured in
the same way, with the run of its codec, whose time counts too:

    python benchmarks/demo.py runs/latent-transformer-tiny --codec runs/vae-tiny --out benchmarks/results/latents.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

from machine import trained_in, write_result
from PIL import Image, ImageDraw, ImageFont

from text2video.data.shapes import parse
from text2video.evaluation.metrics import MAIN_ATTRIBUTES
from text2video.evaluation.shapes import SHOWN

DRAWN = 8  # videos in the picture: the first ones


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/demo"), help="folder of the run")
    parser.add_argument("--codec", type=Path, help="folder of the run of its codec")
    parser.add_argument("--picture", type=Path, help="PNG of the first eight videos, to be written")
    parser.add_argument("--out", type=Path, help="file of the result, in place of results/demo.json")
    options = parser.parse_args()
    found = json.loads((options.run / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    kept = {name: found[name] for name in ("split", "settings", "parameters", "rates", "control")}
    steps, seconds = trained_in(options.run)
    right: dict[str, list[bool]] = {}
    for row in found["prompts"]:
        right.setdefault(parse(row["prompt"]).things[0].motion, []).append(row["right"])
    kept["right_by_motion"] = {motion: [sum(each), len(each)] for motion, each in sorted(right.items())}
    values = {"steps": steps, "training_seconds": round(seconds), "checking_seconds": round(found["seconds"])}
    if options.codec:
        steps, seconds = trained_in(options.codec)
        values |= {"codec_steps": steps, "codec_seconds": round(seconds)}
    write_result("demo", values | kept, path=options.out)
    if options.picture:
        draw(options.run / "evaluation" / "sheet.png", found["prompts"]).save(options.picture)


def draw(sheet: Path, rows: list[dict[str, Any]]) -> Image.Image:
    """The first rows of frames of an evaluation's sheet, doubled, each beside its prompt and what the check says."""
    frames, shown = Image.open(sheet).convert("RGB"), min(SHOWN, len(rows))
    rows = rows[:DRAWN]
    tall = (frames.height - 4) // shown * len(rows) + 4  # videos are 4 pixels apart
    frames = frames.crop((0, 0, frames.width, tall)).resize((2 * frames.width, 2 * tall), Image.Resampling.NEAREST)
    picture = Image.new("RGB", (frames.width + 480, frames.height), "white")
    picture.paste(frames)
    pen, step = ImageDraw.Draw(picture), (frames.height - 8) / len(rows)
    for number, row in enumerate(rows):
        checks = "  ".join(f"{name} {'right' if row['checks'][name] else 'wrong'}" for name in MAIN_ATTRIBUTES)
        for line, (words, ink) in enumerate([(row["prompt"], "black"), (checks, "dimgrey")]):
            at = (frames.width + 10, 8 + number * step + 12 + 21 * line)
            pen.text(at, words, ink, ImageFont.load_default(15 - 2 * line))
    return picture


if __name__ == "__main__":
    main()
