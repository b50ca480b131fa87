import json
import pickle
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from text2video import video
from text2video.data import shapes, shapes_captions
from text2video.data.shapes import MOTIONS, PALETTE, SHAPES, Scene, ShapesDataset, make_clip, render
from text2video.data.shapes_captions import Ask, parse, prompt
from text2video.errors import DataError


def scenes(n, max_objects=1, split="train"):
    return [make_clip(i, 3, split, max_objects)[0] for i in range(n)]


# --- scenes ---


def test_a_clip_depends_on_seed_index_and_split_alone():
    assert make_clip(5, 1) == make_clip(5, 1)
    assert len({make_clip(i, s, split) for i, s, split in product((5, 6), (1, 2), ("train", "heldout"))}) == 8
    assert int(shapes.seeded("a", 1).integers(10**9)) == 34911029  # the same on every machine and in every version


def test_held_out_triples_are_a_tenth_and_every_pair_is_trained():
    train, held_out = shapes.triples("train"), shapes.triples("heldout")
    assert not set(train) & set(held_out)
    assert 0.08 < len(held_out) / (len(train) + len(held_out)) < 0.12
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert {(t[a], t[b]) for t in held_out} <= {(t[a], t[b]) for t in train}
    for values, position in ((PALETTE, 0), (SHAPES, 1), (MOTIONS, 2)):
        assert {t[position] for t in held_out} == set(values)


@pytest.mark.parametrize("max_objects", [1, 2])
def test_scenes_show_triples_of_their_split_only(max_objects):
    for split in ("train", "heldout"):
        allowed = set(shapes.triples(split))
        made = scenes(300, max_objects, split)
        assert all(thing.triple in allowed for scene in made for thing in scene.things)
        assert {len(scene.things) for scene in made} == set(range(1, max_objects + 1))


def test_everything_there_is_gets_drawn():
    made = scenes(1500)
    things = [scene.things[0] for scene in made]
    assert {scene.background.kind for scene in made} == set(shapes.BACKGROUNDS)
    assert {t.triple for t in things} >= set(shapes.triples("train")[:50])
    assert {(t.motion, t.size) for t in things} == {
        (m, s) for m in MOTIONS for s in ((None,) if m in ("growing", "shrinking") else shapes.RADIUS)
    }
    assert {(t.motion, t.speed) for t in things} == {
        (m, s) for m in MOTIONS for s in ((None,) if m == "still" else shapes.DISTANCE)
    }


def test_only_one_or_two_things():
    with pytest.raises(DataError, match="1 or 2"):
        make_clip(0, max_objects=3)


# --- pictures ---


def test_things_stay_wholly_in_the_frame_and_apart():
    for scene in scenes(100, max_objects=2):
        frames, empty = (render(s, 7, 128, 128).astype(int) for s in (scene, replace(scene, things=())))
        border = np.ones((128, 128), bool)
        border[1:-1, 1:-1] = False
        assert np.array_equal(frames[:, border], empty[:, border])
        if len(scene.things) == 2:
            alone = [render(replace(scene, things=(thing,)), 7, 128, 128) != empty for thing in scene.things]
            assert not (alone[0] & alone[1]).any()


def test_a_thing_alone_passes_near_the_middle_and_two_go_anywhere():
    def offsets(max_objects):
        return [
            max(abs(thing.x - 0.5), abs(thing.y - 0.5))
            for scene in scenes(200, max_objects=max_objects)
            if len(scene.things) == max_objects
            for thing in scene.things
        ]

    assert max(offsets(1)) < 0.1 + 0.05  # a large triangle's own middle lies below the frame's
    assert max(offsets(2)) > 0.25


def test_every_resolution_and_frame_count_shows_the_same_clip():
    for scene in scenes(20):
        small, large = render(scene, 5, 32, 32), render(scene, 9, 128, 128)
        shrunk = large[::2].reshape(5, 32, 4, 32, 4, 3).mean((2, 4))
        assert np.abs(shrunk - small).max() < 80  # at the corners of a triangle
        assert np.abs(shrunk - small).mean() < 0.6


def test_a_wide_frame_holds_the_scene_undistorted_in_its_middle():
    scene = Scene(scenes(1)[0].things, shapes.Background("plain"))
    wide = render(scene, 4, 32, 64)
    assert wide.shape == (4, 32, 64, 3)
    assert wide.dtype == np.uint8
    assert np.array_equal(wide[:, :, 16:48], render(scene, 4, 32, 32))


def test_one_frame_shows_the_middle_of_the_clip():
    scene = scenes(1)[0]
    assert np.array_equal(render(scene, 1)[0], render(scene, 3)[1])


def test_edges_are_soft_and_insides_have_the_colour():
    thing = shapes.Thing("blue", "circle", "still", "large", None)
    picture = render(Scene((thing,), shapes.Background("plain")), 1)[0]
    assert tuple(picture[32, 32]) == PALETTE["blue"]
    assert len(np.unique(picture[..., 2])) >= 8


