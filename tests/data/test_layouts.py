import json
import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from text2video import video
from text2video.data.clips import Clip, Manifest, clip_id
from text2video.data.layouts import LAYOUTS, read_layout, write_layout
from text2video.data.template import setup
from text2video.data.writers import WRITERS
from text2video.errors import DataError, UsageError

CAPTIONS = {
    "videos/a.mp4": ["a dog runs", 'it says "hi", twice; tab\there'],
    "videos/a.mov": ["another file of the same stem"],
    "videos/sub/B.MP4": ["猫が走る。", "кошка", "قطة تجري", "🐈"],
    "videos/sub/a.b.mp4": ["'single', # hash, \\ backslash, u\u2028mark"],
    "videos/deep/er/é ü #1.webm": [" spaces around and\r\na line break "],
    "videos/picture.PNG": ["a still picture"],
}
WRITTEN = [
    "captions_txt",
    "captions_json",
    "text_lists",
    "csv",
    "tsv",
    "json",
    "jsonl",
    "parquet",
    "webvid",
    "metadata",
    "manifest",
    "pairs",
    "webdataset",
    "huggingface",
    "diffusion_pipe",
    "musubi_tuner",
]
IN_ARCHIVES = ("webdataset", "huggingface")


def put(root: Path, *files: str, **texts: str) -> Path:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def text(root: Path, name: str, content: str | bytes) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def link(path: Path, target: Path) -> None:
    try:
        path.symlink_to(target, target_is_directory=target.is_dir())
    except OSError:
        pytest.skip("no symbolic links here")


def captions(manifest: Manifest) -> dict[str, list[str]]:
    return {clip.id: list(clip.captions) for clip in manifest.clips}


def reasons(manifest: Manifest) -> dict[str, str]:
    return dict(manifest.left_out)


@pytest.fixture
def source(tmp_path) -> Manifest:
    root = put(tmp_path / "source", *CAPTIONS)
    return Manifest(root, "made", [Clip(clip_id(name), root / name, tuple(c)) for name, c in CAPTIONS.items()])


def by_content(manifest: Manifest) -> dict[str, list[str]]:
    """Captions by what is in the file; the files made here hold their first names."""
    found = {}
    for clip in manifest.clips:
        with video.open_file(clip.path) as file:
            found[file.read().decode()] = list(clip.captions)
    return found


EXPECTED = {id: [" ".join(c.split("\r\n")).strip() for c in several] for id, several in CAPTIONS.items()}


def can_hold(source: Manifest, layout: str) -> tuple[Manifest, dict[str, list[str]]]:
    """What is left of the clips for a layout with one caption a clip, and what should come back."""
    if layout not in ("pairs", "musubi_tuner"):
        return source, EXPECTED
    clips = [replace(clip, captions=clip.captions[:1]) for clip in source.clips]
    return replace(source, clips=clips), {id: several[:1] for id, several in EXPECTED.items()}


@pytest.mark.parametrize("layout", WRITTEN)
def test_every_layout_comes_back_whole_and_goes_to_every_other(source, tmp_path, layout):
    source, expected = can_hold(source, layout)
    write_layout(source, tmp_path / "out", layout)
    back = read_layout(tmp_path / "out")
    assert by_content(back) == expected
    assert back.layout == layout
    assert not back.left_out
    assert captions(read_layout(tmp_path / "out", layout=layout)) == captions(back)
    unique = layout in ("pairs", "webdataset", "diffusion_pipe", "musubi_tuner")  # there a.mov becomes a-2.mov
    if layout not in IN_ARCHIVES and not unique:
        assert captions(back) == expected
    for other in WRITTEN:
        there, wanted = can_hold(back, other) if expected is EXPECTED else (back, expected)
        write_layout(there, tmp_path / other, other)
        again = read_layout(tmp_path / other)
        assert by_content(again) == wanted
        assert not again.left_out
        if not unique and other in ("captions_json", "csv", "manifest"):  # nested folders and names are as they were
            assert {clip.path.relative_to(tmp_path / other).as_posix() for clip in again.clips} == {
                name if name.startswith("videos/") else f"videos/{name}" for name in CAPTIONS
            }
        # a saved manifest opens members of archives, too
        again.save(tmp_path / other / "m.parquet")
        assert captions(Manifest.load(tmp_path / other / "m.parquet")) == captions(again)


