import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from text2video import video
from text2video.data.answers import NoAnswer, Question
from text2video.data.captions import caption, polish, polish_prompts, template_fields
from text2video.data.clips import Clip, Manifest
from text2video.data.layouts import read_layout, write_layout
from text2video.data.uncaptioned import read_captioned, read_clips
from text2video.errors import DataError, ModelError, UsageError


class Told:
    """An answerer that says what it is told, and remembers what it was asked."""

    def __init__(self, say=lambda question: "a made caption", model="told", batch_size=1, concurrency=2):
        self.say, self.asked, self.closed = say, [], False
        self.about: dict[str, Any] = {"model": model, "endpoint": "http://127.0.0.1:1/v1"}
        self.settings: dict[str, Any] = {"temperature": 0.0}
        self.batch_size, self.concurrency = batch_size, concurrency
        self.lock = threading.Lock()

    def answer(self, questions: list[Question]) -> list[str]:
        with self.lock:
            self.asked += questions
            assert len(questions) <= self.batch_size
        return [self.say(question) for question in questions]

    def close(self) -> None:
        self.closed = True


def level(question: Question) -> str:
    """Says how bright the frames are: which clip it was, in other words."""
    assert question.frames is not None
    return f"brightness {round(float(question.frames.mean()) / 10) * 10}"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four captioned clips of brightness 40, 80, 120, 160, one with two captions, and one clip without a caption."""
    root = tmp_path / "data"
    (root / "videos").mkdir(parents=True)
    for number in range(1, 6):
        frames = np.full((8, 36, 48, 3), 40 * number, np.uint8)
        video.write(root / "videos" / f"{number}.mp4", frames, 8)
    captions: dict[str, Any] = {f"{number}.mp4": f"original {number}" for number in range(1, 5)}
    captions["4.mp4"] = ["original 4", "also 4"]
    (root / "captions.json").write_text(json.dumps(captions))
    return root


def by_name(manifest: Manifest) -> dict[str, tuple[str, ...]]:
    return {clip.path.stem: clip.captions for clip in manifest.clips}


def test_every_clip_gets_its_own_caption_and_nothing_is_overwritten(folder, tmp_path):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    out = tmp_path / "made.jsonl"
    told, seen = Told(level, batch_size=2, concurrency=3), []
    done = caption(read_clips(folder), out, told, num_frames=3, frame_size=24, on_done=lambda *n: seen.append(n))
    assert by_name(done.manifest) == {str(n): (f"brightness {40 * n}",) for n in range(1, 6)}
    assert seen == [(n, 5) for n in range(1, 6)]
    assert all(question.frames.shape == (3, 18, 24, 3) for question in told.asked)
    assert all("3 frames" in question.prompt and "1.0 seconds" in question.prompt for question in told.asked)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert told.closed

    again = Manifest.load(out, folder)
    assert by_name(again) == by_name(done.manifest)
    provenance = next(clip.provenance for clip in again.clips if clip.path.stem == "4")
    assert provenance["original"] == ["original 4", "also 4"]
    (made,) = provenance["made"]
    assert (made["caption"], made["model"], made["task"]) == ("brightness 160", "told", "caption")
    assert made["frames"] == [0.0, 0.375, 0.875]
    assert {"endpoint", "settings", "time", "version"} <= made.keys()
    assert made["settings"]["num_frames"] == 3
    assert "{num_frames}" in made["settings"]["template"]


@pytest.mark.parametrize(
    ("use", "fourth", "fifth"),
    [
        ("new", ("made",), ("made",)),
        ("original", ("original 4", "also 4"), None),
        ("both", ("original 4", "also 4", "made"), ("made",)),
    ],
)
def test_training_reads_the_captions_of_choice(folder, tmp_path, use, fourth, fifth):
    out = folder / "made.jsonl"
    caption(read_clips(folder, out=out), out, Told(lambda question: "made"), use=use)
    found = by_name(read_layout(dataset_file=out))
    assert found["4"] == fourth
    assert found.get("5") == fifth


def test_only_what_is_missing_or_has_changed_is_asked(folder, tmp_path):
    out = tmp_path / "made.jsonl"

    def asked(told: Told, **options: Any) -> int:
        caption(read_clips(folder), out, told, **options)
        return len(told.asked)

    assert asked(Told()) == 5
    assert asked(Told()) == 0
    assert asked(Told(), use="both") == 0
    video.write(folder / "videos" / "2.mp4", np.full((8, 36, 48, 3), 200, np.uint8), 8)
    assert asked(Told()) == 1
    assert asked(Told(), num_frames=2) == 5
    assert asked(Told(), template="What is in {name}?") == 5
    assert asked(Told(model="other")) == 5
    assert asked(Told(), only_missing=True) == 0
    other = tmp_path / "other.jsonl"
    told = Told()
    caption(read_clips(folder), other, told, only_missing=True)
    assert len(told.asked) == 1
    assert by_name(Manifest.load(other, folder))["1"] == ("original 1",)


def test_one_failing_clip_is_named_and_stops_nothing(folder, tmp_path):
    (folder / "videos" / "3.mp4").write_bytes(b"no video")

    def say(question: Question) -> str:
        if "80" in level(question):
            raise NoAnswer("HTTP 500")
        return "I'm sorry, I can't." if "200" in level(question) else "made"

    out = tmp_path / "made.jsonl"
    done = caption(read_clips(folder), out, Told(say))
    assert {left.id: left.reason.split(":")[0] for left in done.failed} == {
        "videos/2.mp4": "HTTP 500",
        "videos/3.mp4": done.failed[1].reason.split(":")[0],
        "videos/5.mp4": "the model refused",
    }
    assert "3.mp4 cannot be opened" in done.failed[1].reason
    found = by_name(Manifest.load(out, folder))
    assert found == {"1": ("made",), "2": ("original 2",), "3": ("original 3",), "4": ("made",)}
    left = {left.id: left.reason for left in Manifest.load(out, folder).left_out}
    assert "the model refused" in left["videos/5.mp4"]
    told = Told()
    assert not [left for left in caption(read_clips(folder), out, told).failed if "3.mp4" not in left.id]
    assert len(told.asked) == 2


def test_a_dead_model_stops_early_and_keeps_what_there_is(folder, tmp_path):
    count = iter(range(10))

    def say(question: Question) -> str:
        if next(count) >= 2:
            raise ModelError("The endpoint is gone.")
        return "made"

    out = tmp_path / "made.jsonl"
    with pytest.raises(ModelError, match=r"gone.* 2 answers are kept"):
        caption(read_clips(folder), out, Told(say, concurrency=1))
    assert not out.exists()
    told = Told()
    assert len(caption(read_clips(folder), out, told).manifest) == 5
    assert len(told.asked) == 3


KILLED = """
import os, sys
from text2video.data.captions import caption
from text2video.data.uncaptioned import read_clips
sys.path.insert(0, {here!r})
from test_captions import Told
def say(question):
    if {out!r} and os.path.exists({mark!r}):
        import time; time.sleep(60)
    if sum(1 for _ in open({answers!r})) >= 3 if os.path.exists({answers!r}) else False:
        open({mark!r}, "w").close(); import time; time.sleep(60)
    return "made"
