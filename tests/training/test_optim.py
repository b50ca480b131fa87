"""Optimisers move weights as their papers say; the learning rate is a function of the step alone."""

import pytest
import torch

from text2video.errors import UsageError
from text2video.sections import OptimConfig
from text2video.training.muon import Muon, orthogonal
from text2video.training.optim import learning_rate, make_optimizer


def test_orthogonal_brings_singular_values_near_one():
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(shape, generator=generator) for shape in ((16, 48), (48, 16), (32, 32), (16, 99), (16, 48))]
    for matrix, result in zip(matrices, orthogonal([1e-3 * m.bfloat16() for m in matrices]), strict=True):
        assert result.shape == matrix.shape
        values = torch.linalg.svdvals(result.float())
        assert values.max() < 1.35
        assert values.median() > 0.6
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        assert torch.cosine_similarity((left @ right).flatten(), result.float().flatten(), dim=0) > 0.95


def test_a_matrix_of_one_direction_stays_bounded():
    """All of a Gram matrix but one eigenvalue is rounding then."""
    single = torch.randn(96, 1, generator=torch.Generator().manual_seed(0)) * torch.linspace(-1, 1, 500)
    (result,) = orthogonal([single.bfloat16()])
    assert 0.6 < torch.linalg.svdvals(result.float()).max() < 1.35
    assert not orthogonal([torch.zeros(4, 6, dtype=torch.bfloat16)])[0].any()


def test_what_is_not_hidden_follows_adamw():
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(7)) for _ in range(2))
    muon = Muon([{"params": [ours], "lr": 0.01, "hidden": False, "weight_decay": 0.1}], betas=(0.9, 0.99))
    adamw = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    for _ in range(5):
        ours.grad = theirs.grad = torch.randn(7)
        muon.step()
        adamw.step()
    torch.testing.assert_close(ours, theirs)


def test_muon_takes_hidden_matrices_only():
    model = torch.nn.ModuleDict(
        {
            "token_embedding": torch.nn.Embedding(5, 8),
            "text_embedding": torch.nn.Linear(8, 8),
            "layer": torch.nn.Conv3d(8, 8, 3),
            "leave": torch.nn.Linear(8, 2),
        }
    )
    names = {p: name for name, p in model.named_parameters()}
    optimizer = make_optimizer(OptimConfig(optimizer="muon", learning_rate=0.001), names, names)
    hidden = [names[p] for group in optimizer.param_groups if group["hidden"] for p in group["params"]]
    assert hidden == ["layer.weight"]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    assert [group["peak_lr"] for group in optimizer.param_groups] == [0.02, 0.02, 0.001, 0.001]
    assert [names[p] for p in optimizer.param_groups[1]["params"]] == ["token_embedding.weight"]


def test_a_state_that_is_saved_goes_on_the_same():
    torch.manual_seed(0)
    start, gradients = torch.randn(8, 12), torch.randn(6, 8, 12)

    def run(parameter, optimizer, some):
        for gradient in some:
            parameter.grad = gradient.clone()
            optimizer.step()

    group = {"lr": 0.02, "hidden": True, "weight_decay": 0.0}
    whole, first = (torch.nn.Parameter(start.clone()) for _ in range(2))
    run(whole, Muon([{"params": [whole], **group}]), gradients)
    before = Muon([{"params": [first], **group}])
    run(first, before, gradients[:3])
    second = torch.nn.Parameter(first.detach().clone())
    after = Muon([{"params": [second], **group}])
    after.load_state_dict(before.state_dict())
    run(second, after, gradients[3:])
    assert torch.equal(second, whole)


def test_learning_rate_warms_up_then_anneals():
    config = OptimConfig(warmup_steps=10, min_lr_ratio=0.1)
    rates = [learning_rate(config, step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)
    assert learning_rate(OptimConfig(lr_schedule="constant"), 5000, 6000) == 1


def test_unknown_optimizers_are_said():
    with pytest.raises(UsageError, match="adamw, adamw8bit, muon"):
        make_optimizer(OptimConfig(optimizer="sgdd"), [torch.nn.Parameter(torch.ones(2))])


@pytest.mark.parametrize("library", ["bitsandbytes", "torchao"])
def test_eight_bit_adamw_goes_where_adamw_goes(library, monkeypatch, tmp_path):
    pytest.importorskip(library)
    monkeypatch.setattr("text2video.training.optim.find_spec", lambda name: name == library or None)
    weights = []
    for name in ("adamw", "adamw8bit"):
        torch.manual_seed(0)
        own = [torch.nn.Parameter(torch.ones(64, 128)), torch.nn.Parameter(torch.ones(7))]
        optimizer = make_optimizer(OptimConfig(optimizer=name, learning_rate=0.01, weight_decay=0.1), own)
        for step in range(5):
            if step == 3:  # as a resumed run
                torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
                optimizer = make_optimizer(OptimConfig(optimizer=name, learning_rate=0.01, weight_decay=0.1), own)
                optimizer.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
            for group in optimizer.param_groups:
                group["lr"] = 0.01 / (step + 1)
            for parameter in own:
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        weights.append(own)
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, atol=5e-3, rtol=0)


def test_eight_bit_adamw_without_its_library_is_said(monkeypatch):
    monkeypatch.setattr("text2video.training.optim.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install bitsandbytes"):
        make_optimizer(OptimConfig(optimizer="adamw8bit"), [torch.nn.Parameter(torch.ones(2, 2))])


def test_a_class_that_is_no_optimizer_is_said():
    with pytest.raises(UsageError, match=r"json:JSONDecoder is no torch\.optim\.Optimizer"):
        make_optimizer(OptimConfig(optimizer="json:JSONDecoder"), [torch.nn.Parameter(torch.ones(2, 2))])
