"""A tiny random CLIP in the real format: what it compares, and what its tokenizer tells of captions."""

from pathlib import Path

import numpy as np
import pytest

from text2video.errors import ModelError
from text2video.models.clip import ClipScorer
from text2video.models.text import train_tokenizer
from text2video.models.tokens import reading


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory) -> Path:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    folder = tmp_path_factory.mktemp("clip")
    tokenizer = train_tokenizer(["a red circle moves left"], max_tokens=16)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=small | {"vocab_size": len(tokenizer), "max_position_embeddings": 16, "eos_token_id": 2},
        vision_config=small | {"image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    return folder


def test_directions_have_length_one_and_captions_are_cut_not_refused(tiny_clip):
    scorer = ClipScorer(tiny_clip)
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), np.uint8)
    seen, read = scorer.of_frames(frames), scorer.of_captions(["a red circle", "left " * 200])
    assert seen.shape == (8,)
    assert read.shape == (2, 8)
    assert np.allclose(np.linalg.norm(read, axis=1), 1, atol=1e-5)
    assert np.isclose(np.linalg.norm(seen), 1, atol=1e-5)
    assert np.allclose(scorer.of_captions(["a red circle"])[0], read[0], atol=1e-5)  # padding changes nothing
    assert not np.allclose(scorer.of_frames(255 - frames), seen, atol=1e-3)


def test_a_folder_without_a_model_is_said(tmp_path):
    with pytest.raises(ModelError, match="no CLIP model"):
        ClipScorer(tmp_path)
    with pytest.raises(ModelError, match="builtin"):
        reading(tmp_path, [])


def test_readings_tell_length_and_scripts(tiny_clip):
    builtin = reading("builtin", ["a red circle moves left"])
    assert builtin.max_tokens == 77
    assert builtin.scripts is None
    assert builtin.tokens("a red circle")[0] == 5  # with start and end
    assert builtin.tokens("猫 " * 100)[0] > 77
    clip = reading(tiny_clip, [])
    assert (clip.max_tokens, clip.scripts) == (16, ("LATIN",))
    assert clip.tokens("a red circle") == (5, 0)
