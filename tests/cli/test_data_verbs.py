"""Data sets are made, checked and converted from the command line."""

import json
import sys

import pytest

from text2video.data.layouts import read_layout


def test_setup_then_says_what_to_do_next(command, tmp_path):
    code, out, _ = command("setup", "mine")
    assert code == 0
    assert (tmp_path / "mine" / "data" / "captions.json").is_file()
    assert "text2video data check" in out
    assert "already" in command("setup", "mine").out


def test_shapes_are_written_as_asked_and_again_the_same(command, tmp_path):
    options = ("--clips", 2, "--seed", 3, "--size", 16, "--num_frames", 4, "--fps", 4, "--split", "heldout")
    for folder in ("a", "b"):
        assert command("data", "shapes", folder, *options).code == 0
    manifest = read_layout(tmp_path / "a")
    assert len(manifest.clips) == 2
    assert (tmp_path / "a" / "scenes.jsonl").read_bytes() == (tmp_path / "b" / "scenes.jsonl").read_bytes()
    code, _, err = command("data", "shapes", "a", *options)
    assert code == 1
    assert "already" in err


def test_the_full_world_is_written_and_holds_three_things(command, tmp_path):
    options = ("--clips", 4, "--size", 16, "--num_frames", 2, "--max_objects", 3)
    assert command("data", "shapes", "rich", "--world", "full", *options).code == 0
    rows = (tmp_path / "rich" / "scenes.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(json.loads(row)["shadows"] for row in rows)
    code, _, err = command("data", "shapes", "plain", *options)
    assert code == 2
    assert "max_objects is 3" in err
    assert not (tmp_path / "plain").exists()


def test_check_says_what_becomes_of_each_clip(command, tmp_path, tiny):
    code, out, _ = command("data", "check", tiny / "clips", "--num-frames", 8, "--frame_size", 16, "--json", "r/r.json")
    assert code == 0
    assert "6" in out
    report = json.loads((tmp_path / "r" / "r.json").read_text(encoding="utf-8"))
    assert len(report["clips"]) == 6
    assert report["settings"]["num_frames"] == 8
    assert report["settings"]["height"] == 16


def test_check_of_nothing_usable_fails(command, tmp_path):
    command("setup")
    code, _, err = command("data", "check", "data")
    assert code == 1
    assert err.startswith("error: ")
    assert command("data", "check").code == 2
    assert command("data", "check", "nowhere").code == 1
    (tmp_path / "data" / "videos" / "a.mp4").write_bytes(b"no video")
    (tmp_path / "data" / "captions.json").write_text('{"a.mp4": "a"}', encoding="utf-8")
    code, out, err = command("data", "check", "--data_dir", "data")
    assert code == 1
    assert "a.mp4" in out
    assert "None of the clips" in err


def test_check_reads_named_columns(command, tmp_path, tiny):
    clips = read_layout(tiny / "clips").clips
    rows = ["clip,says", *(f"{clip.path},{clip.captions[0].replace(',', '')}" for clip in clips)]
    (tmp_path / "t.csv").write_text("\n".join(rows), encoding="utf-8")
    named = ("--data-root", tiny, "--dataset_file", "t.csv", "--video_column", "clip", "--caption_column", "says")
    code, out, _ = command("data", "check", *named, "--num_frames", 8, "--frame_size", 16)
    assert code == 0
    assert "layout csv" in out


def test_convert_keeps_clips_and_captions(command, tmp_path, tiny):
    code, out, _ = command("data", "convert", tiny / "clips", "new", "--layout", "jsonl", "--link")
    assert code == 0
    assert "6 clips" in out
    before, after = read_layout(tiny / "clips"), read_layout(tmp_path / "new")
    assert after.layout == "jsonl"
    assert [clip.captions for clip in before.clips] == [clip.captions for clip in after.clips]
    code, _, err = command("data", "convert", tiny / "clips", "newer", "--layout", "zip")
    assert code == 2
    assert "captions_json" in err
    assert not (tmp_path / "newer").exists()


def test_convert_takes_a_stream_of_the_hub(command, tmp_path, tiny):
    pytest.importorskip("datasets")
    assert command("data", "convert", tiny / "clips", "hub", "--layout", "huggingface").code == 0
    options = ("--layout", "webdataset", "--max_samples", 4)
    code, out, _ = command("data", "convert", f"hf:{tmp_path / 'hub' / 'data'}", "out", *options)
    assert code == 0
    assert "4 clips from huggingface to webdataset" in out
    before, after = read_layout(tiny / "clips"), read_layout(tmp_path / "out")
    assert [clip.captions for clip in before.clips[:4]] == [clip.captions for clip in after.clips]
    assert not (tmp_path / "out.rows").exists()
    code, out, _ = command("data", "check", "out", "--num_frames", 8, "--frame_size", 16)
    assert code == 0
    assert "layout webdataset" in out
    code, _, err = command("data", "convert", "hf:nobody/nothing-here", "new", "--layout", "csv")
    assert code == 1
    assert "hf:nobody/nothing-here, split train, cannot be opened" in err


def test_convert_says_which_library_is_missing(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    code, _, err = command("data", "convert", "hf:a/b", "new", "--layout", "csv")
    assert code == 2
    assert "pip install text2video[datasets]" in err
    assert err.count("\n") == 1


def test_settings_of_other_tools_are_said(command, tmp_path, tiny):
    assert command("data", "convert", tiny / "clips", "out", "--layout", "diffusion_pipe", "--max_samples", 2).code == 0
    code, out, _ = command("data", "check", tmp_path / "out" / "dataset.toml", "--num_frames", 8, "--frame_size", 16)
    assert code == 0
    assert "frame_buckets = [1, 33] of all parts is not used: give --num_frames" in out
    assert "2 clips are used" in out


def test_check_writes_a_page_and_a_manifest_that_training_reads(command, tmp_path, tiny):
    sized = ("--num_frames", 8, "--frame_size", 16)
    code, out, err = command(
        *("data", "check", tiny / "clips", *sized, "--drop", "black", "static", "--html", "r/r.html"),
        *("--fix", "out/clean.jsonl"),
    )
    assert code == 0, err
    assert (tmp_path / "r" / "r.html").is_file()
    line = next(line for line in out.splitlines() if line.startswith("text2video train"))
    assert "--data_root" in line  # it stands outside of the data
    before = read_layout(tiny / "clips")
    after = read_layout(dataset_file=tmp_path / "out" / "clean.jsonl", data_root=before.root)
    assert after.layout == "manifest"
    assert {clip.id for clip in after.clips} | {left.id for left in after.left_out} == {c.id for c in before.clips}
    model = (
        "--model_channels",
        16,
        "--channel_mult",
        1,
        2,
        "--attention",
        "time",
        "full",
        "--downsample_time",
        "false",
    )
    assert command(*line.split()[1:], "--dry_run", *sized, *model).code == 0
    code, _, err = command("data", "check", tiny / "clips", *sized, "--fix", "out/clean.jsonl")
    assert code == 2
    assert "exists already" in err
    assert "no flag" in command("data", "check", tiny / "clips", *sized, "--drop", "blurry").err
