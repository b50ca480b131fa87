"""`text2video plan`: memory, disk and time of a run before it starts, and the cheapest setting that fits."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..config import RunConfig
from ..errors import DataError, UsageError
from .terminal import progress, say

if TYPE_CHECKING:
    from ..planner.cards import Card
    from ..planner.plan import Plan
    from ..planner.propose import Proposal

OWN = ("vram", "card", "clips")


def plan(*tokens: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> None:
    """Say what memory, disk and time a run will take, before it starts.

    Usage: text2video plan [CONFIG.yaml] [--option value ...] [--vram 12GB] [--card NAME] [--clips N]

    Options are those of `train`. --vram, or the memory of --card, asks for the cheapest setting that fits; without
    them it is planned for this machine. --clips stands for data that is not there yet. Nothing is written, and no
    weights are read: the model runs on tensors without contents. A run of stages is planned stage by stage.
    """
    own, rest = own_options(tokens)
    if {"--help", "-h"} & set(rest):
        return say(plan.__doc__)
    from .train import read

    config, _, _ = read(tuple(rest))
    if not config.stages:
        plan_one(config, own)
        return
    times: list[float] = []
    for stage in config.in_stages:
        say(stage.in_words())
        times += plan_one(stage.config, own)
        say("")
    if len(times) == len(config.stages):
        say(f"all stages together: {duration(sum(times))}")


def plan_one(config: RunConfig, own: dict[str, str]) -> list[float]:
    """Say what a run without stages takes, or one stage; the seconds of that, if they are known.

    Args:
        own: the options of `plan` alone.
    """
    from ..planner.cards import CARDS, card_named, parse_bytes, this_cpu, this_gpu
    from ..planner.plan import plan as planned
    from ..planner.propose import propose

    clips = count(own["clips"]) if "clips" in own else clips_of(config)
    here = None if config.train.device == "cpu" else this_gpu()
    card = card_named(own["card"]) if "card" in own else here
    limit = parse_bytes(own["vram"]) if "vram" in own else card.memory if card else 0.0
    on_gpu = bool(limit)
    if not on_gpu:
        card = this_cpu()
        limit = card.memory
    if "vram" in own or "card" in own:
        with progress("looking for what fits", "settings") as report:
            tried = iter(range(1, 1000))
            found = propose(config, limit, on_gpu, clips, lambda: report(next(tried), None))
        result = found.before
    else:
        found, result = None, planned(config, on_gpu, clips)
    say(described(config, result, card, clips))
    if found:
        say("\n" + proposed(found, limit))
        result = found.plan
    if result.on_gpu and not ("card" in own or here):
        say("\n" + on_cards(result, list(CARDS.values())))
    return [sum(result.seconds(card).values())] if card and result.steps else []


def own_options(tokens: tuple[str, ...]) -> tuple[dict[str, str], list[str]]:
    """The options of `plan` alone, and what is left for `train`.

    Raises:
        UsageError: one has no value.
    """
    own: dict[str, str] = {}
    rest: list[str] = []
    waiting = list(tokens)
    while waiting:
        token = waiting.pop(0)
        name, equals, value = token.removeprefix("--").partition("=")
        if not token.startswith("--") or name not in OWN:
            rest.append(token)
            continue
        if not equals and (not waiting or waiting[0].startswith("--")):
            raise UsageError(f"--{name} needs a value, as in --vram 12GB, --card 'RTX 4090' or --clips 50.")
        own[name] = value if equals else waiting.pop(0)
    return own, rest


def count(text: str) -> int:
    """A number of clips."""
    if not text.isdigit() or not int(text):
        raise UsageError(f"--clips is {text!r}. Give the number of clips, such as --clips 50.")
    return int(text)


def clips_of(config: RunConfig) -> int | None:
    """The clips of an epoch that a configuration names, counted without opening one; None where it names none."""
    data = config.data
    if data.shapes is not None:
        return data.shapes.clips
    from ..data.repeats import times_of

    if data.load_tensors is not None:
        from ..data.cache import Cache

        clips = Cache.open(data.load_tensors).clips
    elif any((data.data_dir, data.data_root, data.dataset_file)):
        from ..data.layouts import read_layout

        clips = read_layout(**data.source).clips
    else:
        return None
    if not clips:
        raise DataError("The data set that is named holds no clips. --clips 50 plans for data that is not there yet.")
    return sum(times_of([clip.id for clip in clips[: data.max_samples]], data.repeats))


def described(config: RunConfig, plan: "Plan", card: "Card | None", clips: int | None) -> str:
    """A plan as a table."""
    where = f"on {card.name}" if card else "on a GPU"
    lines = [f"{headline(config)}, {where}", ""]
    lines.append("GPU memory" if plan.on_gpu else "memory (this CPU: main memory)")
    lines += [f"  {part:38s} {gigabytes(size)}" for part, size in plan.memory.items()]
    lines.append(f"  {'together, in the phase that needs most':38s} {gigabytes(plan.peak)}   ({plan.worst})")
    lines.append("other phases: " + ", ".join(f"{p} {gb(s)}" for p, s in plan.phases.items() if p != plan.worst))
    lines += [f"main memory, with Python and the loader: {gb(plan.ram)}", ""]
    lines.append("disk: " + ", ".join(f"{part} {gb(size)}" for part, size in plan.disk.items()))
    if card:
        lines.append(f"time of a step: {duration(plan.step_seconds(card))} ({plan.step.flops / 1e12:.3g} TFLOP)")
        if plan.steps:
            parts = plan.seconds(card)
            whole = ", ".join(f"{part} {duration(seconds)}" for part, seconds in parts.items())
            given = f"{plan.steps} steps" + (f", {clips} clips" if clips else "")
            lines.append(f"time in all: {duration(sum(parts.values()))} ({given}: {whole})")
        else:
            lines.append("time in all: not known, as no data is named. --clips 50 says how many clips there will be.")
        rates = "measured here" if not plan.on_gpu else "of the data sheet"
        lines.append(
            f"(assumed: {card.matrix_share:.0%} of the matrix rate and {card.bandwidth_share:.0%} of the memory "
            f"bandwidth, {rates}; loading of clips not counted)"
        )
    return "\n".join([*lines, *plan.notes])


def headline(config: RunConfig) -> str:
    """What is trained, in a line."""
    from ..sizes import parse_all

    train, buckets = config.train, parse_all(config.data.buckets)
    shape = config.data.shape
    if buckets and not isinstance(buckets, str):
        shape = max(buckets, key=lambda b: b.pixels)
    model = f"a model of its own ({config.model.kind})" if train.init_from is None else Path(train.init_from).name
    what = "an adapter of " if config.lora else ""
    batch = f"{train.batch_size} x {train.gradient_accumulation_steps} clips a step"
    precision = {"no": "float32", "auto": "mixed precision where fast"}.get(
        train.mixed_precision, train.mixed_precision
    )
    saved = ", gradient checkpointing" if train.gradient_checkpointing else ""
    return f"{what}{model}, {shape.in_words()}, {batch}, {precision}{saved}, {config.optim.optimizer}"


def proposed(found: "Proposal", limit: float) -> str:
    """What to change so that the run fits."""
    if found.fits and not found.savings:
        return f"It fits into {gb(limit)} as it is."
    lines = [f"It does not fit into {gb(limit)} as it is."]
    if not found.fits:
        lines.append(f"Nothing that was tried fits. The smallest needs {gb(found.plan.needed)}, with:")
    else:
        lines.append(f"The cheapest setting that fits needs {gb(found.plan.needed)}. Add to the command line:")
    lines += ["", f"  {shlex.join(found.flags)}", ""]
    lines += [f"  {shlex.join(saving.flags)}: {saving.words}" for saving in found.savings]
    return "\n".join(lines)


def on_cards(plan: "Plan", cards: "list[Card]") -> str:
    """A plan on common cards."""
    lines = ["On common cards, by their data sheets and the shares assumed above:"]
    for card in cards:
        fits = "fits" if plan.peak <= card.memory else "does not fit"
        whole = sum(plan.seconds(card).values())
        time = f"{duration(whole)} in all" if plan.steps else f"{duration(plan.step_seconds(card))} a step"
        lines.append(f"  {card.name:10s} {card.memory / 1e9:4.0f} GB  {fits:13s} {time}")
    return "\n".join(lines)


def gigabytes(size: float) -> str:
    """Bytes, aligned."""
    return f"{size / 1e9:8.2f} GB"


def gb(size: float) -> str:
    """Bytes in words."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """Seconds in words."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
