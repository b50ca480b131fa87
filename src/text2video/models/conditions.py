"""What a video is made by besides its caption: a first frame, depth, a mask, a sound, a class, any vector.

Each kind is one small class. It reads a file or value of one clip (`read`), brings a batch of these to the form in
which the denoiser is told it (`encode`), and there enters as channels beside the video's, as an addition to the
embedding of the caption, or as both (`forward`). In the form that the denoiser is told, **all zeros mean: not given**.
So a condition that is dropped in training, one that is left out in generation, and what guidance compares with, are the
same.

Channels beside the video as in Saharia et al. 2022 (arXiv:2104.07636) and, for a first frame that is laid beside every
frame, Blattmann et al. 2023 (arXiv:2311.15127); a sum of embeddings as in Dhariwal and Nichol 2021 (arXiv:2105.05233).
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DataError, ModelError, UsageError
from ..video import Sound, View, log_mel, read_sound, resize

EncodeVideo = Callable[[Tensor], Tensor]  # [B, 3, T, H, W] in [-1, 1] -> what is denoised, [B, C, t, h, w]


class Entry(NamedTuple):
    """How a condition enters: channels beside the video's, `[B, c, t, h, w]`, and an embedding `[B, width]`."""

    beside: Tensor | None = None
    embedding: Tensor | None = None


class Condition(nn.Module):
    """One kind of condition. It can read as it is made; `build` gives it its weights.

    Args:
        dropout: share of clips in training that are not told it, so that the model can do without, and guidance can
            compare.
        guidance_scale: how closely videos follow it when they are not told otherwise; 1 is as learned.
    """

    media: ClassVar[Literal["pictures", "sound", "value", "other"]] = "other"
    """What its files are, so that they can be examined before a run. A "value" is a few numbers or a word: a table's
    column holds it itself, and a file is short."""
    of_clip = False
    """Whether the clip's own file has it."""
    channels = 0
    """That it lays beside the video's."""

    def __init__(self, dropout: float = 0.1, guidance_scale: float = 1.0):
        super().__init__()
        self.dropout, self.guidance_scale = dropout, guidance_scale

    def build(self, channels: int, width: int) -> None:
        """Make the weights, for videos or latents of `channels` and embeddings of `width`."""

    def read(self, value: Any, view: View) -> Tensor:
        """What `value`, or the file that it names, says of one clip; None is the clip itself. No batch axis.

        Raises:
            DataError, VideoError: it cannot be used.
        """
        raise NotImplementedError

    def encode(self, values: Tensor, encode_video: EncodeVideo) -> Tensor:
        """A batch of what was read -> what the denoiser is told."""
        return values

    def forward(self, told: Tensor, shape: Sequence[int]) -> Entry:
        """How it enters a video or latents of `shape` (frames, height, width)."""
        raise NotImplementedError


