"""Every verb has help, wrong usage is one paragraph with exit code 2, and what fails does so in words."""

import errno
import inspect
import os
import subprocess
import sys
from importlib import import_module

import pytest

from text2video import __version__
from text2video.cli.main import VERBS, run, underscored
from text2video.cli.wording import of_failure

HEAVY = ("torch", "numpy", "pyarrow", "diffusers", "transformers", "av")

FLAT = ("source", "sampling", "options", "opened", "answering", "polishing")  # arguments whose fields are the options


def functions():
    for verb in VERBS:
        yield verb, getattr(import_module(f"text2video.cli.{verb.replace(' ', '_')}"), verb.split()[-1])


def test_help_lists_every_verb(command):
    for tokens in ([], ["--help"], ["-h"]):
        code, out, _ = command(*tokens)
        assert code == 0
        for verb in VERBS:
            assert f" {verb.split()[0]} " in out
    code, out, _ = command("data")
    assert code == 0
    assert all(f" {verb.split()[1]} " in out for verb in VERBS if verb.startswith("data "))


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_every_option(command, verb, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")  # no option is cut in two
    code, out, err = command(*verb.split(), "--help")
    function = dict(functions())[verb]
    assert (code, err) == (0, "")
    assert function.__doc__.split("\n")[0] in " ".join(out.split())
    if verb == "train":
        return
    parameters = inspect.signature(function).parameters
    named = [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY and p.name not in FLAT]
    assert all(f"--{name}" in out for name in named)
    # each option says what it does
    undescribed = [line for line in out.splitlines() if line.startswith("│ --") and len(line.strip("│ ").split()) < 3]
    assert not [line for line in undescribed if "--num_frames --video_length" not in line]


def test_list_of_verbs_says_what_their_docstrings_say():
    assert {verb: function.__doc__.split("\n")[0] for verb, function in functions()} == VERBS


def test_version(command):
    assert command("--version")[:2] == (0, f"text2video {__version__}\n")


def test_unknown_verbs_are_answered_with_the_nearest(command):
    code, out, err = command("trian")
    assert (code, out) == (2, "")
    assert "'trian'" in err
    assert "Did you mean train?" in err
    assert err.count("\n") == 1
    code, _, err = command("data", "chek")
    assert code == 2
    assert "Did you mean data check?" in err


@pytest.mark.parametrize("verb", VERBS)
def test_unknown_options_are_wrong_usage_of_every_verb(command, verb, tmp_path):
    needed = {"data shapes": ["x"], "data convert": ["x", "y", "--layout", "csv"], "evaluate": ["--model", "x"]}
    needed["export"] = ["--model", "x", "--output_dir", "y"]
    code, out, err = command(*verb.split(), *needed.get(verb, []), "--no_such_option", "1")
    assert (code, out) == (2, "")
    assert "--no_such_option" in err
    assert f"`text2video {'train' if verb == 'plan' else verb} --help`" in err  # plan's options are those of train
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (["generate", "--promts", "x"], "Did you mean --prompts?"),
        (["generate", "--num-frames", "many"], "many"),
        (["generate", "--num-frames", "0"], "Must be > 0"),
        (["data", "shapes", "x", "--max-objects", "4"], "4"),
        (["data", "shapes", "x", "--clips"], "--clips requires"),
        (["data", "convert", "x"], "OUT requires"),
        (["setup", "a", "b"], "b"),
    ],
)
def test_impossible_values_are_named(command, tokens, says, tmp_path):
    code, _, err = command(*tokens)
    assert code == 2
    assert says in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_dashes_and_underscores_are_the_same():
    assert underscored("--num-frames") == "--num_frames"
    assert underscored("--output-dir=my-run_1") == "--output_dir=my-run_1"
    assert underscored("--optim.learning-rate") == "--optim.learning_rate"
    for kept in ("-h", "a-b", "--", "a red - square", "-1", "--a b"):
        assert underscored(kept) == kept


def raising(error):
    def work(*_):
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "stopped"),
        (OSError(errno.ENOSPC, "No space left on device", "a.mp4"), 1, "No space left on device (a.mp4)"),
        (PermissionError(errno.EACCES, "Permission denied", "b"), 1, "Permission denied (b)"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "Z:/c"), 1, "No such file or directory (Z:/c)"),
        (MemoryError(), 1, "--batch_size"),
    ],
)
def test_what_the_machine_refuses_is_one_paragraph(command, monkeypatch, error, code, says):
    monkeypatch.setattr("text2video.data.template.setup", raising(error))
    result = command("setup")
    assert result.code == code
    assert says in result.err
    assert "Traceback" not in result.err
    assert result.err.count("\n") == 1


def test_a_full_memory_of_the_cpu_is_said():
    allocator = RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
    )
    assert "The memory is full" in (of_failure(allocator) or "")
    assert of_failure(RuntimeError("shapes do not fit")) is None


def test_a_bug_keeps_its_traceback_after_a_sentence(command, monkeypatch):
    monkeypatch.setattr("text2video.data.template.setup", raising(RuntimeError("odd")))
    code, _, err = command("setup")
    assert code == 1
    assert err.startswith("error: This is a bug")
    assert "Traceback" in err
    assert "RuntimeError: odd" in err


def start(*arguments: str, encoding: str = "utf-8") -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    return subprocess.run([sys.executable, *arguments], capture_output=True, env=environment, check=False)


def test_module_runs_and_help_imports_nothing_heavy():
    verbs = [verb.split() for verb in VERBS]
    shown = start("-X", "importtime", "-m", "text2video", "--help")
    assert shown.returncode == 0
    assert b"generate" in shown.stdout
    program = "import sys; from text2video.cli.main import run\n"
    program += f"assert not any(run([*verb, '--help']) for verb in {verbs!r})\n"
    program += f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\nassert not loaded, loaded"
    imported = {line.rsplit(b"|")[-1].strip().decode() for line in shown.stderr.splitlines()}
    assert not imported & set(HEAVY)
    every = start("-c", program)
    assert every.returncode == 0, every.stderr.decode()


def test_a_console_of_few_letters_shows_what_it_can():
    shown = start("-m", "text2video", "train", "视频.yaml", encoding="cp1252")
    assert shown.returncode == 2
    assert shown.stderr.startswith(b"error: There is no configuration")
    assert start("-m", "text2video", "--help", encoding="cp1252").returncode == 0


@pytest.mark.skipif(os.name == "nt", reason="pipes end otherwise on Windows")
def test_a_reader_that_leaves_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [sys.executable, "-m", "text2video", "train", "--help"], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert ended.stderr == b""


def test_run_takes_the_command_line_by_itself(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["text2video", "--version"])
    assert run() == 0
    assert capsys.readouterr().out.endswith(f"{__version__}\n")
