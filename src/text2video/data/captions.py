"""Captions made by a model, for clips and from captions, kept beside the originals with their provenance.

What is written is a manifest, which `train` reads. Nothing in the data set itself is changed. Every answer is kept in
a file beside the manifest as soon as it is there: a job that is stopped, even killed, goes on from there, and one that
is run again asks only what is new or has changed.
"""

import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from string import Formatter
from typing import Any, Literal

from .. import __version__, video
from ..errors import DataError, Text2VideoError, UsageError
from .answers import Answerer, AnswerLog, NoAnswer, Question, clean_answer
from .clips import Clip, LeftOut, Manifest, relative, stable_hash

Use = Literal["new", "original", "both"]
FIELDS = {
    "caption": "the clip's caption",
    "duration": "its length in seconds",
    "num_frames": "how many frames the model sees",
    "name": "the file's name",
}
CAPTION_TEMPLATE = (
    "These are {num_frames} frames, in order, of a video that lasts {duration} seconds. Describe in one or two plain "
    "sentences what it shows and what moves, and how. Answer with the description alone."
)
POLISH_TEMPLATE = (
    "Rewrite this caption of a video in clear, plain words. Keep every fact: colours, shapes, counts, directions, what "
    "moves and how. Add nothing that is not said. Answer with the new caption alone.\n\n{caption}"
)


@dataclass
class Outcome:
    """What a job did. `manifest` is what it wrote."""

    manifest: Manifest
    asked: int = 0
    failed: list[LeftOut] = field(default_factory=list)  # questions without an answer, by their clip's id


@dataclass(frozen=True)
class _Ask:
    """One question: about a clip, or about one of its captions. `key` changes with all that decides the answer."""

    clip: Clip
    caption: str
    key: str


