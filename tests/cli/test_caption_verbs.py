"""Captions are made and polished from the command line, and training reads them."""

import json

import numpy as np
import pytest

from text2video import video
from text2video.data.clips import Manifest
from text2video.data.layouts import read_layout


@pytest.fixture
def clips(tmp_path):
    """Three clips, two of them with captions."""
    folder = tmp_path / "data"
    (folder / "videos").mkdir(parents=True)
    for number in range(3):
        video.write(folder / "videos" / f"{number}.mp4", np.full((8, 16, 16, 3), 80 * number, np.uint8), 8)
    (folder / "captions.json").write_text(json.dumps({"0.mp4": "none", "1.mp4": "one"}))
    return folder


def test_captions_of_a_server_are_trained_on(command, tmp_path, clips, chat_server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    asked = ("--endpoint", chat_server.url, "--model", "vlm", "--api_key_env", "MY_KEY", "--concurrency", 2)
    code, out, err = command("data", "caption", clips, "made.jsonl", *asked, "--num-frames", 2, "--use", "both")
    assert code == 0, err
    assert "3 new answers; 3 clips with captions, 0 left out" in out
    assert len(chat_server.requests) == 3
    assert all(len(request["messages"][0]["content"]) == 3 for request in chat_server.requests)
    assert 1 <= chat_server.most_at_once <= 2
    written = "".join(path.read_text() for path in tmp_path.iterdir() if path.is_file())
    assert "sk-secret" not in written
    assert chat_server.url in written
    found = read_layout(dataset_file=tmp_path / "made.jsonl", data_root=clips)
    assert [len(clip.captions) for clip in found.clips] == [2, 2, 1]
    assert command("data", "check", "--dataset_file", "made.jsonl", "--data_root", "data", "--num_frames", 4).code == 0
    assert "0 new answers" in command("data", "caption", clips, "made.jsonl", *asked, "--num-frames", 2).out
    assert len(chat_server.requests) == 3


def test_a_failing_clip_is_named(command, clips, chat_server):
    chat_server.reply = lambda prompt, number: 400 if prompt == "0.mp4" else "made"
    asked = ("--endpoint", chat_server.url, "--model", "vlm", "--template", "{name}", "--layout", "videos")
    code, out, _ = command("data", "caption", clips, "made.jsonl", *asked)
    assert code == 0
    assert "no answer for videos/0.mp4: HTTP 400" in out
    assert "2 new answers; 2 clips with captions, 1 left out" in out


def test_a_model_here_captions_and_polishes(command, tmp_path, clips, tiny_captioners):
    (tmp_path / "prompt.txt").write_text("{num_frames} frames of {name}. Then?\n", encoding="utf-8")
    llava = ("--model", tiny_captioners / "llava", "--max_tokens", 4, "--batch_size", 2, "--device", "cpu")
    code, _, err = command("data", "caption", clips, "a.parquet", *llava, "--template", "prompt.txt")
    assert code == 0, err
    llama = ("--model", tiny_captioners / "llama", "--max_tokens", 4, "--device", "cpu")
    code, _, err = command("data", "polish", "a.parquet", "b.jsonl", "--data_root", clips, *llama)
    assert code == 0, err
    made = Manifest.load(tmp_path / "b.jsonl", clips).clips[0].provenance
    assert made is not None
    assert [record["task"] for record in made["made"]] == ["caption", "polish"]
    assert made["original"] == ["none"]
    assert made["made"][0]["settings"]["template"] == "{num_frames} frames of {name}. Then?"


def test_wrong_usage_is_said_before_any_work(command, clips, chat_server):
    asked = ("--endpoint", chat_server.url, "--model", "vlm")
    for tokens, words in (
        ((*asked, "--template", "{title}"), "{title}"),
        ((*asked, "--template", "no.txt"), "no.txt"),
        ((*asked, "--api_key_env", "NOT_SET_AT_ALL"), "NOT_SET_AT_ALL"),
        (("--endpoint", "nonsense", "--model", "vlm"), "no URL"),
        (("--model", "vlm", "--temperature", "0"), "--endpoint"),
        (asked[:2], "--model"),
    ):
        code, _, err = command("data", "caption", clips, "made.jsonl", *tokens)
        assert (code, words in err) == (2, True), err
    assert not chat_server.requests
    code, _, err = command(
        "data", "caption", clips, "made.jsonl", "--endpoint", "http://127.0.0.1:9/v1", "--retries", 0, "--model", "m"
    )
    assert code == 1
    assert "nothing answers there" in err