@pytest.mark.parametrize("layout", ["pairs", "musubi_tuner"])
def test_what_a_layout_cannot_hold_is_said_before_anything_is_written(source, tmp_path, layout):
    with pytest.raises(DataError, match=r"one caption a clip, and videos/a\.mp4 has 2.*webdataset"):
        write_layout(source, tmp_path / "out", layout)
    assert not (tmp_path / "out").exists()


def test_every_layout_that_is_read_is_written():
    assert set(LAYOUTS) - {"table"} <= set(WRITTEN) == set(WRITERS)


@pytest.mark.parametrize("layout", WRITTEN)
def test_stretches_are_kept_or_refused(tmp_path, layout):
    root = put(tmp_path / "source", "a.mp4")
    spans = ((0.0, 1.5), (1.5, None), (None, 2.0))
    clips = [Clip(clip_id("a.mp4", *span), root / "a.mp4", (f"{span}",), *span) for span in spans]
    source = Manifest(root, "made", clips)
    if layout not in ("csv", "tsv", "json", "jsonl", "parquet", "metadata", "webdataset", "manifest"):
        with pytest.raises(DataError, match="stretch"):
            write_layout(source, tmp_path / "out", layout)
        assert not (tmp_path / "out").exists()
    else:
        write_layout(source, tmp_path / "out", layout)
        assert [(c.start, c.end, c.captions) for c in read_layout(tmp_path / "out").clips] == [
            (c.start, c.end, c.captions) for c in clips
        ]


def test_names_that_collide_get_places_of_their_own(tmp_path):
    names = ["a.mp4", "videos/A.mp4", "videos/a.mp4.mov", "a.MOV"]
    root = put(tmp_path / "source", *names)
    source = Manifest(root, "made", [Clip(name, root / name, (name,)) for name in names])
    for layout in WRITTEN:
        write_layout(source, tmp_path / layout, layout)
        assert by_content(read_layout(tmp_path / layout)) == {name: [name] for name in names}


def test_writing_never_overwrites_and_leaves_nothing_half_done(source, tmp_path):
    text(tmp_path, "out/mine.txt", "x")
    with pytest.raises(DataError, match="not empty"):
        write_layout(source, tmp_path / "out", "csv")
    with pytest.raises(UsageError, match="captions_txt"):
        write_layout(source, tmp_path / "new", "zip")
    source.clips.append(Clip("gone.mp4", source.root / "gone.mp4", ("c",)))
    with pytest.raises(DataError, match="cannot be written"):
        write_layout(source, tmp_path / "new", "csv")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "source"]


def test_links_use_no_space(source, tmp_path):
    (tmp_path / "out").mkdir()
    write_layout(source, tmp_path / "out", "captions_json", link=True)
    if os.name == "posix":
        assert (tmp_path / "out/videos/a.mp4").stat().st_ino == (source.root / "videos/a.mp4").stat().st_ino


# ---- captions_txt


def test_captions_txt_reads_lines_of_any_kind_and_reports_the_rest(tmp_path):
    put(tmp_path, "videos/A.MP4", "videos/b.mov", "videos/c.avi", "videos/e.webm", "videos/._A.MP4", "videos/note.md")
    text(tmp_path, "captions/A.TXT", b"\xef\xbb\xbfone\r\n\r\n  two \r\nthree")
    text(tmp_path, "captions/b.txt", " \n\n")
    text(tmp_path, "captions/d.txt", "without a video\n")
    text(tmp_path, "captions/e.txt", "old\rmac")
    manifest = read_layout(tmp_path)
    assert captions(manifest) == {"videos/A.MP4": ["one", "two", "three"], "videos/e.webm": ["old", "mac"]}
    left = reasons(manifest)
    assert "empty" in left["videos/b.mov"]
    assert "captions/c.txt" in left["videos/c.avi"]
    assert "without a video" in left["captions/d.txt"]
    assert len(left) == 3


def test_one_caption_file_never_serves_two_videos(tmp_path):
    put(tmp_path, "videos/a.mp4", "videos/a.mov", "videos/b.mp4")
    text(tmp_path, "captions/a.txt", "which one?")
    text(tmp_path, "captions/b.txt", "b")
    manifest = read_layout(tmp_path)
    assert captions(manifest) == {"videos/b.mp4": ["b"]}
    assert "a.mp4.txt" in reasons(manifest)["videos/a.mp4"]
    text(tmp_path, "captions/a.mp4.txt", "mp4")
    assert captions(read_layout(tmp_path)) == {
        "videos/a.mov": ["which one?"],
        "videos/a.mp4": ["mp4"],
        "videos/b.mp4": ["b"],
    }


