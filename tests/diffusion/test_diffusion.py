"""Predictions are equivalent, samplers land where they must."""

import math

import pytest
import torch

from text2video.diffusion.guidance import guided, sample
from text2video.diffusion.objectives import Batch, TextToVideoDiffusion, convert, expand, target, to_x_0
from text2video.diffusion.schedules import EDM, AutoFlow, Schedule, sampler_name
from text2video.errors import UsageError

SCHEDULES = ("cosine", "linear", "scaled_linear", "flow")
PREDICTIONS = ("epsilon", "v", "x0", "flow")
PATHS = [("cosine", name) for name in ("ddpm", "ddim", "dpm++", "dpm++sde", "unipc", "euler")] + [
    ("flow", name) for name in ("flow", "euler", "dpm++", "dpm++sde", "unipc")
]


def video(seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_goes_from_data_to_noise(name):
    schedule = Schedule(name)
    alpha, sigma = schedule.alpha_sigma(schedule.timesteps(torch.linspace(0.001, 0.999, 50)))
    assert (alpha.diff() <= 0).all()
    assert (sigma.diff() >= 0).all()
    if not schedule.is_flow:
        torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones(50))


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_is_read_back_from_every_sampler(name):
    schedule = Schedule(name, 500, shift=3.0 if name == "flow" else 1.0)
    t = schedule.timesteps(torch.tensor([0.1, 0.7]))
    solvers = ("dpm++", "dpm++sde", "unipc")
    for sampler in ("flow", *solvers) if schedule.is_flow else ("ddpm", "ddim", "euler", *solvers):
        scheduler = schedule.sampler(sampler)
        assert sampler_name(scheduler) == sampler
        again = Schedule.from_scheduler(scheduler)
        assert (again.name, again.num_timesteps, again.shift) == (name, 500, schedule.shift)
        torch.testing.assert_close(again.alpha_sigma(t), schedule.alpha_sigma(t))


@pytest.mark.parametrize("name", ["cosine", "flow"])
@pytest.mark.parametrize("given", PREDICTIONS)
@pytest.mark.parametrize("wanted", PREDICTIONS)
def test_predictions_determine_each_other(name, given, wanted):
    schedule, x_0 = Schedule(name), video()
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1))
    alpha, sigma = (expand(v, x_0) for v in schedule.alpha_sigma(schedule.timesteps(torch.tensor([0.2, 0.6]))))
    x_t = alpha * x_0 + sigma * noise
    output = target(given, x_0, noise, alpha, sigma)
    torch.testing.assert_close(to_x_0(given, output, x_t, alpha, sigma), x_0, atol=1e-5, rtol=1e-5)
    expected = target(wanted, x_0, noise, alpha, sigma)
    torch.testing.assert_close(convert(output, given, wanted, x_t, alpha, sigma), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("path", "sampler"), PATHS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_oracle_lands_on_x_0(path, sampler, prediction):
    """A model that answers the objective's own target must be led to x_0, whatever it predicts."""
    if (path, prediction) == ("flow", "epsilon"):
        with pytest.raises(UsageError, match="pure noise"):
            TextToVideoDiffusion(schedule=path, prediction=prediction)
        return
    schedule, x_0 = Schedule(path), video()

    def oracle(x_t, t, condition):
        alpha, sigma = (expand(v, x_t) for v in schedule.alpha_sigma(t))
        return target(prediction, x_0, (x_t - alpha * x_0) / sigma, alpha, sigma)

    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(2))
    scheduler = schedule.sampler(sampler, prediction)
    result = sample(oracle, scheduler, noise, {}, prediction, 12, torch.Generator().manual_seed(3))
    # epsilon at the last cosine timestep divides by alpha = 5e-5, which amplifies float32 rounding
    tolerance = 1e-3 if prediction in ("epsilon", "flow") and path == "cosine" else 1e-5
    assert (result - x_0).abs().max() < tolerance


