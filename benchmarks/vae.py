"""How well does a video autoencoder trained for two hours of two CPU cores give back real clips that it never saw?

Trains configs/vae-real.yaml on some of the sound natural clips of a folder with a manifest.csv (columns file, kind,
expect, frames, caption), and measures it on the others, in stretches of 17 frames at their own rate, the shorter side
scaled to 128 pixels and the middle cut out. Beside it, with as many numbers or more: shrinking and enlarging in space,
in time and in both, and principal components of patches, fitted to the clips trained on.

    python benchmarks/vae.py CLIPS

Which clips are kept apart follows from a hash of their names: a third of them. Clips cut from one source, whose names
differ in `_g01_c01` only, stay together.
"""

import argparse
import csv
import hashlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from machine import write_result
from material import shot
from PIL import Image
from torch import Tensor

from text2video import video
from text2video.config import RunConfig
from text2video.families.autoencoder import latent_shape
from text2video.families.opening import model_folder
from text2video.models.layers import depth_to_space, space_to_depth
from text2video.models.video_vae import VideoVAE
from text2video.training.trainer import train

CONFIG = Path(__file__).parents[1] / "configs" / "vae-real.yaml"
FRAMES, SIDE = 17, 128
STRETCHES = 3  # of each clip, from its beginning to its end


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="folder with manifest.csv")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/vae-real"))
    parser.add_argument(
        "--only", choices=["train", "measure"], help="do one half: all clips, or what there is of the run"
    )
    parser.add_argument("--picture", type=Path, help="also write a picture here, of made clips that may be shown")
    options, flags = parser.parse_known_args()  # what is left over are flags of `text2video train`

    trained_on, kept_apart = split(options.clips / "manifest.csv")
    options.output_dir.mkdir(parents=True, exist_ok=True)
    table = options.output_dir.with_suffix(".csv")
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "caption"])
        writer.writerows([row["file"], row["caption"]] for row in trained_on)
    if options.only != "measure":
        data = [f"--dataset_file={table}", f"--data_root={options.clips}", f"--output_dir={options.output_dir}"]
        train(RunConfig.load(CONFIG, [*data, *flags]), resume=True)
    if options.only != "train":
        measure(options.clips, options.output_dir, trained_on, kept_apart, options.picture)


def measure(
    folder: Path, run: Path, trained_on: list[dict[str, str]], kept_apart: list[dict[str, str]], picture: Path | None
) -> None:
    """Measure the newest autoencoder of a run and what it is compared to; print the table and write it down."""
    folder_of_model = model_folder(run)
    vae = VideoVAE.from_pretrained(folder_of_model / "vae").eval()
    names = [row["file"] for row in kept_apart]
    clips = [stretches(folder / name) for name in names]  # each [N, 3, T, H, W]
    fitted = torch.cat([stretches(folder / row["file"], 10) for row in trained_on])
    channels = vae.config["latent_channels"]
    latents = math.prod(latent_shape(vae, clips[0].shape)[1:])
    ways: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
        "VAE": (latents, torch.no_grad()(lambda x: torch.cat([vae(one[None]).sample for one in x]))),
        "PCA of patches": (latents, principal_components(fitted, channels)),
        **{name: best(kinds, clips) for name, kinds in resizing(latents).items()},
    }
    psnr: dict[str, np.ndarray] = {}  # by clip
    ssim: dict[str, np.ndarray] = {}
    for name, (_, way) in ways.items():
        found = [levels(way(clip)) for clip in clips]
        psnr[name] = np.array([signal_to_noise(*pair) for pair in zip(found, clips, strict=True)])
        ssim[name] = np.array([structural_similarity(*pair) for pair in zip(found, clips, strict=True)])
    rows = {
        name: {
            "numbers": ways[name][0],
            "psnr": round(float(psnr[name].mean()), 2),
            "psnr_interval": interval(psnr[name]),
            "ssim": round(float(ssim[name].mean()), 4),
            "psnr_of_clips": dict(zip(names, psnr[name].round(2).tolist(), strict=True)),
        }
        for name in ways
    }
    resized = max((name for name in ways if name.startswith("resized")), key=lambda name: rows[name]["psnr"])
    gains = {
        f"VAE over {name}": {"psnr": round(float(gain.mean()), 2), "interval": interval(gain)}
        for name in ("PCA of patches", resized)
        for gain in [psnr["VAE"] - psnr[name]]
    }
    for name, row in rows.items():
        low, high = row["psnr_interval"]
        print(
            f"{name:45} {row['numbers']:6d} numbers  {row['psnr']:.2f} dB ({low:.2f} to {high:.2f})  {row['ssim']:.4f}"
        )
    for name, gain in gains.items():
        print(f"{name}: {gain['psnr']:.2f} dB ({gain['interval'][0]:.2f} to {gain['interval'][1]:.2f})")
    if picture:
        draw(picture, {name: ways[name][1] for name in ("VAE", resized, "PCA of patches")})
    config = RunConfig.load(run / "run.yaml")
    state = folder_of_model.parent / "state.json"  # of a checkpoint; a finished run has none beside its model
    done = json.loads(state.read_text(encoding="utf-8"))["step"] if state.is_file() else config.train.max_steps
    write_result(
        "vae",
        {
            "what": f"{FRAMES}x{SIDE}x{SIDE}, {STRETCHES} stretches a clip, mean over clips, 95% bootstrap over clips",
            "video_numbers": math.prod(clips[0].shape[1:]),
            "rows": rows,
            "gains": gains,
            "trained_on": [row["file"] for row in trained_on],
            "steps": done,
            "parameters": sum(parameter.numel() for parameter in vae.parameters()),
            "config": json.loads(config.model_dump_json(include={"model", "vae", "optim", "train"})),
        },
    )