@pytest.mark.parametrize(
    ("content", "line", "guess"), [(b"ok\ncaf\xe9\n", 2, "encoding"), ("a\n".encode("utf-16"), 1, "UTF-16")]
)
def test_a_wrong_encoding_is_named_with_file_and_line(tmp_path, content, line, guess):
    put(tmp_path, "videos/a.mp4")
    text(tmp_path, "captions/a.txt", content)
    with pytest.raises(DataError, match=rf"a\.txt, line {line}.*{guess}"):
        read_layout(tmp_path)


# ---- captions_json


def test_captions_json_finds_names_however_they_are_written(tmp_path):
    put(tmp_path, "videos/video1.mp4", "videos/sub/2.mp4", "videos/three.mkv", "videos/café.mp4", "videos/none.mp4")
    content = {
        "video1.mp4": "one",
        "videos/sub/2.mp4": ["two", "zwei", ""],
        "three": "three",
        "cafe\u0301.mp4": "NFD",
        "gone.mp4": "x",
        "../../etc/passwd": "y",
    }
    text(tmp_path, "captions.json", "\ufeff" + json.dumps(content))
    manifest = read_layout(tmp_path)
    assert captions(manifest) == {
        "videos/video1.mp4": ["one"],
        "videos/sub/2.mp4": ["two", "zwei"],
        "videos/three.mkv": ["three"],
        "videos/café.mp4": ["NFD"],
    }
    left = reasons(manifest)
    assert "missing" in left["gone.mp4"]
    assert "outside" in left["../../etc/passwd"]
    assert "no caption" in left["videos/none.mp4"]
    assert "one caption is not used: empty" in left["videos/sub/2.mp4"]


def test_the_videos_folder_with_a_caption_file_is_the_same_data_set(tmp_path):
    put(tmp_path, "data/videos/a.mp4", "data/videos/sub/b.mp4")
    text(tmp_path, "data/captions.json", '{"a.mp4": "a", "videos/sub/b.mp4": "b"}')
    text(tmp_path, "else/captions.json", '{"a.mp4": "a", "sub/b.mp4": "b"}')
    expected = {"videos/a.mp4": ["a"], "videos/sub/b.mp4": ["b"]}
    assert captions(read_layout(tmp_path / "data")) == expected
    assert captions(read_layout(tmp_path / "data/videos", caption_file=tmp_path / "data/captions.json")) == expected
    assert captions(read_layout(tmp_path / "data", caption_file="captions.json")) == expected
    assert captions(read_layout(tmp_path / "data/videos", caption_file=tmp_path / "else/captions.json")) == {
        "a.mp4": ["a"],
        "sub/b.mp4": ["b"],
    }


def test_a_name_that_stands_twice_keeps_no_wrong_caption(tmp_path):
    put(tmp_path, "videos/a.mp4", "videos/b.mp4", "videos/c.mp4", "videos/d.mp4", "videos/d.mov")
    text(
        tmp_path,
        "captions.json",
        '{"a.mp4": "x", "a.mp4": "y", "b.mp4": "same", "videos/b.mp4": "same", "c.mp4": "c", "d": "which?"}',
    )
    manifest = read_layout(tmp_path)
    assert captions(manifest) == {"videos/b.mp4": ["same"], "videos/c.mp4": ["c"]}
    assert "different captions" in reasons(manifest)["videos/a.mp4"]
    assert "several videos" in reasons(manifest)["d"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"a.mp4": "x",\n "b.mp4" "y"}', "line 2"),
        ('[{"video": "a.mp4"}]', "dataset_file"),
        ('"text"', "expected"),
        ("[" * 100_000, "nested"),
        ('{"a.mp4": ' + "1" * 5000 + "}", "too long"),
        ('{"a.mp4": ""}', "empty caption"),
        ('{"a.mp4": 5}', "not text"),
        ('{"a.mp4": {"en": "x"}}', "not text"),
        ('{"a.mp4": "\\ud800"}', "half a character"),
        ('{"a.mp4": []}', "no caption"),
        ("{}", "no caption"),
    ],
)
def test_a_broken_captions_json_says_what_is_wrong(tmp_path, content, words):
    put(tmp_path, "videos/a.mp4")
    text(tmp_path, "captions.json", content)
    with pytest.raises(DataError, match=words):
        read_layout(tmp_path)


