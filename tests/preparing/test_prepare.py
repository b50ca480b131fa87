"""Prepared data: complete, the same whoever made it and however often that was killed, and no work done twice."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from text2video.config import RunConfig
from text2video.data.cache import Cache
from text2video.data.clips import Manifest
from text2video.data.dataset import TextVideoDataset
from text2video.data.layouts import read_layout
from text2video.data.shards import recover
from text2video.errors import DataError, ModelError, UsageError
from text2video.models.codecs import encode, open_codec
from text2video.models.text import TextEncoder
from text2video.preparing import prepare as job
from text2video.preparing.on_ray import RayEncoder
from text2video.preparing.prepare import prepare


@pytest.fixture
def config(clips, codecs, tiny_clip):
    """A function that makes the configuration of a run on the clips."""

    def make(data: Path = clips, codec: str | None = "AutoencoderKL", text: bool = True, **changes: object):
        values = {"data_dir": str(data), "num_frames": 4, "frame_size": 16, **changes}
        parts = {"model": {"codec": str(codecs(codec)) if codec else None}}
        parts["text"] = {"text_encoder": str(tiny_clip) if text else "builtin"}
        return RunConfig.build({"data": values, "train": {"device": "cpu"}, **parts})

    return make


@pytest.fixture
def data(clips, tmp_path) -> Path:
    """The clips as files that a test may change."""
    return Path(shutil.copytree(clips, tmp_path / "data"))


def checksums(out: Path) -> dict[tuple[str, str, str], str]:
    return {key: entry.sha256 for key, entry in Cache.open(out).entries.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, clips, codecs, tiny_clip):
    """The clips, prepared by one process with nothing in its way."""
    out = tmp_path_factory.mktemp("whole") / "out"
    values = {"data_dir": str(clips), "num_frames": 4, "frame_size": 16}
    parts = {"model": {"codec": str(codecs())}, "text": {"text_encoder": str(tiny_clip)}}
    prepare(RunConfig.build({"data": values, "train": {"device": "cpu"}, **parts}), out, image_latents=True)
    return out


def test_it_holds_what_the_encoders_say_of_every_clip_and_names_the_broken_one(whole, clips, codecs, tiny_clip):
    cache, manifest = Cache.open(whole), read_layout(clips)
    assert len(cache.clips) == 9
    assert [clip.id for clip in cache.clips] == [c.id for c in manifest.clips if c.id not in dict(cache.left_out)]
    ((broken, reason),) = cache.left_out
    assert broken == manifest.clips[3].id
    assert reason
    dataset = TextVideoDataset(Manifest(clips, "", cache.clips), num_frames=4, frame_size=16)
    torch.set_num_threads(1)  # as it encodes
    vae, encoder = open_codec(codecs()), TextEncoder.open(tiny_clip)
    for index in (0, 5):
        video = dataset[index]["video"][None]
        for found, own in (
            (cache.video(index), encode(vae, video)),
            (cache.image(index), encode(vae, video[:, :, :1])),
        ):
            assert torch.equal(found["mean"], own.mean[0])
            assert torch.equal(found["logvar"], own.logvar[0])
    captions = {caption for clip in cache.clips for caption in clip.captions}
    assert "something moves" in captions
    for caption in captions | {""}:
        assert torch.equal(cache.embedding(caption)["hidden"], encoder.read(caption))


def test_pixels_are_stored_as_they_are(config, tmp_path, clips):
    cache = prepare(config(codec=None, text=False), tmp_path / "out")
    assert {kind for kind, _, _ in cache.entries} == {"video", "left_out"}
    assert not (tmp_path / "out/parts/vae").exists()
    pixels = cache.video(2)["pixels"]
    expected = TextVideoDataset(cache.clips, num_frames=4, frame_size=16)[2]["video"]
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels.float() / 127.5 - 1, expected)


@pytest.mark.parametrize("kind", ["AutoencoderKLWan", "AutoencoderKLCogVideoX", "VideoVAE"])
def test_video_autoencoders_work_too(config, tmp_path, kind):
    cache = prepare(config(codec=kind, num_frames=9), tmp_path / "out", dtype="bfloat16", image_latents=True)
    assert cache.video(0)["mean"].shape == (4, 3, 2, 2)
    assert cache.video(0)["mean"].dtype == torch.bfloat16
    assert cache.image(0)["mean"].shape == (4, 1, 2, 2)
    with pytest.raises(UsageError, match=r"num_frames 16 is not .k\+1"):
        prepare(config(codec=kind, num_frames=16), tmp_path / "other")
    assert not (tmp_path / "other").exists()


class WithBrightness(TextVideoDataset):
    """Gives each clip a condition."""

    def __getitem__(self, key):
        item = super().__getitem__(key)
        return item | {"conditions": {"brightness": item["video"].mean().reshape(1)}}


def test_conditions_of_a_user_s_class_are_kept(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mine", sys.modules[__name__])
    cache = prepare(config(codec=None, text=False, dataset_class="mine:WithBrightness"), tmp_path / "out")
    found = cache.video(1)
    assert torch.equal(found["condition.brightness"], (found["pixels"].float() / 127.5 - 1).mean().reshape(1))


def test_only_what_changed_is_encoded_again(config, data, tmp_path, caplog):
    out, before = tmp_path / "out", {}

    def again(**changes) -> dict[str, int]:
        """How many samples of each kind are new."""
        caplog.clear()
        options = {name: changes.pop(name) for name in ("image_latents", "remove_unused") if name in changes}
        entries = prepare(config(data, **changes), out, **options).entries
        new = [kind for kind, key, mark in entries if before.get((kind, key, mark)) != entries[kind, key, mark]]
        before.clear()
        before.update(entries)
        return {kind: new.count(kind) for kind in dict.fromkeys(new)}

    caplog.set_level("INFO", "text2video")
    assert again() == {"text": 12, "video": 9, "left_out": 1}  # 11 captions, and the empty one
    assert again() == {}
    (caption := sorted((data / "captions").iterdir())[5]).write_text("another caption\n", encoding="utf-8")
    assert again() == {"text": 1}
    shutil.copy(data / "videos" / f"{caption.stem}.mp4", data / "videos" / "new.mp4")
    (data / "captions" / "new.txt").write_text("another caption\n", encoding="utf-8")
    assert again() == {"video": 1}
    assert again(image_latents=True) == {"image": 10}
    assert again(caption_prefix="sks") == {"text": 11}
    assert "caption_prefix is 'sks', prepared was '': all texts encoded anew" in caplog.text
    assert again(frame_size=32) == {"video": 10, "left_out": 1}
    assert "height is 32, prepared was 16" in caplog.text
    assert "--remove_unused deletes them" in caplog.text
    assert again() == {}  # what was there before is there still
    assert again(remove_unused=True) == {}
    assert again(frame_size=32) == {"video": 10, "left_out": 1}


def test_what_is_damaged_or_gone_is_encoded_anew(whole, config, tmp_path):
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    (shard,) = (out / "shards").glob("*.tar")
    entry = Cache.open(out).current()[3]
    with shard.open("r+b") as file:
        file.seek(entry.offset + entry.size - 5)
        file.write(b"\x00\xff")
    with pytest.raises(DataError, match=r"damaged.*data prepare"):
        Cache.open(out).verify()
    prepare(config(), out, image_latents=True)
    Cache.open(out).verify()
    assert checksums(out) == checksums(whole)
    shard.unlink()
    with pytest.raises(DataError, match="data prepare"):
        Cache.open(out).verify()
    prepare(config(), out, image_latents=True)
    assert checksums(out) == checksums(whole)


def test_checksums_are_verified_once_and_not_at_each_opening(whole, monkeypatch):
    cache, looked = Cache.open(whole), []
    cache.verify()
    monkeypatch.setattr("text2video.data.cache.find_damaged", lambda path, entries: looked.append(path) or [])
    cache.verify()
    assert not looked
    (shard,) = (whole / "shards").glob("*.tar")
    shard.touch()
    cache.verify()
    cache.verify()
    assert looked == [shard]


RUN = """
import sys
from text2video.config import RunConfig
from text2video.preparing.prepare import prepare
if __name__ == "__main__":
    print("ready", flush=True)
    prepare(RunConfig.load(sys.argv[1]), sys.argv[2], image_latents=True, num_gpus=int(sys.argv[3]) or None)
