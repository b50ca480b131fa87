"""What every pretrained family has to keep, checked the same way for each of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from text2video.config import RunConfig
from text2video.diffusion.objectives import expand, target
from text2video.families.base import Family, Opening
from text2video.families.opening import open_model
from text2video.generation import Settings, generate, to_uint8
from text2video.training.trainer import train

CPU = torch.device("cpu")


def opened(folder: Path, **opening: Any) -> tuple[Family, Any]:
    """Family and pipeline of a folder, in float32 on the CPU."""
    return open_model(folder, CPU, torch.float32, Opening(**opening))


def aligned(pipe: Any) -> Any:
    """A bare pipeline whose weights lie as ours do after opening, and are frozen: the last bits depend on both."""
    for part in pipe.components.values():
        for parameter in part.parameters() if isinstance(part, nn.Module) else ():
            parameter.data = parameter.data.clone()
            parameter.requires_grad_(False)
    return pipe


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
            return Answer((x_t,))
        self.calls += 1
        t = self.timestep(torch.as_tensor(timestep).float().reshape(-1)[-1:])  # of the last token, where each has one
        alpha, sigma = (expand(level, x_t) for level in self.schedule.alpha_sigma(t))
        x_0 = self.x_0.expand_as(x_t)
        return Answer((target(self.prediction, x_0, (x_t - alpha * x_0) / sigma, alpha, sigma),))


class Answer(tuple):
    """What a denoiser answers, as pipelines take it: `answer[0]` or `answer.sample`."""

    @property
    def sample(self) -> torch.Tensor:
        return self[0]


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


def asks_as_diffusers(folder: Path, run: Callable[[Any], Any], frames: torch.Tensor) -> None:
    """Given what a step of the diffusers pipeline starts from, training asks the same denoiser the same.

    Args:
        run: samples "a red circle" with the pipeline, without guidance, from pictures of `frames`.
        frames: `[1, 3, T, H, W]` in [-1, 1], the video that is trained on.
    """
    family, pipe = opened(folder)
    asked: list[tuple[nn.Module, dict[str, Any]]] = []
    for module in family.denoisers(pipe).values():
        module.register_forward_pre_hook(lambda *given: asked.append((given[0], given[2])), with_kwargs=True)
    run(pipe)
    x_0 = family.encode_video(pipe, frames).mean
    for denoiser, theirs in (asked[0], asked[-1]):
        x_t, t = theirs["hidden_states"][:, : x_0.shape[1]], theirs["timestep"].reshape(1, -1)[:, -1]
        text = family.encode_text(pipe, {}, ["a red circle"])
        more = family.conditions(pipe, {"video": frames}, x_0, [torch.Generator().manual_seed(0)])
        family.predict(pipe, family.denoisers(pipe), x_t, t, {**text, **more})
        answered, ours = asked.pop()
        assert answered is denoiser
        given, wanted = ({key for key, value in kwargs.items() if value is not None} for kwargs in (ours, theirs))
        assert given == wanted - {"attention_kwargs"}
        for name in given - {"return_dict"}:
            assert ours[name].shape == theirs[name].shape, name
            assert (ours[name].float() - theirs[name].float()).abs().max() < 1e-6, name


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
    **opening: Any,
) -> Path:
    """Two steps of adapters: what is written generates, changes the frames, and loads in plain diffusers.

    Args:
        diffusers: (folder of the adapter, generator) -> frames `[T, 3, H, W]` in [0, 1]; None: it cannot load any.
        opening: of the base, where that is not as usual.
    """
    final = trained(folder, clips, output, "--lora", "--rank", "4", "--learning_rate", "0.5", *flags)
    (base,) = generate(*opened(folder, **opening), ["a red circle"], settings)
    (adapted,) = generate(*opened(final), ["a red circle"], settings)
    (beside,) = generate(*opened(folder, lora=[final], **opening), ["a red circle"], settings)
    assert not np.array_equal(base.frames, adapted.frames)
    assert np.array_equal(adapted.frames, beside.frames)
    if diffusers:
        theirs = diffusers(final, torch.Generator().manual_seed(settings.seed))
        assert np.array_equal(adapted.frames, to_uint8(theirs.transpose(0, 1) * 2 - 1))
    return final


def asked_in_training(family: Family, pipe: Any, name: str, run: Callable[[Any], Any], ask: Callable[..., Any]) -> None:
    """`Family.predict` asks the denoiser for the same, argument by argument, as the family's own sampler does.

    Args:
        name: of the denoiser in the pipeline.
        run: pipeline -> whatever; it samples.
        ask: (modules, arguments that the sampler gave last) -> calls `predict` with the same x_t.
    """
    model = getattr(pipe, name)
    heard: list[dict[str, Any]] = []
    hook = model.register_forward_pre_hook(lambda _, args, kwargs: heard.append(kwargs), with_kwargs=True)
    run(pipe)
    sampled = heard[-1]
    ask({name: model}, sampled)
    hook.remove()
    asked = heard[-1]
    assert asked is not sampled
    for key in {*sampled, *asked} - {"attention_kwargs"}:
        torch.testing.assert_close(asked.get(key), sampled.get(key), atol=1e-5, rtol=0, check_dtype=False)
