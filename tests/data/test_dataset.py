import logging
import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from text2video import video
from text2video.data.clips import Clip, Manifest
from text2video.data.dataset import TextVideoDataset, to_float
from text2video.data.flips import stays_true_when_flipped, vary_text
from text2video.errors import DataError, UsageError

COUNT = 40


def counting_frames(count: int = COUNT, height: int = 36, width: int = 48) -> np.ndarray:
    """Frame t is grey level 5 t: which frames an item holds can be read off it. The left half is a bit brighter."""
    frames = np.empty((count, height, width, 3), np.uint8)
    frames[:] = (5 * np.arange(count, dtype=np.uint8))[:, None, None, None]
    frames[:, :, : width // 2] += 40
    return frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for name in ("a", "b", "c"):
        (root / "videos").mkdir(exist_ok=True)
        (root / "captions").mkdir(exist_ok=True)
        video.write(root / f"videos/{name}.mp4", counting_frames(), 20)
        (root / f"captions/{name}.txt").write_text(f"{name} one\n{name} two\n{name} three\n")
    video.write(root / "videos/short.mp4", counting_frames(5), 20)
    (root / "captions/short.txt").write_text("short")
    Image.fromarray(counting_frames(1)[0] + 100).save(root / "videos/still.png")
    (root / "captions/still.txt").write_text("a picture")
    (root / "videos/z_broken.mp4").write_bytes(b"not a video")
    (root / "captions/z_broken.txt").write_text("broken")
    return root


def same(one: dict, two: dict) -> bool:
    return one["id"] == two["id"] and one["caption"] == two["caption"] and torch.equal(one["video"], two["video"])


def levels(item: dict) -> np.ndarray:
    """The grey level of each frame's dark half: five times the frame's number."""
    return ((item["video"][0, :, :, -8:].mean((1, 2)).numpy() + 1) * 127.5) / 5


def test_an_item_is_frames_in_range_and_a_caption(folder):
    data = TextVideoDataset(str(folder), num_frames=8, frame_size=24)
    item = data[0]
    assert set(item) == {"video", "caption", "id", "conditions"}
    assert item["video"].shape == (3, 8, 24, 24)
    assert item["video"].dtype == torch.float32
    assert item["video"].is_contiguous()
    assert -1 <= item["video"].min() < -0.9
    assert item["id"] == "videos/a.mp4" == data.ids[0]
    assert item["caption"] in ("a one", "a two", "a three")
    assert item["conditions"] == {}
    assert np.allclose(levels(item), np.linspace(0, COUNT - 1, 8).round(), atol=0.7)
    assert len(data) == 6
    assert same(data[-6], item)


def test_height_and_width_go_before_frame_size(folder):
    data = TextVideoDataset.from_dir(folder, num_frames=4, frame_size=24, width=32)
    assert data[0]["video"].shape == (3, 4, 24, 32)
    assert data.shape(0) == (4, 24, 32)


def test_a_picture_is_one_frame(folder):
    data = TextVideoDataset(folder, num_frames=4, frame_size=16, fps=8, short="error")
    index = data.ids.index("videos/still.png")
    assert data.shape(index) == (1, 16, 16)
    assert data[index]["video"].shape == (3, 1, 16, 16)


def test_everything_random_follows_from_seed_epoch_and_clip(folder):
    options = {"num_frames": 4, "frame_size": 16, "fps": 10, "augment": True}
    data = TextVideoDataset(folder, **options, seed=1)
    first = [data[0, epoch] for epoch in range(6)]
    other_order = TextVideoDataset(Manifest(folder, "", data.clips[::-1]), **options, seed=1)
    assert all(same(item, other_order[len(data) - 1, epoch]) for epoch, item in enumerate(first))
    assert same(data[0], first[0])
    starts = [levels(TextVideoDataset(data.clips, **{**options, "augment": False}, seed=1)[0, e])[0] for e in range(6)]
    assert len({round(float(s)) for s in starts}) > 2
    assert len({item["caption"].rstrip(".") for item in first}) > 1
    assert not any(same(a, b) for a, b in pairwise(first))
    assert not same(TextVideoDataset(folder, **options, seed=2)[0], first[0])


def test_the_window_is_the_middle_without_chance(folder):
    data = TextVideoDataset(folder, num_frames=4, frame_size=16, fps=10, random_window=False)
    assert np.allclose(levels(data[0, 0]), levels(data[0, 7]))
    assert np.allclose(levels(data[0]).mean(), (COUNT - 1) / 2, atol=1)
    assert np.allclose(np.diff(levels(data[0])), 2, atol=0.5)


def test_a_stretch_gives_frames_of_the_stretch(folder):
    clip = Clip("videos/a.mp4#1-1.5", folder / "videos/a.mp4", ("x",), 1.0, 1.5)
    seen = levels(TextVideoDataset([clip], num_frames=6, frame_size=16)[0])
    assert seen.min() > 19
    assert seen.max() < 30.5


def test_workers_give_what_one_process_gives(folder):
    data = TextVideoDataset(folder, num_frames=4, frame_size=16, fps=10, augment=True)
    order = [[(0, 0)], [(2, 1)], [(5, 0)], [(1, 3)]]
    loader = DataLoader(data, batch_sampler=order, num_workers=2, multiprocessing_context="spawn")
    for batch, ((index, epoch),) in zip(loader, order, strict=True):
        item = data[index, epoch]
        assert batch["id"] == [item["id"]]
        assert torch.equal(batch["video"][0], item["video"])
    assert same(pickle.loads(pickle.dumps(data))[0], data[0])


def test_a_clip_that_cannot_be_read_is_replaced_and_named_once(folder, caplog):
    data = TextVideoDataset(folder, num_frames=4, frame_size=16)
    broken = data.ids.index("videos/z_broken.mp4")
    with caplog.at_level(logging.WARNING):
        items = [data[broken, 0], data[broken, 0]]
    assert [item["id"] for item in items] == ["videos/a.mp4"] * 2
    assert same(items[0], data[0])
    assert [r.getMessage() for r in caplog.records if "z_broken" in r.getMessage()].__len__() == 1


def test_any_error_of_a_decoder_is_met_and_an_error_of_the_users_own_code_is_not_hidden(folder, monkeypatch):
    sample = video.sample

    def broken(path, *args, **options):
        if path.name == "a.mp4":
            raise KeyError(27)
        return sample(path, *args, **options)

    monkeypatch.setattr("text2video.video.view.sample", broken)
    assert TextVideoDataset(folder, num_frames=2, frame_size=16)[0]["id"] == "videos/b.mp4"
    monkeypatch.setattr(TextVideoDataset, "augment_text", lambda *args: {}["mine"])
    with pytest.raises(KeyError, match="mine"):
        TextVideoDataset(folder, num_frames=2, frame_size=16, augment=True)[0]


def test_the_replacement_has_the_shape_that_was_asked_for(folder, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no")
    clips = [Clip("broken.png", tmp_path / "broken.png", ("x",)), *TextVideoDataset(folder).clips]
    item = TextVideoDataset(clips, num_frames=4, frame_size=16)[0]
    assert item["id"] == "videos/still.png"
    assert item["video"].shape[1] == 1


def test_short_clips_follow_the_rule(folder):
    short = folder / "videos/short.mp4"
    clips = [Clip("short.mp4", short, ("x",))]
    last = levels(TextVideoDataset(clips, num_frames=8, frame_size=16)[0])
    assert np.allclose(last[4:], 4, atol=0.7)
    loop = levels(TextVideoDataset(clips, num_frames=8, frame_size=16, short="loop")[0])
    assert np.allclose(loop, [0, 1, 2, 3, 4, 0, 1, 2], atol=0.7)
    data = TextVideoDataset(clips, num_frames=8, frame_size=16, short="error")
    for _ in range(2):
        with pytest.raises(DataError, match=r"short\.mp4.*too short"):
            data[0]


def test_the_prefix_stands_before_every_caption(folder):
    data = TextVideoDataset(folder, num_frames=2, frame_size=16, caption_prefix=" sks ", augment=True)
    assert all(data[0, epoch]["caption"].startswith("sks a ") for epoch in range(5))


def test_wrong_numbers_and_empty_sets_are_refused(folder):
    for options in ({"num_frames": 0}, {"frame_size": -1}, {"width": -4}, {"fps": 0}, {"fps": float("nan")}):
        with pytest.raises(UsageError):
            TextVideoDataset(folder, **options)
    with pytest.raises(DataError):
        TextVideoDataset([])
    with pytest.raises(IndexError):
        TextVideoDataset(folder)[6]


class Mine(TextVideoDataset):
    def augment_text(self, caption, rng):
        return caption.upper()

    def augment_video(self, video, caption, rng):
        assert caption == caption.upper()
        return -video


def test_a_subclass_augments_its_own_way_when_asked(folder):
    plain = TextVideoDataset(folder, num_frames=2, frame_size=16)[0]
    assert same(Mine(folder, num_frames=2, frame_size=16)[0], plain)
    item = Mine(folder, num_frames=2, frame_size=16, augment=True)[0]
    assert torch.equal(item["video"], -plain["video"])
    assert item["caption"] == plain["caption"].upper()


def brighter_half(frames: torch.Tensor) -> str:
    half = frames.shape[-1] // 2
    return "left" if frames[..., :half].mean() > frames[..., half:].mean() else "right"


def flips(data: TextVideoDataset, caption: str) -> set[str]:
    frames = torch.from_numpy(counting_frames(3)).permute(3, 0, 1, 2).float() / 127.5 - 1
    return {brighter_half(data.augment_video(frames, caption, np.random.default_rng(n))) for n in range(24)}


def test_only_captions_that_stay_true_are_mirrored(folder):
    data = TextVideoDataset(folder, augment=True)
    assert flips(data, "A dog runs over the grass.") == {"left", "right"}
    for caption in ("A dog runs to the left.", "犬が走る。", "A sign.", "собака", "A street with 3 shops"):
        assert flips(data, caption) == {"left"}


def test_augmented_video_keeps_shape_range_and_order_of_time(folder):
    data = TextVideoDataset(folder, augment=True)
    frames = torch.from_numpy(counting_frames(12, 20, 28)).permute(3, 0, 1, 2).float() / 127.5 - 1
    for seed in range(20):
        out = data.augment_video(frames, "a dog", np.random.default_rng(seed))
        assert out.shape == frames.shape
        assert out.abs().max() <= 1
        brightness = out.mean((0, 2, 3))
        assert (brightness.diff() > 0).all()
        assert (out - frames).abs().mean() > 1e-4
        assert abs(float(out.mean() - frames.mean())) < 0.3
    still = frames[:, :1].expand(-1, 12, -1, -1)
    moved = data.augment_video(still, "a dog", np.random.default_rng(0))
    assert torch.allclose(moved, moved[:, :1].expand_as(moved), atol=1e-6)


@pytest.mark.parametrize(
    "caption",
    [
        "A car turns left",
        "moving RIGHT",
        "to the right-hand side",
        "rotating clockwise",
        "spins counterclockwise",
        "an anti-clockwise turn",
        "heading east",
        "a north-west wind",
        "the western wall",
        "leftwards",
        "a sign reads open",
        "the letter B",
        "some text",
        "words appear",
        "she writes a note",
        "the number seven",
        "3 dogs",
        "a clock",
        "ein Hund läuft nach links",
        "un perro a la derecha",
        "une voiture à gauche",
        "左へ動く",
        "движется влево",
        "rightmost",
        "a page of a book",
        "he says “stop”",
        "a left-handed player",
        "",
        "123",
        "...",
    ],
)
def test_captions_that_a_mirror_makes_untrue(caption):
    assert not stays_true_when_flipped(caption)


@pytest.mark.parametrize(
    "caption",
    [
        "A red circle moves up",
        "two dogs run over a bright field",
        "a beast at a feast of yeast",
        "an upright bear",
        "the cleft rock",
        "a circle grows",
        "a woman pours coffee",
        "a square rotating",
    ],
)
def test_captions_that_a_mirror_leaves_true(caption):
    assert stays_true_when_flipped(caption)


def test_varied_text_says_the_same():
    def plain(text: str) -> str:
        return text.lower().rstrip(".")

    for caption in ("A dog runs.", "NASA launches a rocket", "The Beatles walk", "猫が走る。", "Wait...", "", "Stop!"):
        varied = {vary_text(caption, np.random.default_rng(n)) for n in range(40)}
        assert {plain(text) for text in varied} == {plain(caption)}
        assert caption in varied
    assert {vary_text("A dog runs.", np.random.default_rng(n)) for n in range(40)} == {
        "A dog runs.",
        "A dog runs",
        "a dog runs.",
    }
    assert {vary_text("NASA flies", np.random.default_rng(n)) for n in range(40)} == {"NASA flies", "NASA flies."}
    assert {vary_text("猫。", np.random.default_rng(n)) for n in range(40)} == {"猫。"}


def test_frames_that_never_change_are_decoded_once(tmp_path, monkeypatch):
    from text2video import video
    from text2video.data import shapes

    shapes.write(tmp_path / "data", 2, size=32, num_frames=6)
    decoded = []
    sample = video.sample
    monkeypatch.setattr(
        "text2video.video.view.sample", lambda path, *a, **k: (decoded.append(path), sample(path, *a, **k))[1]
    )
    still = TextVideoDataset(tmp_path / "data", num_frames=4, frame_size=16)
    first = still[0]["video"]
    assert torch.equal(still[0, 1]["video"], first)
    assert len(decoded) == 1
    nothing = TextVideoDataset(tmp_path / "data", num_frames=4, frame_size=16, cache_gb=0)
    assert torch.equal(nothing[0]["video"], nothing[0, 1]["video"])
    assert len(decoded) == 3
    drawn = TextVideoDataset(tmp_path / "data", num_frames=2, frame_size=16, fps=8)
    assert any(not torch.equal(drawn[0, epoch]["video"], drawn[0]["video"]) for epoch in range(1, 6))


def test_levels_are_the_same_frames_in_a_quarter_of_the_bytes(folder):
    for options in ({}, {"fps": 10.0}, {"augment": True}):
        plain, small = (
            TextVideoDataset(str(folder), num_frames=8, frame_size=24, as_levels=on, **options)[0, 1]["video"]
            for on in (False, True)
        )
        assert small.dtype == (torch.float32 if options.get("augment") else torch.uint8)
        assert torch.equal(to_float(small), plain)
