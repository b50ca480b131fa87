"""What README and docs say is done here for real, scaled down: every command, every program, every option and link.

Each page is read from top to bottom in a folder of its own, as a user would type it. What stands in for a user's data
and models is made by `shelf`; how commands are scaled down is in `SMALLER`; what is not run is in `LOOKED_AT`.
"""

import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from text2video.cli import train as train_verb
from text2video.cli.main import VERBS, run
from text2video.config import FLAGS, RunConfig
from text2video.evaluation.metrics import MAIN, MAIN_ATTRIBUTES
from text2video.families.opening import FAMILIES
from text2video.models import text
from text2video.sections import GANS, ModelConfig
from text2video.training import trainer

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

OF_A_MODEL = shlex.split(
    "--max_steps 2 --batch_size 2 --frame_size 16 --num_frames 4 --num_workers 0 "
    "--val_samples 2 --num_samples 1 --no_wandb --no_tensorboard --device cpu"
)
SHORT = [*OF_A_MODEL, "--text_width", "32", "--text_layers", "1"]
TINY = SHORT + shlex.split(
    "--num_inference_steps 2 --model_channels 16 --channel_mult 1 2 --attention time factorised "
    "--downsample_time false --num_res_blocks 1"
)
TINY_TRANSFORMER = SHORT + shlex.split(
    "--num_inference_steps 2 --model_args '{num_layers: 1, num_attention_heads: 1, attention_head_dim: 16}'"
)
TINY_GAN = [*SHORT, "--model_args", "{channels: 8}"]
# Verb -> options that take the place of the page's.
SMALLER = {
    "demo": "--fast --output_dir runs/fast",
    "generate": "--num_inference_steps 2 --num_frames 4 --frame_size 16",
    "evaluate": "--num_prompts 2 --num_inference_steps 2",
    "data shapes": "--clips 6 --size 16 --num_frames 8",
    "data prepare": "--num_frames 4 --frame_size 16",
}
# Where the pages say that a server runs.
ENDPOINT = "http://127.0.0.1:8000/v1"
PRETRAINED = set(text.PRETRAINED.values())
# What is typed where a command asks: at the model, at two prompts, and at the end.
TYPED = "runs/demo\na red circle moves left\na blue square grows\n\n"
# Program -> whether a line for it can be right. These are not run: they install, they serve, or they take long.
LOOKED_AT: dict[str, Callable[[list[str]], bool]] = {
    "make": lambda words: f"\n{words[1]}:" in (ROOT / "Makefile").read_text(encoding="utf-8"),
    "pip": lambda words: (
        words[1] == "install" and ("-c" not in words or (ROOT / words[words.index("-c") + 1]).is_file())
    ),
    "python": lambda words: words[1:] == ["-m", "venv", ".venv"] or (ROOT / words[1]).is_file(),
    "source": lambda words: words[1:] == [".venv/bin/activate"],
    ".venv\\Scripts\\activate": lambda words: True,
    "hf": lambda words: words[1] == "download" and words[2] in PRETRAINED | published(),
    "tensorboard": lambda words: words[1] == "--logdir" and (Path(words[2]).parent / "final").is_dir(),
    "accelerate": lambda words: configured(words),  # run by the slow test below
    "torchrun": lambda words: configured(words),
}
# Options of other programs that the pages name, and of other tools that ours answers to by another name.
OF_PROGRAMS = {
    "num_processes",
    "cpu",
    "nproc_per_node",
    "logdir",
    "include",
    "learn",
    "no-deps",
    "channels",
    "steps",
    "control",
    "batches",
    "gigabytes",
    "rounds",
    "picture",
    "facts",
    "precisions",
    "local-dir",
    "recipe",
    *("frames", "eager_only", "one_thread", "depth", "beside", "minutes", "out", "output", "seeds", "prompts"),
}
OF_OTHER_TOOLS = {
    *("instance_data_root", "max_num_frames", "train_batch_size", "num_train_epochs", "max_train_steps", "id_token"),
    *("checkpointing_steps", "lr_warmup_steps", "resume_from_checkpoint", "validation_prompt", "report_to"),
}
LAYOUTS = {  # folder of that name -> layout
    "data": "captions_json",
    "pairs": "captions_txt",
    "lists": "text_lists",
    "table": "csv",
    "webvid": "webvid",
    "manifest": "manifest",
    "side_by_side": "pairs",
    "metadata": "metadata",
    "shards": "webdataset",
    "hub": "huggingface",
    "pipe": "diffusion_pipe",
    "musubi": "musubi_tuner",
}


