"""Hugging Face data sets row by row."""

import pytest

from text2video.data.clips import Clip, Manifest
from text2video.data.layouts import write_layout
from text2video.data.streaming import open_stream, take_stream
from text2video.errors import DataError

ROWS = [{"video": {"bytes": bytes([65 + n]) * 9, "path": f"x/{n}.webm"}, "caption": f"clip {n}"} for n in range(6)]


def captions(manifest: Manifest) -> dict[bytes, list[str]]:
    return {clip.path.read_bytes(): list(clip.captions) for clip in manifest.clips}


EXPECTED = {row["video"]["bytes"]: [row["caption"]] for row in ROWS}


class Stream:
    """Rows that break off, as a network does."""

    def __init__(self, rows, breaks_at=None):
        self.rows, self.breaks_at, self.given = rows, breaks_at, []

    def skip(self, count):
        return (self.row(n) for n in range(count, len(self.rows)))

    def row(self, n):
        if n == self.breaks_at:
            raise ConnectionError("the network is gone")
        self.given.append(n)
        return self.rows[n]


def test_an_interrupted_stream_goes_on_at_the_next_row(tmp_path):
    stream = Stream(ROWS, breaks_at=3)
    with pytest.raises(DataError, match=r"broke off after 3 rows.*goes on"):
        take_stream(stream, tmp_path / "rows", source="a")
    with (tmp_path / "rows" / "rows.jsonl").open("a") as journal:
        journal.write('{"row": 3, "vid')  # a kill in the middle of a line
    stream.breaks_at = None
    manifest = take_stream(stream, tmp_path / "rows", source="a")
    assert captions(manifest) == EXPECTED
    assert stream.given == [0, 1, 2, 3, 4, 5]
    assert {clip.path.suffix for clip in manifest.clips} == {".webm"}
    with pytest.raises(DataError, match="rows of a, not of b"):
        take_stream(stream, tmp_path / "rows", source="b")


def test_rows_that_cannot_be_used_are_named(tmp_path):
    rows = [
        {"mp4": b"bytes", "text": ["one", "two"]},
        {"mp4": None, "text": "no video"},
        {"mp4": b"x", "text": None},
        {"mp4": b"y", "text": "lone \ud800"},
        {"mp4": {"bytes": None, "path": "/no/such.mp4"}, "text": "c"},
        {"mp4": "../out.mp4", "text": "c"},
    ]
    manifest = take_stream(iter(rows), tmp_path / "rows")
    assert captions(manifest) == {b"bytes": ["one", "two"]}
    assert [left.id for left in manifest.left_out] == [
        "row 1",
        "videos/0000002.mp4",
        "videos/0000003.mp4",
        "row 4",
        "row 5",
    ]
    assert all("no video" in left.reason for left in manifest.left_out[-2:])
    # only what lies in the folder that the rows come from
    (tmp_path / "out.mp4").write_bytes(b"secret")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "in.mp4").write_bytes(b"inside")
    names = ["../out.mp4", str(tmp_path / "out.mp4"), "in.mp4", str(tmp_path / "home" / "in.mp4")]
    rows = [{"video": {"bytes": None, "path": name}, "caption": name} for name in names]
    manifest = take_stream(iter(rows), tmp_path / "named", home=tmp_path / "home")
    assert [clip.path.read_bytes() for clip in manifest.clips] == [b"inside", b"inside"]
    with pytest.raises(DataError, match="no video"):
        take_stream(iter(rows), tmp_path / "homeless")
    with pytest.raises(DataError, match=r"no caption column.*a, video"):
        take_stream(iter([{"a": 1, "video": b"x"}]), tmp_path / "other")


def test_a_data_set_of_the_library_streams_without_decoding(tmp_path):
    pytest.importorskip("datasets")
    root = tmp_path / "source"
    root.mkdir()
    for row in ROWS:
        (root / row["video"]["path"][2:]).write_bytes(row["video"]["bytes"])
    clips = [Clip(r["video"]["path"][2:], root / r["video"]["path"][2:], (r["caption"],)) for r in ROWS]
    write_layout(Manifest(root, "", clips), tmp_path / "hub", "huggingface")
    rows = open_stream(str(tmp_path / "hub" / "data"))
    assert isinstance(next(iter(rows))["video"]["bytes"], bytes)
    assert captions(take_stream(rows, tmp_path / "rows", max_samples=4)) == dict(list(EXPECTED.items())[:4])
    assert captions(take_stream(rows, tmp_path / "rows")) == EXPECTED