class Frames(Condition):
    """A video beside the video, such as poses: frame by frame, in colour. A picture stands still."""

    media = "pictures"

    def build(self, channels: int, width: int) -> None:
        """One channel more says where it is given."""
        self.channels = channels + 1

    def read(self, value: Any, view: View) -> Tensor:
        """uint8 `[3, T, H, W]`; `value` is a file, or frames uint8 `[T, H, W, 3]`, `[T, H, W]` or one `[H, W, 3]`."""
        if isinstance(value, str | Path):
            frames = view.of(value).frames
        elif value is None:
            frames = view.own.frames
        else:
            frames = self._fitted(np.asarray(value), view)
        return torch.from_numpy(np.ascontiguousarray(self.seen(frames).transpose(3, 0, 1, 2)))

    def seen(self, frames: np.ndarray) -> np.ndarray:
        """What is told of frames, uint8 `[T, H, W, 3]`."""
        return frames

    def encode(self, values: Tensor, encode_video: EncodeVideo) -> Tensor:
        """As the video itself is: by the codec where there is one."""
        video = encode_video(values.float() / 127.5 - 1)
        return torch.cat([video, torch.ones_like(video[:, :1])], dim=1)

    def forward(self, told: Tensor, shape: Sequence[int]) -> Entry:
        if told.shape[2:] != torch.Size(shape):
            raise UsageError(
                f"A condition of {' x '.join(map(str, told.shape[2:]))} frames, height and width is given for a video "
                f"of {' x '.join(map(str, shape))}. Give it in the size of the video."
            )
        return Entry(beside=told)

    def _fitted(self, frames: np.ndarray, view: View) -> np.ndarray:
        if frames.dtype != np.uint8 or frames.ndim not in (3, 4) or (frames.ndim == 4 and frames.shape[-1] != 3):
            raise DataError(
                f"Frames are {frames.dtype} of shape {list(frames.shape)}. Give uint8 [T, H, W, 3], [T, H, W], or one "
                "picture [H, W, 3]; or the name of a file."
            )
        if frames.ndim == 3:
            frames = frames[None] if frames.shape[-1] == 3 else frames[..., None].repeat(3, -1)
        if len(frames) == 1:
            frames = frames.repeat(view.num_frames, 0)
        if len(frames) != view.num_frames:
            raise DataError(f"{len(frames)} frames are given for a video of {view.num_frames}. Give as many, or one.")
        return resize(frames, view.height, view.width)


class FirstFrame(Frames):
    """The first frame, laid beside every frame. It is the clip's own where no other is named."""

    of_clip = True

    def seen(self, frames: np.ndarray) -> np.ndarray:
        """The first one, in the place of all."""
        return np.broadcast_to(frames[:1], frames.shape)


class Depth(Frames):
    """A depth map a frame, in grey; near is bright."""

    def seen(self, frames: np.ndarray) -> np.ndarray:
        """Without colour."""
        return np.repeat(frames.mean(-1, keepdims=True).round().astype(np.uint8), 3, axis=-1)


class Mask(Depth):
    """What belongs to something in each frame: white, and all else black."""

    def seen(self, frames: np.ndarray) -> np.ndarray:
        """Without what lies between."""
        return np.where(super().seen(frames) > 127, 255, 0).astype(np.uint8)


class Audio(Condition):
    """A sound: what is heard in each frame, and a summary of all. It is the clip's own where no other is named.

    Args:
        bands, parts: see `log_mel`.
        hidden: channels of the two convolutions along time that listen.
        beside: channels for each frame.
    """

    media = "sound"
    of_clip = True

    def __init__(self, bands: int = 32, parts: int = 4, hidden: int = 128, beside: int = 16, **usual: Any):
        super().__init__(**usual)
        self.bands, self.parts, self.hidden, self.channels = bands, parts, hidden, beside

    def build(self, channels: int, width: int) -> None:
        """Two convolutions and a norm, and what leads from them to the frames and to the embedding."""
        self.listen = nn.Sequential(
            nn.Conv1d(self.bands * self.parts + 1, self.hidden, 5, padding=2),
            nn.GELU("tanh"),
            nn.Conv1d(self.hidden, self.hidden, 5, padding=2),
            nn.GELU("tanh"),
        )
        # What is heard differs little from clip to clip: as small as it begins, it would be overheard for long.
        self.norm = nn.LayerNorm(self.hidden)
        self.lay = nn.Linear(self.hidden, self.channels, bias=False)
        self.embed = nn.Linear(self.hidden, width, bias=False)

    def read(self, value: Any, view: View) -> Tensor:
        """float32 `[T, parts * bands + 1]`, the last one 1; `value` is a sound or video file, or a `Sound`."""
        sound = value if isinstance(value, Sound) else read_sound(view.file if value is None else value)
        heard = torch.from_numpy(log_mel(sound, view.edges(sound.seconds), self.bands, self.parts))
        return F.pad(heard, (0, 1), value=1.0)

    def forward(self, told: Tensor, shape: Sequence[int]) -> Entry:
        given = told[:, :1, -1:]  # [B, 1, 1]
        heard = self.norm(self.listen(told.transpose(1, 2)).transpose(1, 2)).transpose(1, 2) * given  # [B, hidden, T]
        frames = F.adaptive_avg_pool1d(heard, shape[0]).transpose(1, 2)  # [B, t, hidden]
        beside = self.lay(frames).transpose(1, 2)[..., None, None]  # [B, c, t, 1, 1]
        return Entry(beside.expand(-1, -1, *shape), self.embed(heard.mean(2)))


