"""Pretraining can be stopped anywhere, goes on exactly, and gives a model that anyone can load."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline
from torch import nn

from cogvx.errors import ConfigError, IntegrityError
from cogvx.model.identity import BASE_PARTS, fingerprint
from cogvx.model.nano.build import build_vae
from cogvx.model.nano.world import HELD_OUT
from cogvx.pretraining.card import Settings
from cogvx.pretraining.optimiser import Optimiser, rate_at
from cogvx.pretraining.quick_vae import quick
from cogvx.pretraining.school import lesson_scenes, pretrain
from cogvx.pretraining.state import Journal

SETTINGS = Settings(seed=3, vae_steps=2, steps=2, clips=6)


class Interruption(Exception):  # noqa: N818 - it is no error
    pass


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("school") / "out"
    pretrain(out, SETTINGS, journal=Journal(report=lambda _: None))
    return out


def test_interrupted_anywhere_it_gives_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    said: list[str] = []

    def interrupt(sentence: str) -> None:
        said.append(sentence)
        raise Interruption

    journal = Journal(report=interrupt, every=1, save_seconds=0.0)
    for _ in range(4):
        with pytest.raises(Interruption):
            pretrain(tmp_path / "out", SETTINGS, journal=journal)
    model = pretrain(tmp_path / "out", SETTINGS, journal=journal)
    assert [" ".join(sentence.split()[:2]) for sentence in said] == [
        *("vae 1/2", "vae 2/2"),
        *("denoiser 1/2", "denoiser 2/2"),
    ]
    assert fingerprint(model, BASE_PARTS) == fingerprint(finished / "model", BASE_PARTS)


def test_every_part_has_learned_and_loads_in_diffusers(finished: Path) -> None:
    trained = CogVideoXPipeline.from_pretrained(finished / "model", torch_dtype=torch.float32)
    random = CogVideoXPipeline.from_pretrained(finished / "start", torch_dtype=torch.float32)
    for part in ("vae", "transformer", "text_encoder"):
        after, before = (getattr(pipe, part).state_dict() for pipe in (trained, random))
        assert max(float((after[name] - before[name]).abs().max()) for name in before) > 1e-4
    assert trained.vae.config.scaling_factor != random.vae.config.scaling_factor


def test_a_folder_begun_with_other_settings_is_refused(finished: Path) -> None:
    other = SETTINGS.model_copy(update={"steps": 3})
    with pytest.raises(ConfigError, match="another folder"):
        pretrain(finished, other, journal=Journal(report=lambda _: None))


def test_a_damaged_state_stops_the_training(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "settings.json").write_bytes((finished / "settings.json").read_bytes())
    (out / "vae.safetensors").write_bytes((finished / "vae.safetensors").read_bytes()[:1000])
    with pytest.raises(IntegrityError, match="cannot be resumed"):
        pretrain(out, SETTINGS, journal=Journal(report=lambda _: None))


def test_lessons_hold_no_held_out_combination() -> None:
    scenes = lesson_scenes(Settings(clips=3000))
    assert 2900 < len(scenes) < 3000
    assert not {(scene.shape, scene.colour, scene.motion) for scene in scenes} & set(HELD_OUT)


def test_quick_arithmetic_changes_rounding_only() -> None:
    torch.manual_seed(0)
    vae: AutoencoderKLCogVideoX = build_vae()
    rgb_bcfhw = torch.rand(1, 3, 9, 24, 24)
    with torch.no_grad():
        plain = vae.decode(vae.encode(rgb_bcfhw).latent_dist.mode()).sample
        with quick(vae):
            quickly = vae.decode(vae.encode(rgb_bcfhw).latent_dist.mode()).sample
        again = vae.decode(vae.encode(rgb_bcfhw).latent_dist.mode()).sample
    assert torch.allclose(plain, quickly, atol=1e-5)
    assert torch.equal(plain, again)


def test_vectors_follow_adam_and_matrices_turn() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(32, 16), nn.Linear(32, 16)
    theirs.load_state_dict(ours.state_dict())
    optimiser = Optimiser(dict(ours.named_parameters()))
    adam = torch.optim.Adam(theirs.parameters(), lr=0.01, betas=(0.9, 0.99))
    before = ours.weight.detach().clone()
    for model in (ours, theirs):
        model(torch.ones(4, 32)).square().sum().backward()
    optimiser.step(0.01)
    adam.step()
    assert torch.allclose(ours.bias, theirs.bias, atol=1e-6)
    values = np.linalg.svd((ours.weight.detach() - before).numpy(), compute_uv=False)
    # a gradient of rank one has one direction to turn
    assert values[0] == pytest.approx(0.01 * 0.2 * 32**0.5, rel=0.4)
    assert values[1] < values[0] / 10


def test_the_rate_climbs_stays_and_ends_at_nothing() -> None:
    rates = [rate_at(step, steps=1000, highest=1.0) for step in range(1000)]
    assert rates[0] == pytest.approx(0.02)
    assert set(rates[50:600]) == {1.0}
    assert rates[-1] == pytest.approx(1 / 350)
    assert rates[:600] == [rate_at(step, steps=2000, highest=1.0) for step in range(600)]
