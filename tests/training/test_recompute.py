"""Gradient checkpointing changes what is kept, and no gradient."""

import pytest
import torch
from diffusers import UNet3DConditionModel

from text2video.models.unet3d import UNet3D
from text2video.training.recompute import can_recompute, recompute


def modelscope() -> torch.nn.Module:
    return UNet3DConditionModel(
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
        in_channels=3,
        out_channels=3,
    )


def ours() -> torch.nn.Module:
    attention = ("time", "none")
    return UNet3D(3, 3, 16, 16, (1, 2), num_res_blocks=1, attention=attention, downsample_time=(False,), head_dim=8)


@pytest.mark.parametrize("make", [modelscope, ours])
def test_gradients_are_the_same_and_less_is_kept(make):
    torch.manual_seed(0)
    model = make()
    assert can_recompute(model)
    for parameter in model.parameters():  # no branch is silent at the start
        torch.nn.init.normal_(parameter, std=0.05)
    x, text = torch.randn(2, 3, 4, 16, 16), torch.randn(2, 6, 16)

    def step() -> tuple[int, list[torch.Tensor]]:
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        model.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(x, torch.tensor([10.0, 500.0]), text, return_dict=False)[0].square().mean()
        loss.backward()
        return sum(kept.values()), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    whole, gradients = step()
    recompute(model.train())
    less, again = step()
    assert less < 0.6 * whole
    assert len(again) == len(gradients)
    for one, other in zip(gradients, again, strict=True):
        torch.testing.assert_close(one, other)


def test_what_keeps_little_is_left_as_it_is():
    assert not can_recompute(torch.nn.Linear(2, 2))
    recompute(torch.nn.Linear(2, 2))