class Vector(Condition):
    """Any numbers.

    Args:
        size: how many.
    """

    media = "value"

    def __init__(self, size: int, **usual: Any):
        super().__init__(**usual)
        self.size = size

    def build(self, channels: int, width: int) -> None:
        """One layer."""
        self.embed = nn.Linear(self.size + 1, width, bias=False)

    def read(self, value: Any, view: View) -> Tensor:
        """float32 `[size + 1]`, the last one 1; `value` is numbers, as such or as text, or a .npy, .json, .txt file."""
        try:
            numbers = np.asarray(_numbers(value), dtype=np.float32)
        except (ValueError, TypeError, OSError) as error:
            raise DataError(f"{str(value)[:60]!r} holds no numbers: {error}.") from None
        if numbers.shape != (self.size,) or not np.isfinite(numbers).all():
            raise DataError(
                f"{str(value)[:60]!r} holds numbers of shape {list(numbers.shape)}: give {self.size}, finite."
            )
        return F.pad(torch.from_numpy(numbers.copy()), (0, 1), value=1.0)

    def forward(self, told: Tensor, shape: Sequence[int]) -> Entry:
        return Entry(embedding=self.embed(told))


class Class(Condition):
    """One of several, such as a shape or a speaker.

    Args:
        names: what they are called, in order.
        count: how many there are, where they have no names and are counted from 0.
    """

    media = "value"

    def __init__(self, names: Sequence[str] = (), count: int = 0, **usual: Any):
        super().__init__(**usual)
        self.names = [str(name) for name in names] or [str(number) for number in range(count)]
        if not self.names:
            raise ModelError(
                "A condition of the kind class has no classes. Give it args: {names: [...]} or {count: 10}."
            )

    def build(self, channels: int, width: int) -> None:
        """A row for each, and zeros for none."""
        self.embed = nn.Embedding(len(self.names) + 1, width, padding_idx=0)

    def read(self, value: Any, view: View) -> Tensor:
        """The number of the class, from 1; `value` is its name, or a text file with it."""
        name = value.read_text(encoding="utf-8").strip() if isinstance(value, Path) else str(value)
        if name not in self.names:
            known = ", ".join(self.names[:20]) + (" ..." if len(self.names) > 20 else "")
            raise DataError(f"There is no class {name!r:.60}. There are: {known}.")
        return torch.tensor(self.names.index(name) + 1)

    def forward(self, told: Tensor, shape: Sequence[int]) -> Entry:
        return Entry(embedding=self.embed(told.long()))


KINDS: dict[str, type[Condition]] = {
    "first_frame": FirstFrame,
    "frames": Frames,
    "depth": Depth,
    "mask": Mask,
    "audio": Audio,
    "vector": Vector,
    "class": Class,
}