@pytest.mark.parametrize(("path", "sampler"), PATHS)
def test_samplers_reach_the_closed_form_gaussian(path, sampler):
    """Data ~ N(mean, std^2): the best prediction is known, and samples must have that mean and deviation."""
    schedule, mean, std = Schedule(path), 0.4, 0.3

    def best(x_t, t, condition):  # E[x_0 | x_t] of a Gaussian
        alpha, sigma = (expand(v, x_t) for v in schedule.alpha_sigma(t))
        return mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x_t - alpha * mean)

    noise = torch.randn(4, 3, 8, 16, 16, generator=torch.Generator().manual_seed(4))
    scheduler = schedule.sampler(sampler, "x0", clip=False)
    steps = 1000 if sampler == "ddpm" else 100
    result = sample(best, scheduler, noise, {}, "x0", steps, torch.Generator().manual_seed(5))
    tolerance = 4 * std / math.sqrt(result.numel()) + 0.01
    assert abs(result.mean().item() - mean) < tolerance
    assert abs(result.std().item() - std) < tolerance


def test_guidance_moves_away_from_the_negative_condition():
    def predict(x_t, t, condition):
        return condition["value"].view(-1, 1, 1, 1, 1).expand_as(x_t)

    x_t, t = torch.zeros(2, 1, 1, 1, 1), torch.zeros(2)
    ask = guided(predict, 3.0, {"value": torch.tensor([1.0, 1.0])})
    assert ask(x_t, t, {"value": torch.tensor([2.0, 5.0])}).flatten().tolist() == [4.0, 13.0]


def test_outside_of_its_interval_guidance_changes_nothing_and_costs_nothing():
    sizes = []

    def predict(x_t, t, condition):
        sizes.append(len(x_t))
        return condition["value"].view(-1, 1, 1, 1, 1).expand_as(x_t)

    ask = guided(predict, 3.0, {"value": torch.tensor([1.0])}, (200.0, 800.0))
    x_t, condition = torch.zeros(1, 1, 1, 1, 1), {"value": torch.tensor([2.0])}
    answers = [ask(x_t, torch.tensor([t]), condition).item() for t in (199.0, 200.0, 800.0, 801.0)]
    assert answers == [2.0, 4.0, 4.0, 2.0]
    assert sizes == [1, 2, 2, 1]


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_min_snr_puts_the_same_weight_on_x_0_for_every_prediction(prediction):
    """weight x (error of the prediction) = min(snr, gamma) x (error of x_0), by construction of the paper."""
    diffusion = TextToVideoDiffusion(prediction=prediction, weighting="min_snr", min_snr_gamma=5.0)
    t = torch.tensor([100.0, 400.0, 700.0])
    x_0 = torch.zeros(3, 1, 1, 1, 1)
    noise, wrong = torch.ones_like(x_0), torch.full_like(x_0, 0.1)
    alpha, sigma = (expand(v, x_0) for v in diffusion.schedule.alpha_sigma(t))
    x_t = alpha * x_0 + sigma * noise
    error = target(prediction, wrong, (x_t - alpha * wrong) / sigma, alpha, sigma) - target(
        prediction, x_0, noise, alpha, sigma
    )
    weighted = diffusion.weight(t) * error.flatten().square()
    torch.testing.assert_close(weighted, diffusion.schedule.snr(t).clamp(max=5.0) * 0.01, rtol=1e-3, atol=1e-6)


def test_edge_weight_adds_the_differences_of_the_error_in_space():
    """An error that alternates by 1 from column to column has mean square 1/4, and differences of mean square 1."""
    x_0 = torch.zeros(1, 1, 2, 4, 4)
    batch = Batch(x_0, torch.zeros_like(x_0), torch.tensor([0.5]))
    stripes = torch.tensor([0.5, -0.5, 0.5, -0.5]).expand_as(x_0)

    def loss(edge_weight, error):
        objective = TextToVideoDiffusion("flow", prediction="x0", edge_weight=edge_weight)
        return objective.loss(lambda x_t, t, condition: error, batch).item()

    assert loss(0.0, stripes) == 0.25
    assert loss(3.0, stripes) == 0.25 + 3.0 * 1.0
    assert loss(3.0, stripes.mT) == 0.25 + 3.0 * 1.0
    assert loss(3.0, torch.full_like(x_0, 0.5)) == 0.25  # no edge in it


