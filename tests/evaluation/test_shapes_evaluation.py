"""The exact evaluation, on painters that know the answer: one that is always right, one that errs in a known way."""

import json

import numpy as np
import pytest
import torch

from text2video.cli.evaluate import world_of
from text2video.cli.results import table
from text2video.config import RunConfig
from text2video.data import shapes
from text2video.data.shapes import SMALL, parse
from text2video.diffusion.schedules import Schedule
from text2video.errors import DataError, UsageError
from text2video.evaluation.metrics import ALL, MAIN
from text2video.evaluation.shapes import SHOWN, chance, evaluate_shapes, heldout_prompts, shuffled, split_prompts
from text2video.families.native import NativeFamily
from text2video.generation import Settings

MODEL = {"num_frames": 16, "height": 32, "width": 32, "fps": 8.0, "num_inference_steps": 4} | {
    "guidance_scale": 2.0,
    "guidance_interval": None,
}


class Pipe:
    """What evaluation asks of a pipeline besides sampling."""

    config = MODEL
    scheduler = Schedule("flow").sampler()


class Painter(NativeFamily):
    """A family whose videos are the scenes that the prompts are captions of, painted exactly.

    Args:
        wrong: every n-th video shows another scene.
    """

    def __init__(self, split="heldout", max_objects=1, wrong=None):
        super().__init__()
        scenes = [shapes.make_clip(i, 0, split, max_objects) for i in range(64)]
        self.scenes = {caption: scene for scene, caption in scenes}
        self.wrong, self.calls = wrong, []

    def sample(self, pipe, prompts, generators, on_step=None, **settings):
        videos = []
        for prompt, generator in zip(prompts, generators, strict=True):
            seed = generator.initial_seed()
            self.calls.append((prompt, seed))
            miss = self.wrong and seed % self.wrong == 0
            scene = next(s for c, s in self.scenes.items() if differs(c, prompt)) if miss else self.scenes[prompt]
            frames = torch.from_numpy(shapes.render(scene, 16, 32, 32)).permute(3, 0, 1, 2)
            videos.append(frames.float() / 127.5 - 1)
        return torch.stack(videos)

    def trainable(self, pipe):
        return {"unet": torch.nn.Linear(3, 4)}


def differs(one, other):
    a, b = (parse(text).things[0] for text in (one, other))
    return a.colour != b.colour and a.shape != b.shape and a.motion != b.motion


def test_prompts_are_the_first_of_the_held_out_scenes():
    prompts = heldout_prompts(40)
    assert prompts[:10] == heldout_prompts(10)
    assert prompts != heldout_prompts(40, seed=1)
    for prompt in prompts:
        (thing,) = parse(prompt).things
        assert SMALL.is_held_out(thing.colour, thing.shape, thing.motion)
    for prompt in split_prompts("train", 40):
        (thing,) = parse(prompt).things
        assert not SMALL.is_held_out(thing.colour, thing.shape, thing.motion)


def test_prompts_are_of_the_world_and_in_the_wording_asked_for():
    trained = split_prompts("heldout", 60, 0, 3, "full")
    held_out = split_prompts("heldout", 60, 0, 3, "full", "heldout")
    assert not set(trained) & set(held_out)
    assert {len(parse(prompt).things) for prompt in trained} == {1, 2, 3}
    for one, other in zip(trained, held_out, strict=True):  # the same scenes in other words
        assert [thing.motion for thing in parse(one).things] == [thing.motion for thing in parse(other).things]
    with pytest.raises(UsageError, match="1 or 2"):
        evaluate_shapes(Painter(), Pipe(), 4, max_objects=3)
    with pytest.raises(DataError, match="full"):
        evaluate_shapes(Painter(), Pipe(), 4, wording="heldout")


