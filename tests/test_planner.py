"""The planner: what is traced on tensors without contents is what computing really takes."""

import functools

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from text2video.config import RunConfig
from text2video.errors import UsageError
from text2video.families.native import NativeFamily
from text2video.models.text import TextEncoder
from text2video.models.video_vae import VideoVAE
from text2video.planner.cards import CARDS, Card, card_named, parse_bytes, this_cpu
from text2video.planner.facts import facts_of
from text2video.planner.plan import Plan, micro_batch, plan
from text2video.planner.propose import propose, with_savings
from text2video.planner.tracing import META, Work, trace

SMALL = [
    *("--num_frames", "8", "--frame_size", "32", "--model_channels", "32", "--channel_mult", "1", "2"),
    *("--attention", "none", "time", "--downsample_time", "false", "--num_res_blocks", "1", "--text_width", "32"),
    *("--batch_size", "4", "--text_layers", "1", "--sample_steps", "0", "--val_fraction", "0", "--device", "cpu"),
]


def small(*flags: str) -> RunConfig:
    return RunConfig.build({}, [*SMALL, *flags])


@functools.cache
def planned(*flags: str, clips: int | None = None) -> Plan:
    """The plan of a small run on a GPU."""
    return plan(small(*flags), on_gpu=True, clips=clips)


def predicted(module: nn.Module, batch: int, autocast: torch.dtype | None = None, on_gpu: bool = False):
    """What a step of a small U-Net takes, traced."""

    def loss() -> Tensor:
        return step(module, batch)

    return trace(loss, module.parameters(), on_gpu=on_gpu, autocast=autocast, backward=True)


def step(module: nn.Module, batch: int) -> Tensor:
    x = torch.zeros(batch, 3, 8, 32, 32)
    text, mask = torch.zeros(batch, 6, 32), torch.ones(batch, 6, dtype=torch.bool)
    return (module(x, torch.zeros(batch), text, mask, return_dict=False)[0].float() - x).square().mean()