def test_timesteps_follow_their_distribution():
    u = (torch.arange(10_000) + 0.5) / 10_000
    even = TextToVideoDiffusion().timesteps(u)
    assert even.unique().numel() == 1000
    normal = (
        TextToVideoDiffusion("flow", prediction="flow", timesteps="logit_normal", logit_mean=0.5).timesteps(u) / 1000
    )
    assert abs(torch.logit(normal[100:-100]).mean().item() - 0.5) < 0.02


def test_continuous_levels_are_log_normal_and_those_of_the_sampler():
    edm = EDM()
    u = (torch.arange(20_000) + 0.5) / 20_000
    t = edm.timesteps(u)
    assert abs((4 * t).mean() - 0.7) < 1e-3
    assert abs((4 * t).std() - 1.6) < 1e-2
    alpha, sigma = edm.alpha_sigma(t)
    torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones_like(t))
    torch.testing.assert_close(edm.snr(t).log(), -8 * t, atol=1e-4, rtol=1e-4)
    sampler = edm.sampler()
    sampler.set_timesteps(5)
    levels = edm.alpha_sigma(sampler.timesteps)
    torch.testing.assert_close(levels[1] / levels[0], sampler.sigmas[:-1], rtol=1e-4, atol=0)


def test_a_perfect_model_has_no_loss():
    diffusion, x_0 = TextToVideoDiffusion(prediction="v"), video()
    noise = torch.randn_like(x_0)

    def perfect(x_t, t, condition):
        alpha, sigma = (expand(v, x_t) for v in diffusion.schedule.alpha_sigma(t))
        return alpha * noise - sigma * x_0

    assert diffusion.loss(perfect, Batch(x_0, noise, torch.tensor([0.3, 0.8]))).item() == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: Schedule("cosin"),
        lambda: Schedule("cosine").sampler("flow"),
        lambda: Schedule("flow").sampler("ddim"),
        lambda: EDM().sampler("ddim"),
        lambda: TextToVideoDiffusion(prediction="noise"),
    ],
)
def test_unknown_names_are_said(make):
    with pytest.raises(UsageError, match=r"Choose|none of|Try"):
        make()


def test_a_larger_video_is_trained_and_sampled_with_more_noise():
    schedule = AutoFlow()
    shifts = [schedule.at_size(shape).shift for shape in ((1, 8, 8), (1, 64, 64), (4, 64, 64), (16, 64, 64))]
    assert shifts == [1, 1, 2, 4]
    objective = TextToVideoDiffusion(schedule=schedule, prediction="flow", timesteps="logit_normal")
    u = torch.linspace(0.01, 0.99, 9)
    small, large = (objective.timesteps(u, shape) for shape in ((1, 64, 64), (16, 64, 64)))
    assert (large > small).all()
    odds = [t / (1000 - t) for t in (small, large)]
    torch.testing.assert_close(odds[1], 4 * odds[0], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("sampler", ["flow", "dpm++", "unipc"])
def test_a_sampler_takes_the_shift_of_the_size_that_is_sampled(sampler, tmp_path):
    scheduler = AutoFlow().sampler(sampler, "flow")
    scheduler.save_pretrained(tmp_path)
    scheduler = type(scheduler).from_pretrained(tmp_path)
    assert isinstance(Schedule.from_scheduler(scheduler), AutoFlow)
    for shape, shift in (((4, 64, 64), 2.0), ((16, 64, 64), 4.0)):
        seen, noise = [], torch.zeros(1, 1, *shape)
        for how in (scheduler, Schedule("flow", shift=shift).sampler(sampler, "flow")):
            asked = []
            sample(lambda x, t, _, asked=asked: asked.append(t) or torch.zeros_like(x), how, noise, {}, "flow", 4)
            seen.append(torch.cat(asked))
        torch.testing.assert_close(*seen, atol=1e-3, rtol=1e-5)
