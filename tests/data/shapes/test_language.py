import numpy as np
import pytest

from text2video.data.shapes import SMALL, Ask, make_clip, parse, prompt, words
from text2video.errors import DataError


@pytest.mark.parametrize("max_objects", [1, 2])
def test_every_caption_is_true_and_can_be_read_back(max_objects):
    for index in range(800):
        scene, caption = make_clip(index, 11, max_objects=max_objects)
        request = parse(caption)
        assert len(request.things) == len(scene.things)
        for ask, thing in zip(request.things, scene.things, strict=True):
            assert (ask.colour, ask.shape, ask.motion) == thing.triple, caption
            assert ask.size in (None, thing.size), caption
            assert ask.speed in (None, thing.speed), caption
        assert request.background in (None, scene.background.kind), caption
        assert "a orange" not in caption
        assert "  " not in caption
        assert caption == caption.strip()


def test_captions_are_varied_and_use_every_word_of_the_grammar():
    captions = [make_clip(i, 2)[1] for i in range(3000)]
    assert len(set(captions)) > 2500
    text = " | ".join(captions)
    tables = [words.SHAPE_WORDS, words.SIZE_WORDS, words.SPEED_WORDS]
    tables += [words.DIRECTION_WORDS, words.BACKGROUND_WORDS]
    for word in [w for table in tables for group in table.values() for w in group]:
        assert word in text
    for finite, participle in [p for pairs in words.CHANGE_WORDS.values() for p in pairs]:
        assert finite in text
        assert participle in text


def test_grammar_and_world_know_the_same_things():
    assert SMALL.colours == words.COLOURS
    assert tuple(words.SHAPE_WORDS) == SMALL.shapes
    assert (*words.DIRECTION_WORDS, *words.CHANGE_WORDS) == SMALL.motions
    assert tuple(words.BACKGROUND_WORDS) == SMALL.backgrounds


def test_every_scene_has_many_prompts():
    scene = make_clip(0, 3)[0]
    rng = np.random.default_rng(0)
    assert len({prompt(scene, rng) for _ in range(200)}) > 100


@pytest.mark.parametrize(
    ("text", "ask"),
    [
        ("a red circle moves left", Ask("red", "circle", "left")),
        ("The large blue square slowly drifts to the upper right.", Ask("blue", "square", "up right", "large", "slow")),
        ("a green triangle that stays still", Ask("green", "triangle", "still")),
        ("white box, spinning fast", Ask("white", "square", "rotating", None, "fast")),
        ("A SMALL pink disc moving down-left", Ask("pink", "circle", "down left", "small")),
        ("an orange square moves up to the left", Ask("orange", "square", "up left")),
        ("a purple triangle gets bigger", Ask("purple", "triangle", "growing")),
        ("a yellow circle towards the bottom right", Ask("yellow", "circle", "down right")),
    ],
)
def test_prompts_are_understood(text, ask):
    assert parse(text).things == (ask,)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a cat on a sofa", "'cat'"),
        ("a red circle", "motion"),
        ("moves left", "colour and the shape"),
        ("a red blue circle moves left", "red and blue"),
        ("a red circle and a blue square move left", "motion"),
        ("a red circle moves left and a blue square moves up and a pink disc rests", "3 things"),
        ("a small circle that is red grows", "no size"),
        ("a red square slowly stays still", "no speed"),
        ("a red circle rotates", "rotate"),
        ("", "colour"),
    ],
)
def test_a_prompt_outside_the_grammar_is_refused_with_what_is_understood(text, reason):
    with pytest.raises(DataError, match=reason) as caught:
        parse(text)
    assert "red, orange, yellow" in str(caught.value)
