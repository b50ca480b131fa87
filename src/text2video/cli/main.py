"""The command `text2video`: its verbs, each imported when it is called, and the one place where errors become words."""

import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from cyclopts import App, CycloptsError, Parameter

from .. import __version__
from ..errors import Text2VideoError
from .wording import of_failure, of_usage

# Verb -> its line in the list of verbs, which is the first line of its docstring.
VERBS = {
    "demo": "Make a demo data set, train a small model on it, generate, check, and write one HTML report.",
    "setup": "Make the folders that a new data set goes into.",
    "data shapes": "Write a demo data set: moving shapes with true captions.",
    "data check": "Say what becomes of each clip of a data set, and why.",
    "data prepare": "Encode videos and captions ahead of training, so that the encoders are not needed then.",
    "data convert": "Write a data set anew, in another layout.",
    "data caption": "Let a model describe the clips of a data set.",
    "data polish": "Let a language model rewrite the captions of a data set.",
    "plan": "Say what memory, disk and time a run will take, before it starts.",
    "train": "Train a model on captioned clips.",
    "generate": "Make videos from prompts with a trained model.",
    "export": "Write a trained adapter for other tools, and read it back to be sure.",
    "models": "List the models that go by a name, and which of them are on this machine.",
    "evaluate": "Check generated videos of the demo world against their prompts, exactly.",
    "doctor": "Say what this machine can do and what is missing.",
}


def make_app() -> App:
    """The verbs and their help; flags are written as the functions' arguments are, with underscores."""
    plain = Parameter(name_transform=str, negative=(), show_default=lambda v: None if v is False or v == "" else v)
    app = App(
        name="text2video",
        help="Captioned clips in, a text-to-video model out.",
        version=f"text2video {__version__}",
        default_parameter=plain,
        help_format="plaintext",
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    data = App(name="data", help="Make, check, caption, convert and prepare data sets.", sort_key=2)
    app.command(data)
    for place, (verb, line) in enumerate(VERBS.items()):
        group, _, name = verb.rpartition(" ")
        # these read their own flags, --help among them
        own: dict[str, Any] = {"help_flags": (), "version_flags": ()} if verb in ("train", "plan") else {}
        target = f"text2video.cli.{verb.replace(' ', '_')}:{name}"
        (data if group else app).command(target, name=name, help=line, sort_key=place, **own)
    return app


def run(tokens: Sequence[str] | None = None) -> int:
    """Run a command line; its exit code: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # what it warns of on import is no user's doing
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # pyright: ignore - a console that lacks a letter shows ?
    words = [underscored(token) for token in (sys.argv[1:] if tokens is None else tokens)]
    try:
        make_app()(words, exit_on_error=False, print_error=False)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        return fail("stopped", 130)
    except Text2VideoError as error:
        return fail(f"error: {error}", error.exit_code)
    except CycloptsError as error:
        return fail(f"error: {of_usage(error, VERBS)}", 2)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if sentence := of_failure(error):
            return fail(f"error: {sentence}", 1)
        fail("error: This is a bug in text2video. Please report it, with the command and the lines below.", 1)
        traceback.print_exc()
        return 1


def underscored(token: str) -> str:
    """`--num-frames` as `--num_frames`; other words, and values after `=`, as they are."""
    match = re.fullmatch(r"--(\w[\w.-]*)(=.*)?", token, re.DOTALL)
    return f"--{match[1].replace('-', '_')}{match[2] or ''}" if match else token


def fail(paragraph: str, code: int) -> int:
    """Say it on stderr; `code`."""
    sys.stderr.write(" ".join(paragraph.split()) + "\n")
    return code