def test_a_videos_folder_may_stand_on_another_disk(tmp_path):
    put(tmp_path, "disk/a.mp4", "disk/b.mp4")
    text(tmp_path, "data/captions.json", '{"a.mp4": "a", "videos/b.mp4": "b"}')
    link(tmp_path / "data/videos", tmp_path / "disk")
    assert captions(read_layout(tmp_path / "data")) == {"videos/a.mp4": ["a"], "videos/b.mp4": ["b"]}


# ---- text_lists


@pytest.mark.parametrize("prompts", ["prompt.txt", "prompts.txt"])
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_text_lists_go_line_by_line(tmp_path, prompts, end):
    put(tmp_path, "videos/a.mp4", "clips/b.MOV", "videos/c.mp4")
    text(tmp_path, prompts, f"first{end or chr(10)}{end or chr(10)}third{end}")
    text(tmp_path, "videos.txt", f"videos/a.mp4{end or chr(10)}clips/b.MOV{end or chr(10)}c.mp4{end}")
    manifest = read_layout(tmp_path)
    assert captions(manifest) == {"videos/a.mp4": ["first"], "videos/c.mp4": ["third"]}
    assert "line 2" in reasons(manifest)["clips/b.MOV"]
    again = read_layout(data_root=tmp_path, caption_column=prompts, video_column="videos.txt")
    assert captions(again) == captions(manifest)


def test_lists_of_different_length_are_never_shifted(tmp_path):
    put(tmp_path, "a.mp4", "b.mp4")
    text(tmp_path, "prompt.txt", "one\ntwo\nthree\n")
    text(tmp_path, "videos.txt", "a.mp4\nb.mp4\n")
    with pytest.raises(DataError, match=r"prompt\.txt has 3 lines and .*videos\.txt has 2"):
        read_layout(tmp_path)


def test_a_list_cannot_lead_out_of_the_data_root(tmp_path):
    root = put(tmp_path / "data", "a.mp4", "x.mp4")
    put(tmp_path, "x.mp4", "secret.mp4")
    link(root / "link.mp4", tmp_path / "secret.mp4")
    names = ["../x.mp4", str(tmp_path / "secret.mp4"), "link.mp4", str(root / "a.mp4"), "https://e.org/v.mp4", ""]
    text(root, "videos.txt", "\n".join(names) + "\n")
    text(root, "prompt.txt", "\n".join(f"caption {n}" for n in range(6)))
    manifest = read_layout(root)
    assert captions(manifest) == {"a.mp4": ["caption 3"]}
    left = reasons(manifest)
    assert all("outside" in left[name] for name in names[:3])
    assert "cannot be fetched" in left[names[4]]
    assert "no video is named" in left["videos.txt line 6"]


# ---- tables


def test_a_table_is_found_by_usual_columns(tmp_path):
    put(tmp_path, "a.mp4", "videos/b.mp4")
    for number, (column, words) in enumerate(
        [("file", "caption"), ("Video_Path", "TEXT"), ("file_name", "prompt"), ("path", "name")]
    ):
        text(tmp_path, "any.csv", f"n,{column},{words}\n1,a.mp4,one\n2,b.mp4,two\n")
        assert captions(read_layout(tmp_path)) == {"a.mp4": ["one"], "videos/b.mp4": ["two"]}, number


def test_a_table_takes_named_columns_and_names_what_it_has(tmp_path):
    put(tmp_path, "videos/a.mp4")
    file = text(tmp_path, "lists/t.csv", 'clip;words;more\r\na.mp4;"semi;colon";z\r\n')
    options = {"dataset_file": file, "data_root": tmp_path}
    assert captions(read_layout(**options, caption_column="words", video_column="clip")) == {
        "videos/a.mp4": ["semi;colon"]
    }
    with pytest.raises(DataError, match=r"clip, words, more.*video_column"):
        read_layout(**options, caption_column="words")
    with pytest.raises(DataError, match="no column 'word'"):
        read_layout(**options, caption_column="word", video_column="clip")


