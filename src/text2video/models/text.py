"""Captions -> a sequence of token embeddings, by the built-in encoder or a pretrained CLIP, T5 or UMT5.

The built-in encoder is a small transformer with its own byte-level BPE tokenizer (Sennrich et al. 2016), made from
the captions of the run and trained together with the denoiser; it needs no download. Pretrained encoders are frozen,
so that each caption is encoded once.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn

from ..errors import ModelError
from ..shipped import place_of
from .layers import zeroed

# Short names -> repositories, whose files are used from the disk where they are.
PRETRAINED = {
    "clip": "openai/clip-vit-large-patch14",
    "clip-b32": "openai/clip-vit-base-patch32",
    "t5": "google/t5-v1_1-base",
    "umt5": "google/umt5-base",
}

REMEMBERED = 20_000  # captions whose frozen embeddings are kept


@dataclass
class TextEmbedding:
    """Token embeddings of a batch of captions."""

    hidden_states: Tensor  # [B, L, D]
    mask: Tensor  # [B, L] bool, true where there is text

    def condition(self) -> dict[str, Tensor]:
        """As keyword arguments of a denoiser."""
        return {"encoder_hidden_states": self.hidden_states, "encoder_attention_mask": self.mask}


class BuiltinTextModel(ModelMixin, ConfigMixin):
    """A bidirectional pre-norm transformer over caption tokens.

    Args:
        vocab_size: tokens of its tokenizer.
        width: of the embeddings, a multiple of 32.
        num_layers: transformer layers.
        max_tokens: longest caption in tokens.
    """

    _supports_gradient_checkpointing = False
    frozen = False  # in this run: a model that is opened again may learn again

    @register_to_config
    def __init__(self, vocab_size: int, width: int = 256, num_layers: int = 2, max_tokens: int = 77):
        super().__init__()
        if width % 32:
            raise ModelError(f"text_width is {width}; heads are 32 wide, so give a multiple of 32.")
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.position_embedding = nn.Embedding(max_tokens, width)
        self.layers = nn.ModuleList(_Layer(width) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        # A caption starts as its words: the layers add nothing at first, and little is said by a word's place.
        nn.init.normal_(self.token_embedding.weight)
        nn.init.normal_(self.position_embedding.weight, std=0.1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids `[B, L]` and their mask `[B, L]` -> embeddings `[B, L, width]`."""
        x = self.token_embedding(input_ids) + self.position_embedding.weight[: input_ids.shape[1]]  # [B, L, D]
        for layer in self.layers:
            x = layer(x, attention_mask.bool()[:, None, None, :])
        return self.norm(x)


class _Layer(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.heads = width // 32
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), zeroed(nn.Linear(width, width))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), zeroed(nn.Linear(4 * width, width)))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        b, length, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(b, length, 3, self.heads, 32)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, heads, L, 32]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(attended.transpose(1, 2).reshape(b, length, width))
        return x + self.mlp(self.norm_mlp(x))


