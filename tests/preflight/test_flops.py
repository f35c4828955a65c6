"""The arithmetic of a step is what torch's own counter sees a real model do."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from cogvx.model.blocks import recompute
from cogvx.model.lora import attach_lora
from cogvx.preflight.flops import pass_flops
from cogvx.recipe_sections import Checkpointing, LoraConfig
from cogvx.shapes import VideoSize
from cogvx.variants import PUBLISHED, BaseFacts
from tests.preflight.toys import build, inputs, toy_facts

LORA = LoraConfig(rank=8, alpha=8, allow_unusual=True)
USUAL = LoraConfig(rank=128, alpha=64)
# The counter knows the kernels of GPUs; those of a CPU multiply as much.
ATEN: Any = torch.ops.aten
ATTENTION: dict[Any, Any] = {
    ATEN._scaled_dot_product_flash_attention_for_cpu: (
        lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)
    ),
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda given, *shapes, **_: sdpa_backward_flop_count(given, *shapes[:3])
    ),
}


def counted(facts: BaseFacts, lora: LoraConfig, *, clips: int, checkpointing: Checkpointing) -> int:
    """FLOPs of a forward and backward pass of a real model."""
    model = build(facts)
    attach_lora(model, lora, seed=0)
    recompute(model, checkpointing)
    shown = inputs(facts, clips=clips, dtype=torch.float32)
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        model(**shown)[0].square().mean().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("checkpointing", ["full", "selective", "none"])
def test_a_pass_computes_what_torch_counts(name: str, checkpointing: Checkpointing) -> None:
    facts = toy_facts(name)
    found = pass_flops(
        facts, LORA, tokens=facts.tokens(facts.sample_size), clips=2, checkpointing=checkpointing
    )
    seen = counted(facts, LORA, clips=2, checkpointing=checkpointing)
    assert found.total == pytest.approx(seen, rel=0.02)


@pytest.mark.parametrize(
    "targets",
    [("ff.net.2",), ("to_out.0",), ("proj_out",), ("patch_embed.text_proj", "to_q")],
    ids=str,
)
def test_nothing_flows_back_past_the_first_adapter(targets: tuple[str, ...]) -> None:
    facts = toy_facts("CogVideoX-5b")
    lora = LORA.model_copy(update={"targets": targets})
    found = pass_flops(
        facts, lora, tokens=facts.tokens(facts.sample_size), clips=1, checkpointing="none"
    )
    seen = counted(facts, lora, clips=1, checkpointing="none")
    assert found.total == pytest.approx(seen, rel=0.02)


@pytest.mark.parametrize(
    ("name", "size", "checkpointing", "tflop"),
    [
        # reckoned apart, without adapters
        ("CogVideoX-5b", VideoSize(49, 480, 720), "full", 1241),
        ("CogVideoX-5b", VideoSize(49, 480, 720), "selective", 1241 - 163),
        ("CogVideoX1.5-5B", VideoSize(81, 768, 1360), "full", 6012),
    ],
)
def test_a_step_of_a_published_model_is_known(
    name: str, size: VideoSize, checkpointing: Checkpointing, tflop: float
) -> None:
    facts = PUBLISHED[name]
    found = pass_flops(
        facts, USUAL, tokens=facts.tokens(size), clips=1, checkpointing=checkpointing
    )
    assert found.total / 1e12 == pytest.approx(tflop, rel=0.02)


def test_a_look_at_a_clip_with_5b_is_332_tflop_without_its_adapter() -> None:
    facts = PUBLISHED["CogVideoX-5b"]
    slim = LoraConfig(rank=1, alpha=1, allow_unusual=True)
    found = pass_flops(facts, slim, tokens=17_776, clips=1, checkpointing="none")
    assert found.attention / 1e12 == pytest.approx(163, rel=0.005)
    assert found.forward / 1e12 == pytest.approx(332, rel=0.005)
