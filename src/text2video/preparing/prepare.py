"""`data prepare`: what there is to encode, who encodes it, and the tables that say that it is done.

The shards are the only state. What is whole in them is never encoded again, whoever wrote it and however that ended, so
an interrupted run goes on at the clip, and a changed setting costs what it changes and no more.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Literal

import torch

from ..config import RunConfig
from ..data.cache import Cache, content_mark, read_entries
from ..data.check_cache import cache_file
from ..data.checks import check
from ..data.clips import LeftOut, Manifest
from ..data.layouts import read_layout
from ..data.shards import Entry, recover
from ..errors import DataError, UsageError
from ..families.devices import choose_device, choose_dtype
from ..families.frozen import Frozen, prepared_settings
from ..sizes import ALL, Bucket, ShapeRules, parse_all
from .encoding import Job, Todo, Work, encode_part, open_dataset
from .folder import check_room, in_words, locked, save_parts, tidy
from .processes import Launched, encode_in_processes

logger = logging.getLogger("text2video")

Entries = dict[tuple[str, str, str], Entry]


def prepare(
    config: RunConfig,
    out: str | Path,
    *,
    image_latents: bool = False,
    dtype: str = "float32",
    num_gpus: int | None = None,
    engine: Literal["local", "ray"] = "local",
    remove_unused: bool = False,
    rules: ShapeRules | None = None,
    on_done: Callable[[int, int], None] = lambda done, total: None,
    on_checked: Callable[[int, int], None] = lambda done, total: None,
) -> Cache:
    """Encodes the data set of a run ahead of it; `train` then takes the folder as `data.load_tensors`.

    Started by `accelerate launch` or `torchrun`, each process encodes its part, and all return the whole.

    Args:
        config: of the run: its data, sizes, codec and text encoder are what counts.
        out: a new folder, or one of an earlier call: what is in it and fits is kept.
        image_latents: encode each clip's first frame by itself too.
        dtype: that latents and embeddings are stored in: float32, bfloat16 or float16. Pixels are stored as bytes.
        num_gpus: processes to start, each on a GPU of its own where there are GPUs; None: this process alone.
        engine: "ray" spreads the work over a Ray cluster, whose machines have to see `out` and the clips.
        remove_unused: delete shards that hold nothing for these settings any more.
        rules: what the model to be trained can take, which buckets are held to and derived by; None: all that the
            codec takes.
        on_done: called with how many clips and texts are done, and how many there are to do.
        on_checked: called with how many files were looked at, and how many there are: with buckets all of them are
            before the first one is encoded.

    Raises:
        UsageError: the settings cannot be used together.
        DataError: no clip can be used, or `out` is something else's, in use, or too small.
        ModelError: a part of the model is missing or unknown.
    """
    out, launched = Path(out), Launched()
    frozen = Frozen.of(config)
    stored = choose_dtype(dtype) or torch.float32
    settings = prepared_settings(config, frozen, str(stored).removeprefix("torch."), image_latents)
    allowed = rules or (frozen.geometry.rules() if frozen.geometry else ALL)
    manifest, buckets = launched.made_once(lambda: in_buckets(config, read_clips(config), allowed, on_checked))
    job = Job(config, frozen, settings, manifest.root, out, stored, buckets)
    check_shapes(job, manifest)
    with locked(out, launched.is_main):
        if launched.is_main:
            tidy(out)
            say_changes(job)
        launched.wait()
        marks, work = plan(job, manifest, read_entries(out))
        launched.wait()  # all have made the same plan before any of them writes
        done = timed(on_done, len(work))
        if launched.is_main:
            say_work(job, manifest, work)
            save_parts(job)
        if launched.world > 1:
            encode_part(job, work.part(launched.rank, launched.world), launched.device, 1, done)
            launched.wait()
        elif len(work) and engine == "ray":
            from .on_ray import encode_on_ray

            encode_on_ray(job, work, num_gpus or 1, done)
        elif len(work) and num_gpus:
            encode_in_processes(job, work, num_gpus, done)
        elif len(work):
            encode_part(job, work, choose_device(config.train.device), None, done)
        if launched.is_main:
            recover(job.shards)
            finish(job, manifest, marks, work, remove_unused)
        launched.wait()
    return Cache.open(out)


def read_clips(config: RunConfig) -> Manifest:
    """The clips that a configuration names, as training reads them.

    Raises:
        UsageError: it names none.
        DataError: there are none.
    """
    data = config.data
    if not (data.data_dir or data.data_root or data.dataset_file):
        raise UsageError(
            "No data was named. Give the data set's folder or table first: text2video data prepare DATA OUT."
        )
    manifest = read_layout(**data.source)
    if data.max_samples:
        manifest.clips[data.max_samples :] = []
    if not manifest.clips:
        raise nothing_usable(manifest.left_out)
    return manifest


def in_buckets(
    config: RunConfig, manifest: Manifest, rules: ShapeRules, on_checked: Callable[[int, int], None]
) -> tuple[Manifest, dict[str, Bucket]]:
    """The clips that have a bucket, and which by id; where the configuration has none, all clips and no buckets.

    Raises:
        UsageError: the rules forbid a bucket.
        DataError: no clip can be used.
    """
    data = config.data
    if not data.buckets:
        return manifest, {}
    files = len({clip.path for clip in manifest.clips})
    report = check(
        manifest,
        **data.sampling,
        buckets=parse_all(data.buckets),
        upscale=data.upscale,
        rules=rules,
        on_done=lambda done: on_checked(done, files),
        compare=False,
        cache=cache_file(),
    )
    if not report.manifest.clips:
        raise nothing_usable(report.manifest.left_out)
    return report.manifest, dict(zip((clip.id for clip in report.manifest.clips), report.buckets, strict=True))


def nothing_usable(left_out: Sequence[LeftOut]) -> DataError:
    """What is said where no clip is left."""
    reasons = "; ".join(f"{id}: {reason}" for id, reason in left_out[:5])
    return DataError(f"None of the clips can be used. {reasons}. `text2video data check` shows all of them.")


def check_shapes(job: Job, manifest: Manifest) -> None:
    """Whether the codec takes the clips' shapes. UsageError with the nearest shapes where not."""
    dataset, geometry = open_dataset(job, manifest.clips), job.frozen.geometry
    if geometry is not None:
        for shape in {dataset.shape(index) for index in range(len(dataset))}:
            geometry.latent_shape(shape)