class TextEncoder:
    """A tokenizer and a model that reads its tokens.

    Args:
        tokenizer: a transformers tokenizer.
        model: a `BuiltinTextModel`, `CLIPTextModel`, `T5EncoderModel` or `UMT5EncoderModel`.
        trainable: whether it learns with the denoiser; None: whether it is the built-in one and not frozen.
        filled: whether captions are filled up to the longest that there can be, and the filling is seen like words, as
            Stable Diffusion has it.
    """

    def __init__(self, tokenizer: Any, model: nn.Module, trainable: bool | None = None, filled: bool = False):
        self.tokenizer, self.model, self.filled = tokenizer, model, filled
        learns = isinstance(model, BuiltinTextModel) and not model.frozen
        self.trainable = learns if trainable is None else trainable
        self._known: dict[str, Tensor] = {}

    @classmethod
    def builtin(
        cls,
        captions: Iterable[str],
        width: int = 256,
        num_layers: int = 2,
        vocab_size: int = 4096,
        max_tokens: int = 77,
    ) -> "TextEncoder":
        """The built-in encoder, untrained, with a tokenizer made from `captions`."""
        tokenizer = train_tokenizer(captions, vocab_size, max_tokens)
        return cls(tokenizer, BuiltinTextModel(len(tokenizer), width, num_layers, max_tokens))

    @classmethod
    def open(cls, name: str | Path, **kwargs: Any) -> "TextEncoder":
        """A pretrained encoder: clip, clip-b32, t5, umt5, a Hugging Face name, or a folder.

        A folder is a transformers folder, or a finished run or model of ours, whose encoder is taken.

        Raises:
            ModelError: it is not on this machine, or is no text encoder.
        """
        from transformers import AutoConfig, AutoTokenizer, CLIPTextModel, T5EncoderModel, UMT5EncoderModel

        if own := builtin_in(name):
            return cls(AutoTokenizer.from_pretrained(own.with_name("tokenizer")), BuiltinTextModel.from_pretrained(own))
        folder = finished(name)
        if (folder / "text_encoder").is_dir() and (folder / "tokenizer").is_dir():
            name = folder = folder / "text_encoder"
        source = text_source(name)
        classes = {"clip": CLIPTextModel, "clip_text_model": CLIPTextModel, "t5": T5EncoderModel}
        classes["umt5"] = UMT5EncoderModel
        try:
            kind = AutoConfig.from_pretrained(source).model_type
            if kind not in classes:
                raise ModelError(f"{name} is a {kind}. Text encoders can be CLIP, T5 or UMT5.")
            model = classes[kind].from_pretrained(source, use_safetensors=True, **kwargs)
            tokenizer = AutoTokenizer.from_pretrained(tokenizer_of(source))
        except (OSError, ValueError) as error:
            raise no_encoder(source, error) from None
        return cls(tokenizer, model.eval().requires_grad_(False))

    @property
    def width(self) -> int:
        """Width of the embeddings."""
        config: Any = self.model.config
        return config.get("width") if isinstance(self.model, BuiltinTextModel) else text_width(config)

    @property
    def max_tokens(self) -> int:
        """Longest caption in tokens; what lies beyond is cut."""
        return min(self.tokenizer.model_max_length, 512)

    def __call__(self, captions: Sequence[str]) -> TextEmbedding:
        """Embeddings `[B, L, D]` of captions, L the longest one's tokens."""
        device = next(self.model.parameters()).device
        if self.trainable or isinstance(self.model, BuiltinTextModel):  # small: a batch is read as fast as looked up
            return TextEmbedding(*self._encode(captions, device))
        for caption in set(captions) - set(self._known):  # large and frozen: each caption is read once
            self._known[caption] = self.read(caption)
        parts = [self._known[caption] for caption in captions]
        while len(self._known) > REMEMBERED:
            self._known.pop(next(iter(self._known)))
        return padded(parts, device)

    def read(self, caption: str) -> Tensor:
        """The embeddings `[L, D]` of one caption by itself, float32, on the CPU; nothing is remembered."""
        hidden, mask = self._encode([caption], next(self.model.parameters()).device)
        return hidden[0][mask[0]].cpu()

    def _encode(self, captions: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        padding = "max_length" if self.filled else True
        tokens = self.tokenizer(
            list(captions), padding=padding, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(device)
        if self.filled:
            tokens["attention_mask"] = torch.ones_like(tokens.input_ids)
        if self.trainable or isinstance(self.model, BuiltinTextModel):
            with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
                return self.model(tokens.input_ids, tokens.attention_mask), tokens.attention_mask.bool()
        # in full precision, wherever it is asked for: what is remembered must not depend on who asked first
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            output = self.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        return output.last_hidden_state.float(), tokens.attention_mask.bool()


def padded(parts: Sequence[Tensor], device: torch.device) -> TextEmbedding:
    """Embeddings `[L, D]` of single captions as a batch, as long as the longest."""
    pad = torch.nn.utils.rnn.pad_sequence
    masks = [torch.ones(len(part), dtype=torch.bool) for part in parts]
    return TextEmbedding(pad(list(parts), batch_first=True).to(device), pad(masks, batch_first=True).to(device))


def finished(name: str | Path) -> Path:
    """The folder of a run's finished model or of the package's model, or the folder itself."""
    folder = place_of(name)
    return folder / "final" if (folder / "final").is_dir() else folder


def builtin_in(name: str | Path) -> Path | None:
    """The folder of the built-in encoder of a finished run or model of ours; None where `name` is none."""
    file = finished(name) / "text_encoder" / "config.json"
    if not file.is_file() or not file.parent.with_name("tokenizer").is_dir():
        return None
    kind = json.loads(file.read_text(encoding="utf-8")).get("_class_name")
    return file.parent if kind == BuiltinTextModel.__name__ else None


def text_source(name: str | Path) -> Path:
    """The folder with the files of a pretrained encoder: `name` itself, or where a name was fetched to.

    Raises:
        ModelError: it is not on this machine.
    """
    from transformers.utils import cached_file

    if Path(name).is_dir():
        return Path(name)
    source = PRETRAINED.get(str(name), str(name))
    try:
        return Path(cached_file(source, "config.json", local_files_only=True) or "").parent
    except (OSError, ValueError):
        raise ModelError(
            f"The text encoder {str(name)!r} is not on this machine. Fetch it with `hf download {source}`, give its "
            "folder, or use --text_encoder builtin, which needs no download."
        ) from None


def tokenizer_of(folder: Path) -> Path:
    """Where the tokenizer of a pretrained encoder lies: with it, or beside it, as in a diffusers model."""
    beside = folder.parent / "tokenizer"
    own = any(folder.glob("*token*")) or any(folder.glob("vocab*"))
    return folder if own or not beside.is_dir() else beside


def no_encoder(folder: Path, error: Exception) -> ModelError:
    """What is said of a folder that a text encoder cannot be loaded from."""
    return ModelError(
        f"{folder} holds no text encoder that can be loaded ({str(error).splitlines()[0]}). Give the folder of one in "
        "transformers' format, or of a model with a text_encoder and a tokenizer in it, or use builtin."
    )


def text_width(config: Any) -> int:
    """Width of the embeddings of a transformers encoder with this configuration."""
    config = getattr(config, "text_config", config)
    return getattr(config, "d_model", None) or config.hidden_size


def train_tokenizer(captions: Iterable[str], vocab_size: int = 4096, max_tokens: int = 77) -> Any:
    """A byte-level BPE tokenizer made from captions: any text in any script has tokens; letter case is dropped."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<start>", "<end>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=max(vocab_size, len(alphabet) + len(special)),
        special_tokens=special,
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    # A start token gives the empty caption something to attend to.
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<start>",
        eos_token="<end>",
        model_max_length=max_tokens,
        padding_side="right",
    )
