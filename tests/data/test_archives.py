"""Clips that stay inside of tar shards and of Parquet and Arrow tables."""

import io
import json
import pickle
import sys
import tarfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from text2video import TextVideoDataset, video
from text2video.data import archives
from text2video.data.checks import check
from text2video.data.clips import Clip, Manifest
from text2video.data.layouts import read_layout, write_layout
from text2video.data.watch import examine_all
from text2video.errors import DataError, VideoError
from text2video.video import members


def a_video(path: Path, level: int = 0, frames: int = 6) -> Path:
    ramp = np.arange(32, dtype=np.uint8)[None, None, :, None] * 4
    video.write(path, np.broadcast_to(ramp + level, (frames, 32, 32, 3)), fps=8, crf=0)
    return path


def a_tar(path: Path, entries: dict[str, bytes] | list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in entries.items() if isinstance(entries, dict) else entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def captions(manifest: Manifest) -> dict[str, list[str]]:
    return {clip.id: list(clip.captions) for clip in manifest.clips}


@pytest.fixture
def made(tmp_path) -> Manifest:
    """Three videos and a picture in a folder."""
    root = tmp_path / "made"
    (root / "videos" / "sub.dir").mkdir(parents=True)
    names = ["videos/a.mp4", "videos/sub.dir/b.c%2E.mp4", "videos/d.mp4"]
    clips = [Clip(name, a_video(root / name, 40 * n), (f"clip {n}",)) for n, name in enumerate(names)]
    Image.new("RGB", (8, 8), "red").save(root / "videos" / "p.png")
    clips.append(Clip("videos/p.png", root / "videos" / "p.png", ("red", "all red")))
    return Manifest(root, "made", clips)


@pytest.mark.parametrize("layout", ["webdataset", "huggingface"])
def test_a_clip_in_an_archive_is_the_same_clip(made, tmp_path, layout):
    write_layout(made, tmp_path / "out", layout)
    back = read_layout(tmp_path / "out")
    assert [clip.captions for clip in back.clips] == [clip.captions for clip in made.clips]
    for clip, other in zip(made.clips, back.clips, strict=True):
        assert other.path != clip.path
        assert video.is_file(other.path)
        with video.open_file(other.path) as file:
            assert file.read() == clip.path.read_bytes()
        for one, two in (
            (video.read(clip.path), video.read(other.path)),
            (video.sample(clip.path, 3, height=16, width=16), video.sample(other.path, 3, height=16, width=16)),
        ):
            np.testing.assert_array_equal(one.frames, two.frames)
            np.testing.assert_array_equal(one.times, two.times)
        assert video.examine(clip.path) == video.examine(other.path)
    # in worker processes, and in a data set that goes to one
    assert examine_all([clip.path for clip in back.clips], workers=1) == [
        asdict(video.examine(c.path)) for c in made.clips
    ]
    report = check(back, num_frames=4, height=32, width=32, workers=1)
    assert report.counts() == check(made, num_frames=4, height=32, width=32, workers=1).counts()
    here, there = (
        TextVideoDataset(made, num_frames=4, frame_size=32),
        TextVideoDataset(back, num_frames=4, frame_size=32),
    )
    there = pickle.loads(pickle.dumps(there))
    for n in range(len(here)):
        assert (here[n]["video"] == there[n]["video"]).all()
    # and back again, with the names as they were
    write_layout(back, tmp_path / "again", "captions_json")
    assert captions(read_layout(tmp_path / "again")) == captions(made)


def test_a_manifest_names_members_and_finds_them_again(made, tmp_path):
    write_layout(made, tmp_path / "out", "webdataset")
    back = read_layout(tmp_path / "out")
    back.save(tmp_path / "out" / "manifest.jsonl")
    assert Manifest.load(tmp_path / "out" / "manifest.jsonl").clips == back.clips
    rows = [
        {"id": name, "video": f"shards/000000.tar/{name}", "captions": ["c"]}
        for name in ("none.mp4", "../../../made/videos/a.mp4", "a.mp4/x", "../000000.tar/a.mp4")
    ]
    (tmp_path / "out" / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    loaded = Manifest.load(tmp_path / "out" / "manifest.jsonl")
    assert [clip.id for clip in loaded.clips] == ["../000000.tar/a.mp4"]  # a detour that ends inside
    assert {left.id: left.reason.split(",")[0] for left in loaded.left_out} == {
        "none.mp4": "the file is missing",
        "../../../made/videos/a.mp4": "the path leads out of the data root",
        "a.mp4/x": "the file is missing",
    }
    with pytest.raises(VideoError, match="does not exist"):
        video.read(tmp_path / "out" / "shards" / "000000.tar" / "none.mp4")


def test_stretches_of_one_file_share_it_in_a_shard(made, tmp_path):
    path = made.clips[0].path
    clips = [
        Clip("videos/a.mp4#0-0.25", path, ("one", "1"), 0.0, 0.25),
        Clip("videos/a.mp4#0.25-", path, ("two",), 0.25),
    ]
    write_layout(Manifest(made.root, "", clips), tmp_path / "out", "webdataset")
    back = read_layout(tmp_path / "out")
    assert [(c.captions, c.start, c.end) for c in back.clips] == [(c.captions, c.start, c.end) for c in clips]
    assert len({clip.path for clip in back.clips}) == len({clip.source for clip in back.clips}) == 1
    assert len(members.tar_index(back.clips[0].path.parent).files) == 3


def test_large_sets_go_to_several_files(made, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "SHARD_BYTES", 1)
    monkeypatch.setattr(archives, "GROUP_BYTES", 1)
    for layout, folder in (("webdataset", "shards"), ("huggingface", "data")):
        write_layout(made, tmp_path / layout, layout)
        assert len(list((tmp_path / layout / folder).iterdir())) == 4
        assert [c.captions for c in read_layout(tmp_path / layout).clips] == [c.captions for c in made.clips]
    assert read_layout(tmp_path / "webdataset" / "shards" / "000001.tar").clips[0].captions == ("clip 1",)


def test_other_libraries_read_what_we_write(made, tmp_path):
    webdataset, datasets = pytest.importorskip("webdataset"), pytest.importorskip("datasets")
    write_layout(made, tmp_path / "shards", "webdataset")
    url = (tmp_path / "shards" / "shards" / "000000.tar").as_uri().replace("file://", "file:")
    samples = list(webdataset.WebDataset(url, shardshuffle=False))
    assert [sample["txt"].decode() for sample in samples] == ["clip 0", "clip 1", "clip 2", "red"]
    assert samples[0]["mp4"] == made.clips[0].path.read_bytes()
    assert json.loads(samples[3]["json"]) == {"caption": ["red", "all red"]}
    write_layout(made, tmp_path / "parquet", "huggingface")
    files = [str(path) for path in (tmp_path / "parquet" / "data").iterdir()]
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(rows.features["video"], datasets.Video)
    rows = rows.cast_column("video", datasets.Video(decode=False))
    assert rows[1]["video"]["bytes"] == made.clips[1].path.read_bytes()
    assert rows["caption"][:] == [list(clip.captions) for clip in made.clips]


# ---- shards as they come


def test_shards_of_any_usual_naming(tmp_path):
    mp4 = a_video(tmp_path / "a.mp4").read_bytes()
    a_tar(
        tmp_path / "d" / "x" / "000.tar",
        {
            "./0001.mp4": mp4,
            "./0001.txt": b'a "quoted", text\nin two lines',
            "0002.MP4": mp4,
            "0002.json": json.dumps({"text": "from json", "width": 3}).encode(),
            "0002.txt": b"from txt",
            "sub.v1/0003.webm": mp4,
            "sub.v1/0003.json": b'{"prompt": ["\xe7\x8c\xab", "cat"]}',
            "0004.video.mp4": mp4,
            "0004.caption": b"\xef\xbb\xbfmark",
            "0004.jpg": b"thumbnail",
            "0005.mp4": mp4,
            "0005.json": b'{"fps": 3}',
            "0005.txt": b"json without one",
            "._0001.mp4": b"",
            "readme.md": b"",
        },
    )
    manifest = read_layout(tmp_path / "d")
    assert captions(manifest) == {
        "x/000.tar/0001.mp4": ['a "quoted", text in two lines'],
        "x/000.tar/0002.MP4": ["from json"],
        "x/000.tar/sub.v1/0003.webm": ["猫", "cat"],
        "x/000.tar/0004.video.mp4": ["mark"],
        "x/000.tar/0005.mp4": ["json without one"],
    }
    assert not manifest.left_out
    assert captions(read_layout(tmp_path / "d", caption_column="txt"))["x/000.tar/0001.mp4"]


def test_what_is_wrong_in_a_shard_is_named(tmp_path):
    ok = {"ok.mp4": b"x", "ok.txt": b"fine"}
    entries = [
        *ok.items(),
        ("twice.mp4", b"1"),
        ("twice.mp4", b"2"),
        ("twice.txt", b"c"),
        ("silent.mp4", b"x"),
        ("alone.txt", b"c"),
        ("../out.mp4", b"x"),
        ("/etc/out.mp4", b"x"),
        ("two.a.mp4", b"x"),
        ("two.b.mp4", b"x"),
        ("two.txt", b"c"),
        ("bad.mp4", b"x"),
        ("bad.json", b"{"),
        ("latin.mp4", b"x"),
        ("latin.txt", b"\xe9"),
        ("time.mp4", b"x"),
        ("time.json", b'{"caption": "c", "start": 3, "end": 1}'),
        ("empty.mp4", b"x"),
        ("empty.txt", b" \n"),
    ]
    shard = a_tar(tmp_path / "s.tar", entries)
    with tarfile.open(shard, "a") as tar:
        link = tarfile.TarInfo("link.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    manifest = read_layout(tmp_path)
    assert captions(manifest) == {"s.tar/ok.mp4": ["fine"]}
    left = {left.id: left.reason for left in manifest.left_out}
    for id, words in {
        "s.tar/twice.mp4": "two members",
        "s.tar/silent.mp4": "no caption",
        "s.tar/alone.txt": "without a video",
        "s.tar/../out.mp4": "leads out",
        "s.tar/etc/out.mp4": "leads out",
        "s.tar/two.a.mp4": "2 videos have this key",
        "s.tar/two.b.mp4": "2 videos have this key",
        "s.tar/bad.mp4": "cannot be read",
        "s.tar/latin.mp4": "cannot be read",
        "s.tar/time.mp4": "no stretch",
        "s.tar/empty.mp4": "empty caption",
        "s.tar/link.mp4": "link",
    }.items():
        assert words in left[id], id


def test_broken_tars_give_what_can_be_read(tmp_path):
    entries = {f"{n:02d}.{kind}": bytes([65 + n]) * 700 for n in range(4) for kind in ("mp4", "txt")}
    whole = a_tar(tmp_path / "whole.tar", entries).read_bytes()
    for name, content, clips, words in (
        ("cut", whole[: 3 * 1536 + 1100], 1, "cut off in the middle"),  # inside of the content of 01.txt
        ("end", whole[: 4 * 1536], 2, "cut off or damaged"),
        ("hole", whole[: 4 * 1536] + b"\x07" * 1536 + whole[5 * 1536 :], 2, "cut off or damaged"),
        ("rubbish", b"rubbish" * 1000, 0, "cannot be read whole"),
        ("nothing", b"", 0, "cannot be read whole"),
        ("packed", __import__("gzip").compress(whole), 0, "compressed"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "a.tar").write_bytes(content)
        if clips:
            manifest = read_layout(folder)
            assert len(manifest) == clips, name
            assert any(words in left.reason for left in manifest.left_out), name
        else:
            with pytest.raises(DataError, match=words):
                read_layout(folder)


def test_a_replaced_tar_is_read_anew_and_windows_close(tmp_path):
    shard = a_tar(tmp_path / "s.tar", {"a.mp4": b"one"})
    with video.open_file(shard / "a.mp4") as file:
        assert file.read(2) == b"on"
        assert file.seek(-1, io.SEEK_END) == 2
        assert file.read() == b"e"
        assert file.seek(100) == 100
        assert file.read() == b""
        with pytest.raises(OSError, match="beginning"):
            file.seek(-1)
    assert file.closed
    a_tar(shard, {"b.mp4": b"three", "a.mp4": b"four"})
    with video.open_file(shard / "a.mp4") as file:
        assert file.read() == b"four"
    with pytest.raises(FileNotFoundError):
        video.open_file(shard / "c.mp4")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc")
def test_reading_members_leaves_no_file_open(tmp_path):
    shard = a_tar(tmp_path / "s.tar", {"a.mp4": a_video(tmp_path / "a.mp4").read_bytes()})
    video.read(shard / "a.mp4")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        video.examine(shard / "a.mp4")
        video.sample(shard / "a.mp4", 2)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_a_playlist_in_a_shard_opens_nothing_else(tmp_path):
    a_video(tmp_path / "secret.mp4")
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:{tmp_path / 'secret.mp4'}\n#EXT-X-ENDLIST\n"
    shard = a_tar(
        tmp_path / "s.tar",
        {"a.mp4": playlist.encode(), "b.mp4": f"ffconcat version 1.0\nfile '{tmp_path / 'secret.mp4'}'\n".encode()},
    )
    for name in ("a.mp4", "b.mp4"):
        with pytest.raises(VideoError):
            video.read(shard / name)


# ---- tables with bytes


def test_what_datasets_saves_is_read(made, tmp_path):
    datasets = pytest.importorskip("datasets")
    content = {
        "video": [{"bytes": clip.path.read_bytes(), "path": clip.path.name} for clip in made.clips[:3]],
        "text": [clip.captions[0] for clip in made.clips[:3]],
    }
    features = datasets.Features({"video": datasets.Video(decode=False), "text": datasets.Value("string")})
    saved = datasets.Dataset.from_dict(content, features=features)
    saved.save_to_disk(str(tmp_path / "one"), num_shards=2)
    datasets.DatasetDict({"train": saved, "test": saved.select([2, 0])}).save_to_disk(str(tmp_path / "two"))
    for folder, count, notes in (("one", 3, 0), ("two", 3, 1), ("two/test", 2, 0)):
        manifest = read_layout(tmp_path / folder)
        assert manifest.layout == "huggingface"
        assert len(manifest) == count
        assert len(manifest.notes) == notes
        for clip in manifest.clips:
            number = int(clip.captions[0].removeprefix("clip "))
            with video.open_file(clip.path) as file:
                assert file.read() == made.clips[number].path.read_bytes()
            np.testing.assert_array_equal(video.read(clip.path).frames, video.read(made.clips[number].path).frames)
    assert "test" in read_layout(tmp_path / "two").notes[0]


def test_parquet_with_bytes_paths_and_nothing(made, tmp_path):
    one = made.clips[0].path.read_bytes()
    (tmp_path / "d" / "data").mkdir(parents=True)
    (tmp_path / "d" / "more.mp4").write_bytes(one)
    rows = [
        {"clip": {"bytes": one, "path": "../../x/one.mp4"}, "says": "bytes"},
        {"clip": {"bytes": None, "path": "more.mp4"}, "says": "path"},
        {"clip": {"bytes": None, "path": "../../made/videos/a.mp4"}, "says": "outside"},
        {"clip": {"bytes": None, "path": None}, "says": "nothing"},
        {"clip": {"bytes": one, "path": None}, "says": None},
        {"clip": {"bytes": one, "path": None}, "says": "no name"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d" / "data" / "t.parquet", row_group_size=4)
    with pytest.raises(DataError, match=r"no caption column.*clip, says.*caption_column"):
        read_layout(tmp_path / "d")
    manifest = read_layout(tmp_path / "d", caption_column="says")
    assert captions(manifest) == {
        "data/t.parquet/clip/0/x/one.mp4": ["bytes"],
        "more.mp4": ["path"],
        "data/t.parquet/clip/5/clip.mp4": ["no name"],
    }
    reasons = [left.reason for left in manifest.left_out]
    assert any("leads out" in reason for reason in reasons)
    assert any("no video" in reason for reason in reasons)
    assert any("no caption" in reason for reason in reasons)
    for clip in manifest.clips:
        assert len(video.read(clip.path).frames) == 6
    # a column of bytes alone
    table = pa.table({"mp4": pa.array([one, None], pa.binary()), "txt": ["a", "b"], "text": ["right", "void"]})
    pq.write_table(table, tmp_path / "plain.parquet")
    plain = read_layout(tmp_path / "plain.parquet")
    assert captions(plain) == {"plain.parquet/mp4/0/clip.mp4": ["right"]}
    assert "no video" in plain.left_out[0].reason
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "broken.arrow").write_bytes(b"rubbish")
    with pytest.raises(DataError, match="cannot be read"):
        read_layout(tmp_path / "e")


def test_archives_are_no_folders(tmp_path):
    """A folder that is called like an archive stays a folder."""
    folder = tmp_path / "videos" / "set.tar"
    folder.mkdir(parents=True)
    a_video(folder / "a.mp4")
    (tmp_path / "captions.json").write_text('{"set.tar/a.mp4": "c"}')
    manifest = read_layout(tmp_path)
    assert captions(manifest) == {"videos/set.tar/a.mp4": ["c"]}
    assert len(video.read(manifest.clips[0].path).frames) == 6


@pytest.mark.skipif(sys.platform == "win32", reason="makes a symbolic link")
def test_an_archive_outside_of_the_root_is_not_read(tmp_path):
    a_tar(tmp_path / "out.tar", {"a.mp4": b"x"})
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "in.tar").symlink_to(tmp_path / "out.tar")
    (tmp_path / "d" / "t.csv").write_text("video,caption\nin.tar/a.mp4,c\n")
    with pytest.raises(DataError, match="leads out"):
        read_layout(tmp_path / "d")
