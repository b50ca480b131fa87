"""Shards: plain tar files that hold what was written, whatever byte a kill stopped the writer at."""

import pickle
import random
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from text2video.data import shards
from text2video.data.shards import ShardReader, ShardWriter, find_damaged, recover, scan
from text2video.errors import DataError


def tensors(number: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(number)
    return {
        "mean": torch.randn(4, 2, 3, generator=draw),
        "pixels": torch.randint(0, 255, (3, number + 1), dtype=torch.uint8, generator=draw),
        "half": torch.randn(5, generator=draw).bfloat16(),
        "scalar": torch.tensor(number),
        "empty": torch.empty(0, 3),
    }


def fill(folder, count: int = 6):
    folder.mkdir(exist_ok=True)
    with ShardWriter(folder, "data") as writer:
        for number in range(count):
            writer.add("video", f"clip {number} «é»", "m", tensors(number), (1, 2, 3))
    return sorted(folder.glob("*.tar"))[-1]


def test_what_was_written_is_read_back_here_and_in_another_process(tmp_path):
    entries, _ = scan(fill(tmp_path))
    reader = pickle.loads(pickle.dumps(ShardReader(tmp_path)))
    assert [entry.key for entry in entries] == [f"clip {number} «é»" for number in range(6)]
    for number, entry in enumerate(entries):
        assert entry.shape == (1, 2, 3)
        for name, tensor in reader.read(entry).items():
            assert torch.equal(tensor, tensors(number)[name])
            assert tensor.dtype == tensors(number)[name].dtype


def test_any_tar_reader_and_webdataset_understand_a_shard(tmp_path):
    path = fill(tmp_path)
    with tarfile.open(path) as archive:
        assert archive.getnames()[:2] == ["00000000.safetensors", "00000000.json"]
        assert torch.equal(load(archive.extractfile("00000002.safetensors").read())["mean"], tensors(2)["mean"])
    webdataset = pytest.importorskip("webdataset")
    samples = list(webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in samples] == [f"{number:08d}" for number in range(6)]
    assert torch.equal(load(samples[3]["safetensors"])["mean"], tensors(3)["mean"])


def test_a_shard_cut_or_torn_anywhere_keeps_its_whole_samples(tmp_path):
    whole = fill(tmp_path / "whole")
    content, (entries, _) = whole.read_bytes(), scan(whole)
    draw = random.Random(0)
    for turn in range(60):
        folder = tmp_path / f"{turn}"
        folder.mkdir()
        cut = draw.randrange(len(content))
        torn = bytes(draw.randrange(1500)) if turn % 2 else b""  # a file that grew before its content was there
        (folder / "data-1.part").write_bytes(content[:cut] + torn)
        recover(folder)
        assert not list(folder.glob("*.part"))
        found = [entry for path in folder.glob("*.tar") for entry in scan(path)[0]]
        last = entries[len(found) - 1].offset + entries[len(found) - 1].size if found else 0
        assert [(entry.key, entry.sha256) for entry in found] == [(e.key, e.sha256) for e in entries[: len(found)]]
        assert last <= cut
        assert len(found) == 6 or entries[len(found)].offset + entries[len(found)].size + 512 * 4 > cut
        for path in folder.glob("*.tar"):
            assert not find_damaged(path, found)
            with tarfile.open(path) as archive:
                assert len(archive.getnames()) == 2 * len(found)


def test_a_long_shard_is_continued_in_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 10_000)
    fill(tmp_path, 20)
    paths = list(tmp_path.glob("*.tar"))
    assert len(paths) > 2
    assert sum(len(scan(path)[0]) for path in paths) == 20


def test_damage_and_absence_are_seen(tmp_path):
    path = fill(tmp_path)
    entries, _ = scan(path)
    with path.open("r+b") as file:
        file.seek(entries[2].offset + 400)
        file.write(b"\xff\x00\xff")
    assert find_damaged(path, entries) == [entries[2]]
    path.unlink()
    assert find_damaged(path, entries) == entries
    with pytest.raises(DataError, match="missing"):
        ShardReader(tmp_path).read(entries[0])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_full_disk_is_said_and_what_was_written_stays(tmp_path):
    writer = ShardWriter(tmp_path, "data")
    writer.add("video", "a", "m", tensors(0))
    part = next(tmp_path.glob("*.part"))
    before = part.read_bytes()
    part.unlink()
    part.symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"the disk is full.*same command again"):
        writer.add("video", "b", "m", tensors(1))
    part.unlink()
    part.write_bytes(before)
    recover(tmp_path)
    assert [entry.key for path in tmp_path.glob("*.tar") for entry in scan(path)[0]] == ["a"]
