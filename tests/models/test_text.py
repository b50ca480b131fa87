"""Captions become embeddings: padding and neighbours do not matter, any script has tokens, encoders save and load."""

import json

import pytest
import torch

from text2video.errors import ModelError
from text2video.models.text import BuiltinTextModel, TextEncoder, train_tokenizer

CAPTIONS = ["a red circle moves left", "a large blue square stays still", ""]


@pytest.fixture
def builtin() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder.builtin(CAPTIONS, width=32, num_layers=1)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Tiny random checkpoints in the real format: `{kind: folder}`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        PreTrainedTokenizerFast,
        T5Config,
        T5EncoderModel,
        UMT5Config,
        UMT5EncoderModel,
    )

    words = sorted({word for caption in CAPTIONS for word in caption.split()})
    vocab = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    shared = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=77
    )
    torch.manual_seed(0)
    size = {"vocab_size": len(vocab), "num_heads": 2, "num_layers": 1, "d_model": 24, "d_ff": 32, "d_kv": 12}
    clip = CLIPTextConfig(
        vocab_size=len(vocab),
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=1,
        bos_token_id=2,
        pad_token_id=0,
    )
    encoders = {
        "clip": CLIPTextModel(clip),
        "t5": T5EncoderModel(T5Config(**size)),
        "umt5": UMT5EncoderModel(UMT5Config(**size)),
    }
    folders = {}
    for kind, model in encoders.items():
        folders[kind] = tmp_path_factory.mktemp(kind)
        model.save_pretrained(folders[kind])
        shared.save_pretrained(folders[kind])
    return folders


def test_a_caption_alone_equals_the_caption_in_a_batch(builtin):
    together = builtin(CAPTIONS)
    for row, caption in enumerate(CAPTIONS):
        alone = builtin([caption])
        length = alone.hidden_states.shape[1]
        assert together.mask[row].sum() == alone.mask.sum() == length
        torch.testing.assert_close(together.hidden_states[row, :length], alone.hidden_states[0], atol=1e-5, rtol=1e-5)


def test_any_script_has_tokens_and_comes_back(builtin):
    for text in ("привет мир", "一只狗 🐕", "naïve café"):
        tokens = builtin.tokenizer(text).input_ids
        assert builtin.tokenizer.decode(tokens, skip_special_tokens=True).strip() == text


def test_long_captions_are_cut_not_refused(builtin):
    assert builtin(["red " * 200]).hidden_states.shape[1] == builtin.max_tokens == 77


def test_the_tokenizer_follows_from_the_captions():
    first, second = (train_tokenizer(CAPTIONS).backend_tokenizer.to_str() for _ in range(2))
    assert first == second


def test_builtin_saves_and_loads(builtin, tmp_path):
    builtin.model.save_pretrained(tmp_path)
    again = TextEncoder(builtin.tokenizer, BuiltinTextModel.from_pretrained(tmp_path))
    assert torch.equal(again(CAPTIONS).hidden_states, builtin(CAPTIONS).hidden_states)


@pytest.mark.parametrize("kind", ["clip", "t5", "umt5"])
def test_pretrained_encoders_are_frozen_and_read_each_caption_once(pretrained, kind, monkeypatch):
    encoder = TextEncoder.open(pretrained[kind])
    assert (encoder.width, encoder.trainable) == (24, False)
    assert not any(p.requires_grad for p in encoder.model.parameters())
    first = encoder(CAPTIONS[:2])
    monkeypatch.setattr(encoder, "_encode", None)  # may not be called again
    again = encoder([CAPTIONS[1], CAPTIONS[0]])
    assert torch.equal(again.hidden_states, first.hidden_states.flip(0))
    assert first.hidden_states.shape[0] == 2
    assert first.hidden_states[~first.mask].abs().sum() == 0


def test_what_is_not_there_is_said_with_the_way_out(tmp_path):
    with pytest.raises(ModelError, match=r"not on this machine.*hf download openai/clip-vit-large-patch14.*builtin"):
        TextEncoder.open("clip")
    with pytest.raises(ModelError, match="holds no text encoder that can be loaded"):
        TextEncoder.open(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match="can be CLIP, T5 or UMT5"):
        TextEncoder.open(tmp_path)
