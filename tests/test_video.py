"""What goes into a file comes out of it: frames, sizes, times, colours; and what cannot be read is said in words."""

import contextlib
import json
import os
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from text2video import video
from text2video.data.watch import examine_all
from text2video.errors import VideoError
from text2video.video import VideoInfo, sampling

CLIPS = Path(os.environ.get("TEXT2VIDEO_CLIPS", Path(__file__).resolve().parents[2] / "shared/clips"))
FACTS = json.loads((CLIPS / "facts.json").read_text()) if (CLIPS / "facts.json").is_file() else {}
real_clips = pytest.mark.skipif(not FACTS, reason="the folder of real clips is not here")


def numbered(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Frames that carry their own number as eight black or white bars, over which survives any codec and size."""
    bits = (np.arange(count)[:, None] >> np.arange(8)) & 1
    bars = np.repeat(bits, width // 8, axis=1) * 200 + 20
    return np.broadcast_to(bars[:, None, :, None], (count, height, width, 3)).astype(np.uint8)


def numbers(frames: np.ndarray) -> list[int]:
    """The numbers that `numbered` wrote."""
    width = frames.shape[2]
    centres = (np.arange(8) * width / 8 + width / 16).astype(int)
    bits = frames[:, frames.shape[1] // 2, centres].mean(-1) > 120
    return (bits * (1 << np.arange(8))).sum(1).tolist()


def encode(
    path, frames, *, codec="libx264", rate=10, pix_fmt="yuv420p", stamps=None, sar=None, container=None, **options
):
    """Writes a file with PyAV itself. `stamps`: timestamps in milliseconds."""
    base = Fraction(1, 1000) if stamps is not None else Fraction(1, rate)
    with av.open(str(path), "w", options=container or {}) as out:
        stream = out.add_stream(codec, rate=rate, options={k: str(v) for k, v in options.items()})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        stream.codec_context.time_base = base
        if sar:
            stream.codec_context.sample_aspect_ratio = sar
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = (index if stamps is None else stamps[index]), base
            out.mux(stream.encode(picture.reformat(format=pix_fmt)))
        out.mux(stream.encode(None))
    return path


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / max(((a.astype(float) - b) ** 2).mean(), 1e-9))


@pytest.fixture(scope="module")
def smooth() -> np.ndarray:
    """Ten colourful moving frames without hard edges, of odd and even sizes when cropped."""
    y, x = np.mgrid[0:66, 0:98]
    frames = [[x * 1.5 + 40 + 3 * t, y * 2 + 30 + 2 * t, (x + y) * 0.8 + 20] for t in range(10)]
    return np.moveaxis(np.array(frames), 1, -1).astype(np.uint8)


# ---- reading ----

KINDS = {
    "h264.mp4": {"bf": 2},
    "h264.mov": {"bf": 0},
    "h264.mkv": {"bf": 2},
    "h264.ts": {"bf": 2},
    "hevc10.mp4": {"codec": "libx265", "pix_fmt": "yuv420p10le", "x265-params": "log-level=none"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg4b.avi": {"codec": "mpeg4", "bf": 2},
    "mpeg2.mpeg": {"codec": "mpeg2video", "rate": 25},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "vp9.webm": {"codec": "libvpx-vp9", "cpu-used": 8, "deadline": "realtime"},
    "vp8.webm": {"codec": "libvpx", "cpu-used": 8, "deadline": "realtime"},
    "h263.3gp": {"codec": "h263", "size": (144, 176), "sar": 1},
    "ffv1.mkv": {"codec": "ffv1"},
}


@pytest.mark.parametrize("name", KINDS)
def test_every_container_gives_every_frame_in_order(tmp_path, name):
    options = dict(KINDS[name])
    height, width = options.pop("size", (48, 64))
    rate = options.setdefault("rate", 10)
    path = encode(tmp_path / name, numbered(40, height, width), g=8, **options)
    got = video.read(path)
    assert got.frames.shape == (40, height, width, 3)
    assert got.frames.dtype == np.uint8
    assert numbers(got.frames) == list(range(40))
    assert got.times == pytest.approx(np.arange(40) / rate, abs=2e-3)
    info = video.examine(path)
    assert (info.num_frames, info.width, info.height, info.problem) == (40, width, height, None)
    assert (info.fps, info.duration) == (pytest.approx(rate, rel=0.01), pytest.approx(40 / rate, rel=0.01))
    picked = video.sample(path, 4, fps=rate / 3, height=24, width=32)
    assert numbers(picked.frames) == [15, 18, 21, 24]


@pytest.mark.parametrize(("turn", "matrix"), [(1, (0, -1, 1, 0)), (2, (-1, 0, 0, -1)), (3, (0, 1, -1, 0))])
def test_rotation_is_applied(tmp_path, smooth, turn, matrix):
    path = encode(tmp_path / "turned.mp4", smooth, crf=1)
    upright = video.read(path).frames
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44  # the display matrix of the track header: a b u c d v x y w
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    turned = video.read(path)
    assert np.array_equal(turned.frames, np.rot90(upright, turn, axes=(1, 2)))
    assert (video.probe(path).height, video.probe(path).width) == turned.frames.shape[1:3]
    assert video.sample(path, 3, width=33, height=33).frames.shape == (3, 33, 33, 3)


def test_pixels_come_out_square(tmp_path):
    path = encode(tmp_path / "wide.mp4", numbered(10), sar=Fraction(3, 2))
    assert video.read(path).frames.shape == (10, 48, 96, 3)
    assert numbers(video.read(path).frames) == list(range(10))
    assert (video.probe(path).width, video.probe(path).height) == (96, 48)
    assert video.sample(path, 4, height=24).frames.shape == (4, 24, 48, 3)


def test_variable_frame_rate_goes_by_time(tmp_path):
    stamps = np.array([0, 40, 80, 120, 1120, 2120, 2160, 2200]) + 500
    path = encode(tmp_path / "uneven.mkv", numbered(8), stamps=stamps.tolist())
    assert video.read(path).times == pytest.approx((stamps - 500) / 1000, abs=2e-3)
    even = video.sample(path, 5)  # at 0, 0.55, 1.1, 1.65, 2.2 s
    assert numbers(even.frames) == [0, 3, 4, 5, 7]
    assert numbers(video.sample(path, 3, fps=1, start=0.1).frames) == [3, 4, 6]


@pytest.mark.parametrize("stamps", [[0, 200, 100, 300, 400, 500], [0, 100, 100, 100, 400, 500]])
def test_timestamps_that_repeat_or_run_backwards(tmp_path, stamps):
    path = tmp_path / "stamps.mkv"
    with (
        av.open(str(encode(tmp_path / "good.mkv", numbered(6), codec="ffv1"))) as source,
        av.open(str(path), "w") as out,
    ):
        stream = out.add_stream_from_template(source.streams.video[0])
        for tick, (packet, stamp) in enumerate(zip([p for p in source.demux() if p.size], stamps, strict=True)):
            packet.stream, packet.pts, packet.dts = stream, stamp, tick
            packet.time_base = Fraction(1, 1000)
            out.mux(packet)
    got = video.read(path)
    assert numbers(got.frames) == list(range(6))  # the decoder's order
    assert got.times.tolist() == sorted(got.times)
    assert numbers(video.sample(path, 6).frames)[-1] == 5


def test_odd_sizes(tmp_path, smooth):
    path = encode(tmp_path / "odd.webm", smooth[:, :31, :41], codec="libvpx-vp9", crf=4)
    assert psnr(video.read(path).frames, smooth[:, :31, :41]) > 33


def test_transparency_lies_over_black(tmp_path):
    frames = [Image.new("RGBA", (20, 16), (255, 0, 0, 255)) for _ in range(3)]
    for number, frame in enumerate(frames):
        frame.paste((0, 255, 0, 0), (10, 0, 20, 16))
        frame.putpixel((0, number), (0, 0, 255, 255))
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[100, 300, 100], disposal=2)
    got = video.read(tmp_path / "a.gif")
    assert got.times == pytest.approx([0, 0.1, 0.4])
    assert (got.frames[:, 8, 5] == [255, 0, 0]).all()
    assert (got.frames[:, 8, 15] == 0).all()


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_transparency_of_webm_lies_over_black(tmp_path, codec):
    path = tmp_path / "clear.webm"
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=10, options={"auto-alt-ref": "0", "crf": "4", "b": "2M"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuva420p"
        for number in range(4):
            picture = np.full((48, 64, 4), (255, 0, 0, 0), np.uint8)
            picture[:, : 16 + 8 * number, 3] = 255
            frame = av.VideoFrame.from_ndarray(picture, "rgba").reformat(format="yuva420p")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    got = video.read(path)
    assert got.times == pytest.approx([0, 0.1, 0.2, 0.3])
    assert (got.frames[:, :, 48:].max(), got.frames[:, :, :12, 0].min()) == (0, pytest.approx(255, abs=3))
    assert got.frames[3, 24, 36, 0] > 250 > got.frames[0, 24, 36, 0] == 0
    sampled = video.sample(path, 2, height=48, width=64)
    assert np.array_equal(sampled.frames, got.frames[[0, 3]])
    assert video.examine(path).num_frames == 4


def test_the_first_stream_that_is_a_picture(tmp_path):
    path = tmp_path / "streams.mkv"
    with av.open(str(path), "w") as out:
        streams = [
            out.add_stream("libx264", rate=10),
            out.add_stream("libx264", rate=10),
            out.add_stream("aac", rate=8000),
        ]
        for stream in streams[:2]:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in numbered(5):
            out.mux(streams[1].encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        out.mux(streams[1].encode(None))
        streams[0].encode(None)
    assert numbers(video.read(path).frames) == list(range(5))
    assert video.probe(path).has_audio


def test_colours_are_exact(tmp_path):
    """FFmpeg's default conversion makes every frame about one level darker; a video edited ten times would show it."""
    grey = np.stack([np.full((32, 32, 3), level, np.uint8) for level in range(16, 240, 8)])
    video.write(tmp_path / "grey.mp4", grey, 8, crf=1)
    assert np.abs(video.read(tmp_path / "grey.mp4").frames.astype(int) - grey).max() <= 1
    scaled = video.sample(tmp_path / "grey.mp4", len(grey), height=16, width=16).frames
    assert np.abs(scaled.astype(int) - grey[:, :16, :16]).max() <= 1


def test_names_that_look_like_something_else(tmp_path):
    for name in ("a:b.mp4", "http:x.mp4", "50%d.mp4", "-i.mp4", "ünï 日本 #1?.mp4"):
        if os.name != "nt" or not set(name) & set(':?"'):
            video.write(tmp_path / name, numbered(3), 8)
            assert len(video.read(tmp_path / name).frames) == 3


# ---- what cannot be read ----


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.mp4", None, "does not exist"),
        ("empty.mp4", b"", "is empty"),
        ("pointer.mp4", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        ("text.mp4", b"this is not a video\n" * 99, "cannot be opened"),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n", "list.m3u8"),
        ("broken.png", b"\x89PNG\r\n\x1a\nrubbish", "cannot be opened"),
        ("none.jpg", None, "does not exist"),
    ],
)
def test_refusals_in_words(tmp_path, name, content, said):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    for action in (video.probe, video.examine, video.read, lambda p: video.sample(p, 4)):
        with pytest.raises(VideoError) as refused:
            action(path)
        assert str(path) in str(refused.value)
        assert said in str(refused.value)