def stretches(path: Path, count: int = STRETCHES) -> Tensor:
    """`[N, 3, T, H, W]` in [-1, 1]: stretches of consecutive frames, evenly spaced over the clip."""
    frames = video.sample(path, video.examine(path).num_frames, height=SIDE, width=SIDE).frames
    starts = sorted({round(start) for start in np.linspace(0, len(frames) - FRAMES, count)})
    pieces = np.stack([frames[start : start + FRAMES] for start in starts])  # [N, T, H, W, 3]
    return torch.from_numpy(pieces.transpose(0, 4, 1, 2, 3).copy()).float() / 127.5 - 1


def levels(videos: Tensor) -> Tensor:
    """Videos as a file holds them, in 8 bits, in [-1, 1]."""
    return ((videos.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def signal_to_noise(given_back: Tensor, clips: Tensor) -> float:
    """The mean peak signal-to-noise ratio of videos in [-1, 1], in dB."""
    return float((-10 * ((given_back - clips) / 2).square().flatten(1).mean(1).log10()).mean())


def structural_similarity(x: Tensor, y: Tensor) -> float:
    """Mean SSIM of videos in [-1, 1] (Wang et al. 2004), colour by colour, a Gaussian window of 11 pixels."""
    line = torch.exp(-(torch.arange(11) - 5.0).square() / (2 * 1.5**2))
    window = torch.outer(line, line)[None, None] / line.sum() ** 2

    def blur(z: Tensor) -> Tensor:
        return F.conv2d(z.reshape(-1, 1, *z.shape[-2:]), window)

    x, y = (x + 1) / 2, (y + 1) / 2
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float((luminance * (2 * covariance + c2) / (var_x + var_y + c2)).mean())


def interval(values: np.ndarray) -> list[float]:
    """The 95% bootstrap interval of a mean over clips."""
    picks = np.random.default_rng(0).integers(len(values), size=(10_000, len(values)))
    return np.quantile(values[picks].mean(1), [0.025, 0.975]).round(2).tolist()


# --- what it is compared to ---------------------------------------------------------------------------------------

FILTERS = {name: Image.Resampling[name] for name in ("BOX", "BILINEAR", "BICUBIC", "LANCZOS")}


def axis(size: int, new: int, method: str) -> Tensor:
    """Resampling with antialiasing as a matrix `[new, size]`."""
    lines = Image.fromarray(np.eye(size, dtype=np.float32))
    return torch.from_numpy(np.asarray(lines.resize((size, new), FILTERS[method])).copy())


def resized(down: str, up: str, frames: int, side: int) -> Callable[[Tensor], Tensor]:
    """Shrinking to so many frames and pixels, and enlarging again."""
    time = axis(frames, FRAMES, up) @ axis(FRAMES, frames, down) if frames < FRAMES else torch.eye(FRAMES)
    space = axis(side, SIDE, up) @ axis(SIDE, side, down) if side < SIDE else torch.eye(SIDE)
    return lambda x: torch.einsum("nctij,st,hi,wj->ncshw", x, time, space, space)


Ways = list[tuple[str, int, Callable[[Tensor], Tensor]]]


def resizing(numbers: int) -> dict[str, Ways]:
    """The ways of shrinking to a count of numbers: what is shrunk -> (how, its numbers, shrinking and enlarging).

    One frame is the least that is left of time, also where that is more numbers.
    """
    sizes = {
        "space": [(FRAMES, math.isqrt(numbers // (3 * FRAMES)))],
        "time": [(max(1, numbers // (3 * SIDE**2)), SIDE)],
        "space and time": [(t, min(SIDE, math.isqrt(numbers // (3 * t)))) for t in range(2, 12)],
    }
    pairs = [("BOX", "BICUBIC"), ("BICUBIC", "BICUBIC"), ("LANCZOS", "LANCZOS"), ("BICUBIC", "LANCZOS")]
    return {
        f"resized in {what}": [
            (f"{t}x{side}x{side}", 3 * t * side**2, resized(down, up, t, side))
            for t, side in some
            for down, up in pairs
        ]
        for what, some in sizes.items()
    }


def best(ways: Ways, clips: list[Tensor]) -> tuple[int, Callable[[Tensor], Tensor]]:
    """Of several ways the one that these clips come out of best."""
    _, numbers, way = max(
        ways, key=lambda way: np.mean([signal_to_noise(levels(way[2](clip)), clip) for clip in clips])
    )
    return numbers, way


def principal_components(videos: Tensor, channels: int) -> Callable[[Tensor], Tensor]:
    """Patches through so many of their principal components: 8x8 of the first frame, 4x8x8 of the others."""
    parts = []
    for some, patch in ((videos[:, :, :1], (1, 8, 8)), (videos[:, :, 1:], (4, 8, 8))):
        rows = space_to_depth(some, patch).movedim(1, -1).flatten(0, -2).double()  # [positions, numbers of a patch]
        axes = torch.linalg.eigh(torch.cov(rows.T)).eigenvectors[:, -channels:]
        parts.append((patch, rows.mean(0).float(), (axes @ axes.T).float()))

    def through(x: Tensor) -> Tensor:
        given_back = []
        for some, (patch, mean, projection) in zip((x[:, :, :1], x[:, :, 1:]), parts, strict=True):
            rows = space_to_depth(some, patch).movedim(1, -1)  # [N, t, h, w, numbers of a patch]
            rows = (rows - mean) @ projection + mean
            given_back.append(depth_to_space(rows.movedim(-1, 1), patch))
        return torch.cat(given_back, dim=2)

    return through


def draw(path: Path, ways: dict[str, Callable[[Tensor], Tensor]]) -> None:
    """A row a made clip: a frame from the middle, as it is and as it comes back each way."""
    rows = []
    for seed in range(3):
        frames = shot(np.random.default_rng(seed), FRAMES, speed=0.3, height=SIDE, width=SIDE)
        clip = torch.from_numpy(frames.transpose(3, 0, 1, 2).copy())[None].float() / 127.5 - 1
        pictures = [clip, *(way(clip) for way in ways.values())]
        rows.append(torch.cat([picture[0, :, FRAMES // 2 + 2] for picture in pictures], dim=2))  # [3, H, 4 W]
    pixels = ((torch.cat(rows, dim=1).clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(path, quality=85)
    print(f"{path}: the clip, {', '.join(ways)}")


def split(manifest: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The clips to train on, and those kept apart: rows of the manifest."""
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["kind"] == "natural" and r["expect"] == "ok"]
    rows = [row for row in rows if int(row["frames"]) >= FRAMES]

    def place(row: dict[str, str]) -> str:
        source = re.sub(r"_g\d+_c\d+$", "", Path(row["file"]).stem)
        return hashlib.sha256(source.encode()).hexdigest()

    rows.sort(key=place)
    apart = len(rows) // 3 + 1
    return rows[apart:], rows[:apart]


if __name__ == "__main__":
    main()
