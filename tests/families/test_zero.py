"""Text2Video-Zero: the frames of plain diffusers from a model of images, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import stable_diffusion
from contract import aligned, equals_diffusers, opened, trained

from text2video.errors import ModelError, UsageError
from text2video.families.opening import family_of
from text2video.families.zero import turning_points
from text2video.generation import Settings, generate

SMALL = Settings(num_frames=3, height=16, width=16, num_inference_steps=5, guidance_scale=3.0, seed=5)
ZERO = "TextToVideoZeroPipeline"


def zero(folder: Path) -> None:
    """`TextToVideoZeroPipeline`, as diffusers saves it."""
    from diffusers import TextToVideoZeroPipeline

    stable_diffusion(folder)
    pipe = TextToVideoZeroPipeline.from_pretrained(folder, safety_checker=None, feature_extractor=None)
    pipe.save_pretrained(folder)


def bare(folder: Path, generator: torch.Generator, **settings) -> torch.Tensor:
    from diffusers import TextToVideoZeroPipeline

    pipe = aligned(TextToVideoZeroPipeline.from_pretrained(folder, safety_checker=None, feature_extractor=None))
    call = {"video_length": 3, "height": 16, "width": 16, "num_inference_steps": 5, "guidance_scale": 3.0}
    images = pipe("a red circle", **call, t0=2, t1=3, generator=generator, **settings).images
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def test_a_model_of_images_equals_diffusers(made):
    folder = made(stable_diffusion)
    equals_diffusers(folder, lambda generator: bare(folder, generator), SMALL, pipeline=ZERO)


def test_its_own_folder_and_options_equal_diffusers(made):
    folder, options = made(zero), {"motion_field_strength_x": 40.0, "motion_field_strength_y": -7.0}
    settings = Settings(**{**vars(SMALL), "options": options})
    moved = equals_diffusers(folder, lambda generator: bare(folder, generator, **options), settings)
    (usual,) = generate(*opened(folder), ["a red circle"], SMALL)
    assert not np.array_equal(moved.frames, usual.frames)


def test_motion_enters_at_the_published_noise_levels():
    assert turning_points(50) == (44, 47)
    assert turning_points(25) == (22, 23)
    for steps in range(3, 60):
        t_0, t_1 = turning_points(steps)
        assert 0 <= t_0 < t_1 <= steps - 2
    with pytest.raises(UsageError, match="3 or more sampling steps"):
        turning_points(2)


def test_steps_are_counted_over_the_whole_video(made):
    family, pipe = opened(made(stable_diffusion), pipeline=ZERO)
    steps = []
    list(generate(family, pipe, ["a", "b"], SMALL, on_step=lambda *step: steps.append(step)))
    assert steps == [(step, 6) for step in range(1, 7)] * 2


@pytest.mark.parametrize("name", ["ddim", "dpm++", "unipc"])
def test_samplers(made, name):
    family, pipe = opened(made(stable_diffusion), pipeline=ZERO)
    (result,) = generate(family, pipe, ["a red circle"], Settings(**{**vars(SMALL), "scheduler": name}))
    assert result.frames.shape == (3, 16, 16, 3)


def test_what_it_cannot_do_is_said(made, few_clips, tmp_path):
    family, pipe = opened(made(stable_diffusion), pipeline=ZERO)
    clip = min((few_clips / "videos").iterdir())
    for wrong, words in (
        ({"guidance_scale": 1.0}, "needs guidance"),
        ({"video": clip}, "does not do video-to-video"),
        ({"scheduler": "euler"}, "no sampler 'euler'"),
        ({"height": 17}, "height 17"),
    ):
        with pytest.raises(UsageError, match=words):
            next(generate(family, pipe, ["a"], Settings(**{**vars(SMALL), **wrong})))
    with pytest.raises(UsageError, match="cannot be trained"):
        trained(made(zero), few_clips, tmp_path / "run", "--num_frames", "4", "--frame_size", "16")
    with pytest.raises(UsageError, match=r"cannot be opened as 'TextToVideoSDPipeline'. Choose TextToVideoZero"):
        opened(made(stable_diffusion), pipeline="TextToVideoSDPipeline")
    with pytest.raises(UsageError, match="Leave out --pipeline"):
        family_of(made(zero), "ZeroPipeline")
    (tmp_path / "model_index.json").write_text('{"_class_name": "TextToVideoZeroPipeline"}')
    with pytest.raises(ModelError, match="cannot be opened"):
        opened(tmp_path)