def test_rows_that_cannot_be_used_are_named_and_do_not_move_the_others(tmp_path):
    put(tmp_path, *(f"{name}.mp4" for name in "abcdef"))
    text(
        tmp_path,
        "t.csv",
        'video,caption,start,end\na.mp4,"two\nlines",,\nb.mp4,\nc.mp4,,,\n\nd.mp4,one,,\nd.mp4,two,,\nd.mp4,one,,\n'
        "e.mp4,back,3,1\nf.mp4,nan,,2\ngone.mp4,x,,\n,y,,\n",
    )
    manifest = read_layout(tmp_path)
    assert captions(manifest) == {"a.mp4": ["two lines"], "d.mp4": ["one", "two"], "f.mp4#-2": ["nan"]}
    left = reasons(manifest)
    assert "2 values" in left["t.csv line 4"]
    assert "empty caption (t.csv line 5)" in left["c.mp4"]
    assert "(t.csv line 9)" in left["d.mp4"]
    assert "stretch" in left["e.mp4"]
    assert "missing" in left["gone.mp4"]
    assert "no video is named" in left["t.csv line 13"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", 'video,caption\na.mp4,"open\nb.mp4,x\n', "line 2"),
        ("t.csv", 'video,caption\na.mp4,"x" y\n', "line 2"),
        ("t.csv", b"video,caption\na.mp4,\xff\n", "line 2"),
        ("t.csv", "video,caption,caption\n", "twice"),
        ("t.csv", "", "none"),
        ("t.jsonl", '{"video": "a.mp4", "caption": "x"', "not JSON"),
        ("t.jsonl", '{"video": "a.mp4", "video": "b.mp4", "caption": "x"}', "none|twice"),
        ("t.json", '{"video": "a.mp4"}', "list of objects"),
        ("t.json", '[{"video": "a.mp4", "caption": "x", "start": 1' + "0" * 400 + "}]", "stretch"),
        ("t.parquet", b"PAR1", "Parquet"),
    ],
)
def test_a_broken_table_says_what_is_wrong(tmp_path, name, content, words):
    put(tmp_path, "a.mp4", "b.mp4")
    text(tmp_path, name, content)
    with pytest.raises(DataError, match=words):
        read_layout(tmp_path)


