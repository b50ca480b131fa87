"""Made clips whose findings are known: pictures like photographs, cameras and things that move, cuts and fades."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from text2video.data.shapes import make_clip, render

HEIGHT, WIDTH, FPS = 90, 160, 24


def picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Blotches of every size, edges and a few shapes, in colours of its own: float32 `[H, W, 3]`."""
    out = np.zeros((height, width, 3), np.float32)
    base = rng.uniform(60, 190, 3)
    for octave, strength in ((4, 40), (8, 28), (16, 18), (40, 10), (90, 6)):
        noise = rng.normal(0, 1, (octave, max(1, octave * width // height), 3)) * 0.6 + rng.normal(
            0, 1, (octave, max(1, octave * width // height), 1)
        )
        for channel in range(3):
            layer = Image.fromarray(noise[..., channel].astype(np.float32))
            out[..., channel] += strength * np.asarray(layer.resize((width, height), Image.Resampling.BICUBIC))
    canvas = Image.fromarray((out + base).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(3, 14))):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        w, h = rng.uniform(0.03, 0.2, 2) * height
        colour = tuple(int(c) for c in rng.integers(20, 240, 3))
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)((x, y, x + w, y + h), fill=colour)
    return np.asarray(canvas, np.float32)


def shot(
    rng: np.random.Generator,
    count: int,
    speed: float | None = None,
    height: int = HEIGHT,
    width: int = WIDTH,
    things: int | None = None,
    scene: np.random.Generator | None = None,
) -> np.ndarray:
    """uint8 `[T, H, W, 3]`: a camera that moves over a picture, and things that move across it.

    `speed` is the camera's, in widths of the frame a second; drawn when None. `scene` draws the picture: the same one
    gives clips of one scene.
    """
    speed = float(rng.choice([0.0, 0.03, 0.1, 0.3])) if speed is None else speed
    seconds = count / FPS
    margin = round(speed * seconds * width) + 8
    ground = picture(scene or rng, height + 2 * margin, width + 2 * margin)
    angle = rng.uniform(0, 2 * np.pi)
    number = int(rng.integers(1, 4)) if things is None else things
    sprites = [
        (rng.uniform(0.1, 0.9, 2), rng.uniform(-0.35, 0.35, 2), rng.uniform(0.06, 0.16), rng.integers(0, 256, 3))
        for _ in range(number)
    ]
    frames = np.empty((count, height, width, 3), np.uint8)
    image = Image.fromarray(ground.astype(np.uint8))
    for i in range(count):
        t = i / FPS
        x, y = margin + np.cos(angle) * speed * t * width, margin + np.sin(angle) * speed * t * width
        view = image.transform((width, height), Image.Transform.AFFINE, (1, 0, x, 0, 1, y), Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(view)
        for place, velocity, size, colour in sprites:
            px, py = (place + velocity * t) % 1.2 - 0.1
            r = size * height
            box = (px * width - r, py * height - r, px * width + r, py * height + r)
            draw.ellipse(box, fill=tuple(int(c) for c in colour))
        frames[i] = np.asarray(view)
    noise = rng.normal(0, 1.5, (count, height, width, 1))
    return (frames + noise).clip(0, 255).astype(np.uint8)


def demo_shot(index: int, count: int) -> np.ndarray:
    """A clip of the demo world."""
    return render(make_clip(index)[0], count, HEIGHT, WIDTH)


def joined(rng: np.random.Generator, how: str, count: int = 72) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Two shots joined by a `cut`, `dissolve` or `fade`, or one shot, plain or with a `flash`,
    `pan`, `light` or `rush` of the camera.

    Returns:
        the frames, and for each change of shot when it begins and ends, in seconds.
    """
    half = count // 2
    if how in ("cut", "dissolve", "fade"):
        a, b = shot(rng, count).astype(np.float32), shot(rng, count).astype(np.float32)
        u = np.arange(count)
        if how == "cut":
            return np.where((u < half)[:, None, None, None], a, b).astype(np.uint8), [(half / FPS, half / FPS)]
        length = int(rng.integers(8, 25))
        begin, end = half - length // 2, half - length // 2 + length
        if how == "dissolve":
            weight = ((u - begin) / length).clip(0, 1)[:, None, None, None]
            mixed = a * (1 - weight) + b * weight
        else:
            dark = np.abs((u - half) / (length / 2)).clip(0, 1)[:, None, None, None]
            mixed = np.where((u < half)[:, None, None, None], a, b) * dark
        return mixed.astype(np.uint8), [(begin / FPS, end / FPS)]
    if how == "pan":
        return shot(rng, count, speed=float(rng.uniform(1.0, 2.5))), []
    if how == "rush":  # stands, then the camera moves fast
        frames = shot(rng, count, speed=float(rng.uniform(0.8, 1.5)))
        return np.concatenate([frames[:1].repeat(half, 0), frames[: count - half]]), []
    frames = shot(rng, count).astype(np.float32)
    if how == "flash":
        length, at = int(rng.integers(1, 5)), int(rng.integers(10, count - 16))
        frames[at : at + length] = frames[at : at + length] * 0.2 + 255 * 0.8
    if how == "light":
        ramp = np.interp(np.arange(count), [0, half - 6, half + 6, count], [0.35, 0.35, 1, 1])
        frames *= ramp[:, None, None, None]
    return frames.clip(0, 255).astype(np.uint8), []


def with_text(rng: np.random.Generator, frames: np.ndarray) -> np.ndarray:
    """The frames with a word or a logo burned in, opaque or half transparent."""
    height, width = frames.shape[1:3]
    size = int(rng.uniform(0.07, 0.13) * height)
    layer = Image.new("L", (width, height))
    draw = ImageDraw.Draw(layer)
    word = "".join(rng.choice(list("ABCDEFGHKLMNRSTUWXYZ0123456789"), int(rng.integers(6, 14))))
    font = ImageFont.load_default(size)
    x = int(rng.uniform(0.04, 0.4) * width)
    y = int(rng.choice([0.05, 0.82]) * height)
    draw.text((x, y), word, fill=255, font=font, stroke_width=0)
    alpha = np.asarray(layer, np.float32)[None, ..., None] / 255 * rng.choice([0.7, 1.0])
    level = float(rng.choice([255, 255, 20]))
    return (frames * (1 - alpha) + level * alpha).astype(np.uint8)
