"""Each token follows from those before it alone, with a cache as without; and how tokens are drawn."""

import pytest
import torch

from text2video.errors import UsageError
from text2video.models.autoregressive import AutoregressiveTransformer, check_drawing, draw
from text2video.models.kv_cache import TokenCache

SIZES = (4, 2, 3)


def model(num_layers: int = 3) -> AutoregressiveTransformer:
    """A random one, in which every layer does something."""
    torch.manual_seed(0)
    sizes = {"num_layers": num_layers, "num_attention_heads": 2, "attention_head_dim": 12}
    found = AutoregressiveTransformer(20, cross_attention_dim=6, **sizes)
    for parameter in found.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return found.eval()


def example(rows: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, a text and its mask."""
    torch.manual_seed(1)
    mask = torch.ones(rows, 5, dtype=torch.bool)
    mask[0, 3:] = False
    return torch.randint(20, (rows, *SIZES)), torch.randn(rows, 5, 6), mask


@torch.no_grad()
@pytest.mark.parametrize("place", [0, 1, 8, 22])
def test_a_place_sees_the_tokens_before_it_and_no_others(place):
    transformer, (tokens, *text) = model(), example()
    logits = transformer(tokens, *text).flatten(1, 3)
    for changed, seen in ((place, False), (place - 1, True)):
        if changed < 0:
            continue
        other = tokens.clone()
        other.view(2, -1)[:, changed] = (other.view(2, -1)[:, changed] + 1) % 20
        found = transformer(other, *text).flatten(1, 3)
        torch.testing.assert_close(found[:, :changed], logits[:, :changed])
        assert seen == bool((found[:, place] - logits[:, place]).abs().max() > 1e-4)


@torch.no_grad()
@pytest.mark.parametrize("with_text", [True, False])
def test_with_a_cache_logits_are_those_without(with_text):
    transformer, (tokens, *text) = model(), example()
    wanted = transformer(tokens, *(text if with_text else [])).flatten(1, 3)
    reading = transformer.read(*(text if with_text else [None]))
    cache = TokenCache(3, 6, rows=2)
    before = torch.cat([transformer.start(2), tokens.flatten(1)], 1)
    for place in range(24):
        found = transformer.next(before[:, place : place + 1], place // 6, place % 6, SIZES[1:], reading, cache)
        torch.testing.assert_close(found, wanted[:, place], atol=1e-5, rtol=1e-4)
    assert wanted.std() > 0.1


@torch.no_grad()
def test_what_leaves_the_window_is_forgotten_frame_by_frame():
    transformer, (tokens, *text) = model(num_layers=1), example()
    other = tokens.flatten(1).clone()
    other[:, :5] = (other[:, :5] + 1) % 20  # the sixth is what the second frame begins with
    found = []
    for flat in (tokens.flatten(1), other):
        reading, cache = transformer.read(*text), TokenCache(1, 6, rows=2)
        before = torch.cat([transformer.start(2), flat], 1)
        logits = [
            transformer.next(before[:, place : place + 1], place // 6, place % 6, SIZES[1:], reading, cache)
            for place in range(24)
        ]
        assert cache.layers[0][0].shape[1] == 12  # a frame of the past, and the present one
        found.append(torch.stack(logits, 1))
    seen = (found[0] - found[1]).abs().amax((0, 2)) > 1e-5
    assert seen.tolist() == [False, *[True] * 11, *[False] * 12]


def sources(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def test_tokens_are_drawn_as_often_as_they_are_likely():
    chances = torch.tensor([0.5, 0.2, 0.0, 0.3])
    logits = chances.log().expand(4000, -1)

    def shares(**how) -> torch.Tensor:
        return draw(logits, sources(4000), **how).flatten().bincount(minlength=4) / 4000

    for how, wanted in (
        ({}, chances),
        ({"temperature": 0.5}, chances.square() / chances.square().sum()),
        ({"top_k": 2}, torch.tensor([5, 0, 0, 3]) / 8),
        ({"top_p": 0.75}, torch.tensor([5, 0, 0, 3]) / 8),
        ({"top_p": 0.1}, torch.tensor([1.0, 0, 0, 0])),
        ({"temperature": 0.0}, torch.tensor([1.0, 0, 0, 0])),
    ):
        torch.testing.assert_close(shares(**how), wanted, atol=0.03, rtol=0)


def test_a_row_is_drawn_the_same_among_others():
    torch.manual_seed(0)
    logits = torch.randn(3, 50)
    together = draw(logits, sources(3))
    alone = [draw(logits[row : row + 1], [torch.Generator().manual_seed(row)]) for row in range(3)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("wrong", [(-1.0, None, None), (1.0, 0, None), (1.0, None, 0.0), (1.0, None, 1.5)])
def test_what_cannot_be_drawn_is_refused(wrong):
    with pytest.raises(UsageError, match=r"(temperature|top_k|top_p) is"):
        check_drawing(*wrong)