"""


def command(config: RunConfig, folder: Path, out: Path, processes: int = 0) -> list[str]:
    """A command line that prepares in a process of its own."""
    (folder / "run.py").write_text(RUN, encoding="utf-8")
    (folder / "run.yaml").write_text(config.to_yaml(), encoding="utf-8")
    return [sys.executable, str(folder / "run.py"), str(folder / "run.yaml"), str(out), str(processes)]


def kill_and_resume(line: list[str], moments: list[float]) -> int:
    """Kill it hard after each of the moments, seconds of its own work, then let it end; how often it was killed."""
    killed = 0
    for moment in [*moments, None]:
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if moment is None:
            _, errors = process.communicate()
            assert process.returncode == 0, errors
        else:
            process.stdout.readline()
            time.sleep(moment)
            process.kill()
            killed += process.wait() != 0
            process.communicate()
    return killed


def test_killed_hard_then_resumed_equals_unbroken(whole, config, tmp_path):
    line = command(config(), tmp_path, tmp_path / "out")
    assert kill_and_resume(line, [0.8]) == 1
    assert checksums(tmp_path / "out") == checksums(whole)


@pytest.mark.slow
def test_killed_a_hundred_times_at_random_moments(whole, config, tmp_path):
    moments, killed, turn = random.Random(0), 0, 0
    while killed < 100:
        out = tmp_path / f"out{turn}"
        killed += kill_and_resume(command(config(), tmp_path, out), [moments.uniform(0, 1) for _ in range(5)])
        assert checksums(out) == checksums(whole)
        turn += 1


def test_two_processes_equal_one(whole, config, tmp_path):
    prepare(config(), tmp_path / "out", image_latents=True, num_gpus=2)
    assert checksums(tmp_path / "out") == checksums(whole)
    assert len(list((tmp_path / "out/shards").glob("*.tar"))) == 2


@pytest.mark.slow
def test_launched_processes_equal_one(whole, config, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    shared |= {"ACCELERATE_USE_CPU": "true", "LOCAL_WORLD_SIZE": "2"}
    line = command(config(), tmp_path, tmp_path / "out")
    processes = [
        subprocess.Popen(line, env=shared | {"RANK": str(n), "LOCAL_RANK": str(n)}, stderr=subprocess.PIPE, text=True)
        for n in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    assert checksums(tmp_path / "out") == checksums(whole)


def test_ray_s_actors_equal_one_process(whole, config, tmp_path, monkeypatch):
    """The actors' class is called as Ray calls it, and its shards are left unfinished as Ray leaves them."""

    def encode_on_ray(job, work, num_gpus, on_done):
        actors = [RayEncoder(job, work) for _ in range(num_gpus)]
        for first in range(0, len(work), 5):
            actor = actors[first // 5 % num_gpus]
            assert len(actor({"id": np.arange(first, min(first + 5, len(work)))})["id"])

    monkeypatch.setattr("text2video.preparing.on_ray.encode_on_ray", encode_on_ray)
    prepare(config(), tmp_path / "out", image_latents=True, num_gpus=2, engine="ray")
    assert checksums(tmp_path / "out") == checksums(whole)


@pytest.mark.slow
def test_ray_equals_one_process(whole, config, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed")
    prepare(config(), tmp_path / "out", image_latents=True, num_gpus=1, engine="ray")
    assert checksums(tmp_path / "out") == checksums(whole)


def test_ray_that_is_missing_is_said(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install text2video\[ray\]"):
        prepare(config(), tmp_path / "out", engine="ray")


def test_a_foreign_folder_is_not_touched(config, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="something else"):
        prepare(config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_two_at_once_are_refused(config, tmp_path):
    with job.locked(tmp_path / "out", True), pytest.raises(DataError, match="Another `data prepare`"):
        prepare(config(), tmp_path / "out")


def test_too_little_room_is_said_before_anything_is_encoded(config, tmp_path, monkeypatch):
    monkeypatch.setattr("text2video.preparing.folder.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(2, 1, 1))
    with pytest.raises(DataError, match=r"needs about .* of disk, and .* are free"):
        prepare(config(), tmp_path / "out")
    assert not list((tmp_path / "out/shards").iterdir())


def test_what_is_missing_is_named(config, tmp_path):
    values = config().model_dump(mode="json")
    for section, option, said in (
        ("model", "codec", "holds no codec"),
        ("text", "text_encoder", "not on this machine"),
    ):
        wrong = json.loads(json.dumps(values))
        wrong[section][option] = str(tmp_path / "nothing")
        with pytest.raises(ModelError, match=said):
            prepare(RunConfig.build(wrong), tmp_path / "out")
    values["train"]["init_from"] = str(tmp_path / "nothing")
    with pytest.raises(ModelError, match="is no model"):
        prepare(RunConfig.build(values), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unfinished_folder_is_not_trained_on(config, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "finish", lambda *rest: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare(config(), tmp_path / "out")
    with pytest.raises(DataError, match="did not come to its end"):
        Cache.open(tmp_path / "out")
    recover(tmp_path / "out/shards")
    with pytest.raises(DataError, match=r"no clips\.parquet"):
        Cache.open(tmp_path)