def caption(
    manifest: Manifest,
    out: str | Path,
    answerer: Answerer,
    *,
    template: str = CAPTION_TEMPLATE,
    num_frames: int = 8,
    frame_size: int = 512,
    use: Use = "new",
    only_missing: bool = False,
    on_done: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Captions for the clips of a data set, written as a manifest.

    Args:
        manifest: of `uncaptioned.read_clips`, or any other.
        out: the manifest to write, `.jsonl` or `.parquet`; the answers are kept beside it, in `.answers`.
        answerer: the model.
        template: the prompt; `{caption}`, `{duration}`, `{num_frames}` and `{name}` in it are filled in.
        num_frames: frames that the model sees, evenly spaced over the clip.
        frame_size: pixels of their longer side, at most.
        use: which captions the manifest gives to training: new, original (as they were read) or both. A clip without a
            new one keeps its originals. All of them stand in its provenance.
        only_missing: only clips that have no caption are asked about.
        on_done: called with (questions done, questions).

    Raises:
        UsageError: the template has other fields, or `out` is no name for a manifest.
        DataError: `out` stands there and was not written by this, or no clip has a caption in the end.
        ModelError: no question will be answered. What was answered is kept.
    """
    fields = template_fields(template)
    if num_frames < 1 or frame_size < 1:
        raise UsageError(f"{num_frames} frames of {frame_size} pixels cannot be shown: both are at least 1.")

    def key(clip: Clip) -> str:
        said = clip.captions if "caption" in fields else ()
        parts = (clip.id, clip.start, clip.end, _print_of(clip.path), said, template, num_frames, frame_size)
        return _key("caption", answerer, *parts)

    def question(ask: _Ask) -> tuple[Question, dict[str, Any]]:
        clip = ask.clip
        count = 1 if clip.is_picture else num_frames
        info = video.probe(clip.path)
        longer = min(frame_size, max(info.width, info.height))
        height, width = (None, longer) if info.width >= info.height else (longer, None)
        seen = video.sample(clip.path, count, height=height, width=width, start=clip.start, end=clip.end)
        prompt = fill(template, ask.caption, clip, info.duration, count)
        return Question(prompt, seen.frames), {"frames": [round(time, 3) for time in seen.times.tolist()]}

    clips = [clip for clip in manifest.clips if not (only_missing and clip.captions)]
    asks = [_Ask(clip, " ".join(clip.captions[:1]), key(clip)) for clip in clips]
    settings = {"template": template, "num_frames": num_frames, "frame_size": frame_size}
    return _make("caption", manifest, Path(out), answerer, asks, question, settings, use, on_done)


def polish(
    manifest: Manifest,
    out: str | Path,
    answerer: Answerer,
    *,
    template: str = POLISH_TEMPLATE,
    use: Use = "new",
    on_done: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Every caption of a data set in a language model's words, written as a manifest. Arguments as of `caption`.

    Raises:
        UsageError: also: the template does not hold `{caption}`.
    """
    fields = template_fields(template)
    if "caption" not in fields or "num_frames" in fields:
        raise UsageError(
            "A template for polishing shows the caption, as {caption}, and no frames: {num_frames} has no place in it."
        )

    def question(ask: _Ask) -> tuple[Question, dict[str, Any]]:
        duration = video.probe(ask.clip.path).duration if "duration" in fields else 0.0
        return Question(fill(template, ask.caption, ask.clip, duration, 0), None), {"of": ask.caption}

    asks = [
        _Ask(clip, said, _key("polish", answerer, clip.id, said, template))
        for clip in manifest.clips
        for said in clip.captions
    ]
    return _make("polish", manifest, Path(out), answerer, asks, question, {"template": template}, use, on_done)


def polish_prompts(prompts: Sequence[str], answerer: Answerer, template: str = POLISH_TEMPLATE) -> list[str]:
    """Prompts in a language model's words, in their order.

    Raises:
        NoAnswer: one of them has no answer that can be used.
    """
    if template_fields(template) != {"caption"}:
        raise UsageError("A template for prompts has one field, {caption}.")
    asked = [template.format(caption=prompt) for prompt in prompts]
    return [clean_answer(text) for prompt in asked for text in answerer.answer([Question(prompt, None)])]


# ---- the prompt ----


def template_fields(template: str) -> set[str]:
    """The fields of a template.

    Raises:
        UsageError: it has one that does not exist, or a brace that is none.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise UsageError(f"The template cannot be read: {error}. A brace that is meant is written twice.") from error
    fields = {name for _, name, _, _ in parts if name is not None}
    plain = all(not form and not conversion for _, _, form, conversion in parts)
    if not fields <= FIELDS.keys() or not plain:
        wrong = ", ".join(sorted(f"{{{name}}}" for name in fields - FIELDS.keys())) or "a format"
        known = ", ".join(f"{{{name}}} ({what})" for name, what in FIELDS.items())
        raise UsageError(f"The template has {wrong}; it can have {known}. A brace that is meant is written twice.")
    if not template.strip():
        raise UsageError("The template is empty. Say in it what the model is to do.")
    return fields


def fill(template: str, caption: str, clip: Clip, seconds: float, num_frames: int) -> str:
    """The prompt for one clip. `seconds` is the duration of its file."""
    length = min(seconds, clip.end or seconds) - (clip.start or 0.0)
    return template.format(
        caption=caption, duration=f"{length:.1f}", num_frames=num_frames, name=Path(clip.source).name
    )


def _key(task: str, answerer: Answerer, *parts: object) -> str:
    settings = sorted(answerer.settings.items())
    return f"{stable_hash(task, answerer.about['model'], settings, *parts):016x}"


def _print_of(path: Path) -> str:
    """Changes when a file does: its size, its beginning and its end. Copying it changes nothing."""
    try:
        with video.open_file(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            head = file.read(1 << 16)
            file.seek(max(0, size - (1 << 16)))
            return f"{size}-{blake2b(head + file.read(), digest_size=8).hexdigest()}"
    except OSError:  # the question about it will say so
        return ""


# ---- the job ----

Ready = Callable[[_Ask], tuple[Question, dict[str, Any]]]


def _make(
    task: str,
    manifest: Manifest,
    out: Path,
    answerer: Answerer,
    asks: Sequence[_Ask],
    question: Ready,
    settings: dict[str, Any],
    use: Use,
    on_done: Callable[[int, int], None] | None,
) -> Outcome:
    """Asks what has not been answered yet, then writes the manifest."""
    kept = out.with_suffix(".answers")
    if out.suffix.lower() not in (".jsonl", ".parquet"):
        raise UsageError(f"{out} is to be a manifest: its name ends in .jsonl or .parquet.")
    if out.exists() and not kept.exists():
        raise DataError(f"{out} is there, and was not made by this: nothing is written over. Give another name.")
    for clip in manifest.clips:
        relative(clip.path, manifest.root)  # a file outside is refused before the work, not after it
    out.parent.mkdir(parents=True, exist_ok=True)
    log = AnswerLog(kept)
    about = {"task": task, **answerer.about, "settings": {**settings, **answerer.settings}, "version": __version__}
    reasons: dict[str, str] = {}
    pending = [ask for ask in asks if ask.key not in log.records]
    try:
        answers = _answers(pending, question, answerer)
        for number, (ask, result, facts) in enumerate(answers, len(asks) - len(pending) + 1):
            if isinstance(result, NoAnswer):
                reasons[ask.key] = str(result)
            else:
                now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
                log.add({"key": ask.key, "id": ask.clip.id, "caption": result, **facts, "time": now, **about})
            if on_done:
                on_done(number, len(asks))
    except Text2VideoError as error:
        raise type(error)(f"{error} {len(log.records)} answers are kept in {kept}; run it again to go on.") from error
    written = _written(manifest, asks, log, reasons, use)
    failed = [LeftOut(ask.clip.id, reasons[ask.key]) for ask in asks if ask.key in reasons]
    if not written.clips:
        first = "; ".join(f"{id}: {reason}" for id, reason in (failed or written.left_out)[:3])
        raise DataError(f"No clip has a caption ({first}), so {out} is not written.")
    written.save(out)
    return Outcome(written, len(pending), failed)


def _answers(
    asks: Sequence[_Ask], question: Ready, answerer: Answerer
) -> Iterator[tuple[_Ask, str | NoAnswer, dict[str, Any]]]:
    """Each question with its caption or the reason why there is none, as they are done; few are held at a time."""

    def work(batch: list[_Ask]) -> list[tuple[_Ask, str | NoAnswer, dict[str, Any]]]:
        results: list[tuple[_Ask, str | NoAnswer, dict[str, Any]]] = []
        ready: list[tuple[_Ask, Question, dict[str, Any]]] = []
        for ask in batch:
            try:
                ready.append((ask, *question(ask)))
            except Exception as error:  # a decoder meets any bytes and may answer with any error
                results.append((ask, NoAnswer(str(error) if isinstance(error, Text2VideoError) else repr(error)), {}))
        if not ready:
            return results
        try:
            texts: list[str | NoAnswer] = list(answerer.answer([asked for _, asked, _ in ready]))
        except NoAnswer as error:
            texts = [error] * len(ready)
        for (ask, _, facts), text in zip(ready, texts, strict=True):
            try:
                results.append((ask, text if isinstance(text, NoAnswer) else clean_answer(text), facts))
            except NoAnswer as error:
                results.append((ask, error, facts))
        return results

    rest = iter(asks)
    pool = ThreadPoolExecutor(answerer.concurrency)
    running: set[Future[list[tuple[_Ask, str | NoAnswer, dict[str, Any]]]]] = set()
    try:
        while True:
            while len(running) < 2 * answerer.concurrency and (batch := list(islice(rest, answerer.batch_size))):
                running.add(pool.submit(work, batch))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            # what was answered is handed out before an error ends it all
            for future in sorted(done, key=lambda future: future.exception() is not None):
                yield from future.result()
    finally:
        for future in running:
            future.cancel()
        answerer.close()
        pool.shutdown()


def _written(manifest: Manifest, asks: Sequence[_Ask], log: AnswerLog, reasons: dict[str, str], use: Use) -> Manifest:
    """The manifest with the captions to use, and with where they come from."""
    asked: dict[str, list[_Ask]] = {}
    for ask in asks:
        asked.setdefault(ask.clip.id, []).append(ask)
    clips, left_out = [], list(manifest.left_out)
    for clip in manifest.clips:
        about = asked.get(clip.id, [])
        made = [log.records[ask.key] for ask in about if ask.key in log.records]
        # of several captions, one that could not be polished stays as it is
        new = [log.records[ask.key]["caption"] if ask.key in log.records else ask.caption for ask in about if made]
        choices = {"new": new or clip.captions, "original": clip.captions, "both": (*clip.captions, *new)}
        if not (chosen := choices[use]):
            why = next((f" was made: {reasons[ask.key]}" for ask in about if ask.key in reasons), "")
            left_out.append(LeftOut(clip.id, f"no caption{why}"))
            continue
        provenance = clip.provenance
        if made:
            before = provenance or {"original": list(clip.captions), "made": []}
            records = [{name: value for name, value in record.items() if name not in ("key", "id")} for record in made]
            provenance = {**before, "made": [*before["made"], *records]}
        clips.append(replace(clip, captions=tuple(dict.fromkeys(chosen)), provenance=provenance))
    return Manifest(manifest.root, "manifest", clips, left_out)
