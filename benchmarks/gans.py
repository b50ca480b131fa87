"""What did diffusion gain over the GANs before it? The same data, the same minutes, the same check.

Trains VGAN, MoCoGAN, DVD-GAN and the demo's diffusion model on the demo world, each for as many steps as fit into the
minutes, and asks all of them for videos of combinations that were never trained. A GAN whose colours are not right at
least three times as often as by chance counts as not trained. Stopped, the same command goes on.

    python benchmarks/gans.py [--minutes 30] [--prompts 256] [OPTIONS OF TRAIN ...]
"""

from machine import write_result
from same_minutes import CONFIGS, arguments, measure, show

from text2video.config import RunConfig

RECIPES = {
    "VGAN": "vgan-tiny.yaml",
    "MoCoGAN": "mocogan-tiny.yaml",
    "DVD-GAN": "dvdgan-tiny.yaml",
    "diffusion": "demo.yaml",
}
SAME = ("shapes", "num_frames", "frame_size")  # what all recipes have to say alike of their data
TIMES_CHANCE = 3


def main() -> None:
    """See the module's docstring."""
    parser = arguments(__doc__, "gans", minutes=30)
    options, flags = parser.parse_known_args()
    recipes = {name: CONFIGS / recipe for name, recipe in RECIPES.items()}
    data = [RunConfig.load(recipe, flags).data for recipe in recipes.values()]
    if any(getattr(each, field) != getattr(data[0], field) for each in data for field in SAME):
        parser.error("the recipes are not of the same data")
    rows = {name: measure(recipe, options.place / recipe.stem, options, flags) for name, recipe in recipes.items()}
    show(rows)
    for row in rows.values():
        row["trained"] = row["rates"]["colour"]["rate"] >= TIMES_CHANCE * row["chance"]["colour"]
    print("not trained:", ", ".join(name for name, row in rows.items() if not row["trained"]) or "none")
    values = {"minutes": options.minutes, "prompts": options.prompts, "options": flags}
    write_result("gans", {**values, "times_chance": TIMES_CHANCE, "models": rows}, path=options.out)


if __name__ == "__main__":
    main()