def test_folder_and_sound_only(tmp_path):
    with pytest.raises(VideoError, match="is a folder"):
        video.read(tmp_path)
    with av.open(str(tmp_path / "sound.mp4"), "w") as out:
        stream = out.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with pytest.raises(VideoError, match=r"has no picture \(only sound\)"):
        video.read(tmp_path / "sound.mp4")


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.webm"])
def test_a_file_cut_short_gives_its_readable_part_and_says_so(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), np.uint8)
    frames = np.where(numbered(40) > 99, noise // 4 + 170, noise // 4).astype(np.uint8)
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    container = {"movflags": "faststart"} if name.endswith("mp4") else None
    path = encode(tmp_path / name, frames, codec=codec, container=container, g=10)
    assert not video.examine(path).truncated
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    info, got = video.examine(path), video.read(path)
    assert info.truncated
    assert info.problem
    assert 8 < info.num_frames == len(got.frames) < 32
    assert numbers(got.frames) == list(range(len(got.frames)))
    assert numbers(video.sample(path, 4, fps=10, start=0).frames)


def test_damage_gives_frames_or_a_reason_and_nothing_else(tmp_path):
    rng = np.random.default_rng(1)
    for name, codec in (
        ("a.mp4", "libx264"),
        ("b.mkv", "libx264"),
        ("c.avi", "mpeg4"),
        ("d.webm", "libvpx-vp9"),
        ("e.gif", ""),
    ):
        path = tmp_path / name
        if codec:
            encode(path, numbered(20), codec=codec, g=5)
        else:
            video.write(path, numbered(20), 10)
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(12):
            broken = whole.copy()
            where = rng.integers(0, len(whole), rng.integers(1, 40))
            broken[where] = rng.integers(0, 256, len(where))
            path.write_bytes(broken[: rng.integers(len(whole) // 4, len(whole) + 1)].tobytes())
            for action in (video.examine, video.read, lambda p: video.sample(p, 4, height=16, width=16)):
                with contextlib.suppress(VideoError):
                    action(path)


# ---- choosing frames ----


@pytest.fixture(scope="module")
def counted(tmp_path_factory) -> Path:
    """100 frames at 20 fps with B-frames and a key frame every 15."""
    return encode(tmp_path_factory.mktemp("counted") / "counted.mp4", numbered(100), rate=20, g=15, bf=3)


ways = pytest.mark.parametrize("way", ["packets", "long", "decoding"])


def take(way: str, monkeypatch) -> None:
    """The three ways through `sample`: a short file's timestamps, stretches of a long file, everything decoded."""
    if way == "long":
        monkeypatch.setattr(sampling, "LONG", 0.5)
    if way == "decoding":
        monkeypatch.setattr(sampling, "_sample_by_packets", lambda *_: None)
    else:
        monkeypatch.setattr(sampling, "_sample_by_decoding", None)


@ways
def test_sampling(counted, monkeypatch, way):
    take(way, monkeypatch)

    def ask(count, **options):
        return numbers(video.sample(counted, count, **options).frames)

    assert ask(12) == np.linspace(0, 99, 12).round().tolist()
    assert ask(1) == [49]
    assert ask(100) == list(range(100))
    assert ask(100, fps=20) == list(range(100))
    assert ask(5, fps=20) == [47, 48, 49, 50, 51]
    assert ask(4, fps=5, start=1.0, end=2.0) == [23, 27, 31, 35]
    assert ask(4, fps=60, start=1.0, end=1.12) == [20, 21, 21, 21]
    assert ask(6, start=4.8) == [96, 97, 98, 99, 99, 99]
    assert ask(6, start=4.8, short="loop") == [96, 97, 98, 99, 96, 97]
    assert ask(6, fps=10, start=4.8) == [96, 98, 99, 99, 99, 99]
    assert ask(6, fps=10, start=4.8, short="loop") == [96, 98, 96, 98, 96, 98]
    with pytest.raises(VideoError, match=r"too short: 4 frames for 6 frames"):
        ask(6, start=4.8, short="error")
    with pytest.raises(VideoError, match=r"too short: 0\.20 s for 6 frames at 10 fps"):
        ask(6, fps=10, start=4.8, short="error")
    with pytest.raises(VideoError, match="no frame in the part"):
        ask(6, start=99.0)


@ways
def test_random_windows(counted, monkeypatch, way):
    take(way, monkeypatch)
    first = []
    for seed in range(12):
        got = video.sample(counted, 8, fps=10, rng=np.random.default_rng(seed), start=1, end=4)
        again = video.sample(counted, 8, fps=10, rng=np.random.default_rng(seed), start=1, end=4)
        assert np.array_equal(got.frames, again.frames)
        shown = numbers(got.frames)
        assert np.diff(shown).tolist() == [2] * 7
        assert 20 <= shown[0] <= shown[-1] <= 79
        assert got.times == pytest.approx(np.array(shown) / 20)
        first.append(shown[0])
    assert len(set(first)) > 6
    assert max(first) - min(first) > 25


@ways
def test_sampling_gives_the_frames_of_read(counted, monkeypatch, way):
    take(way, monkeypatch)
    every = video.read(counted)
    some = video.sample(counted, 7, fps=3)
    indices = sampling.nearest(every.times, some.times)
    assert np.array_equal(some.frames, every.frames[indices])
    assert some.times == pytest.approx(every.times[indices])


@pytest.mark.parametrize("way", ["packets", "long"])
@pytest.mark.parametrize(
    "options",
    [
        {"x264-params": "open-gop=1:bframes=3:scenecut=0", "g": 10},  # frames shown before their key frame
        {"codec": "libx265", "x265-params": "open-gop=1:bframes=4:log-level=none", "g": 10},
        {"codec": "mpeg2video", "bf": 2, "g": 10},
        {"x264-params": "keyint=infinite", "bf": 0},
    ],
)
def test_few_frames_are_the_right_ones_in_any_group_of_pictures(tmp_path, monkeypatch, way, options):
    path = encode(tmp_path / "a.mp4", numbered(90), **({"rate": 25} | options))
    take(way, monkeypatch)
    rng = np.random.default_rng(0)
    for _ in range(8):
        count, fps = int(rng.integers(1, 9)), float(rng.uniform(3, 25))
        got = video.sample(path, count, fps=fps, rng=rng)
        assert numbers(got.frames) == (got.times * 25).round().astype(int).tolist()


def test_resize_covers_and_crops_the_middle():
    y, x = np.mgrid[0:90, 0:160]
    frame = np.where((y - 45) ** 2 + (x - 80) ** 2 < 30**2, 255, 0).astype(np.uint8)[None, ..., None].repeat(3, -1)
    for height, width in ((45, 45), (180, 60), (30, 100), (90, 160)):
        got = video.resize(frame, height, width)
        assert got.shape == (1, height, width, 3)
        assert np.array_equal(got, video.resize(frame, height, width))
        scale = max(height / 90, width / 160)
        if 60 * scale < min(height, width):  # the disc is still whole, and round
            disc = got[0, ..., 0] > 127
            assert disc.any(0).sum() == pytest.approx(60 * scale, abs=2)
            assert disc.any(1).sum() == pytest.approx(60 * scale, abs=2)
    checks = np.indices((64, 64)).sum(0) % 2 * 255
    small = video.resize(checks.astype(np.uint8)[None, ..., None].repeat(3, -1), 8, 8)
    assert np.abs(small[0, 1:-1, 1:-1].astype(int) - 127).max() < 12  # antialiased: no moiré


@pytest.mark.parametrize(("height", "width"), [(33, 33), (24, 80), (132, 196), (20, None), (None, 50)])
def test_sampling_to_a_size_is_resizing(tmp_path, smooth, height, width):
    path = encode(tmp_path / "s.mp4", smooth, crf=4)
    got = video.sample(path, 10, height=height, width=width).frames
    whole = video.read(path).frames
    expected = video.resize(whole, height or round(66 * width / 98), width or round(98 * height / 66))
    assert got.shape == expected.shape
    assert psnr(got, expected) > 33


# ---- pictures ----


def test_pictures_are_videos_of_one_frame(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (30, 50, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    info = video.probe(tmp_path / "a.png")
    assert (info.width, info.height, info.num_frames, info.container) == (50, 30, 1, "picture")
    assert video.examine(tmp_path / "a.png") == info
    assert np.array_equal(video.read(tmp_path / "a.png").frames, pixels[None])
    assert video.sample(tmp_path / "a.png", 1, height=16, width=16).frames.shape == (1, 16, 16, 3)
    assert video.sample(tmp_path / "a.png", 3, fps=8).frames.shape == (3, 30, 50, 3)
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright
    Image.fromarray(pixels).save(tmp_path / "b.jpg", exif=turned)
    assert video.read(tmp_path / "b.jpg").frames.shape == (1, 50, 30, 3)
    Image.new("RGBA", (4, 4), (255, 255, 255, 128)).save(tmp_path / "c.png")
    assert (video.read(tmp_path / "c.png").frames == 128).all()
    Image.fromarray(np.full((4, 4), 32768, np.uint16)).save(tmp_path / "d.png")
    assert (video.read(tmp_path / "d.png").frames == 128).all()


# ---- writing ----


@pytest.mark.parametrize("size", [(66, 98), (65, 98), (66, 97), (33, 41), (2, 2), (1, 1)])
@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_what_is_written_is_read(tmp_path, smooth, size, suffix):
    frames = smooth[:, : size[0], : size[1]]
    path = tmp_path / f"a{suffix}"
    video.write(path, frames, 12.5)
    got = video.read(path)
    assert got.frames.shape == frames.shape
    assert psnr(got.frames, frames) > (36 if suffix == ".mp4" else 27)
    assert got.times == pytest.approx(np.arange(10) / 12.5, abs=0.005)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fps", [8, 7.5, 23.976, 24000 / 1001, 29.97, 59.94, 0.5, 120])
def test_frame_rates(tmp_path, fps):
    video.write(tmp_path / "a.mp4", iter(numbered(7)), fps)
    info = video.examine(tmp_path / "a.mp4")
    assert (info.num_frames, info.fps) == (7, pytest.approx(fps, rel=1e-4))
    assert video.read(tmp_path / "a.mp4").times == pytest.approx(np.arange(7) / fps, abs=2e-4)


def test_an_mp4_plays_in_a_browser(tmp_path, smooth):
    video.write(tmp_path / "a.mp4", smooth, 8)
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_metadata_comes_back(tmp_path):
    stored = {
        "prompt": 'Ein Bär 🐻 "tanzt"\n',
        "seed": 7,
        "settings": {"steps": 50, "guidance": 7.5},
        "long": "x" * 70000,
    }
    video.write(tmp_path / "a.mp4", numbered(3), 8, metadata=stored)
    assert video.read_metadata(tmp_path / "a.mp4") == stored
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.metadata["title"] == stored["prompt"]
    video.write(tmp_path / "b.mp4", numbered(3), 8)
    assert "prompt" not in video.read_metadata(tmp_path / "b.mp4")


def test_a_still_gif_keeps_its_frames(tmp_path):
    still = np.full((5, 20, 20, 3), 99, np.uint8)
    video.write(tmp_path / "a.gif", still, 10)
    assert np.array_equal(video.read(tmp_path / "a.gif").frames, still)


def test_what_cannot_be_written(tmp_path):
    good = numbered(3)

    def broken():
        yield good[0]
        raise RuntimeError("the model failed")

    for path, frames, fps, said in (
        ("a.xyz", good, 8, "Use .mp4 or .gif"),
        ("a", good, 8, "Use .mp4 or .gif"),
        ("no/such/folder/a.mp4", good, 8, "Check the folder"),
        ("no/such/folder/a.gif", good, 8, "Check the folder"),
        ("a.mp4", good, 0, "must be above 0"),
        ("a.mp4", good, float("nan"), "must be above 0"),
        ("a.gif", good, 60, "at most 50"),
        ("a.mp4", good[:0], 8, "no frames"),
        ("a.mp4", good.astype(np.float32), 8, "uint8"),
        ("a.mp4", [good[0], good[1, :20]], 8, "all of one size"),
    ):
        with pytest.raises(VideoError, match=said):
            video.write(tmp_path / path, frames, fps)
    (tmp_path / "old.mp4").write_bytes(b"the old file")
    with pytest.raises(RuntimeError):
        video.write(tmp_path / "old.mp4", broken(), 8)
    assert (tmp_path / "old.mp4").read_bytes() == b"the old file"
    assert [p.name for p in tmp_path.iterdir()] == ["old.mp4"]


@pytest.mark.skipif(os.name == "nt", reason="limits of a process are POSIX")
@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, name):
    program = f"""
import resource, numpy as np
from text2video import video
from text2video.errors import VideoError
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    video.write({str(tmp_path / name)!r}, np.random.default_rng(0).integers(0, 255, (30, 64, 64, 3), np.uint8), 8)
except VideoError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert f"Cannot write {tmp_path / name}" in done.stdout, done
    assert list(tmp_path.iterdir()) == []


def test_frames_and_contact_sheet(tmp_path):
    frames = numbered(12)
    paths = video.write_frames(tmp_path / "new/frames", frames)
    assert [p.name for p in paths[:2]] == ["frame_0000.png", "frame_0001.png"]
    assert np.array_equal(video.read(paths[5]).frames[0], frames[5])
    video.write_frames(tmp_path / "new/frames", frames[:3])
    assert len(list((tmp_path / "new/frames").iterdir())) == 3  # none of the longer video's are left
    video.contact_sheet(tmp_path / "sheet.png", [frames, frames[:3], numbered(5, 96, 128)], columns=6)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (4 + 3 * 52, 4 + 6 * 68, 3)
    assert np.array_equal(sheet[4:52, 4:68], frames[0])
    assert np.array_equal(sheet[4:52, -68:-4], frames[11])
    assert np.array_equal(sheet[56:104, 140:204], frames[2])


@pytest.mark.parametrize("write", [lambda at, frames: video.write_frames(at, frames), video.contact_sheet])
def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch, write):
    def full(picture, path, **_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(VideoError, match="No space left"):
        write(tmp_path / "at", [numbered(2)] if write is video.contact_sheet else numbered(2))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# ---- real clips ----


@pytest.fixture(scope="module")
def examined() -> dict[str, VideoInfo | str]:
    answers = examine_all([CLIPS / name for name in FACTS])
    found = [answer if isinstance(answer, str) else VideoInfo(**answer) for answer in answers]
    return dict(zip(FACTS, found, strict=True))


def big(name: str) -> bool:
    """Whether all frames of a real clip are more than an ordinary run of the tests should hold."""
    return FACTS[name]["frames"] * np.prod(FACTS[name].get("stored", 0)) > 7e7


@real_clips
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if big(n) else []) for n in FACTS])
def test_real_clips_frame_by_frame(name):
    facts, path = FACTS[name], CLIPS / name
    if facts["expect"] == "reject":
        for action in (video.probe, video.read, lambda p: video.sample(p, 4)):
            with pytest.raises(VideoError, match=r"no picture|LFS pointer"):
                action(path)
        return
    got = video.read(path)
    assert got.frames.shape == (facts["frames"], *facts["display"][::-1], 3)
    for index, mean in facts["mean_rgb"].items():  # measured with a conversion that darkens by up to 1.6
        assert got.frames[int(index)].mean((0, 1)) == pytest.approx(np.array(mean) + 0.7, abs=1)
    assert got.times[0] == 0
    gaps = np.diff(got.times)
    if name == "dali_extra__cfr.mpeg":  # 21 of 180 frames have timestamps, which is what the facts hold
        assert gaps == pytest.approx(1 / 60, abs=1e-6)
    elif facts["dmin"] < 0:  # timestamps that run backwards are handed out in order
        assert (gaps == 0.5).all()
    else:
        assert got.times[-1] == pytest.approx(facts["span"], abs=1e-3)
        assert (gaps.min(), gaps.max()) == pytest.approx((facts["dmin"], facts["dmax"]), abs=1e-3)
    some = video.sample(path, 3)
    assert np.array_equal(some.frames, got.frames[sampling.nearest(got.times, some.times)])
    assert some.times == pytest.approx(np.linspace(0, got.times[-1], 3), abs=gaps.max() / 2 + 1e-6)


@real_clips
def test_real_clips_examined(examined):
    for name, facts in FACTS.items():
        info = examined[name]
        if facts["expect"] == "reject":
            assert isinstance(info, str)
            continue
        assert (info.width, info.height, info.rotation) == (*facts["display"], facts["rotation"])
        assert (info.num_frames, info.truncated) == (facts["frames"], False)
        assert (info.problem is not None) == (facts["expect"] == "partial")
        header = video.probe(CLIPS / name)
        assert (header.width, header.height, header.rotation) == (*facts["display"], facts["rotation"])
        if facts["header_frames"]:
            assert header.num_frames == facts["header_frames"]
        some = video.sample(CLIPS / name, 4, height=32, width=32)
        assert some.frames.shape == (4, 32, 32, 3)


@real_clips
def test_a_clip_that_hangs_other_readers_does_not_hang():
    """With frame threads and a strict log level FFmpeg never comes back from closing this one."""
    path = CLIPS / "decord__corrupted.mp4"
    program = f"from text2video import video; print(len(video.read({str(path)!r}).frames))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "28"


def test_one_random_number_is_drawn_even_for_a_bad_file():
    """One number is drawn for each sample, whatever way it takes: what follows in a loader stays the same."""
    rng, other = np.random.default_rng(0), np.random.default_rng(0)
    with pytest.raises(VideoError):
        video.sample("none.mp4", 4, rng=rng)
    other.random()
    assert rng.random() == other.random()


def test_a_header_that_promises_ages_costs_no_memory(tmp_path):
    """A damaged duration: choosing among the frames that it promises would take hundreds of gigabytes."""
    path = encode(tmp_path / "a.mkv", numbered(12))
    data = bytearray(path.read_bytes())
    place = data.index(b"\x44\x89\x88") + 3  # Matroska's duration: a double, in milliseconds
    data[place : place + 8] = struct.pack(">d", 1e13)
    path.write_bytes(data)
    assert video.probe(path).duration == 1e10
    assert numbers(video.sample(path, 4).frames) == [0, 4, 7, 11]
