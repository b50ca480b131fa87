from itertools import product

import numpy as np
import pytest

from text2video.data.shapes import FULL, SMALL, make_clip, parse, prompt, sentences, words
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
    tables = [words.SIZE_WORDS, words.SPEED_WORDS, words.DIRECTION_WORDS, words.BACKGROUND_WORDS]
    said = [w for table in tables for group in table.values() for w in group]
    for word in [*said, *(w for shape in SMALL.shapes for w in words.SHAPE_WORDS[shape])]:
        assert word in text
    for finite, participle in [p for pairs in words.CHANGE_WORDS.values() for p in pairs]:
        assert finite in text
        assert participle in text


def test_grammar_and_world_know_the_same_things():
    assert (*words.DIRECTION_WORDS, *words.CHANGE_WORDS) == SMALL.motions
    assert tuple(words.BACKGROUND_WORDS) == SMALL.backgrounds
    assert FULL.colours == words.COLOURS
    assert tuple(words.SHAPE_WORDS) == (*FULL.shapes, "moon")
    assert set(words.ACTIONS) == set(words.PASSIVES) == set(FULL.motions)
    assert tuple(words.TINTED_WORDS) == FULL.backgrounds
    assert tuple(words.RELATION_WORDS) == FULL.relations


def test_every_scene_has_many_prompts():
    scene = make_clip(0, 3)[0]
    rng = np.random.default_rng(0)
    assert len({prompt(scene, rng) for _ in range(200)}) > 100


# --- the full world ---


def looks(thing):
    return thing.colour, thing.shape, thing.motion, thing.becomes


@pytest.mark.parametrize("wording", ["train", "heldout"])
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_caption_of_the_full_world_says_what_is_true_and_is_read_back(split, wording):
    counted = 0
    for index in range(500):
        scene, caption = make_clip(index, 11, split, 3, world="full", wording=wording)
        request = parse(caption)
        assert [looks(ask) for ask in request.things] == [looks(thing) for thing in scene.things], caption
        assert all(a.size in (None, t.size) for a, t in zip(request.things, scene.things, strict=True)), caption
        assert all(a.speed in (None, t.speed) for a, t in zip(request.things, scene.things, strict=True)), caption
        assert request.relation == scene.relation, caption
        assert request.background in (None, scene.background.kind), caption
        equal = len({looks(thing) for thing in scene.things}) < len(scene.things)
        counted += equal
        assert (len(set(request.things)) < len(request.things)) == equal, caption
        assert "a orange" not in caption
        assert "  " not in caption
        assert caption == caption.strip()
    assert counted > 20


def test_captions_of_the_full_world_use_every_word():
    captions = [make_clip(i, 2, max_objects=3, world="full")[1] for i in range(2500)]
    assert len(set(captions)) > 2450
    text = " | ".join(captions)
    shapes = {shape: words.SHAPE_WORDS[shape] for shape in FULL.shapes}
    tables = [shapes, words.SIZE_WORDS, words.SPEED_WORDS, words.SPEED_PHRASES, words.COUNT_WORDS]
    tables += [words.DIRECTION_WORDS, words.TINTED_WORDS, words.RELATION_WORDS, words.INVERSE_WORDS, words.TURNS]
    for word in [w for table in tables for group in table.values() for w in group]:
        assert word in text, word
    for verb in {verb for actions in words.ACTIONS.values() for action in actions for verb in action[:3]}:
        assert verb in text, verb
    for opening, _ in sentences.OPENINGS:
        assert opening.format(**{"is": "is"}) in text


def test_about_a_tenth_of_the_wordings_is_held_out_and_every_part_is_trained():
    trained, held_out = set(), set()
    for motion, (opening, (_, forms)) in product(FULL.motions, enumerate(sentences.OPENINGS)):
        for form in forms:
            phrases = words.PASSIVES if form == sentences.PASSIVE else words.ACTIONS
            for phrase in range(len(phrases[motion])):
                group = held_out if sentences.is_held_out_wording(opening, form, phrase) else trained
                group.add((motion, opening, form, phrase))
    assert 0.08 < len(held_out) / (len(held_out) + len(trained)) < 0.12
    for parts in ((0, 1), (0, 2, 3), (1, 2)):  # every motion in every opening, every phrase, every form in an opening
        assert {tuple(p[i] for i in parts) for p in held_out} <= {tuple(p[i] for i in parts) for p in trained}


def test_no_caption_is_worded_in_both_ways():
    scenes = [make_clip(index, 4, max_objects=1, world="full")[0] for index in range(60)]
    rng = np.random.default_rng(0)
    plain = [
        {strip(prompt(scene, rng, wording), scene) for _ in range(60)}
        for scene in scenes
        for wording in ("train", "heldout")
    ]
    for trained, held_out in zip(plain[::2], plain[1::2], strict=True):
        assert not trained & held_out


def strip(caption, scene):
    """Without the background, so that the rest is the pattern and the words in it."""
    for word in words.TINTED_WORDS[scene.background.kind]:
        for preposition in ("on", "over", "against"):
            caption = caption.replace(f"{preposition} a {word}, ", "").replace(f" {preposition} a {word}", "")
    return caption


def test_the_small_world_holds_no_wordings_out():
    with pytest.raises(DataError, match="full"):
        make_clip(0, wording="heldout")
