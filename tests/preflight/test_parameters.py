"""Parameters are counted as the real models have them, without building one."""

import pytest
import torch

from cogvx.model.lora import attach_lora
from cogvx.preflight.parameters import adapter_parameters, base_parameters
from cogvx.recipe_sections import LoraConfig
from cogvx.variants import PUBLISHED
from tests.preflight.toys import build, toy_facts

# As the checkpoints have them, in billions.
BILLIONS = {
    "CogVideoX-2b": 1.6938,
    "CogVideoX-5b": 5.5703,
    "CogVideoX-5b-I2V": 5.5705,
    "CogVideoX1.5-5B": 5.5707,
    "CogVideoX1.5-5B-I2V": 5.5716,
}


@pytest.mark.parametrize(("name", "billions"), BILLIONS.items())
def test_a_published_base_has_the_published_number_of_parameters(
    name: str, billions: float
) -> None:
    assert round(base_parameters(PUBLISHED[name]).total / 1e9, 4) == billions


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_real_model_has_as_many_parameters(name: str) -> None:
    facts = toy_facts(name, layers=3)
    with torch.device("meta"):
        model = build(facts)
    counted = base_parameters(facts)
    assert counted.total == sum(parameter.numel() for parameter in model.parameters())
    blocks = [
        part.weight.numel()
        for part in model.transformer_blocks.modules()
        if isinstance(part, torch.nn.Linear)
    ]
    assert counted.linears == sum(blocks)


@pytest.mark.parametrize("name", ["CogVideoX-2b", "CogVideoX-5b", "CogVideoX-5b-I2V"])
def test_a_table_of_positions_is_counted_apart(name: str) -> None:
    facts = toy_facts(name)
    buffers = dict(build(facts).named_buffers())
    table = buffers.get("patch_embed.pos_embedding")
    assert base_parameters(facts).positions == (0 if table is None else table.numel())


def test_learned_positions_of_5b_i2v_are_54_6_million() -> None:
    assert base_parameters(PUBLISHED["CogVideoX-5b-I2V"]).positions == pytest.approx(
        54.6e6, rel=1e-3
    )


@pytest.mark.parametrize(("name", "millions"), [("CogVideoX-2b", 58.98), ("CogVideoX-5b", 132.12)])
def test_an_adapter_of_rank_128_has_the_known_size(name: str, millions: float) -> None:
    found = adapter_parameters(PUBLISHED[name], LoraConfig(rank=128, alpha=64))
    assert round(found / 1e6, 2) == millions


@pytest.mark.parametrize("name", ["CogVideoX-2b", "CogVideoX1.5-5B"])
@pytest.mark.parametrize(
    "targets",
    [
        ("to_q", "to_k", "to_v", "to_out.0"),
        ("ff.net.0.proj", "ff.net.2", "norm1.linear"),
        ("proj_out", "time_embedding.linear_1", "patch_embed.text_proj", "1.attn1.to_v"),
    ],
    ids=["attention", "feed-forward", "around"],
)
def test_an_adapter_has_as_many_parameters_as_peft_gives_it(
    name: str, targets: tuple[str, ...]
) -> None:
    facts = toy_facts(name)
    lora = LoraConfig(rank=6, alpha=6, targets=targets, allow_unusual=True)
    attached = attach_lora(build(facts), lora, seed=0)
    assert adapter_parameters(facts, lora) == sum(parameter.numel() for parameter in attached)