def plan(job: Job, manifest: Manifest, entries: Entries) -> tuple[list[str], Work]:
    """The mark of each clip's video, and what is not encoded yet."""
    dataset, contents = open_dataset(job, manifest.clips), {}
    marks, todos = [], []
    for index, clip in enumerate(manifest.clips):
        if clip.path not in contents:
            try:
                contents[clip.path] = content_mark(clip.path)
            except OSError:  # the check of the files will say what is wrong
                contents[clip.path] = ""
        mark = job.settings.video_mark(contents[clip.path], clip.start, clip.end, tuple(dataset.shape(index)))
        marks.append(mark)
        if ("left_out", clip.id, mark) in entries:
            continue
        video = ("video", clip.id, mark) not in entries
        image = job.settings.image_latents and ("image", clip.id, mark) not in entries
        if video or image:
            todos.append(Todo(clip, mark, video, image))
    prefix, mark = job.settings.caption_prefix, job.settings.text_mark
    captions = {f"{prefix} {caption}".strip() for clip in manifest.clips for caption in clip.captions} | {""}
    texts = [text for text in sorted(captions) if ("text", text, mark) not in entries] if job.frozen.text else []
    return marks, Work(todos, texts)


def say_changes(job: Job) -> None:
    """What is otherwise than at the last time, and what that costs."""
    if not (job.out / "clips.parquet").is_file():
        return
    old = Cache.open(job.out).settings
    if changes := job.settings.changes(old):
        again = [
            name
            for name, changed in (
                ("all videos", dict(old.video) != dict(job.settings.video)),
                ("videos that get another shape", dict(old.shapes) != dict(job.settings.shapes)),
                (
                    "all texts",
                    (old.text_mark, old.caption_prefix) != (job.settings.text_mark, job.settings.caption_prefix),
                ),
            )
            if changed and (name != "all texts" or job.frozen.text)
        ]
        logger.info("%s: %s.", "; ".join(changes), f"{' and '.join(again) or 'nothing'} encoded anew")


def say_work(job: Job, manifest: Manifest, work: Work) -> None:
    """What there is to do, and the room that it takes.

    Raises:
        DataError: the disk has less.
    """
    logger.info(
        "%d clips and %d texts to encode; %d clips are encoded already",
        len(work.clips),
        len(work.texts),
        len(manifest) - len(work.clips),
    )
    if job.frozen.text is None:
        logger.info("the built-in text encoder learns with the model: captions are kept as text")
    check_room(job, work)


def timed(on_done: Callable[[int, int], None], total: int) -> Callable[[int], None]:
    """`on_done` with the total; rate and remaining time are said after the first one and then every minute."""
    begun = said = monotonic()

    def done(count: int) -> None:
        nonlocal said
        on_done(count, total)
        now = monotonic()
        if count < total and (count == 1 or now - said > 60):
            rate, said = count / max(now - begun, 1e-9), now
            minutes = (total - count) / rate / 60
            left = f"about {minutes:.0f} minutes" if minutes > 1.5 else "about a minute" if minutes > 0.5 else "seconds"
            logger.info("%d of %d done, %.2f a second, %s left", count, total, rate, left)

    return done


def finish(job: Job, manifest: Manifest, marks: list[str], work: Work, remove_unused: bool) -> None:
    """Writes the tables: from here on the folder holds this data set.

    Raises:
        DataError: no clip could be encoded, or some were not, since a process was lost.
    """
    entries = read_entries(job.out)
    clips, own, left_out, used, missing = [], [], [], set(), 0
    for clip, mark in zip(manifest.clips, marks, strict=True):
        if reason := entries.get(("left_out", clip.id, mark)):
            left_out.append(LeftOut(clip.id, reason.reason))
            used.add(reason.shard)
        elif ("video", clip.id, mark) in entries:
            clips.append(clip)
            own.append(mark)
        else:
            missing += 1
    mark = job.settings.text_mark
    missing += sum(("text", text, mark) not in entries for text in work.texts)
    if missing:
        raise DataError(f"{missing} clips and texts were not encoded: a process was lost. Give the same command again.")
    if not clips:
        raise nothing_usable(left_out)
    cache = Cache(job.out, job.settings, clips, own, left_out + manifest.left_out, entries)
    cache.save()
    used |= {entry.shard for entry in cache.current()}
    unused = [path for path in job.shards.glob("*.tar") if path.name not in used]
    bytes_unused = sum(path.stat().st_size for path in unused)
    if unused and remove_unused:
        for path in unused:
            path.unlink()
        cache.entries = {key: entry for key, entry in entries.items() if entry.shard in used}
        cache.save()
        logger.info("%s of no longer used shards were removed", in_words(bytes_unused))
    elif unused:
        logger.info("%s of shards are of other settings; --remove_unused deletes them", in_words(bytes_unused))
    for id, reason in cache.left_out:
        logger.info("left out %s: %s", id, reason)
