"""What every pretrained family has to keep, checked the same way for each of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from text2video.config import RunConfig
from text2video.diffusion.objectives import expand, target
from text2video.families.base import Family, Opening, open_model
from text2video.generation import Settings, generate, to_uint8
from text2video.training.trainer import train

CPU = torch.device("cpu")


def opened(folder: Path, **opening: Any) -> tuple[Family, Any]:
    """Family and pipeline of a folder, in float32 on the CPU."""
    return open_model(folder, CPU, torch.float32, Opening(**opening))


def equals_diffusers(folder: Path, bare: Callable[[torch.Generator], torch.Tensor], settings: Settings, **opening: Any):
    """The frames of our path are those of the bare pipeline with the same seed.

    Args:
        bare: generator -> frames `[T, 3, H, W]` in [0, 1], by plain diffusers.
    """
    family, pipe = opened(folder, **opening)
    (ours,) = generate(family, pipe, ["a red circle"], settings)
    theirs = bare(torch.Generator().manual_seed(settings.seed))
    wanted = to_uint8(theirs.transpose(0, 1) * 2 - 1)
    assert ours.frames.shape == wanted.shape
    assert np.array_equal(ours.frames, wanted)
    return ours


class Oracle(nn.Module):
    """Stands in for a denoiser and answers what its objective asks for, given that it knows x_0.

    It does not know how the family lays latents out: it is shown x_0 once through `Family.predict`, as the denoiser
    would see it, and works in that layout.

    Args:
        model: that it stands for: whatever else is asked of it, such as its configuration, is that model's.
        timestep: how the model's timestep becomes the schedule's.
        clean: how the model's input becomes x_t, where conditions are laid beside it.
    """

    def __init__(self, model: nn.Module, family: Family, pipe: Any, timestep=lambda t: t, clean=lambda sample: sample):
        super().__init__()
        self.__dict__["model"] = model
        self.schedule, self.prediction = family.schedule(pipe), family.prediction(pipe)
        self.timestep, self.clean = timestep, clean
        self.x_0: torch.Tensor | None = None
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["model"], name)

    def show(self, family: Family, pipe: Any, name: str, x_0: torch.Tensor, condition: Mapping[str, Any]) -> None:
        """Be shown x_0 in the layout of the denoiser; `predict` has to give back what comes out of it unchanged."""
        self.x_0 = None
        back = family.predict(pipe, {name: self}, x_0, torch.full((len(x_0),), 500.0), dict(condition))
        assert torch.equal(back, x_0), "predict changes what the denoiser answers"

    def forward(self, sample: Any = None, timestep: Any = None, *args: Any, **kwargs: Any) -> Any:
        sample = kwargs.get("hidden_states", sample)
        x_t = self.clean(sample)
        if self.x_0 is None:
            self.x_0 = x_t
            return (x_t,)
        self.calls += 1
        t = self.timestep(torch.as_tensor(timestep).float().reshape(-1)[:1])
        alpha, sigma = (expand(level, x_t) for level in self.schedule.alpha_sigma(t))
        x_0 = self.x_0.expand_as(x_t)
        return (target(self.prediction, x_0, (x_t - alpha * x_0) / sigma, alpha, sigma),)


def lands_on_x_0(
    folder: Path, name: str, run: Callable[[Any], torch.Tensor], latents: tuple[int, ...], **how: Any
) -> None:
    """The oracle: a denoiser that answers the objective's own target, in the family's own sampler, gives x_0.

    Args:
        name: of the denoiser in the pipeline.
        run: pipeline -> normalised latents `[1, C, t, h, w]` that it ended with.
        latents: shape of x_0.
        how: of `Oracle`; `condition` for `predict`.
    """
    family, pipe = opened(folder)
    condition = how.pop("condition", None) or family.encode_text(pipe, {}, ["a red circle"])
    oracle = Oracle(getattr(pipe, name), family, pipe, **how)
    x_0 = torch.randn(latents, generator=torch.Generator().manual_seed(9))
    oracle.show(family, pipe, name, x_0, condition)
    setattr(pipe, name, oracle)
    found = run(pipe)
    assert oracle.calls > 1
    torch.testing.assert_close(found.float(), x_0, atol=1e-5, rtol=1e-5)


def trained(folder: Path, data: Path, output: Path, *flags: str) -> Path:
    """The result of two steps on a folder of clips."""
    tokens = ["--model", str(folder), "--preset", "finetune", "--data_dir", str(data), "--output_dir", str(output)]
    tokens += ["--max_steps", "2", "--batch_size", "2", "--save_steps", "1", "--eval_steps", "2", "--val_samples", "2"]
    tokens += [
        "--mixed_precision",
        "no",
        "--learning_rate",
        "1e-3",
        "--num_workers",
        "0",
        "--no_wandb",
        "--sample_steps",
        "0",
    ]
    tokens += ["--no_tensorboard", "--device", "cpu", "--warmup_steps", "0", *flags]
    return train(RunConfig.build({}, tokens))


def learned(before: Any, after: Any, name: str) -> bool:
    """Whether a part's weights differ between two pipelines."""
    old, new = getattr(before, name).state_dict(), getattr(after, name).state_dict()
    return any(not torch.equal(value, new[key]) for key, value in old.items())


def full_training_works(folder: Path, clips: Path, output: Path, settings: Settings, *flags: str) -> None:
    """Two steps change the denoisers alone; the result opens, generates, and equals itself when saved and opened."""
    final = trained(folder, clips, output, *flags)
    _, before = opened(folder)
    family, after = opened(final)
    for name in family.denoisers(after):
        assert learned(before, after, name)
    frozen = [name for name, part in after.components.items() if isinstance(part, nn.Module)]
    assert not any(learned(before, after, name) for name in frozen if name not in family.trainable(after))
    (first,) = generate(family, after, ["a red circle"], settings)
    family.save(after, output / "again")
    (again,) = generate(*opened(output / "again"), ["a red circle"], settings)
    assert np.array_equal(first.frames, again.frames)


def lora_training_works(
    folder: Path,
    clips: Path,
    output: Path,
    settings: Settings,
    diffusers: Callable[[Path, torch.Generator], torch.Tensor] | None,
    *flags: str,
) -> Path:
    """Two steps of adapters: what is written generates, changes the frames, and loads in plain diffusers.

    Args:
        diffusers: (folder of the adapter, generator) -> frames `[T, 3, H, W]` in [0, 1]; None: it cannot load any.
    """
    final = trained(folder, clips, output, "--lora", "--rank", "4", "--learning_rate", "0.5", *flags)
    (base,) = generate(*opened(folder), ["a red circle"], settings)
    (adapted,) = generate(*opened(final), ["a red circle"], settings)
    (beside,) = generate(*opened(folder, lora=[final]), ["a red circle"], settings)
    assert not np.array_equal(base.frames, adapted.frames)
    assert np.array_equal(adapted.frames, beside.frames)
    if diffusers:
        theirs = diffusers(final, torch.Generator().manual_seed(settings.seed))
        assert np.array_equal(adapted.frames, to_uint8(theirs.transpose(0, 1) * 2 - 1))
    return final
