"""`generate`: videos from given, listed and typed prompts, under names that overwrite no other video."""

import dataclasses
import io
import json

import pytest

from text2video import video
from text2video.cli.prompts import read_prompts
from text2video.cli.sampling import Sampling
from text2video.errors import UsageError


def paths(result):
    assert result.code == 0, result.err
    return [line.replace("\\", "/") for line in result.out.splitlines()]


def test_options_of_sampling_are_those_of_generation():
    from text2video.generation import Settings

    mine = {field.name: field.default for field in dataclasses.fields(Sampling)}
    assert mine.pop("frame_size") is None
    assert (mine.pop("condition"), mine.pop("condition_scale")) == (None, None)  # pairs there, mappings here
    apart = ("options", "conditions", "condition_scales")
    theirs = {field.name: field.default for field in dataclasses.fields(Settings) if field.name not in apart}
    assert mine == theirs


def test_several_prompts_with_everything_beside_them(command, tiny, tmp_path):
    extras = ("--save-gif", "--save_frames", "--visualize", "--output-dir", "out/deep")
    made = paths(command("generate", "--model", tiny / "run", "--prompts", "a red square", "b/../c", *extras))
    stems = ("a-red-square", "b-c")
    endings = (".mp4", ".json", ".gif", "_frames", "_sheet.png")
    assert made == [f"out/deep/{s}{e}" for s in stems for e in endings] + ["out/deep/contact_sheet.png"]
    assert all((tmp_path / path).exists() for path in made)
    settings = json.loads((tmp_path / "out/deep/b-c.json").read_text(encoding="utf-8"))
    assert (settings["prompt"], settings["seed"]) == ("b/../c", 1)
    assert video.read_metadata(tmp_path / "out/deep/b-c.mp4") == settings


def test_settings_reach_the_video(command, tiny, tmp_path):
    size = ("--num-frames", 4, "--frame_size", 32, "--width", 16, "--fps", 5, "--seed", 7)
    how = ("--scheduler", "euler", "--num_inference_steps", 3, "--guidance_scale", 1.5, "--negative-prompt", "blue")
    paths(command("generate", "--checkpoint", tiny / "run/final/unet", "--prompt", "x", *size, *how))
    made = video.probe(tmp_path / "outputs" / "x.mp4")
    assert (made.num_frames, made.height, made.width, made.fps) == (4, 32, 16, 5)
    settings = video.read_metadata(tmp_path / "outputs" / "x.mp4")
    assert (settings["seed"], settings["scheduler"], settings["num_inference_steps"]) == (7, "euler", 3)
    assert (settings["guidance_scale"], settings["negative_prompt"]) == (1.5, "blue")


def test_a_language_model_puts_prompts_into_its_words(command, tiny, tmp_path, chat_server):
    chat_server.reply = lambda prompt, number: "A red square glides slowly to the left."
    server = ("--polish_endpoint", chat_server.url)
    ask = ("generate", "--model", tiny / "run", "--prompt", "red square", *server)
    made = paths(command(*ask, "--polish", "llama"))
    assert made[0] == "polished: A red square glides slowly to the left."
    assert video.read_metadata(tmp_path / made[1])["prompt"] == "A red square glides slowly to the left."
    assert "red square" in chat_server.prompts()[0]
    code, _, err = command(*ask)
    assert (code, "--polish" in err) == (2, True)


def test_no_other_video_is_overwritten(command, tiny, tmp_path):
    ask = ("generate", "--model", tiny / "run", "--output_dir", "o", "--prompts", "A red square")
    assert paths(command(*ask))[0] == "o/a-red-square.mp4"
    first = (tmp_path / "o/a-red-square.mp4").read_bytes()
    # another prompt, another seed, two at once: each has its own name
    assert paths(command(*ask, "a red, square!", "--num_videos_per_prompt", 2))[::2] == [
        "o/a-red-square.mp4",
        "o/a-red-square-2.mp4",
        "o/a-red-square-3.mp4",
        "o/a-red-square-4.mp4",
    ]
    assert paths(command(*ask, "--seed", 9))[0] == "o/a-red-square-5.mp4"
    # the very same one goes where it was
    assert paths(command(*ask))[0] == "o/a-red-square.mp4"
    assert (tmp_path / "o/a-red-square.mp4").read_bytes() == first


def test_one_named_file(command, tiny, tmp_path):
    ask = ("generate", "--model", tiny / "run", "--prompt", "x", "--output-video")
    assert paths(command(*ask, "new/out.mp4")) == ["new/out.mp4", "new/out.json"]
    assert not (tmp_path / "outputs").exists()
    assert video.probe(tmp_path / "new/out.mp4").num_frames == 8
    assert paths(command(*ask, "new/out.mp4")) == ["new/out.mp4", "new/out.json"]  # over itself


