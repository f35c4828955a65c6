"""From random weights to the folder that the project carries, in stages that each can be resumed.

OUT/settings.json             what this folder is for; another wish needs another folder
OUT/start/                    the model of random weights
OUT/vae.safetensors           the VAE's training, while and after it runs
OUT/posteriors.safetensors    the world's clips as the trained VAE sees them
OUT/denoiser.safetensors      the transformer's and T5's training
OUT/model/                    the trained model, and its card
OUT/samples/                  a page of samples
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from cogvx import files
from cogvx.errors import ConfigError
from cogvx.model.load import load_scheduler, load_text, load_transformer, load_vae
from cogvx.model.nano.build import build_nano, save_nano
from cogvx.model.nano.carried import CARD_FILE
from cogvx.model.nano.world import Scene, draw_scene, is_held_out
from cogvx.objective.objective import Objective
from cogvx.pretraining.card import NanoCard, Settings, make_card
from cogvx.pretraining.denoiser import Lessons, Pupils, train_denoiser
from cogvx.pretraining.grades import grade
from cogvx.pretraining.state import Journal, read_progress
from cogvx.pretraining.vae import encode_world, normalise, train_vae

_EXAMPLES_PER_FIT = 512  # clips that the latents' spread is measured on


def pretrain(out: Path, settings: Settings, *, journal: Journal) -> Path:
    """Train the nano model, or finish what was begun in `out`.

    The same settings give the same bytes on the same machine, interrupted or not.

    Returns:
        The trained model's folder, without a card as yet: see `certify`.

    Raises:
        ConfigError: `out` was begun with other settings.
        IntegrityError: What it holds is damaged.
    """
    _claim(out, settings)
    start, model = out / "start", out / "model"
    if model.exists():
        return model
    if not start.exists():
        build_nano(start, seed=settings.seed)
    vae = load_vae(start, dtype="float32")
    train_vae(
        vae, out / "vae.safetensors", steps=settings.vae_steps, seed=settings.seed, journal=journal
    )
    scenes = lesson_scenes(settings)
    moments_bcfhw = _posteriors(out / "posteriors.safetensors", vae, scenes)
    normalise(vae, moments_bcfhw[:_EXAMPLES_PER_FIT])
    pupils = Pupils(load_transformer(start, dtype="float32"), load_text(start, dtype="float32"))
    train_denoiser(
        pupils,
        Lessons(
            moments_bcfhw=moments_bcfhw,
            captions=[scene.caption for scene in scenes],
            scaling_factor=float(vae.config.scaling_factor),
        ),
        out / "denoiser.safetensors",
        objective=Objective.of(start),
        steps=settings.steps,
        seed=settings.seed,
        journal=journal,
    )
    trained = CogVideoXPipeline(
        tokenizer=pupils.text.tokenizer,
        text_encoder=pupils.text.encoder.half(),
        vae=vae.half(),
        transformer=pupils.transformer.half(),
        scheduler=load_scheduler(start, "dpm"),
    )
    files.write_folder(model, lambda aside: save_nano(trained, aside))
    return model


def certify(out: Path, settings: Settings) -> NanoCard:
    """Measure the trained model as anyone would load it, and write its card and a page of samples.

    Args:
        out: Where `pretrain` worked.
        settings: What it worked with.
    """
    model = out / "model"
    grades = grade(model, out / "samples")
    vae, denoiser = (read_progress(out / f"{part}.safetensors") for part in ("vae", "denoiser"))
    seconds = (vae.seconds, denoiser.seconds)
    card = make_card(model, settings, grades=grades, seconds=seconds)
    files.write_document(model / CARD_FILE, card)
    return card


def lesson_scenes(settings: Settings) -> list[Scene]:
    """The scenes that captions are learned from: none that is kept for testing composition."""
    scenes = (draw_scene(settings.seed, number) for number in range(settings.clips))
    return [scene for scene in scenes if not is_held_out(scene)]


def _posteriors(path: Path, vae: AutoencoderKLCogVideoX, scenes: list[Scene]) -> Tensor:
    if not path.exists():
        moments_bcfhw = torch.cat(list(encode_world(vae, scenes)))
        files.write_file(path, lambda aside: save_file({"moments_bcfhw": moments_bcfhw}, aside))
    kept: dict[str, Tensor] = load_file(path)
    return kept["moments_bcfhw"]


def _claim(out: Path, settings: Settings) -> None:
    path = out / "settings.json"
    if not path.exists():
        files.write_document(path, settings)
    begun = files.read_document(path, Settings)
    if begun != settings:
        raise ConfigError(
            f"{out} was begun with {begun}, not with {settings}; use the same settings to go on,"
            " or another folder to start anew"
        )
