"""Noise levels of their own for blocks of frames: what is drawn, and what is learned from it."""

import pytest
import torch

from text2video.diffusion.objectives import Batch, TextToVideoDiffusion, expand, levels_of_blocks, target


def test_every_block_has_its_own_level_and_some_begin_clean():
    u = (torch.arange(600) + 0.5) / 600
    levels, learned = levels_of_blocks(u, 8, 3)
    assert levels.shape == learned.shape == (600, 8)
    assert torch.equal(levels[:, [0, 3, 6]], levels[:, [2, 5, 7]])  # blocks of 3, 3 and 2 frames
    assert all(torch.equal(*pair) for pair in zip(levels_of_blocks(u, 8, 3), (levels, learned), strict=True))
    first, second, third = levels[:, [0, 3, 6]].T
    assert torch.corrcoef(torch.stack([first, second, third])).fill_diagonal_(0).abs().max() < 0.15
    for level in (first, second, third):
        assert (abs(level.mean() - 0.5) < 0.05, abs(level.var() - 1 / 12) < 0.01) == (True, True)
    # a third of half the clips begins with one clean block, a third with two; what is clean comes first
    begins = 8 - learned.sum(1)
    assert set(begins.tolist()) == {0, 3, 6}
    assert (begins.bincount(minlength=7)[[3, 6]] / 600 - 1 / 6).abs().max() < 0.06
    assert (learned.int().diff(dim=1) >= 0).all()
    assert torch.equal(levels[torch.arange(600), begins], u)


@pytest.mark.parametrize("path", ["cosine", "flow"])
@pytest.mark.parametrize("prediction", ["v", "x0", "flow"])
@pytest.mark.parametrize("weighting", ["uniform", "min_snr"])
def test_the_oracle_of_blocks_has_no_loss_and_clean_frames_teach_nothing(path, prediction, weighting):
    x_0 = torch.rand(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    batch = Batch(x_0, torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1)), torch.tensor([0.61, 0.3]))
    forced = {"forcing": "independent", "block": 2}
    objective = TextToVideoDiffusion(path, prediction=prediction, weighting=weighting, **forced)
    _, learned = levels_of_blocks(batch.u, 4, 2)
    assert learned.all(1).tolist() == [True, False]  # the second clip begins clean
    seen = {}

    def oracle(x_t, t, condition, wrong=0.0):
        seen.update(x_t=x_t, t=t)
        alpha, sigma = (expand(level, x_t) for level in objective.schedule.alpha_sigma(t))
        answer = target(prediction, x_0, (x_t - alpha * x_0) / sigma.clamp(min=1e-6), alpha, sigma)
        return torch.where(expand(learned, x_t), answer + wrong, 1e3)  # of clean frames anything

    assert objective.loss(oracle, batch).item() < 1e-5
    assert seen["t"].shape == (2, 4)
    torch.testing.assert_close(seen["x_t"][1, :, :2], x_0[1, :, :2], atol=0.01 if path == "flow" else 0.1, rtol=0)
    if weighting == "uniform":
        assert objective.loss(lambda *asked: oracle(*asked, wrong=0.5), batch).item() == pytest.approx(0.25, abs=1e-3)


def test_the_loss_of_blocks_is_that_of_the_closed_form_gaussian():
    """Data ~ N(0, s^2), by frame: the best answer and what it gets wrong are known at each frame's level."""
    s, shape = 0.5, (64, 3, 6, 8, 8)
    x_0, noise = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    batch = Batch(s * x_0, noise, (torch.arange(64) + 0.5) / 64)
    objective = TextToVideoDiffusion("flow", prediction="x0", forcing="independent", block=2)

    def best(x_t, t, condition):
        alpha, sigma = (expand(level, x_t) for level in objective.schedule.alpha_sigma(t))
        return alpha * s**2 / (alpha**2 * s**2 + sigma**2) * x_t

    levels, learned = levels_of_blocks(batch.u, 6, 2)
    left = s**2 * levels**2 / ((1 - levels) ** 2 * s**2 + levels**2)  # the posterior's variance
    wanted = ((left * learned).sum(1) / learned.sum(1)).mean().item()
    assert objective.loss(best, batch).item() == pytest.approx(wanted, rel=0.01)
    # one level for all frames of a clip would be another figure
    assert TextToVideoDiffusion("flow", prediction="x0").loss(best, batch).item() != pytest.approx(wanted, rel=0.03)
