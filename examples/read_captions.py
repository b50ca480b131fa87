"""Teach the built-in text encoder to read captions of the demo world, before a denoiser learns from it.

A denoiser teaches its text encoder slowly: a word is worth little until its shape can be drawn. But captions of the
demo world cost nothing, and `parse` knows what each of them says. So the encoder first learns to say it too: its tokens
are asked for the colour, shape, motion ... of every thing, and their mean for all that is said, in any order. The
denoiser then starts with words that it only has to draw.

    python examples/read_captions.py runs/words
    text2video train --shapes --world full --text_encoder runs/words --frozen --output_dir runs/full

The folder is a text encoder for `--text_encoder`. Captions of held-out combinations are never learned from; the figures
that are printed are of 500 of them.
"""

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from text2video.data.shapes import FULL, Split, make_clip, parse
from text2video.models.layers import mean_token
from text2video.models.text import TextEncoder

THINGS = 3
SEED, TOKENIZER_SEED = 1000, 999  # of captions; other ones than those of clips
TOKENIZED, HELD_OUT = 20_000, 500
OF_A_THING = {
    "colour": FULL.colours,
    "shape": FULL.shapes,
    "motion": FULL.motions,
    "size": ("small", "large"),
    "speed": ("slow", "fast"),
    "becomes": FULL.colours,
}
OF_A_SCENE = {"background": FULL.backgrounds, "relation": FULL.relations}
# The answers to each question; the first one, "it does not say", is not among them.
QUESTIONS = [*list(OF_A_THING.values()) * THINGS, *OF_A_SCENE.values()]
ANSWERS = [len(values) + 1 for values in QUESTIONS]


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the encoder goes")
    parser.add_argument("--steps", type=int, default=2700)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--width", type=int, default=128, help="of the encoder")
    parser.add_argument("--layers", type=int, default=3, help="of the encoder")
    options = parser.parse_args()
    torch.manual_seed(0)
    words = (make_clip(index, TOKENIZER_SEED, max_objects=THINGS, world="full")[1] for index in range(TOKENIZED))
    encoder = TextEncoder.builtin(words, options.width, options.layers)
    reader = Reader(options.width)
    weights = [*encoder.model.parameters(), *reader.parameters()]
    optimizer = torch.optim.AdamW(weights, options.learning_rate, betas=(0.9, 0.99))
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: min(1, (n + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * n / options.steps))
    )
    batches = iter(DataLoader(Captions("train"), options.batch_size, num_workers=1))
    test = next(iter(DataLoader(Captions("heldout"), HELD_OUT)))
    started = time.perf_counter()
    for step in range(1, options.steps + 1):
        loss_of(encoder, reader, *next(batches))[0].backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rate.step()
        if step % 100 == 0 or step == options.steps:
            with torch.no_grad():
                loss, said = loss_of(encoder, reader, *test)
            wholly = (said == test[1]).all(1).float().mean()
            passed = time.perf_counter() - started
            left = passed / step * (options.steps - step)
            print(
                f"step {step}/{options.steps}  held out: loss {loss:.4f}, {wholly:.1%} read wholly  "
                f"{step * options.batch_size / passed:.0f} captions/s, {left / 60:.1f} minutes left",
                flush=True,
            )
    encoder.model.save_pretrained(options.folder / "text_encoder")
    encoder.tokenizer.save_pretrained(options.folder / "tokenizer")
    print(options.folder)


class Captions(IterableDataset):
    """Captions of a split without end, and what they say: the number of the answer to each question."""

    def __init__(self, split: Split):
        self.split: Split = split

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        index = 0
        while True:
            caption = make_clip(index, SEED, self.split, THINGS, world="full")[1]
            request = parse(caption)
            things = [*request.things, *[None] * (THINGS - len(request.things))]
            told = [getattr(thing, name, None) for thing in things for name in OF_A_THING]
            told += [getattr(request, name) for name in OF_A_SCENE]
            pairs = zip(QUESTIONS, told, strict=True)
            yield caption, torch.tensor([0 if value is None else 1 + values.index(value) for values, value in pairs])
            index += 1


class Reader(nn.Module):
    """Answers from the tokens of a caption: each question looks for its own, all of them at once."""

    def __init__(self, width: int):
        super().__init__()
        self.questions = nn.Parameter(torch.randn(len(QUESTIONS), width))
        self.look = nn.MultiheadAttention(width, width // 32, batch_first=True)
        self.answers = nn.ModuleList(nn.Linear(width, count) for count in ANSWERS)
        self.said = nn.Linear(width, sum(ANSWERS))

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[list[Tensor], Tensor]:
        """Tokens `[B, L, D]` and their mask -> logits `[B, A]` of each question's answers, and of all answers."""
        questions = self.questions.expand(len(tokens), -1, -1)
        found = self.look(questions, tokens, tokens, key_padding_mask=~mask, need_weights=False)[0]  # [B, Q, D]
        logits = [answer(found[:, number]) for number, answer in enumerate(self.answers)]
        return logits, self.said(mean_token(tokens, mask))


def loss_of(encoder: TextEncoder, reader: Reader, captions: list[str], told: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and the number of the answer `[B, Q]` that is given to each question."""
    text = encoder(captions)
    logits, bag = reader(text.hidden_states, text.mask)
    right = sum(F.cross_entropy(each, told[:, number]) for number, each in enumerate(logits)) / len(logits)
    first = torch.tensor([0, *ANSWERS[:-1]]).cumsum(0)  # of each question, among all answers
    all_said = torch.zeros_like(bag).scatter_(1, told + first, 1.0)
    loss = right + F.binary_cross_entropy_with_logits(bag, all_said)
    return loss, torch.stack([each.argmax(1) for each in logits], 1)


if __name__ == "__main__":
    main()