def contents(page: Path) -> str:
    """A page without its comments, in which figures wait."""
    return re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def blocks(page: Path) -> Iterator[tuple[str, str, str]]:
    """(language, title, code) of every fenced block."""
    found = re.findall(r"^```(\w*)([^\n]*)\n(.*?)^```$", contents(page), re.MULTILINE | re.DOTALL)
    assert 2 * len(found) == contents(page).count("```"), f"{page.name} has a block that is not closed, or is indented"
    for language, rest, code in found:
        title = re.search(r'title="(.+?)"', rest)
        yield language, title[1] if title else "", code


def lines(code: str) -> Iterator[list[str]]:
    """The command lines of a block, as words."""
    for line in code.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True, posix="Scripts" not in line):
            yield words


def published() -> set[str]:
    """The repositories of pretrained families."""
    kinds = [place.split(":") for place in FAMILIES.values()]
    families = [getattr(importlib.import_module(f"text2video.families.{module}"), name) for module, name in kinds]
    return {model.repository for family in families for model in getattr(family, "published", ())}


def configured(words: list[str]) -> bool:
    """Whether a line of a launcher leads to a run that can be configured."""
    train_verb.read(tuple(words[words.index("train") + 1 :]))
    return words[words.index("train") - 2 : words.index("train")] == ["-m", "text2video"]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    """A data set in each layout, a finished demo run, prompts, and the configurations."""
    folder = tmp_path_factory.mktemp("shelf")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["data", "shapes", "made", *SMALLER["data shapes"].split()]) == 0
        for name, layout in LAYOUTS.items():
            assert run(["data", "convert", "made", name, "--layout", layout]) == 0
        demo = ["--shapes", "--clips", "8", "--schedule", "flow", "--prediction", "x0", "--scheduler", "flow"]
        assert run(["train", *demo, "--output_dir", "runs/demo", *TINY]) == 0
    (folder / "prompts.txt").write_text("a red circle moves left\na blue square grows\n", encoding="utf-8")
    shutil.copytree(ROOT / "configs", folder / "configs")
    return folder