class Conditions(nn.ModuleDict):
    """The conditions of a denoiser, by name; it may have none.

    Args:
        described: name -> `kind`, in `KINDS` or as `module:Class`, and the arguments of its class.
        channels: of the video or latents.
        width: of the embedding that a caption's is added to.
    """

    def __init__(self, described: Mapping[str, Mapping[str, Any]] | None, channels: int, width: int):
        # by name, as a saved configuration has them: in another order weights would meet other channels
        super().__init__({name: make(name, **own) for name, own in sorted((described or {}).items())})
        self.width = width
        for condition in self.each().values():
            condition.build(channels, width)

    def each(self) -> dict[str, Condition]:
        """Name -> condition."""
        found: Any = dict(self.items())
        return found

    @property
    def channels(self) -> int:
        """That they lay beside the video's, in all."""
        return sum(condition.channels for condition in self.each().values())

    def enter(
        self, sample: Any, told: Mapping[str, Tensor] | None, embedding: Tensor | None = None
    ) -> tuple[Any, Tensor | None]:
        """The sample `[B, C, T, H, W]` with the channels beside it, and the embedding `[B, width]` with theirs added.

        Raises:
            UsageError: something is told that is none of them, or has another size than the video.
        """
        if unknown := sorted(set(told or {}) - set(self)):
            raise UsageError(f"This model knows no {', '.join(unknown)}. Its conditions: {', '.join(self) or 'none'}.")
        if not len(self):
            return sample, embedding
        if not isinstance(sample, Tensor):
            raise UsageError("A model with conditions takes clips of one size: leave out --pack.")
        # told nothing, or left out: the same
        whole = sample.new_zeros(len(sample), self.width) if embedding is None else embedding
        parts = [sample]
        for name, condition in self.each().items():
            entry = Entry()
            if told and name in told:
                entry = condition(told[name], sample.shape[2:])
            if condition.channels:
                nothing = sample.new_zeros(len(sample), condition.channels, *sample.shape[2:])
                parts.append(nothing if entry.beside is None else entry.beside.to(sample.dtype))
            if entry.embedding is not None:
                whole = whole + entry.embedding
        return torch.cat(parts, dim=1), whole


def make(name: str, kind: str | None = None, **arguments: Any) -> Condition:
    """A condition, of the kind of its name where none is given, without weights yet.

    Raises:
        ModelError: there is no such kind, or its class does not take these arguments.
    """
    if not name.isidentifier() or hasattr(nn.ModuleDict, name):
        raise ModelError(f"A condition cannot be called {name!r}: give it another name, of letters, digits and _.")
    module, colon, own = (kind or name).partition(":")
    found = getattr(sys.modules.get(module), own, None) if colon else KINDS.get(kind or name)
    if found is None and colon:  # a model's folder never has a module imported
        raise ModelError(
            f"The condition {name} is of a class of your own, {kind}. Import its module first, or name it by "
            "--model_class module:Class."
        )
    if found is None:
        raise ModelError(
            f"The condition {name} is of the kind {kind or name!r}, which there is not. There are: {', '.join(KINDS)}; "
            f"or your own class as module:Class. Say which in conditions: {{{name}: {{kind: ...}}}}."
        )
    try:
        return found(**arguments)
    except TypeError as error:
        raise ModelError(f"The condition {name} cannot be made: {error}. Put its arguments into args.") from None


def conditions_of(denoiser: Any) -> dict[str, Condition]:
    """The conditions of a denoiser by name; none where it has none."""
    own = getattr(denoiser, "conditioning", None)
    return own.each() if isinstance(own, Conditions) else {}


def keywords(denoiser: Any, condition: Mapping[str, Any]) -> dict[str, Any]:
    """What a denoiser is told as its keyword arguments: its conditions lie in one of them."""
    names = conditions_of(denoiser)
    told = {name: value for name, value in condition.items() if name in names}
    others = {name: value for name, value in condition.items() if name not in names}
    return others | ({"conditions": told} if told else {})


def kept(told: Tensor, keep: Tensor) -> Tensor:
    """What is told, in the rows `[B]` that are to be told it; the others are not given it."""
    return told * keep.to(told.device, told.dtype).view(-1, *[1] * (told.ndim - 1))


def _numbers(value: Any) -> Any:
    if isinstance(value, str) and value.endswith((".npy", ".json", ".txt")):
        value = Path(value)
    if isinstance(value, Path):
        if value.suffix == ".npy":
            return np.load(value, allow_pickle=False)
        value = value.read_text(encoding="utf-8")
    if isinstance(value, str):
        return json.loads(value) if value.lstrip().startswith("[") else value.replace(",", " ").split()
    return value
