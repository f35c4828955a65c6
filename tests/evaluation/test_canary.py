"""The canary sings for every member of the family: an adapter that acts, and one that does not."""

from pathlib import Path

import peft
import pytest
import torch
from diffusers import CogVideoXPipeline
from diffusers.training_utils import _collate_lora_metadata
from peft.tuners.lora import LoraLayer

from cogvx.errors import IntegrityError
from cogvx.evaluation.canary import _require_layers, require_effect
from cogvx.inference.session import Session
from cogvx.model.load import load_transformer
from tests.fixtures.family import MEMBERS, BaseOf, Member


def adapter_of(base: Path, folder: Path, strength: float) -> Path:
    transformer = load_transformer(base, dtype="float32")
    transformer.add_adapter(peft.LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_v"]))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in transformer.named_parameters():
        if ".lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * strength
    CogVideoXPipeline.save_lora_weights(
        folder,
        transformer_lora_layers=peft.get_peft_model_state_dict(transformer),
        **_collate_lora_metadata({"transformer": transformer}),
    )
    return folder / "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize("member", MEMBERS, ids=str)
def test_an_adapter_that_acts_is_told_from_one_that_does_not(
    base_of: BaseOf, tmp_path: Path, member: Member
) -> None:
    base = base_of(member)
    session = Session.open(
        base,
        dtype="float32",
        fingerprint="f" * 64,
        image_scale="divided" if member.inverts_image_scale and member.image_to_video else None,
    )
    session.attach("acts", adapter_of(base, tmp_path / "acts", 0.1))
    session.attach("idle", adapter_of(base, tmp_path / "idle", 0.0))
    require_effect(session, {"acts": 1.0}, "challenger")
    with pytest.raises(IntegrityError, match="its adapter changes nothing"):
        require_effect(session, {"idle": 1.0}, "challenger")
    assert not any(session.weights.values())


def test_layers_that_a_loader_forgot_or_weighed_otherwise_are_counted(
    base_of: BaseOf, tmp_path: Path
) -> None:
    session = Session.open(base_of(MEMBERS[0]), dtype="float32", fingerprint="f" * 64)
    session.attach("acts", adapter_of(base_of(MEMBERS[0]), tmp_path, 0.1))
    require_effect(session, {"acts": 0.7}, "challenger")
    session.use({"acts": 0.7})
    layers = [part for part in session.transformer.modules() if isinstance(part, LoraLayer)]
    (key,) = layers[0].lora_A
    count = len(layers)
    layers[0].scaling[key] = 0.35  # alpha was not read
    with pytest.raises(IntegrityError) as refused:
        _require_layers(session, {"acts": 0.7}, "challenger")
    said = f"1 layers at strength 0.35 and {count - 1} layers at strength 0.7, and its card says"
    assert said in str(refused.value)
    layers[0].scaling[key] = 0.7
    layers[-1].delete_adapter(key)
    with pytest.raises(IntegrityError, match=f"acts in {count - 1} layers .* says {count} layers"):
        _require_layers(session, {"acts": 0.7}, "challenger")