def tiny_encoder(kind: str, folder: Path) -> None:
    """A random CLIP or T5 text encoder with its tokenizer, in the real format."""
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    tokenizer = text.train_tokenizer(["a red circle moves left"], max_tokens=77)
    size = len(tokenizer)
    if kind == "clip":
        config = CLIPTextConfig(
            vocab_size=size, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
        )
        model = CLIPTextModel(config)
    else:
        model = T5EncoderModel(T5Config(vocab_size=size, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture
def place(shelf, tmp_path, monkeypatch) -> Iterator[Path]:
    """A copy of the shelf to work in, where everything that trains is made small."""
    folder = tmp_path / "place"
    shutil.copytree(shelf, folder)
    whole = trainer.train
    monkeypatch.setattr(trainer, "train", lambda config, resume=False, *reports: whole(smaller(config), resume))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    before = set(sys.modules)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # one process decodes: starting more takes longer than they work
    torch.set_num_threads(1)
    yield folder
    for name in {path.stem for path in folder.glob("*.py")} & (set(sys.modules) - before):
        del sys.modules[name]


def smaller(config: RunConfig) -> RunConfig:
    return RunConfig.build(config.model_dump(mode="json"), tiny(config))


def tiny(config: RunConfig) -> list[str]:
    """The options that make a run small; a causal autoencoder takes 4k+1 frames, and has nothing of a U-Net."""
    small = dict.fromkeys(("transformer", "autoregressive"), TINY_TRANSFORMER)
    small |= dict.fromkeys(("vae", "tokenizer"), OF_A_MODEL)
    own = (small | dict.fromkeys(GANS, TINY_GAN)).get(config.model.kind, TINY)
    if config.train.init_from and config.model == ModelConfig():  # that model decides
        own = [*OF_A_MODEL, "--num_inference_steps", "2"]
    if config.stages:  # they say themselves how long they are
        at = own.index("--max_steps")
        own = [*own[:at], *own[at + 2 :], "--stages", "{frame_size: 8, max_steps: 1}", "{max_steps: 1}"]
    if config.model.conv == "2d":
        return [*own, "--num_frames", "1", "--attention", "none", "space"]
    return [*own, "--num_frames", "5"] if config.model.kind in ("vae", "tokenizer") or config.model.codec else own


def scaled(verb: str, tokens: list[str]) -> list[str]:
    """A command line of `text2video` with the smaller options."""
    if verb == "train":  # it takes the later of two
        return [*tokens, *tiny(train_verb.read(tuple(tokens[1:]))[0])]
    staged = any("\nstages:" in contents(Path(token)) for token in tokens if token.endswith(".yaml"))
    if verb == "plan" and not staged:
        return [*tokens, *(TINY_TRANSFORMER if "transformer" in " ".join(tokens) else TINY)]
    shorter = SMALLER.get(verb, "")
    if any(kind in word for kind in GANS for word in tokens):  # its videos take one step
        shorter = shorter.replace("--num_inference_steps 2", "")
    options = shlex.split(shorter)
    if "runs/autoregressive-tiny" in tokens:  # trained small on this page; it has no steps
        options = ["--num_prompts", "2"] if verb == "evaluate" else []
    if "--codec" in tokens:
        options = [
            word.replace("4", "5") if before == "--num_frames" else word for before, word in pairwise(["", *options])
        ]
    dropped = {option for option in options if option.startswith("--")}
    pairs = zip(["", *tokens], tokens, strict=False)
    return [token for before, token in pairs if not {before, token} & dropped] + options


def do(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One command line, as far as it is run."""
    program, *tokens = words
    if program != "text2video":
        assert program in LOOKED_AT, f"neither run nor looked at: {words}"
        assert LOOKED_AT[program](words), words
        return
    verb = next(verb for verb in VERBS if tokens[: len(verb.split())] == verb.split())
    if verb == "train":
        train_verb.read(tuple(tokens[1:]))  # as it stands; below some of its options are laid over
    monkeypatch.setattr(sys, "stdin", io.StringIO(TYPED))
    code = run(scaled(verb, tokens))
    assert code == 0, f"{shlex.join(words)}\n{capsys.readouterr().err}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_everything_on_the_page_can_be_done(page, shelf, place, monkeypatch, capsys, request):
    if "text2video setup\n" in contents(page):
        shutil.rmtree(place / "data")
    if "text_encoder clip" in contents(page):
        tiny_encoder("clip", place / "clip")
        tiny_encoder("t5", place / "encoders" / "t5")
        monkeypatch.setitem(text.PRETRAINED, "clip", str(place / "clip"))
    if "models/modelscope" in contents(page):
        monkeypatch.syspath_prepend(str(ROOT / "tests" / "families"))
        importlib.import_module("test_modelscope").modelscope(place / "models" / "modelscope")
    if "models/stable-diffusion" in contents(page):
        monkeypatch.syspath_prepend(str(ROOT / "tests" / "families"))
        importlib.import_module("checkpoints").stable_diffusion(place / "models" / "stable-diffusion")
    endpoint = ""
    if ENDPOINT in contents(page):
        shutil.copytree(request.getfixturevalue("tiny_captioners"), place / "models")
        monkeypatch.setenv("MY_KEY", "a key")
        endpoint = request.getfixturevalue("chat_server").url
    names: dict[str, object] = {}
    for language, title, code in blocks(page):
        code = code.replace(ENDPOINT, endpoint)
        if title:
            (place / title).write_text(code, encoding="utf-8")
            importlib.invalidate_caches()
        elif language == "python":
            exec(compile(code, page.name, "exec"), names)
        elif language == "yaml":
            RunConfig.build(YAML(typ="safe").load(code))
        elif language in ("bash", "console", "powershell"):
            for words in lines(code):
                do(words, monkeypatch, capsys)
                if words == ["text2video", "setup"]:  # now a user puts clips there
                    shutil.copytree(shelf / "data", place / "data", dirs_exist_ok=True)
        else:
            assert language == "text", f"a block of {language or 'no language'} is neither run nor checked"


@pytest.mark.slow
def test_lines_for_several_processes(place):
    launched = [
        words
        for page in PAGES
        for language, _, code in blocks(page)
        if language == "bash"
        for words in lines(code)
        if words[0] in ("accelerate", "torchrun")
    ]
    assert len(launched) == 3
    for program, *tokens in launched:
        port = ["launch", "--main_process_port", "0"] if program == "accelerate" else ["--standalone"]
        command = [Path(sys.executable).parent / program, *port, *tokens[program == "accelerate" :], *TINY]
        subprocess.run(command, check=True)
        assert (place / tokens[tokens.index("--output_dir") + 1] / "final" / "model_index.json").is_file()


def test_every_option_named_exists(monkeypatch, capsys):
    known = set(FLAGS.names) | {"resume", "dry_run", "help"}
    monkeypatch.setenv("COLUMNS", "200")
    for verb in VERBS:
        run([*verb.split(), "--help"])
    known |= set(re.findall(r"--(\w+)", capsys.readouterr().out))
    assert not OF_OTHER_TOOLS & known
    for page in PAGES:
        named = set(re.findall(r"(?<![\w-])--([a-zA-Z][\w.-]*)", contents(page))) - OF_PROGRAMS - OF_OTHER_TOOLS
        assert {name.replace("-", "_") for name in named} <= known, page.name


def test_every_verb_is_in_the_readme():
    assert all(f"| `text2video {verb}` |" in contents(PAGES[0]) for verb in VERBS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_files_named_exist(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", contents(page)):
        file = page.parent / target if target else page
        assert file.exists(), target
        headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [re.sub(r"[^\w]+", "-", name.lower()).strip("-") for name in headings]
    for name in re.findall(r"\b(?:configs|benchmarks)/[\w/-]+\.\w+", contents(page)):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"\bconfigs/[\w/-]+\.yaml", contents(page)):
        RunConfig.load(ROOT / name)


def test_figures_of_the_check_are_those_measured():
    page, of = contents(ROOT / "docs/benchmarks.md"), r" (\d+ of \d+) \|"
    sizes = measured("shapes_check")["frame sizes"]
    rows = re.findall(rf"^\| ([^|]+) \|{of}{of}$", page, re.MULTILINE)
    assert len(rows) > 20
    for case, *cells in rows:
        assert cells == [counted(sizes[size]["rates"][case]) for size in ("32", "64")]
    rates = measured("shapes_check_full")["rates"]
    rows = re.findall(rf"^\| ([^|]+) \|{of}{of}{of}$", page, re.MULTILINE)
    assert len(rows) > 5
    for case, *cells in rows:
        assert cells == [counted(rates[f"level {level}, {case}"]) for level in (1, 2, 3)]


@pytest.mark.parametrize("page", ["docs/moving-shapes.md", "src/text2video/assets/moving-shapes/README.md"])
def test_figures_of_the_packages_model_are_those_measured(page):
    checked = measured("moving_shapes")["checked"]
    rows = re.findall(r"^\| ([^|]+) \| (\d+ of \d+) \| ([\d.]+%) \|", contents(ROOT / page), re.MULTILINE)
    assert len(rows) == len(checked["one thing"]) + 1
    for name, *cells in rows:
        asked = name.removeprefix("two things: ").removesuffix(" of both")
        rate = checked["one thing" if asked == name else "two things"][asked]
        assert cells == [counted(rate), f"{rate['rate']:.1%}"]


def test_figures_of_the_demo_are_those_measured():
    found = measured("demo")
    cells = r"^\| ([^|]+) \| (\d+ of \d+) \| ([\d.]+%) \| ([\d.]+%) to ([\d.]+%) \| ([\d.]+%) \|$"
    page = contents(ROOT / "docs/evaluate.md")
    rows = re.findall(cells, page, re.MULTILINE)
    assert [name for name, *_ in rows] == list(found["rates"])
    for name, right, rate, low, high, shuffled in rows:
        of = found["rates"][name]
        assert (right, rate, [low, high]) == (counted(of), f"{of['rate']:.1%}", shares(of))
        assert shuffled == f"{found['control'][name]['rate']:.1%}"
    readme = " ".join(contents(ROOT / "README.md").split())
    for of in ("colour", "shape", "motion", MAIN):
        assert f"in {found['rates'][of]['rate']:.1%} " in readme
    others = [counts for motion, counts in found["right_by_motion"].items() if motion != "rotating"]
    assert found["right_by_motion"]["rotating"][0] == 0  # "none of those prompts came out right"
    assert f"{sum(right for right, _ in others) / sum(n for _, n in others):.0%} of the others" in readme
    assert f"Of all other prompts {sum(right for right, _ in others)} of {sum(n for _, n in others)} are right" in page
    assert f"training took {found['training_seconds'] / 60:.1f} minutes" in readme
    steps = f"{found['steps']:,} steps"
    assert steps in page
    assert f"{found['training_seconds']} s of training ({steps}" in contents(ROOT / "docs/benchmarks.md")
    assert found["steps"] == RunConfig.load(ROOT / "configs/demo.yaml").in_stages[-1].run_steps


def test_figures_of_the_latent_model_are_those_measured():
    found, demo = measured("latents"), measured("demo")
    page = " ".join(contents(ROOT / "docs/vae.md").split())
    of = found["rates"]
    low, high = shares(of[MAIN])
    assert f"Of {of[MAIN]['n']} held-out prompts {of[MAIN]['successes']} are right" in page
    assert f"({of[MAIN]['rate']:.1%}, {low} to {high})" in page
    assert ", ".join(f"{name} {of[name]['rate']:.1%}" for name in ("colour", "shape", "motion")) in page
    assert f"has {demo['rates'][MAIN]['rate']:.1%} after ten minutes" in page
    assert f"{found['codec_steps']} steps of the codec took {found['codec_seconds'] / 60:.1f} minutes" in page
    assert f"{found['steps']:,} steps of the transformer {found['training_seconds'] / 60:.0f}," in page
    assert found["steps"] == RunConfig.load(ROOT / "configs/latent-transformer-tiny.yaml").train.max_steps


def test_figures_of_a_new_word_are_those_measured():
    found = measured("new_word")
    page = " ".join(contents(ROOT / "docs/moving-shapes.md").split())
    moons, known, before = (found["rates"][name] for name in ("moons", "known", "before"))
    assert f"{found['steps']:,} steps took {found['seconds'] / 60:.1f} minutes" in page
    shape, low_high = moons["shape"], " to ".join(shares(moons["shape"]))
    assert f"Of {shape['n']} prompts" in page
    assert f"{shape['successes']} show a moon ({shape['rate']:.1%}, {low_high})" in page
    assert f"and {moons[MAIN]['successes']} are right in colour and motion too" in page
    assert f"from {before[MAIN]['rate']:.1%} to {known[MAIN]['rate']:.1%}, of {known[MAIN]['n']} prompts" in page
    assert found["steps"] == RunConfig.load(ROOT / "configs/new-word.yaml").train.max_steps


def test_figures_of_compiled_transformers_are_those_measured():
    page, found = contents(ROOT / "docs/benchmarks.md"), measured("transformer_step_compiled")
    rows = re.findall(r"^\| (\w+), (\w+) \| (\w+) \| ((?:[\d., ]+\|? ?){4})$", page, re.MULTILINE)
    assert len(rows) == 4
    for attention, peer, precision, cells in rows:
        wanted = []
        for how in ("eager", "compiled"):
            models = (f"text2video {attention}", f"diffusers {peer}")
            own, other = (found[how]["models"][name][precision]["seconds"]["median"] for name in models)
            wanted += [f"{own:.2f}", f"{other:.2f}", f"{other / own:.2f}"]
        assert re.findall(r"[\d.]+", cells) == wanted
    for precision in ("float32", "bfloat16"):
        every = [found[how]["models"] for how in ("eager", "compiled")]
        ours = [model for models in every for name, model in models.items() if name.startswith("text2video")]
        best = max(each[precision]["share_of_matrix_product"] for each in ours)
        assert f"{best:.0%} in {precision}" in page


def test_figures_of_learning_beside_peers_are_those_measured():
    page = contents(ROOT / "docs/benchmarks.md")
    rows = re.findall(r"^\| [^|]+ \| (\d+) \| ((?:0\.\d{3} \|? ?){4})$", page, re.MULTILINE)
    found = measured("train_step_learn")["learning"].values()
    assert len(rows) == len(found)
    for (steps, losses), of in zip(rows, found, strict=True):
        assert int(steps) == of["steps"]
        assert re.findall(r"0\.\d+", losses) == [f"{loss:.3f}" for loss in of["validation_loss"]]


def test_figures_of_inflated_models_are_those_measured():
    page, found = contents(ROOT / "docs/from-images.md"), measured("inflation_short")["seeds"]["0"]
    names = {"scratch": "from nothing, the whole length", "inflated": "from a model of images"}
    for key, name in (names | {"staged": "from nothing, in stages"}).items():
        cells = " | ".join(f"{found[key]['rates'][of]:.1%}" for of in (*MAIN_ATTRIBUTES, MAIN))
        assert re.search(rf"^\| {name} \| [^|]+ \| {re.escape(cells)} \|$", page, re.MULTILINE)
    longer = measured("inflation")
    for key, name in names.items():
        rates = [runs[key]["right"] for runs in longer["seeds"].values()]
        cells = " | ".join(f"{rate:.1%}" for rate in (*rates, longer["right"][key]))
        assert re.search(rf"^\| {name} \| [^|]+ \| {re.escape(cells)} \|$", page, re.MULTILINE)


def test_figures_of_stages_are_those_measured():
    page = contents(ROOT / "docs/train.md")
    for result, model in (("stages_videos", "videos-tiny"), ("stages", "demo")):
        staged, whole = (measured(result)["mean"][name] for name in ("staged", "whole"))
        cells = " | ".join(f"{run['right']:.1%} | {run['minutes']:.1f}" for run in (staged, whole))
        assert re.search(rf"^\| `{model}`, [^|]+ \| {re.escape(cells)} \|$", page, re.MULTILINE)


def test_figures_of_conditions_are_those_measured():
    (unet,) = measured("conditions")["models"].values()
    (transformer,) = measured("conditions_transformer")["models"].values()
    cells = r"^\| (\w+)[^|]*\| [^|]+ \| (\d+ of \d+) \| ([\d.]+%) to ([\d.]+%) \| (\d+ of \d+) \|$"
    rows = re.findall(cells, contents(ROOT / "docs/conditions.md"), re.MULTILINE)
    wanted = [(name, found[name]) for found in (unet, transformer) for name in found]
    assert sorted(name for name, *_ in rows) == sorted(name for name, _ in wanted)
    for name, right, low, high, chance in rows:
        told = [(counted(f["right"]), shares(f["right"]), counted(f["by chance"])) for n, f in wanted if n == name]
        assert (right, [low, high], chance) in told


def test_figures_of_gans_are_those_measured():
    result = measured("gans")
    page = contents(ROOT / "docs/gans.md")
    cells = r"^\| ([\w-]+) \| ([\d.]+) \| ([\d,]+) \| ((?:[\d.]+% \| ){4})([\d.]+) s \| (\w+) \|$"
    rows = re.findall(cells, page, re.MULTILINE)
    assert [name for name, *_ in rows] == list(result["models"])
    for name, parameters, steps, rates, seconds, trained in rows:
        model = result["models"][name]
        assert parameters == f"{model['parameters'] / 1e6:.1f}"
        assert int(steps.replace(",", "")) == model["steps"]
        told = [f"{model['rates'][each]['rate']:.1%}" for each in (*MAIN_ATTRIBUTES, MAIN)]
        assert re.findall(r"[\d.]+%", rates) == told
        assert seconds == f"{model['seconds_a_video']:.2f}"
        assert trained == ("yes" if model["trained"] else "no")


def test_figures_of_tokens_are_those_measured():
    found, page = measured("tokens"), contents(ROOT / "docs/tokens.md")
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) dB \| ([\d.]+) dB \| ([\d.]+%) of ([\d,]+) \|$", page, re.MULTILINE)
    assert [name for name, *_ in rows] == list(found["tokenizers"])
    for name, psnr, worst, used, codes in rows:
        of = found["tokenizers"][name]
        assert (float(psnr), float(worst)) == (of["psnr"], of["psnr_of_the_worst_tenth"])
        assert (used, int(codes.replace(",", ""))) == (f"{of['codes_used']:.1%}", of["codes"])
    cells = r"^\| (\w+) \| ([\d.]+) \| ((?:[\d.]+% \| ){4})([\d.]+%) to ([\d.]+%) \| ([\d.]+) s \|$"
    rows = re.findall(cells, page, re.MULTILINE)
    assert len(rows) == len(found["models"])
    for (_, parameters, rates, low, high, seconds), of in zip(rows, found["models"].values(), strict=True):
        assert parameters == f"{of['parameters'] / 1e6:.1f}"
        assert re.findall(r"[\d.]+%", rates) == [f"{of['rates'][each]:.1%}" for each in (*MAIN_ATTRIBUTES, MAIN)]
        assert [low, high] == [f"{end:.1%}" for end in of["interval"]]
        assert seconds == f"{of['seconds_a_video']:.2f}"


def measured(name: str) -> Any:
    """The result of a benchmark."""
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))


def shares(rate: dict[str, Any]) -> list[str]:
    """A rate's interval as the page says it."""
    return [f"{rate[end]:.1%}" for end in ("low", "high")]


def counted(rate: dict[str, Any]) -> str:
    """A rate as the page says it."""
    return f"{rate['successes']} of {rate['n']}"


def test_the_site_is_built_and_asks_no_other_server(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", ROOT / "mkdocs.yml"]
    subprocess.run([*command, "--site-dir", tmp_path / "site"], check=True, capture_output=True)
    for page in (tmp_path / "site").glob("*.html"):
        html = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="?https?:', html), page.name