def allocated(run) -> int:
    """The most bytes that torch's allocator had given out at one time while `run` worked."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    now = most = 0
    for event in sorted(found.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


@pytest.mark.parametrize(("autocast", "checkpointing"), [(None, False), (torch.bfloat16, True)])
def test_the_traced_peak_is_what_the_allocator_gives_out(autocast, checkpointing):
    real = NativeFamily.denoiser(small(), 32)
    with torch.device("meta"):
        bare = NativeFamily.denoiser(small(), 32)
    if checkpointing:
        real.enable_gradient_checkpointing()
        bare.enable_gradient_checkpointing(
            lambda module, *inputs: torch.utils.checkpoint.checkpoint(
                module, *inputs, use_reentrant=False, determinism_check="none"
            )
        )

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast is not None):
            loss = step(real, 4)
        loss.backward()

    measured = allocated(run)
    assert measured > 5e6
    assert predicted(bare, 4, autocast).peak == pytest.approx(measured, rel=0.06)


def test_activations_grow_with_the_batch_and_shrink_with_checkpointing():
    one, two = (planned(*flags).memory for flags in ((), ("--batch_size", "8")))
    assert two["activations"] == pytest.approx(2 * one["activations"], rel=0.05)
    assert two["weights"] == one["weights"]
    less = planned("--gradient_checkpointing")
    assert less.memory["activations"] < 0.7 * one["activations"]
    assert less.step.flops > 1.2 * planned().step.flops


def test_micro_steps_cost_the_gradients_once_and_time_many_times():
    one, four = planned(), planned("--gradient_accumulation_steps", "4")
    assert one.peak <= four.peak <= one.peak + one.memory["gradients"]
    assert four.step.flops == pytest.approx(4 * one.step.flops, rel=0.01)


def test_optimisers_hold_what_they_hold():
    adamw, muon = planned().memory, planned("--optimizer", "muon").memory
    assert adamw["optimiser"] == pytest.approx(2 * adamw["weights"], rel=0.001)
    assert adamw["weights"] < muon["optimiser"] < 1.5 * adamw["weights"]
    assert adamw["averaged weights"] == adamw["weights"]
    assert "averaged weights" not in planned("--ema_decay", "0").memory


def test_mixed_precision_halves_most_of_the_activations():
    full, half = (planned(*flags).memory for flags in ((), ("--mixed_precision", "bf16")))
    assert 0.5 < half["activations"] / full["activations"] < 0.8


def test_attention_is_counted_by_hand_and_needs_no_matrix_of_scores():
    def attend() -> Tensor:
        q = torch.empty(1, 4, 1024, 64, requires_grad=True)
        return torch.nn.functional.scaled_dot_product_attention(q, q, q).sum()

    forward = trace(attend, on_gpu=True)
    both = trace(attend, on_gpu=True, backward=True)
    products = 2 * 2 * 4 * 1024 * 1024 * 64
    assert forward.work.flops == products
    assert both.work.flops == 3.5 * products
    assert both.peak < 4 * 1024 * 1024 * 4  # bytes of the scores


def test_codecs_are_planned_for(codecs, tmp_path):
    codec = ("--codec", str(codecs()), "--sample_steps", "5")
    found, prepared = planned(*codec), planned(*codec, "--load_tensors", str(tmp_path))
    assert found.memory["frozen parts"] > 0
    assert "frozen parts" not in prepared.memory
    assert found.phases["decoding of previews"] == prepared.phases["decoding of previews"]
    assert "encoding of clips" in found.phases
    assert "encoding of clips" not in prepared.phases
    assert found.step.flops > prepared.step.flops


def test_a_codec_that_was_trained_here_is_planned_for(tmp_path):
    VideoVAE(block_out_channels=(16,), encoder_layers=(1,), decoder_layers=(1,)).save_pretrained(tmp_path / "vae")
    found = planned("--codec", str(tmp_path / "vae"), "--num_frames", "5", "--frame_size", "32")
    assert found.memory["frozen parts"] > 0


def test_a_roofline_takes_the_longer_of_the_two():
    work = Work()
    work.operations[1000, 10, 4] += 2
    work.operations[0, 100, 4] += 1
    assert work.seconds(lambda size: 100.0, 10.0) == 2 * 10 + 10
    assert (work * 3).flops == 6000
    assert (work + work).flops == 4000


def test_time_and_disk_follow_from_the_run():
    found = planned("--num_epochs", "10", "--save_steps", "10", clips=40)
    assert found.steps == 100
    assert found.seconds(CARDS["T4"])["training"] == pytest.approx(100 * found.step_seconds(CARDS["T4"]))
    assert found.step_seconds(CARDS["H100"]) < found.step_seconds(CARDS["T4"])
    weights = found.memory["weights"]
    assert found.disk == {"4 checkpoints": pytest.approx(4 * 5 * weights, rel=0.01), "final model": weights}
    assert planned().steps is None


def test_what_fits_is_left_as_it_is():
    found = propose(small(), 1e12, on_gpu=True)
    assert (found.fits, found.savings, found.plan) == (True, (), found.before)


def test_the_cheapest_setting_that_fits_has_nothing_to_spare():
    config = small("--mixed_precision", "bf16")
    limit = planned("--mixed_precision", "bf16").peak - 10e6
    found = propose(config, limit, on_gpu=True)
    assert found.fits
    assert found.plan.peak <= limit < found.before.peak
    assert not any("LAST RESORT" in saving.words for saving in found.savings)
    for saving in found.savings:
        fewer = [other for other in found.savings if other is not saving]
        assert plan(with_savings(config, fewer), on_gpu=True).peak > limit
    assert RunConfig.build(config.model_dump(mode="json"), found.flags) == found.config


def test_smaller_videos_are_the_last_resort_and_keep_to_the_rules():
    few = ("--mixed_precision", "bf16", "--batch_size", "1", "--gradient_checkpointing", "--ema_decay", "0")
    found = propose(small(*few, "--frame_size", "64"), planned(*few, "--frame_size", "48").peak, on_gpu=True)
    assert found.fits
    assert found.config.data.shape == (8, 48, 48)
    assert [saving.words.split(",")[0] for saving in found.savings] == ["LAST RESORT"]
    facts_of(found.config).rules.check(found.config.data.shape)


def test_cards_are_found_by_name_and_memory_by_its_unit():
    assert card_named("NVIDIA GeForce RTX 4090").name == "RTX 4090"
    assert card_named("rtx3080") is CARDS["RTX 3080"]
    assert card_named("NVIDIA A100-SXM4-80GB").name == "A100"
    with pytest.raises(UsageError, match="Voodoo"):
        card_named("Voodoo 2")
    assert [parse_bytes(text) for text in ("12GB", "12", "11.5 GiB", "800mb")] == [12e9, 12e9, 11.5 * 2**30, 8e8]
    for text in ("12 apples", "-3GB", "", "nan"):
        with pytest.raises(UsageError, match="is no amount of memory"):
            parse_bytes(text)


def test_this_machine_is_measured():
    card = this_cpu()
    assert isinstance(card, Card)
    assert 1e8 < card.rate(4) < 1e15
    assert 1e8 < card.reached_bandwidth < 1e13


def test_a_pack_is_planned_as_clips_of_the_largest_size_that_fill_it():
    few = ["--kind", "transformer", "--size", "5M", "--num_frames", "4", "--frame_size", "16", "--device", "cpu"]
    config = RunConfig.build({}, [*few, "--pack", "2048"])  # 4 x 8 x 8 tokens a clip
    assert micro_batch(config, facts_of(config)) == 8


@pytest.mark.parametrize("frozen", [False, True])
def test_the_text_encoder_of_a_finished_model_is_planned_for(tmp_path, frozen):
    encoder = TextEncoder.builtin(["a red circle"], width=64, num_layers=1, max_tokens=20)
    encoder.model.save_pretrained(tmp_path / "final/text_encoder")
    encoder.tokenizer.save_pretrained(tmp_path / "final/tokenizer")
    facts = facts_of(small("--text_encoder", str(tmp_path), *(["--frozen"] if frozen else [])))
    assert ("text_encoder" in facts.learning) != frozen
    shape = (2, *facts.latents)
    with META:
        assert facts.predict(torch.empty(shape), torch.empty(2)).shape == shape
