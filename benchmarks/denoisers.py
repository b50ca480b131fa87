"""U-Net or transformer, over pixels or over latents? The same data, the same minutes, the same check.

Trains one small recipe of each on the demo world, for as many steps as fit into the minutes, and asks all of them for
videos of combinations that were never trained. The minutes of an autoencoder count for the models over its latents.
Stopped, the same command goes on.

    python benchmarks/denoisers.py [--minutes 10] [--prompts 256] [OPTIONS OF TRAIN ...]
"""

from machine import write_result
from same_minutes import CONFIGS, arguments, measure, show, trained

CODEC = "vae-tiny.yaml"
OVER_PIXELS = {"U-Net over pixels": "demo.yaml", "transformer over pixels": "transformer-tiny.yaml"}
OVER_LATENTS = {
    "U-Net over latents": "latent-unet-tiny.yaml",
    "transformer over latents": "latent-transformer-tiny.yaml",
}


def main() -> None:
    """See the module's docstring."""
    parser = arguments(__doc__, "denoisers", minutes=10)
    parser.add_argument("--codec_steps", type=int, help="of the autoencoder, in place of its recipe's")
    options, flags = parser.parse_known_args()
    rows = {
        name: measure(CONFIGS / recipe, options.place / name.replace(" ", "-"), options, flags)
        for name, recipe in OVER_PIXELS.items()
    }
    codec = options.place / "codec"
    before = trained(CONFIGS / CODEC, codec, options.codec_steps, flags)
    for name, recipe in OVER_LATENTS.items():
        own = [*flags, f"--codec={codec / 'final' / 'vae'}"]
        rows[name] = measure(CONFIGS / recipe, options.place / name.replace(" ", "-"), options, own, before)
    show(rows)
    values = {"minutes": options.minutes, "codec_minutes": round(before, 2), "prompts": options.prompts}
    write_result("denoisers", {**values, "options": flags, "models": rows}, path=options.out)


if __name__ == "__main__":
    main()
