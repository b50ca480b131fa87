"""The clips of a run: opened by its configuration, checked, split, and batched in an order the seed decides."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from torch.utils.data import DataLoader

from ..config import RunConfig
from ..data.buckets import BucketSampler
from ..data.cache import Cache, CachedDataset
from ..data.check_cache import cache_file
from ..data.checks import check
from ..data.clips import Clip, split
from ..data.condition_checks import unreadable
from ..data.conditions import Wanted, find
from ..data.dataset import TextVideoDataset, to_float
from ..data.layouts import read_layout
from ..data.packing import PackSampler
from ..data.repeats import Repeated, times_of
from ..data.shapes import ShapesDataset
from ..errors import DataError, UsageError
from ..families.base import Family
from ..families.imports import construct, import_class
from ..models.codecs import Latents
from ..sections import DataConfig
from ..sizes import ALL, Bucket, ShapeRules, parse_all

Sampler = BucketSampler | PackSampler


@dataclass
class RunData:
    """What a run trains and validates on."""

    train: Any  # datasets of the items that `TextVideoDataset` gives
    val: Any | None
    captions: list[str]  # of the training clips, for the tokenizer
    notes: list[str]  # what became of the clips, in words
    shape: Bucket  # what the model makes when it is not told otherwise: the most frequent bucket
    known: list[str] | None = None  # every caption that the run can meet, where they can be told
    cache: Cache | None = None  # where the frozen parts' work was done ahead


def open_data(
    config: DataConfig,
    seed: int,
    rules: ShapeRules = ALL,
    on_checked: Callable[[int, int], None] | None = None,
    conditions: Mapping[str, Wanted] | None = None,
) -> RunData:
    """The data of a run; every clip that cannot be used is left out here, with its reason in `notes`.

    Args:
        rules: what the model can take.
        on_checked: called with (files, of) while they are examined; those that have not changed since a check take no
            time.
        conditions: what clips are made by besides captions; one that lacks any of them is left out.

    Raises:
        DataError: nothing usable was found.
        UsageError: no data was named, or the rules forbid a shape.
    """
    config.require()
    if config.load_tensors is not None:
        return open_prepared(config, config.load_tensors, seed, rules)
    if config.shapes is not None:
        world = config.shapes
        rules.check(config.shape)
        frames, height, width = config.shape
        make = partial(
            ShapesDataset,
            num_frames=frames,
            height=height,
            width=width,
            max_objects=world.max_objects,
            world=world.world,
            conditions=conditions,
            fps=config.fps,
        )
        train = make(world.clips, world.shapes_seed)
        num_val = round(world.clips * config.val_fraction)
        val = make(num_val, world.shapes_seed + 1) if num_val else None
        captions = [train.caption(index) for index in range(min(len(train), 2000))]
        notes = [f"{world.clips} clips of the demo world, drawn as they are needed"]
        return RunData(train, val, captions, notes, config.shape)
    manifest = read_layout(**config.source)
    if config.max_samples:
        manifest.clips[config.max_samples :] = []
    files = len({clip.path for clip in manifest.clips})
    report = check(
        manifest,
        **config.sampling,
        buckets=parse_all(config.buckets),
        upscale=config.upscale,
        rules=rules,
        on_done=(lambda done: on_checked(done, files)) if on_checked else None,
        compare=False,
        cache=cache_file(),
    )
    clips, buckets = report.manifest.clips, report.buckets
    sources, lacking = find(clips, manifest.root, conditions or {}, config.dataset_file, config.video_column)
    without = dict(lacking)
    broken = unreadable([clip for clip in clips if clip.id not in without], sources, cache_file(), on_checked)
    report.manifest.left_out.extend(lacking + broken)
    without |= dict(broken)
    buckets = [bucket for clip, bucket in zip(clips, buckets, strict=True) if clip.id not in without]
    clips = [clip for clip in clips if clip.id not in without]
    if not clips:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in report.manifest.left_out[:5])
        raise DataError(f"None of the clips can be used. {reasons}. `text2video data check` shows all of them.")
    train_clips, val_clips = split(clips, config.val_fraction, seed)
    kind = import_class(config.dataset_class) if config.dataset_class else TextVideoDataset
    options = {**config.sampling, "seed": seed, "caption_prefix": config.caption_prefix}
    if kind is TextVideoDataset:  # a subclass may work on the floats
        options["as_levels"] = True
    if sources:
        options["conditions"] = sources
    own = dict(zip((clip.id for clip in clips), buckets, strict=True))

    def bucketed(some: list[Clip]) -> dict[str, Any]:
        return {"buckets": [own[clip.id] for clip in some]} if config.buckets else {}

    train = construct(kind, train_clips, augment=config.augment, **options, **bucketed(train_clips))
    val = construct(kind, val_clips, random_window=False, **options, **bucketed(val_clips)) if val_clips else None
    captions = [f"{config.caption_prefix} {caption}".strip() for clip in train_clips for caption in clip.captions]
    left_out = [f"left out {name}: {reason}" for name, reason in report.manifest.left_out]
    train, times = repeated(train, train_clips, clips, config)
    counted = f"{len(train_clips)} clips to train on{times}, {len(val_clips)} to validate"
    counts = Counter(own[clip.id] for clip in train_clips)
    shape = max(counts, key=lambda bucket: (counts[bucket], bucket)) if config.buckets else config.shape
    known = None
    if kind is TextVideoDataset and not config.augment:  # both may make captions as they go
        prefixed = {f"{config.caption_prefix} {caption}".strip() for clip in clips for caption in clip.captions}
        known = ["", *sorted(prefixed - {""})]
    return RunData(train, val, captions, [counted, *manifest.notes, *left_out], shape, known)


def repeated(train: Any, clips: Sequence[Clip], known: Sequence[Clip], config: DataConfig) -> tuple[Any, str]:
    """The training set with its clips as often as they are to be seen, and words for it; `known` are those of both
    sets.

    Raises:
        DataError: repeats are given for clips that are not there.
    """
    if not config.repeats:
        return train, ""
    times = dict(zip((clip.id for clip in known), times_of([clip.id for clip in known], config.repeats), strict=True))
    train = Repeated(train, [times[clip.id] for clip in clips])
    return train, f", {len(train)} in an epoch with repeats"


def check_shapes(config: DataConfig, rules: ShapeRules) -> None:
    """Whether a model takes the shapes that are named, before any clip is looked at.

    Raises:
        UsageError: it does not.
        DataError: there is no prepared data where it is to be.
    """
    shapes = parse_all(config.buckets)
    if config.load_tensors is not None:
        Cache.open(config.load_tensors)
    elif not isinstance(shapes, str):
        for shape in shapes or [config.shape]:
            rules.check(shape)


def sampler_of(
    config: RunConfig, dataset: Any, tokens: Callable[[Bucket], int], rank: int = 0, world_size: int = 1
) -> Sampler:
    """The order of a run's clips. Each step is one batch, whatever number of micro-steps and processes share it.

    Args:
        tokens: how long a video of a shape is for the model; asked where clips are packed.

    Raises:
        UsageError: every clip has a shape of its own, and they are not packed.
    """
    if config.data.buckets == ["native"] and not config.data.pack:
        raise UsageError(
            "--buckets native leaves every clip its own shape, and a batch has one shape: pack them by --pack TOKENS, "
            "or choose --buckets auto."
        )
    train, shapes = config.train, [Bucket(*dataset.shape(index)) for index in range(len(dataset))]
    parts = train.gradient_accumulation_steps
    if config.data.pack:
        lengths = {shape: tokens(shape) for shape in set(shapes)}
        return PackSampler(
            [lengths[shape] for shape in shapes],
            config.data.pack,
            seed=config.seed,
            rank=rank,
            world_size=world_size,
            parts=parts,
        )
    return BucketSampler(
        shapes,
        train.batch_size * parts * world_size,
        seed=config.seed,
        rank=rank,
        world_size=world_size,
        parts=parts,
        last_batch=train.last_batch,
    )


def open_prepared(config: DataConfig, folder: Path, seed: int, rules: ShapeRules) -> RunData:
    """The data that `data prepare` wrote to a folder: the clips, splits and captions that the files would have given.

    Raises:
        DataError: there is none, or some of it is damaged.
    """
    cache = Cache.open(folder)
    cache.verify()
    count = min(len(cache.clips), config.max_samples or len(cache.clips))
    places = {clip.id: place for place, clip in enumerate(cache.clips[:count])}
    if not places:
        raise DataError(f"{folder} holds no clips. Prepare some with `text2video data prepare`.")
    train_clips, val_clips = split(cache.clips[:count], config.val_fraction, seed)
    train = CachedDataset(cache, [places[clip.id] for clip in train_clips], seed)
    val = CachedDataset(cache, [places[clip.id] for clip in val_clips], seed) if val_clips else None
    prefix = cache.settings.caption_prefix
    captions = [f"{prefix} {caption}".strip() for clip in train_clips for caption in clip.captions]
    train, times = repeated(train, train_clips, cache.clips[:count], config)
    notes = [f"{len(train_clips)} clips to train on{times}, {len(val_clips)} to validate, prepared in {folder}"]
    if config.fps:
        notes.append(
            "each clip has one view, the window in its middle: clips themselves would give a new one each epoch"
        )
    notes += [f"left out {name}: {reason}" for name, reason in cache.left_out]
    shapes = Counter(Bucket(*train.shape(index)) for index in range(len(train)))
    for shape in shapes:
        rules.check(shape)
    return RunData(train, val, captions, notes, max(shapes, key=lambda shape: (shapes[shape], shape)), cache=cache)


def encoded(family: Family, pipe: Any, items: dict[str, Any], device: torch.device) -> Latents:
    """What a batch's videos were encoded to, ahead or now; `items` are on the device from then on, in floats."""
    for name in tensors_of(items):
        value = to_float(items[name].to(device, non_blocking=True))
        items[name] = value.float() if value.is_floating_point() else value
    if "mean" in items:
        return Latents(items["mean"], items.get("logvar"))
    with torch.no_grad():
        return family.encode_video(pipe, items["video"])