def test_parquet_and_json_tables_with_lists_nulls_and_numbers(tmp_path):
    put(tmp_path, "a.mp4", "b.mp4", "c.mp4", "d.mp4")
    rows = [
        {"file": "a.mp4", "text": ["one", "two"]},
        {"file": "b.mp4", "text": None},
        {"file": "c.mp4", "text": ["three"]},
        {"file": None, "text": ["x"]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    manifest = read_layout(dataset_file=tmp_path / "t.parquet")
    assert captions(manifest) == {"a.mp4": ["one", "two"], "c.mp4": ["three"]}
    assert len(manifest.left_out) == 2
    text(tmp_path, "t.ndjson", "\n".join(json.dumps({**row, "extra": 5}) for row in rows) + "\nrubbish\n3")
    manifest = read_layout(tmp_path / "t.ndjson")
    assert captions(manifest) == {"a.mp4": ["one", "two"], "c.mp4": ["three"]}
    assert len(manifest.left_out) == 4


def test_webvid(tmp_path):
    put(tmp_path, "videos/000001_000050/1066674784.mp4", "videos/000001_000050/12.webm")
    text(
        tmp_path,
        "results_2M_train.csv",
        "videoid,contentUrl,duration,page_dir,name\n"
        "1066674784,https://e.org/1.mp4,PT00H00M10S,000001_000050,Travel, blogger\n"
        '1066674784,https://e.org/1.mp4,PT00H00M10S,000001_000050,"Travel, blogger"\n'
        "12,https://e.org/2.mp4,PT00H00M10S,000001_000050,Other\n",
    )
    manifest = read_layout(tmp_path)
    assert manifest.layout == "webvid"
    assert captions(manifest) == {"videos/000001_000050/1066674784.mp4": ["Travel, blogger"]}
    assert "missing" in reasons(manifest)["000001_000050/12"]


# ---- finding out


def test_nothing_found_says_what_was_seen_and_what_is_understood(tmp_path):
    put(tmp_path, "x/a.mp4", "x/b.MOV", "c.png")
    text(tmp_path, "notes.txt", "x")
    with pytest.raises(DataError, match="2 videos, 1 pictures, 1 text files, 0 tables") as error:
        read_layout(tmp_path)
    assert "captions.json" in str(error.value)
    assert "videos.txt" in str(error.value)


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_a_named_layout_that_is_not_there_says_so(tmp_path, layout):
    put(tmp_path, "videos/a.mp4")
    with pytest.raises(DataError, match=layout):
        read_layout(tmp_path, layout=layout)


def test_several_layouts_have_to_be_told_apart(tmp_path):
    put(tmp_path, "videos/a.mp4")
    text(tmp_path, "captions/a.txt", "from txt")
    text(tmp_path, "captions.json", '{"a.mp4": "from json"}')
    text(tmp_path, "extra.csv", "video,caption\na.mp4,from csv\n")
    text(tmp_path, "more.csv", "video,caption\na.mp4,from more\n")
    with pytest.raises(UsageError, match=r"captions_txt.*captions_json"):
        read_layout(tmp_path)
    assert captions(read_layout(tmp_path, layout="captions_json")) == {"videos/a.mp4": ["from json"]}
    assert captions(read_layout(tmp_path, dataset_file="more.csv")) == {"videos/a.mp4": ["from more"]}
    with pytest.raises(UsageError, match=r"extra\.csv, more\.csv"):
        read_layout(tmp_path, layout="table")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, UsageError, "No data set"),
        ({"data_dir": "nowhere"}, DataError, "nowhere does not exist"),
        ({"data_dir": ".", "dataset_file": "no.csv"}, DataError, "no.csv does not exist"),
        ({"data_dir": ".", "layout": "zip"}, UsageError, "captions_txt"),
        ({"data_dir": ".", "layout": "text_lists", "dataset_file": "t.csv"}, UsageError, "t.csv was named"),
        ({"data_dir": "two"}, UsageError, "prompt.txt and prompts.txt"),
        ({"data_dir": ".", "data_root": ".."}, UsageError, "one of them"),
        ({"data_dir": "other", "caption_column": "p.txt", "video_column": "v.txt"}, DataError, "'p.txt' and 'v.txt'"),
    ],
)
def test_wrong_options_are_one_clear_paragraph(tmp_path, monkeypatch, options, error, words):
    monkeypatch.chdir(tmp_path)
    for name in ("t.csv", "other/note.txt", "two/prompt.txt", "two/prompts.txt", "two/videos.txt"):
        text(tmp_path, name, "x\n")
    with pytest.raises(error, match=words) as caught:
        read_layout(**options)
    assert "\n" not in str(caught.value)


def test_ids_and_clips_do_not_depend_on_where_the_data_lies(tmp_path, monkeypatch):
    for place in ("one", "two/deeper"):
        put(tmp_path / place, "videos/b.mp4", "videos/a.mp4")
        text(tmp_path / place, "captions.json", '{"b.mp4": "b", "a.mp4": "a"}')
    monkeypatch.chdir(tmp_path / "one")
    assert [c.id for c in read_layout(".").clips] == [c.id for c in read_layout(tmp_path / "two/deeper").clips]
    assert all(c.path.is_absolute() for c in read_layout(".").clips)


# ---- the template


def test_setup_makes_what_is_missing_and_touches_nothing_else(tmp_path):
    made = setup(tmp_path / "new")
    assert sorted(p.relative_to(tmp_path / "new").as_posix() for p in made) == [
        "checkpoints",
        "data/captions.json",
        "data/videos",
    ]
    text(tmp_path, "new/data/captions.json", "{}")
    assert setup(tmp_path / "new") == []
    assert (tmp_path / "new/data/captions.json").read_text() == "{}"


def test_the_template_is_reported_and_never_trained_on(tmp_path):
    setup(tmp_path)
    with pytest.raises(DataError, match=r"example\.mp4.*missing"):
        read_layout(tmp_path / "data")
    put(tmp_path, "data/videos/mine.mp4")
    content = json.loads((tmp_path / "data/captions.json").read_text())
    text(tmp_path, "data/captions.json", json.dumps(content | {"mine.mp4": "a cat"}))
    manifest = read_layout(tmp_path / "data")
    assert captions(manifest) == {"videos/mine.mp4": ["a cat"]}
    assert "missing" in reasons(manifest)["example.mp4"]
