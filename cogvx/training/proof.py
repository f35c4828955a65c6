"""The first batch as training will see it, decoded: what a person looks at before hours of it.

The very samples of update 0, with their draws of posterior, noise, timestep and dropout, go through
the VAE back to pictures, beside the frames that they were made of. Stale latents, a wrong caption
or another's VAE are seen here at once. `python -m cogvx.training.proof RUN_DIR` makes it in a
process of its own, whose memory is gone before training begins.
"""

import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from cogvx.cache.seal import read_label
from cogvx.data.decode import decode_clip
from cogvx.data.manifest import Clip
from cogvx.data.windows import crop_rule
from cogvx.digest import sha256_file
from cogvx.errors import CogvxError, ConfigError, DataError
from cogvx.files import read_document
from cogvx.model.encode import decibels, decode_latents, to_pixels
from cogvx.model.load import load_vae
from cogvx.objective.batch import Batch, Batches
from cogvx.objective.objective import Objective
from cogvx.objective.records import Records
from cogvx.pages.pictures import SMALL_SIDE
from cogvx.runs.folder import RunFolder, RunSpec, Sample
from cogvx.shapes import VideoSize, frames_to_prepend
from cogvx.training.proof_page import Proof, write_proof

_MOST = 4
# Two clips of 49x480x720: about what a GPU decodes in ten seconds.
_PIXELS = 2 * 49 * 480 * 720
_MOST_ERROR, _PLAIN_DECIBELS = 0.5, 30.0
_NOISED_LATENTS = 3  # noise looks the same everywhere, so the first frames do


class Source(BaseModel):
    """The file that a window of the first batch was cut from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    clip: Clip
    path: Path


class ProofOrder(BaseModel):
    """first_batch.json: where to decode, and the sources by the names of their latents.

    `fps` is the rate of the windows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: Literal["cpu", "cuda"]
    fps: int
    sources: dict[str, Source] = {}


@dataclass(frozen=True)
class _Row:
    """One sample of the first update with what was drawn for it."""

    position: int
    sample: Sample
    batch: Batch


def first_samples(spec: RunSpec) -> tuple[int, ...]:
    """Numbers of the windows of update 0 that are shown: up to four, at real sizes two or one."""
    batches = _batches(spec, RunFolder(Path()))
    numbers = tuple(
        batches.sampler.clip(0, position)
        for position in range(min(_MOST, spec.recipe.train.global_batch))
    )
    return numbers[: _how_many(spec.train[numbers[0]].size)]


def make_proof(folder: RunFolder, order: ProofOrder) -> Path:
    """Decode the first update's samples into a folder of videos and a page, once for a run.

    Args:
        folder: With run.json and records.
        order: Where to decode, and what to compare with.

    Returns:
        The folder, whole.

    Raises:
        IntegrityError: A record is absent or damaged, or the base is not the run's.
        ConfigError: The base's VAE cannot be loaded.
    """
    if folder.first_batch.is_dir():
        return folder.first_batch
    spec = folder.read_spec()
    spec.require_base()
    batches = _batches(spec, folder)
    count = len(first_samples(spec))
    of = spec.recipe.train.global_batch
    rows = list(itertools.islice(_rows(batches), count))
    vae = load_vae(
        Path(spec.base_folder),
        # half precision is slow on a CPU, and here nothing depends on the last bits
        dtype=spec.recipe.base.dtype if order.device == "cuda" else "float32",
        device=order.device,
        tiling=min(rows[0].sample.size.height, rows[0].sample.size.width) >= SMALL_SIDE,
    )
    proofs = [_prove(row, batches, vae, order) for row in rows]
    write_proof(
        folder.first_batch,
        proofs,
        title=f"First batch of {spec.recipe.name}",
        note=f"run {spec.run[:12]}, {count} of {of} samples of update 1",
        fps=order.fps,
    )
    return folder.first_batch


def main(arguments: Sequence[str]) -> int:
    """Make the proof of the run in the one folder that is named, as its first_batch.json says."""
    try:
        if len(arguments) != 1:
            raise ConfigError("usage: python -m cogvx.training.proof RUN_DIR")
        folder = RunFolder(Path(arguments[0]))
        make_proof(folder, read_document(folder.proof_order, ProofOrder))
    except CogvxError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return error.exit_code
    return 0