def test_a_run_is_evaluated_on_its_own_world(tmp_path):
    for number, (options, world) in enumerate(((["--world", "full"], "full"), ([], "small"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        config = RunConfig.build({}, ["--shapes", "--output_dir", str(folder), *options])
        (folder / "run.yaml").write_text(config.to_yaml(), encoding="utf-8")
        assert world_of(folder) == world
    assert world_of(None) == "small"


def test_a_perfect_painter_is_right_and_shuffled_prompts_are_at_chance():
    seen = []
    result = evaluate_shapes(Painter(), Pipe(), 40, batch_size=16, on_progress=lambda *now: seen.append(now))
    assert result.accuracy.rate == 1.0
    assert all(rate.rate > 0.9 for rate in result.rates.values())
    for name, p in result.chance.items():
        assert abs(result.control[name].rate - p) < 3 * (p * (1 - p) / 40) ** 0.5
    assert (len(seen), seen[-1], len(result.shown)) == (40, (40, 40), SHOWN)


def test_every_prompt_is_sampled_once_with_its_own_seed():
    painter = Painter()
    result = evaluate_shapes(painter, Pipe(), 10, batch_size=4)
    assert painter.calls == list(zip(heldout_prompts(10), range(10), strict=True))
    assert [(row.prompt, row.seed) for row in result.rows] == painter.calls


def test_wrong_videos_count_as_wrong():
    result = evaluate_shapes(Painter(wrong=4), Pipe(), 16)
    assert [row.right for row in result.rows] == [seed % 4 != 0 for seed in range(16)]
    assert (result.accuracy.successes, result.accuracy.n) == (12, 16)
    assert result.accuracy.low < 0.75 < result.accuracy.high


def test_two_things_and_trained_combinations():
    result = evaluate_shapes(Painter("train", 2), Pipe(), 16, split="train", max_objects=2)
    assert result.accuracy.rate >= 0.9
    assert result.rates["colour"].n == sum(len(parse(row.prompt).things) for row in result.rows) > 16
    assert result.chance == {}


def test_the_result_is_saved_as_json_and_pictures(tmp_path):
    result = evaluate_shapes(Painter(wrong=2), Pipe(), 4, Settings(guidance_scale=1.5), model="runs/a/final")
    written = result.save(tmp_path / "new")
    assert [path.name for path in written] == ["evaluation.json", "sheet.png"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["evaluation.json", "sheet.png"]
    stored = json.loads(written[0].read_text(encoding="utf-8"))
    assert stored["rates"][MAIN]["rate"] == 0.5
    assert [row["right"] for row in stored["prompts"]] == [False, True, False, True]
    assert stored["settings"]["guidance_scale"] == 1.5
    assert stored["settings"]["num_inference_steps"] == 4
    assert stored["parameters"] == {"unet": 16}
    result.save(tmp_path / "new")  # a second evaluation takes the place of the first


def test_one_prompt_is_refused():
    with pytest.raises(UsageError, match="num_prompts is 1"):
        evaluate_shapes(Painter(), Pipe(), 1)


@pytest.mark.parametrize("n", [2, 3, 50])
def test_shuffling_leaves_no_prompt_in_its_place(n):
    prompts = [str(i) for i in range(n)]
    others = shuffled(prompts)
    assert sorted(others) == sorted(prompts)
    assert all(one != other for one, other in zip(prompts, others, strict=True))


def test_chance_is_how_often_two_prompts_agree():
    prompts = ["a red circle moves left", "a red square moves left", "a blue circle grows"]
    assert chance(prompts) == pytest.approx({"colour": 1 / 3, "shape": 1 / 3, "motion": 1 / 3, MAIN: 0.0})
    assert np.isclose(chance(heldout_prompts(300))[MAIN], 1 / 29, atol=0.01)  # there are 29 held-out triples


def test_whole_videos_are_counted_by_how_many_things_they_were_to_show(tmp_path):
    result = evaluate_shapes(Painter("train", 2, wrong=3), Pipe(), 24, split="train", max_objects=2)
    by_things = result.by_things
    assert set(by_things) == {1, 2}
    for name in (MAIN, ALL):
        parts = [by_things[number][name] for number in by_things]
        whole = result.rates[name]
        assert (sum(p.successes for p in parts), sum(p.n for p in parts)) == (whole.successes, whole.n)
    lines = table(result)
    assert [line for line in lines if line in ("one thing", "2 things")] == ["one thing", "2 things"]
    stored = json.loads(result.save(tmp_path)[0].read_text(encoding="utf-8"))
    assert stored["by_things"]["2"][ALL]["n"] == by_things[2][ALL].n
    assert len(table(evaluate_shapes(Painter(), Pipe(), 4))) == 1 + len(result.rates)