def test_a_file_of_captions_beside_a_named_video_is_kept(command, tiny, tmp_path):
    captions = tmp_path / "captions.json"
    captions.write_text('{"a.mp4": "a red square"}', encoding="utf-8")
    result = command("generate", "--model", tiny / "run", "--prompt", "x", "--output_video", "captions.mp4")
    assert result.code == 2
    assert "captions.json" in result.err
    assert captions.read_text(encoding="utf-8") == '{"a.mp4": "a red square"}'
    assert not (tmp_path / "captions.mp4").exists()


@pytest.mark.parametrize(
    ("tokens", "code", "says"),
    [
        (["--prompts", "a", "b", "--output_video", "x.mp4"], 2, "2 videos are asked for"),
        (["--prompt", "a", "--num_videos_per_prompt", "2", "--output_video", "x.mp4"], 2, "2 videos"),
        (["--prompt", "a", "--output_video", "x.avi"], 2, "x.avi"),
        (["--prompts"], 2, "--prompts needs at least one"),
        (["--prompt", " "], 2, "empty"),
        (["--prompt_file", "none.txt"], 2, "none.txt"),
        (["--prompt", "a", "--height", "17"], 2, "height 17"),
        (["--prompt", "a", "--scheduler", "best"], 2, "dpm++"),
        (["--prompt", "a", "--dtype", "int8"], 2, "int8"),
        (["--prompt", "a", "--device", "tpu"], 2, "tpu"),
        (["--prompt", "a", "--output_dir", "taken"], 1, "taken"),
        (["--prompt", "a", "--save_gif", "--fps", "60"], 2, "at most 50 for a GIF"),
        (["--prompt", "a", "--fps", "inf"], 2, "--fps is inf"),
        (["--prompt", "a", "--fps", "0.0001"], 2, "at least 0.001"),
        (["--prompt", "a", "--condition"], 2, "--condition needs at least one"),
        (["--prompt", "a", "--guidance_scale", "nan"], 2, "guidance_scale is nan"),
    ],
)
def test_what_cannot_be_made_is_said_in_a_paragraph(command, tiny, tmp_path, tokens, code, says):
    (tmp_path / "taken").touch()
    result = command("generate", "--model", tiny / "run", *tokens)
    assert result.code == code
    assert says in result.err
    assert result.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in result.err
    assert not list(tmp_path.rglob("*.mp4"))


def test_a_folder_without_a_model_is_refused(command, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        code, _, err = command("generate", "--model", folder, "--prompt", "a")
        assert code == 1
        assert folder in err
        assert err.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


def test_prompt_files(command, tiny, tmp_path):
    file = tmp_path / "p.txt"
    file.write_bytes("\ufeffa red square\r\n\r\n  一个红色的圆 \r\nlast".encode())
    assert read_prompts(file) == ["a red square", "一个红色的圆", "last"]
    made = paths(command("generate", "--model", tiny / "run", "--prompt_file", file, "--batch_size", 2))
    assert [path for path in made if path.endswith(".mp4")] == [
        f"outputs/{name}.mp4" for name in ("a-red-square", "一个红色的圆", "last")
    ]
    for content, says in ((b" \n\n", "no prompt"), ("é".encode("latin-1"), "UTF-8")):
        file.write_bytes(content)
        with pytest.raises(UsageError, match=says):
            read_prompts(file)
        assert command("generate", "--model", tiny / "run", "--prompt_file", file).code == 2


class Keyboard(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("end", ["", "\n", "exit\n"])
def test_it_asks_for_model_and_prompts(command, tiny, monkeypatch, end):
    monkeypatch.setattr("sys.stdin", Keyboard(f"{tiny / 'run'}\na red square\na red square\n{end}"))
    made = paths(command("generate", "--output_dir", "o"))
    assert made[::2] == ["o/a-red-square.mp4", "o/a-red-square-2.mp4"]  # the second has the next seed


def test_nobody_to_ask_is_wrong_usage(command, tiny, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, _, err = command("generate")
    assert (code, "--prompt_file" in err) == (2, True)
    code, _, err = command("generate", "--model", tiny / "run")
    assert (code, "--prompt_file" in err) == (2, True)
    monkeypatch.setattr("sys.stdin", io.StringIO("a\n"))
    assert len(paths(command("generate", "--model", tiny / "run"))) == 2


def test_ctrl_c_while_asked(command, tiny, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupted)
    assert command("generate", "--model", tiny / "run")[::2] == (130, "stopped\n")