caption(read_clips({data!r}), {out!r}, Told(say, concurrency=1))
"""


def test_a_killed_job_goes_on(folder, tmp_path):
    out, mark = tmp_path / "made.jsonl", tmp_path / "mark"
    names = {"here": str(Path(__file__).parent), "out": str(out), "mark": str(mark), "data": str(folder)}
    program = KILLED.format(answers=str(out.with_suffix(".answers")), **names)
    process = subprocess.Popen([sys.executable, "-c", program])
    until = time.monotonic() + 60
    while not mark.exists() and time.monotonic() < until and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()
    assert mark.exists()
    assert not out.exists()
    told = Told()
    assert len(caption(read_clips(folder), out, told).manifest) == 5
    assert len(told.asked) == 2


def test_polishing_keeps_each_caption_with_its_clip(folder, tmp_path):
    out, told = tmp_path / "p.jsonl", Told(lambda question: question.prompt.split("\n")[-1].upper())
    done = polish(read_captioned(folder), out, told)
    assert by_name(done.manifest)["4"] == ("ORIGINAL 4", "ALSO 4")
    assert all(question.frames is None for question in told.asked)
    both = by_name(polish(read_captioned(folder), out, Told(), use="both").manifest)
    assert both["1"] == ("original 1", "ORIGINAL 1")
    (folder / "captions.json").write_text(json.dumps({"1.mp4": "new words", "4.mp4": ["also 4", "original 4"]}))
    again = Told(lambda question: "OTHER")
    changed = by_name(polish(read_captioned(folder), out, again).manifest)
    assert changed == {"1": ("OTHER",), "4": ("ALSO 4", "ORIGINAL 4")}
    assert len(again.asked) == 1


def test_a_caption_that_cannot_be_polished_stays(folder, tmp_path):
    told = Told(lambda question: "" if "also" in question.prompt else "NEW")
    done = polish(read_captioned(folder), tmp_path / "p.jsonl", told)
    assert by_name(done.manifest)["4"] == ("NEW", "also 4")
    assert [left.id for left in done.failed] == ["videos/4.mp4"]


def test_provenance_grows_and_survives_every_way_of_saving(folder, tmp_path):
    caption(read_clips(folder), tmp_path / "a.jsonl", Told(lambda question: "described"))
    described = read_captioned(None, dataset_file=tmp_path / "a.jsonl", data_root=folder)
    done = polish(described, tmp_path / "b.parquet", Told(lambda question: "polished"))
    clip = Manifest.load(tmp_path / "b.parquet", folder).clips[0]
    assert clip == done.manifest.clips[0]
    assert clip.captions == ("polished",)
    assert clip.provenance == done.manifest.clips[0].provenance
    assert clip.provenance["original"] == ["original 1"]
    assert [(made["task"], made.get("of")) for made in clip.provenance["made"]] == [
        ("caption", None),
        ("polish", "described"),
    ]
    write_layout(done.manifest, tmp_path / "copy", "manifest")
    assert read_layout(tmp_path / "copy").clips[0].provenance == clip.provenance
    hash(clip)


def test_a_manifest_row_with_other_fields_is_read(folder):
    row = {"id": "videos/1.mp4", "video": "videos/1.mp4", "captions": ["a"], "score": 3}
    for provenance in (None, 3, "x", {"made": []}, [1]):
        (folder / "m.jsonl").write_text(json.dumps({**row, "provenance": provenance}))
        assert Manifest.load(folder / "m.jsonl").clips[0].provenance is None


def test_clips_that_only_lack_a_caption_are_found_in_every_layout(folder, tmp_path):
    manifest = read_layout(folder)
    for layout in ("captions_txt", "captions_json", "csv"):
        place = tmp_path / layout
        write_layout(manifest, place, layout)
        Image.new("RGB", (8, 8)).save(place / "videos" / "p.png")
        if layout == "csv":
            with (place / "dataset.csv").open("a") as file:
                file.write("videos/p.png,\nvideos/gone.mp4,\n")
        found = read_clips(place)
        assert by_name(found) == {**by_name(manifest), "p": ()}, layout
        assert [left.id for left in found.left_out] == (["videos/gone.mp4"] if layout == "csv" else [])


def test_stretches_without_a_caption_are_found(folder):
    (folder / "t.csv").write_text("video,caption,start,end\nvideos/1.mp4,,0.25,0.75\nvideos/2.mp4,two,0,0.5\n")
    found = read_clips(folder / "t.csv")
    assert [(clip.id, clip.start, clip.end) for clip in found.clips if not clip.captions] == [
        ("videos/1.mp4#0.25-0.75", 0.25, 0.75)
    ]
    told = Told()
    done = caption(found, folder / "made.jsonl", told, template="{duration}")
    assert [question.prompt for question in told.asked] == ["0.5", "0.5"]
    assert Manifest.load(folder / "made.jsonl").clips == done.manifest.clips


def test_a_folder_of_videos_alone_is_captioned(folder, tmp_path):
    videos, out = folder / "videos", folder / "videos" / "made.jsonl"
    for _ in range(2):  # the second time its own manifest stands there
        found = read_clips(videos, out=out)
        assert [clip.id for clip in found.clips] == [f"{number}.mp4" for number in range(1, 6)]
        caption(found, out, Told())
    (folder / "captions.json").write_text('{"nothing.mp4": "x"}')
    with pytest.raises(DataError, match="give layout videos"):
        read_clips(folder)
    assert len(read_clips(folder, layout="videos")) == 5
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no video"):
        read_clips(tmp_path / "empty")


def test_what_is_there_is_not_written_over(folder, tmp_path):
    out = tmp_path / "mine.jsonl"
    out.write_text("mine")
    with pytest.raises(DataError, match="nothing is written over"):
        caption(read_clips(folder), out, Told())
    assert out.read_text() == "mine"
    with pytest.raises(UsageError, match=r"\.jsonl or \.parquet"):
        caption(read_clips(folder), tmp_path / "a.csv", Told())
    caption(read_clips(folder), folder / "made.jsonl", Told())
    with pytest.raises(DataError, match="is what is read"):
        read_captioned(folder / "made.jsonl", out=folder / "made.jsonl")
    outside = Manifest(tmp_path / "elsewhere", "manifest", read_layout(folder).clips)
    told = Told()
    with pytest.raises(DataError, match="outside"):
        caption(outside, tmp_path / "b.jsonl", told)
    assert not told.asked


def test_no_caption_at_all_is_an_error(folder, tmp_path):
    manifest = read_clips(folder)
    manifest.clips = [replace(clip, captions=()) for clip in manifest.clips]
    with pytest.raises(DataError, match="No clip has a caption"):
        caption(manifest, tmp_path / "a.jsonl", Told(lambda question: ""))
    assert not (tmp_path / "a.jsonl").exists()


@pytest.mark.parametrize("template", ["{title}", "{caption.__class__}", "{0}", "{", "{caption!r}", "{duration:f}", " "])
def test_templates_with_other_fields_are_refused(template):
    with pytest.raises(UsageError, match="template"):
        template_fields(template)


def test_braces_in_captions_and_templates_stay(tmp_path):
    told = Told(lambda question: question.prompt)
    assert polish_prompts(["a {sign} that says {caption}"], told, "{{as JSON}} {caption}") == [
        "{as JSON} a {sign} that says {caption}"
    ]
    clip = Clip("a.mp4", tmp_path / "a.mp4", ("{x}",))
    with pytest.raises(UsageError, match="shows the caption"):
        polish(Manifest(tmp_path, "made", [clip]), tmp_path / "o.jsonl", told, template="no field")
