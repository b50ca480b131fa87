import json

import numpy as np
import pytest

from text2video.errors import ModelError
from text2video.models.captioner import Captioner

RNG = np.random.default_rng(0)
CLIPS = [RNG.integers(0, 256, (3, 40, 60, 3), np.uint8) for _ in range(3)]


def test_a_chatting_model_answers_alike_alone_and_in_a_batch(tiny_captioners):
    model = Captioner(tiny_captioners / "llava", batch_size=3, max_tokens=6)
    questions = list(zip(("short", "a longer prompt", "mid one"), CLIPS, strict=True))
    alone = [model.answer([question])[0] for question in questions]
    assert model.answer(questions) == alone
    assert len(set(alone)) > 1
    assert all(prompt not in answer for (prompt, _), answer in zip(questions, alone, strict=True))
    other = model.answer([("short", CLIPS[0][:1])])[0]
    assert other != alone[0]  # it sees every frame


def test_a_plain_captioner_describes_the_middle_frame(tiny_captioners):
    model = Captioner(tiny_captioners / "blip", max_tokens=6)
    answer = model.answer([("is not seen", CLIPS[0])])
    assert model.answer([("", CLIPS[0][1:2])]) == answer
    assert len(model.answer([("", frames) for frames in CLIPS])) == 3


def test_a_language_model_rewrites(tiny_captioners):
    model = Captioner(tiny_captioners / "llama", sees=False, batch_size=2, max_tokens=6)
    questions = [("a red circle", None), ("a much longer caption of a clip", None)]
    assert model.answer(questions) == [model.answer([question])[0] for question in questions]
    assert model.about == {"model": str(tiny_captioners / "llama")}


def test_code_of_a_model_is_never_run(tmp_path):
    code = {"AutoConfig": "code.Config", "AutoModelForImageTextToText": "code.Model", "AutoProcessor": "code.Processor"}
    for name, config in (("known", {"auto_map": code}), ("unknown", {})):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "of_its_own", **config}))
        (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        with pytest.raises(ModelError, match=r"code of its own.*--endpoint"):
            Captioner(folder)
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_are_not_read(tiny_captioners, tmp_path):
    import shutil

    import torch

    folder = shutil.copytree(tiny_captioners / "blip", tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be loaded"):
        Captioner(folder)


def test_what_is_no_such_model_is_said(tiny_captioners, tmp_path):
    for name, sees in ((tmp_path / "nowhere", True), ("no/such-model", True), (tiny_captioners / "blip", False)):
        with pytest.raises(ModelError, match="cannot be loaded as a"):
            Captioner(name, sees=sees)