def test_fast_goes_at_least_twice_as_far_as_slow_and_large_is_clearly_larger():
    for speeds in (shapes.DISTANCE, shapes.GROWTH, shapes.TURN):
        assert speeds["fast"] >= 2 * speeds["slow"]
    assert shapes.RADIUS["large"] >= 1.5 * shapes.RADIUS["small"]


# --- captions ---


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
    tables = [shapes_captions.SHAPE_WORDS, shapes_captions.SIZE_WORDS, shapes_captions.SPEED_WORDS]
    tables += [shapes_captions.DIRECTION_WORDS, shapes_captions.BACKGROUND_WORDS]
    for word in [w for table in tables for words in table.values() for w in words]:
        assert word in text
    for finite, participle in [p for pairs in shapes_captions.CHANGE_WORDS.values() for p in pairs]:
        assert finite in text
        assert participle in text


def test_grammar_and_world_know_the_same_things():
    assert tuple(PALETTE) == shapes_captions.COLOURS
    assert tuple(shapes_captions.SHAPE_WORDS) == SHAPES
    assert (*shapes_captions.DIRECTION_WORDS, *shapes_captions.CHANGE_WORDS) == MOTIONS
    assert tuple(shapes_captions.BACKGROUND_WORDS) == shapes.BACKGROUNDS


def test_every_scene_has_many_prompts():
    scene = scenes(1)[0]
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


# --- files and tensors ---


def test_written_clips_are_the_clips(tmp_path):
    seen = []
    folder = shapes.write(tmp_path / "a" / "demo", 6, seed=4, num_frames=5, size=32, progress=lambda *p: seen.append(p))
    assert seen == [(i, 6) for i in range(1, 7)]
    assert sorted(p.name for p in folder.iterdir()) == ["captions", "scenes.jsonl", "videos"]
    assert [p.name for p in folder.parent.iterdir()] == ["demo"]
    rows = [json.loads(line) for line in (folder / "scenes.jsonl").read_text(encoding="utf-8").splitlines()]
    for index, row in enumerate(rows):
        scene, caption = make_clip(index, 4)
        assert row["id"] == shapes.clip_id(index)
        assert row["things"][0]["colour"] == scene.things[0].colour
        assert (folder / "captions" / f"{row['id']}.txt").read_text(encoding="utf-8") == caption + "\n"
        frames, times = video.read(folder / "videos" / f"{row['id']}.mp4")
        assert np.abs(frames.astype(int) - render(scene, 5, 32, 32)).mean() < 6
        assert times == pytest.approx(np.arange(5) / 8, abs=1e-3)


def test_an_empty_folder_may_be_named_but_a_full_one_is_left_alone(tmp_path):
    shapes.write(tmp_path / "new", 1, num_frames=2, size=16)
    (tmp_path / "empty").mkdir()
    shapes.write(tmp_path / "empty", 1, num_frames=2, size=16)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="already holds something"):
        shapes.write(tmp_path / "full", 1, num_frames=2, size=16)
    with pytest.raises(DataError, match="already holds something"):
        shapes.write(tmp_path / "full" / "notes.txt", 1, num_frames=2, size=16)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["notes.txt"]
    with pytest.raises(DataError, match="0 clips"):
        shapes.write(tmp_path / "none", 0)


def test_nothing_half_written_stays(tmp_path):
    def interrupt(done, clips):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shapes.write(tmp_path / "demo", 4, num_frames=2, size=16, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_dataset_items():
    dataset = ShapesDataset(5, seed=4, num_frames=6, height=24, width=32)
    assert len(dataset) == len(dataset.ids) == len(set(dataset.ids)) == 5
    item = dataset[3]
    assert item["id"] == dataset.ids[3]
    assert item["conditions"] == {}
    assert item["video"].shape == (3, 6, 24, 32)
    assert item["video"].dtype == torch.float32
    assert item["video"].is_contiguous()
    scene, caption = make_clip(3, 4)
    assert item["caption"] == dataset.caption(3) == caption
    assert dataset.shape(3) == (6, 24, 32)
    back = ((item["video"] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()
    assert np.array_equal(back, render(scene, 6, 24, 32))
    assert -1 <= item["video"].min() < item["video"].max() <= 1
    with pytest.raises(IndexError):
        dataset[5]


def test_the_wording_changes_with_the_epoch_and_the_video_does_not():
    dataset = pickle.loads(pickle.dumps(ShapesDataset(3, num_frames=2, height=16, width=16)))
    items = [dataset[1, epoch] for epoch in range(20)]
    assert len({item["caption"] for item in items}) > 10
    assert all(torch.equal(item["video"], items[0]["video"]) for item in items)
    assert dataset[1, 7]["caption"] == items[7]["caption"]
