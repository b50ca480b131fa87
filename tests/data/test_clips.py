import json
from pathlib import Path

import pytest

from text2video.data.clips import (
    Clip,
    LeftOut,
    Manifest,
    clean_caption,
    clip_id,
    split,
    stable_hash,
    write_file,
)
from text2video.data.locate import Locator
from text2video.errors import DataError


def a_manifest(root: Path) -> Manifest:
    clips = []
    for name, captions in {
        "videos/a.mp4": ("one", 'two, with "quotes"'),
        "videos/sub/猫 #1.MOV": ("猫が走る。",),
        "picture.PNG": ("a\u2028b",),
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        clips.append(Clip(clip_id(name), path, captions))
    clips.append(Clip(clip_id("videos/a.mp4", 1.5, 4), root / "videos/a.mp4", ("a stretch",), 1.5, 4.0))
    return Manifest(root, "captions_txt", clips, [LeftOut("videos/b.mp4", "no picture")])


@pytest.mark.parametrize("name", ["manifest.jsonl", "manifest.parquet"])
def test_a_saved_manifest_comes_back(tmp_path, name):
    manifest = a_manifest(tmp_path)
    manifest.save(tmp_path / name)
    back = Manifest.load(tmp_path / name)
    assert (back.root, back.clips, back.left_out) == (manifest.root, manifest.clips, manifest.left_out)
    assert [p.name for p in tmp_path.iterdir() if "tmp" in p.name] == []


def test_a_manifest_moves_with_its_folder_and_opens_elsewhere_with_its_root(tmp_path):
    old = tmp_path / "old"
    a_manifest(old).save(old / "manifest.jsonl")
    a_manifest(old).save(tmp_path / "elsewhere.jsonl")
    assert str(tmp_path) not in (old / "manifest.jsonl").read_text(encoding="utf-8")
    new = old.rename(tmp_path / "new")
    assert all(clip.path.is_relative_to(new) for clip in Manifest.load(new / "manifest.jsonl").clips)
    assert len(Manifest.load(tmp_path / "elsewhere.jsonl", new)) == 4
    assert not Manifest.load(tmp_path / "elsewhere.jsonl").clips


def test_a_manifest_cannot_lead_out_of_its_root(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"x")
    rows = [{"id": "x", "video": name, "captions": ["c"]} for name in ("../secret.mp4", str(tmp_path / "secret.mp4"))]
    (root / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    manifest = Manifest.load(root / "manifest.jsonl")
    assert not manifest.clips
    assert all("outside" in left.reason for left in manifest.left_out)
    with pytest.raises(DataError, match="outside"):
        Manifest(root, "", [Clip("x", tmp_path / "secret.mp4", ("c",))]).save(root / "m.jsonl")


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[1]",
        '{"id": "a"}',
        '{"id": 3, "video": "a", "captions": ["b"]}',
        '{"id": "a", "id": "b"}',
        '{"id": "a", "video": "v", "captions": "text"}',
        '{"id": "a", "video": "v", "captions": ["c"], "start": "1"}',
    ],
)
def test_a_broken_manifest_names_the_line(tmp_path, line):
    (tmp_path / "m.jsonl").write_text('{"id": "a", "left_out": "why"}\n' + line + "\n")
    with pytest.raises(DataError, match="line 2"):
        Manifest.load(tmp_path / "m.jsonl")


@pytest.mark.parametrize(
    "bad", ["../a.mp4", "x/../../a.mp4", "nul\0.mp4", "l" * 5000, "", "  ", "loop/a.mp4", "out.mp4"]
)
def test_locate_refuses_what_is_no_file_inside(tmp_path, bad):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "a.mp4").write_bytes(b"x")
    try:
        (root / "loop").symlink_to(root / "loop")
        (root / "out.mp4").symlink_to(tmp_path / "a.mp4")
    except OSError:
        pytest.skip("no symbolic links here")
    assert isinstance(Locator(root, (".", "videos"))(bad), str)


@pytest.mark.parametrize(
    "name", ["a b.mp4", " a b.mp4 ", "./a b.mp4", "sub/../a b.mp4", "sub\\c.mp4", "cafe\u0301.mp4"]
)
def test_locate_finds_other_spellings(tmp_path, name):
    (tmp_path / "sub").mkdir()
    for file in ("a b.mp4", "sub/c.mp4", "caf\u00e9.mp4"):
        (tmp_path / file).write_bytes(b"x")
    assert isinstance(Locator(tmp_path)(name), Path)
    assert isinstance(Locator(tmp_path)(str(tmp_path / "a b.mp4")), Path)


def test_ids_do_not_depend_on_spelling_and_tell_stretches_apart():
    assert clip_id("cafe\u0301.mp4") == clip_id("caf\u00e9.mp4")
    stretches = [clip_id("a#b.mp4", *times) for times in ((None, None), (0, None), (None, 2), (0, 2), (0.5, 2))]
    assert len(set(stretches)) == 5
    assert Clip(stretches[3], Path("a#b.mp4"), ("c",), 0, 2).source == "a#b.mp4"
    assert Clip(stretches[0], Path("a#b.mp4"), ("c",)).source == "a#b.mp4"


def clips_named(names):
    return [Clip(name, Path(name), ("c",)) for name in names]


def test_split_is_stable_disjoint_and_near_its_fraction():
    few, many = clips_named(f"{n}.mp4" for n in range(200)), clips_named(f"{n}.mp4" for n in range(2000))
    train, val = split(many, 0.1, seed=3)
    assert sorted(c.id for c in train + val) == sorted(c.id for c in many)
    assert 140 < len(val) < 260
    assert {c.id for c in split(few, 0.1, 3)[1]} == {c.id for c in val} & {c.id for c in few}
    assert {c.id for c in split(many[::-1], 0.1, 3)[1]} == {c.id for c in val}
    assert split(many, 0.1, 4)[1] != val


def test_split_keeps_the_stretches_of_a_file_together():
    clips = [
        Clip(clip_id(f"{n}.mp4", t, t + 1), Path(f"{n}.mp4"), ("c",), t, t + 1) for n in range(40) for t in range(5)
    ]
    train, val = split(clips, 0.3, 0)
    assert train
    assert val
    assert not {c.path for c in train} & {c.path for c in val}


@pytest.mark.parametrize("count", [2, 3, 5])
def test_split_leaves_no_side_of_a_tiny_set_empty(count):
    for seed in range(50):
        for fraction in (0.01, 0.5, 0.99):
            assert all(split(clips_named(f"{n}.mp4" for n in range(count)), fraction, seed))


def test_split_of_nothing_and_wrong_fractions():
    clips = clips_named(["a", "b"])
    assert split(clips, 0) == (clips, [])
    assert split(clips[:1], 0.5)[0] == clips[:1] or split(clips[:1], 0.5)[1] == clips[:1]
    for fraction in (-0.1, 1, float("nan")):
        with pytest.raises(DataError, match="fraction"):
            split(clips, fraction)


def test_stable_hash_is_a_constant_and_tells_parts_apart():
    assert stable_hash("a", 1) == stable_hash("a", 1) == 90929097926411725
    assert len({stable_hash("a", 11), stable_hash("a1", 1), stable_hash("a", 1, 1)}) == 3


def test_captions_become_one_line():
    assert clean_caption("  a\r\n  b\n\nc \u2028 d ") == "a b c \u2028 d"


def test_write_file_leaves_the_old_file_when_it_fails(tmp_path):
    file = tmp_path / "a.txt"
    write_file(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_file(file, "\ud800")
    assert file.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
