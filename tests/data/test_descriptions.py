"""The TOML files of diffusion-pipe and musubi-tuner, as they stand in those projects' documentation."""

import json
import tomllib
from pathlib import Path

import pytest

from text2video.data.clips import Clip, Manifest
from text2video.data.layouts import read_layout, write_layout
from text2video.errors import DataError

DIFFUSION_PIPE = """
# Resolutions to train on, given as the side length of a square image.
resolutions = [512]
enable_ar_bucket = true
min_ar = 0.5
max_ar = 2.0
num_ar_buckets = 7
frame_buckets = [1, 33]
caption_prefix = "TOK "

[[directory]]
path = '{one}'
num_repeats = 1

[[directory]]
path = '{two}'
num_repeats = 5
mask_path = '/masks'
"""
MUSUBI = """
[general]
resolution = [960, 544]
caption_extension = ".txt"
batch_size = 1
enable_bucket = true
bucket_no_upscale = false

[[datasets]]
video_directory = "{one}"
cache_directory = "/cache/1"
target_frames = [1, 25, 45]
frame_extraction = "head"
source_fps = 30.0

[[datasets]]
image_directory = "{one}"
cache_directory = "/cache/2"

[[datasets]]
video_jsonl_file = "{lines}"
target_frames = [1]
frame_stride = 10
cache_directory = "/cache/3"
"""


def put(root: Path, **files: str) -> Path:
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return root


def captions(manifest: Manifest) -> dict[str, list[str]]:
    return {clip.id: list(clip.captions) for clip in manifest.clips}


def test_diffusion_pipe(tmp_path):
    one = put(
        tmp_path / "sets" / "one", a_mp4="x", a_txt="one a\n", b_png="x", b_txt='"b", 猫', c_mp4="x", sub__d_mp4="x"
    )
    two = put(tmp_path / "sets" / "two", a_mp4="x", captions_json='{"a.mp4": ["two a", "also"]}', a_txt="not this")
    toml = tmp_path / "config" / "dataset.toml"
    toml.parent.mkdir()
    toml.write_text(DIFFUSION_PIPE.format(one=one.as_posix(), two=two.as_posix()), encoding="utf-8")
    manifest = read_layout(toml)
    assert manifest.layout == "diffusion_pipe"
    assert captions(manifest) == {"one/a.mp4": ["one a"], "one/b.png": ['"b", 猫'], "two/a.mp4": ["two a", "also"]}
    assert [left.id for left in manifest.left_out] == ["one/c.mp4"]
    assert captions(read_layout(dataset_file=toml)) == captions(manifest)
    notes = "\n".join(manifest.notes)
    for words in ("resolutions = [512]", "--height and --width", "--num_frames", "caption_prefix = 'TOK '"):
        assert words in notes
    assert "num_repeats = 5 of part 2 is not used: give --repeats" in notes
    assert "mask_path" in notes
    assert "path = " not in notes.replace("mask_path = ", "")


def test_musubi_tuner(tmp_path, monkeypatch):
    one = put(tmp_path / "sets" / "one", a_mp4="x", a_txt="video\nin two lines", p_png="x", p_txt="picture", q_png="x")
    rows = [{"video_path": "b.mp4", "caption": "from here"}, {"video_path": str(one / "a.mp4"), "caption": "outside"}]
    rows += [{"video_path": "sets/lines/c.mp4", "caption": "from the current folder"}, {"caption": "nothing"}]
    lines = put(tmp_path / "sets" / "lines", b_mp4="x", c_mp4="x") / "metadata.jsonl"
    lines.write_text("\n".join(map(json.dumps, rows)))
    text = MUSUBI.format(one=one.as_posix(), lines="sets/lines/metadata.jsonl")
    (tmp_path / "dataset.toml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    manifest = read_layout(tmp_path / "dataset.toml")
    expected = {
        "sets/one/a.mp4": ["video in two lines"],
        "sets/one/p.png": ["picture"],
        "sets/lines/b.mp4": ["from here"],
        "sets/lines/c.mp4": ["from the current folder"],
    }
    assert captions(manifest) == expected
    left = dict(manifest.left_out)
    assert "give data_root" in left[str(one / "a.mp4")]
    assert "no caption file" in left["sets/one/q.png"]
    assert "no video_path" in left["metadata.jsonl line 4"]
    assert "target_frames = [1, 25, 45] of part 1 is not used: give --num_frames" in manifest.notes
    whole = read_layout(dataset_file=tmp_path / "dataset.toml", data_root=tmp_path)
    assert captions(whole)["sets/one/a.mp4"] == ["video in two lines", "outside"]
    # relative to the file, where the current folder has no such folder
    monkeypatch.chdir(one)
    assert captions(read_layout(tmp_path)) == {k: v for k, v in expected.items() if k != "sets/lines/c.mp4"}


@pytest.mark.parametrize("tool", ["diffusion_pipe", "musubi_tuner"])
def test_what_we_write_has_the_form_of_theirs(tmp_path, tool):
    root = put(tmp_path / "d", videos__a_mp4="x", videos__sub__b_mp4="x", videos__sub__p_png="x")
    clips = [Clip(f"videos/{n}", root / "videos" / n, (n,)) for n in ("a.mp4", "sub/b.mp4", "sub/p.png")]
    write_layout(Manifest(root, "", clips), tmp_path / "out", tool)
    content = tomllib.loads((tmp_path / "out" / "dataset.toml").read_text(encoding="utf-8"))
    if tool == "diffusion_pipe":
        folders = [Path(part["path"]) for part in content["directory"]]
        assert {"resolutions", "frame_buckets"} <= set(content)
    else:
        folders = [Path(part.get("video_directory") or part["image_directory"]) for part in content["datasets"]]
        assert len({part["cache_directory"] for part in content["datasets"]}) == len(folders) == 3
    assert all(folder.is_absolute() and folder.is_dir() for folder in folders)
    assert captions(read_layout(tmp_path / "out" / "dataset.toml")) == {clip.id: [*clip.captions] for clip in clips}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[[directory]", "not TOML"),
        ("a = 1", "describes no data set"),
        ("directory = 3", "describes no data set"),
        ("[[directory]]\nnum_repeats = 1", "part 1 does not say where"),
        ("[[datasets]]\nvideo_directory = 'nowhere'", "nowhere, which is not there"),
        ("[[directory]]\npath = '.'", "no clip that can be used"),
    ],
)
def test_a_wrong_description_is_one_clear_paragraph(tmp_path, content, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.toml").write_text(content)
    with pytest.raises(DataError, match=words):
        read_layout(tmp_path / "d.toml")