def _how_many(size: VideoSize) -> int:
    return max(1, min(_MOST, _PIXELS // (size.frames * size.pixels)))


def _batches(spec: RunSpec, folder: RunFolder) -> Batches:
    recipe = spec.recipe
    return Batches(
        records=Records(folder.records),
        samples=spec.train,
        empty_prompt=spec.empty_prompt,
        objective=Objective.of(Path(spec.base_folder), image_scale=recipe.base.image_latent_scale),
        train=recipe.train,
    )


def _rows(batches: Batches) -> Iterator[_Row]:
    """The samples of update 0 in the order of the global batch."""
    train, sampler = batches.train, batches.sampler
    for micro, rank in itertools.product(range(train.accumulation), range(train.processes)):
        batch = batches.draw(0, micro=micro, rank=rank, device=torch.device("cpu"))
        for place, position in enumerate(sampler.positions(micro, rank)):
            sample = batches.samples[sampler.clip(0, position)]
            yield _Row(position, sample, _only(batch, place))


def _only(batch: Batch, place: int) -> Batch:
    here = slice(place, place + 1)
    return Batch(
        latents_bfchw=batch.latents_bfchw[here],
        noise_bfchw=batch.noise_bfchw[here],
        timesteps_b=batch.timesteps_b[here],
        prompts_bsd=batch.prompts_bsd[here],
        images_bfchw=None if batch.images_bfchw is None else batch.images_bfchw[here],
    )


def _prove(row: _Row, batches: Batches, vae: AutoencoderKLCogVideoX, order: ProofOrder) -> Proof:
    objective, batch, sample = batches.objective, row.batch, row.sample
    noisy_bfchw = objective.schedule.add_noise(
        batch.latents_bfchw, noise_bfchw=batch.noise_bfchw, timesteps_b=batch.timesteps_b
    )
    size = objective.facts.compression.latent(sample.size)
    padding = frames_to_prepend(size.frames, objective.facts.patch_t)
    clean_cfhw = _decode(vae, batch.latents_bfchw[:, padding:])
    noised_cfhw = _decode(vae, noisy_bfchw[:, padding : padding + _NOISED_LATENTS])
    timestep = int(batch.timesteps_b[0])
    source_cfhw, absent = _source_of(sample, order)
    psnr, fits = (None, True) if source_cfhw is None else _compare(clean_cfhw, source_cfhw)
    caption, kept = _caption_of(row, batches.records)
    return Proof(
        name=sample.clip,
        caption=caption,
        caption_kept=kept,
        timestep=timestep,
        noise=float((1 - objective.schedule.alphas_cumprod[timestep]).sqrt()),
        record=sample.latents,
        size=str(sample.size),
        clean_fhwc=to_pixels(clean_cfhw),
        noised_fhwc=to_pixels(noised_cfhw),
        first_hwc=_first_frame(row, objective, vae),
        source_fhwc=None if source_cfhw is None else to_pixels(source_cfhw),
        source_absent=absent,
        psnr=psnr,
        fits=fits,
    )


def _decode(vae: AutoencoderKLCogVideoX, latents_bfchw: Tensor) -> Tensor:
    """RGB in [-1, 1] on the CPU; of an even number of latent frames the last is left out."""
    odd = (latents_bfchw.shape[1] - 1) // 2 * 2 + 1
    return decode_latents(vae, latents_bfchw[:, :odd].transpose(1, 2))[0].float().cpu()


def _first_frame(row: _Row, objective: Objective, vae: AutoencoderKLCogVideoX) -> np.ndarray | None:
    """What an image-to-video base is given to start from; black where it is hidden from it."""
    images_bfchw = row.batch.images_bfchw
    if images_bfchw is None:
        return None
    if not images_bfchw.any():
        return np.zeros((row.sample.size.height, row.sample.size.width, 3), np.uint8)
    as_clip = objective.facts.scaling_factor / objective.image_factor
    (first_hwc,) = to_pixels(_decode(vae, images_bfchw[:, :1] * as_clip))
    return np.asarray(first_hwc)


def _caption_of(row: _Row, records: Records) -> tuple[str, bool]:
    """The caption whose embedding this sample's record holds, and whether it was drawn."""
    label = read_label((records.folder / f"{row.sample.prompt}.safetensors").read_bytes())
    whole_sd = records.prompt(row.sample.prompt)
    kept = torch.equal(row.batch.prompts_bsd[0], whole_sd)
    return str(label["made_from"]["text"]), kept


def _source_of(sample: Sample, order: ProofOrder) -> tuple[Tensor | None, str]:
    """The window in the clip's own pixels, or why it is not at hand."""
    source = order.sources.get(sample.latents)
    if source is None:
        return None, "the clip was not at hand"
    clip = source.clip
    try:
        if sha256_file(source.path) != clip.sha256:
            return None, "the clip has changed since it was cached"
        rgb_cfhw = decode_clip(
            source.path,
            start_frame=clip.start_frame,
            size=clip.size,
            fps=order.fps,
            crop=crop_rule(clip),
            flip=clip.flip,
        )
        return rgb_cfhw, ""
    except (DataError, FileNotFoundError) as error:
        return None, str(error)


def _compare(decoded_cfhw: Tensor, source_cfhw: Tensor) -> tuple[float, bool]:
    """PSNR in dB, and whether the one is of the other.

    A picture of something else is further from the source than the source's own mean colour is; one
    without anything in it is not held to that.
    """
    source_cfhw = source_cfhw[:, : decoded_cfhw.shape[1]]
    error = (decoded_cfhw - source_cfhw).square().mean().item()
    plain = (source_cfhw - source_cfhw.mean((1, 2, 3), keepdim=True)).square().mean().item()
    psnr = decibels(error)
    return psnr, error < _MOST_ERROR * plain or psnr > _PLAIN_DECIBELS


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