def tensors_of(items: Mapping[str, Any]) -> list[str]:
    """What of an item or a batch are tensors that were decoded or encoded."""
    return [name for name in items if name in ("video", "mean", "logvar") or name.startswith("image_")]


def batches(dataset: Any, sampler: Sampler, num_workers: int) -> Iterator[list[dict[str, Any]]]:
    """This process's parts of the sampler's batches, without end, see `grouped`."""
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,  # pyright: ignore[reportArgumentType] - yields (index, epoch) pairs
        num_workers=num_workers,
        collate_fn=partial(grouped, apart=isinstance(sampler, PackSampler)),
        pin_memory=torch.cuda.is_available(),
        # The loader draws its workers' seed: from its own generator, not from the one that dropout uses.
        generator=torch.Generator(),
        worker_init_fn=partial(_behave, os.getpid()),
    )
    return iter(loader)


def _behave(run: int, worker: int) -> None:
    """A loader worker's manners, set within it; `run` is the process that it works for."""
    Thread(target=_end_with, args=(run,), daemon=True).start()
    # Ctrl-C reaches every process of a terminal; the run itself decides when its loaders end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Where the processor trains too, a worker takes what the training leaves: a product over all cores waits for the
    # core that a worker holds. (4% of a step on two cores.)
    if hasattr(os, "nice") and not torch.accelerator.is_available():
        os.nice(19)


def _end_with(run: int) -> None:
    """End this worker soon after its run. torch does so too, but not where the run was killed as the worker began: it
    asks whose child it is a moment later."""
    while os.getppid() == run:
        time.sleep(1)
    os._exit(1)


def grouped(items: Sequence[dict[str, Any]], apart: bool) -> list[dict[str, Any]]:
    """Items as batches of one shape: one of them all, or, where they lie apart, one of each."""
    return [collate([item]) for item in items] if apart else [collate(items)]


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Items of one shape -> a batch: `video` `[B, C, T, H, W]`, in floats or levels (see `to_float`), or `mean` and
    `logvar` `[B, C, t, h, w]` where it was encoded ahead, with `image_NAME` of first frames; `captions`, `ids`, stacked
    `conditions`."""
    if len({item["video"].dtype for item in items if "video" in item}) > 1:  # stacked, levels would be taken for floats
        items = [item | {"video": to_float(item["video"])} for item in items]
    return {
        **{name: torch.stack([item[name] for item in items]) for name in tensors_of(items[0])},
        "captions": [item["caption"] for item in items],
        "ids": [item["id"] for item in items],
        "conditions": torch.utils.data.default_collate([item["conditions"] for item in items]),
    }
