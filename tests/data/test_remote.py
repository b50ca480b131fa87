"""Remote files: fetched whole, once, into the cache, and nothing that a list has no business to name."""

import functools
import http.server
import json
import threading
from pathlib import Path

import fsspec
import pytest

from text2video.data import remote
from text2video.data.clips import Manifest
from text2video.data.layouts import read_layout, write_layout
from text2video.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TEXT2VIDEO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TEXT2VIDEO_PROTOCOLS", "memory")
    return tmp_path / "cache" / "remote"


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield lambda name, content: system.pipe_file(f"/{name}", content.encode())
    system.store.clear()


def captions(manifest: Manifest) -> dict[str, list[str]]:
    return {clip.id: list(clip.captions) for clip in manifest.clips}


def test_a_remote_folder_is_the_same_data_set(memory, tmp_path, cache):
    for name, content in {"captions.json": '{"a.mp4": "a", "sub/猫 1.mp4": "b"}', "videos/a.mp4": "A"}.items():
        memory(f"set/{name}", content)
    memory("set/videos/sub/猫 1.mp4", "B")
    memory("set/notes.bin", "not fetched")
    manifest = read_layout("memory://set")
    assert captions(manifest) == {"videos/a.mp4": ["a"], "videos/sub/猫 1.mp4": ["b"]}
    assert all(clip.path.is_relative_to(cache) for clip in manifest.clips)
    assert not list(cache.rglob("*.bin"))
    assert not list(cache.rglob(".tmp*"))
    # `Path` takes one of the slashes away; the options of a run are paths
    assert captions(read_layout(Path("memory://set"))) == captions(manifest)
    write_layout(manifest, tmp_path / "out", "csv")
    assert (tmp_path / "out" / "videos" / "sub" / "猫 1.mp4").read_bytes() == b"B"


def test_a_remote_table_fetches_what_it_names(memory):
    memory("d/t.csv", "video,caption\na.mp4,a\nvideos/b.mp4,b\ngone.mp4,c\n../x.mp4,d\nmemory://other/c.mp4,e\n")
    for name in ("d/a.mp4", "d/videos/b.mp4", "other/c.mp4", "x.mp4"):
        memory(name, name)
    manifest = read_layout(dataset_file="memory://d/t.csv")
    assert captions(manifest) == {"a.mp4": ["a"], "videos/b.mp4": ["b"], "memory://other/c.mp4": ["e"]}
    left = dict(manifest.left_out)
    assert "FileNotFoundError" in left["gone.mp4"]
    assert "leads out" in left["../x.mp4"]


def test_a_manifest_keeps_addresses_and_nothing_is_fetched_twice(memory, tmp_path, monkeypatch):
    memory("v/a.mp4", "A")
    (tmp_path / "t.jsonl").write_text(json.dumps({"video": "memory://v/a.mp4", "caption": "a"}))
    manifest = read_layout(tmp_path / "t.jsonl")
    manifest.save(tmp_path / "manifest.jsonl")
    assert json.loads((tmp_path / "manifest.jsonl").read_text())["video"] == "memory://v/a.mp4"
    fsspec.filesystem("memory").store.clear()
    assert Manifest.load(tmp_path / "manifest.jsonl").clips == manifest.clips
    monkeypatch.setenv("TEXT2VIDEO_CACHE", str(tmp_path / "empty"))
    assert "cannot be fetched" in Manifest.load(tmp_path / "manifest.jsonl").left_out[0].reason


def test_a_file_that_arrives_in_part_is_not_kept(memory, cache, monkeypatch):
    memory("v/a.mp4", "whole")
    system = type(fsspec.filesystem("memory"))
    monkeypatch.setattr(system, "get_file", lambda self, name, local, **_: Path(local).write_bytes(b"who"))
    assert "3 of 5 bytes" in str(remote.fetch("memory://v/a.mp4"))
    assert not [path for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("file:///etc/passwd", "is not fetched"),
        ("local:///etc/passwd", "is not fetched"),
        ("ftp://h/a.mp4", "is not fetched"),
        ("github://a:b@/x.mp4", "is not fetched"),
        ("https://h/../../a.mp4", "parts"),
        ("https://h/a//b.mp4", "parts"),
        ("memory://a/../../b.mp4", "parts"),
        ("simplecache::https://h/a.mp4", "chained"),
        ("https://h/a.zip::file:///etc/passwd", "chained"),
        ("https://me:secret@h/a.mp4", "password"),
        ("https://h/" + "l" * 300, "too long"),
        ("http://127.0.0.1/a.mp4", "private"),
        ("http://169.254.169.254/latest/meta-data", "private"),
        ("http://[::1]/a.mp4", "private"),
        ("http://localhost:1/a.mp4", "private"),
    ],
)
def test_a_list_cannot_have_just_anything_fetched(url, words, cache):
    if url == "http://[::1]/a.mp4":
        words = "chained|private"
    assert any(word in str(remote.fetch(url)) for word in words.split("|"))
    assert not [path for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "url", ["https://h.org/a%20b/c.mp4", "https://h.org/v.mp4?id=3&x=a/b", "s3://bucket/a: b/猫?.mp4", "https://h:80/v"]
)
def test_an_address_comes_back_from_its_place_in_the_cache(url, cache):
    place = remote._place(url)
    assert isinstance(place, Path)
    assert place.is_relative_to(cache)
    assert remote.url_of(place).replace("%2F", "/") == url
    assert place.suffix == (".mp4" if ".mp4" in url else "")


@pytest.mark.parametrize("name", ["a.mp4", "C:/x", "c:\\x", "/a/b", "./x", "videos/a:b.mp4", "hf:name"])
def test_names_of_files_are_no_addresses(name):
    assert remote.as_url(name) is None


def test_what_is_not_there_is_one_clear_paragraph(memory):
    with pytest.raises(DataError, match=r"holds no file|cannot be listed"):
        read_layout("memory://nothing")
    with pytest.raises(DataError, match="ftp:// is not fetched, only"):
        read_layout("ftp://h/set")


def test_web_addresses(tmp_path, monkeypatch):
    pytest.importorskip("aiohttp")
    served = tmp_path / "served"
    (served / "videos").mkdir(parents=True)
    (served / "videos" / "a.mp4").write_bytes(b"A" * 100_000)
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(f"{self.command} {self.path}")

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        base = f"http://127.0.0.1:{server.server_port}"
        (served / "t.csv").write_text(f"video,caption\nvideos/a.mp4,a\n{base}/videos/a.mp4?v=2,b\nno.mp4,c\n")
        # the user named this host, so that it may be a private one
        manifest = read_layout(f"{base}/t.csv")
        assert captions(manifest) == {"videos/a.mp4": ["a"], "videos/a.mp4%3Fv=2.mp4": ["b"]}
        assert all(clip.path.read_bytes() == b"A" * 100_000 for clip in manifest.clips)
        assert "FileNotFoundError" in dict(manifest.left_out)["no.mp4"]
        before = [line for line in asked if "a.mp4" in line]
        read_layout(f"{base}/t.csv")
        assert [line for line in asked if "a.mp4" in line] == before
        # a list of somebody else may not
        (tmp_path / "t.csv").write_text(f"video,caption\n{base}/videos/b.mp4,b\n")
        with pytest.raises(DataError, match="private"):
            read_layout(tmp_path / "t.csv")
        with pytest.raises(DataError, match="has no list of files"):
            read_layout(f"{base}/nothing")
    finally:
        server.shutdown()
