"""The loss on clips that are never trained on, at fixed timesteps and with fixed noise.

A training loss of CogVideoX says little: it is dominated by which timesteps were drawn. Here every
clip meets the same timesteps and the same noise, whoever measures and whenever, so two adapters can
be compared clip by clip. Its first frame is the first of the noised ones, neither caption nor image
is left out, and every timestep weighs the same. Nothing is drawn from, or left in, anyone's random
state.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import CogVideoXTransformer3DModel

from cogvx.objective.latents import image_track, mean_latents, pad_front
from cogvx.objective.objective import Objective
from cogvx.objective.randomness import generator
from cogvx.objective.records import Records
from cogvx.runs.folder import Sample


@dataclass(frozen=True)
class HeldoutLoss:
    """Mean squared error in v at one timestep: of a window, named by its clip, or of the clip."""

    clip: str
    timestep: int
    loss: float


def heldout_timesteps(timesteps: int, strata: int) -> tuple[int, ...]:
    """The middle of each of `strata` equal parts of the timesteps: floor((k + 1/2) T / K)."""
    return tuple((2 * k + 1) * timesteps // (2 * strata) for k in range(strata))


def heldout_losses(
    transformer: CogVideoXTransformer3DModel,
    objective: Objective,
    *,
    samples: Sequence[Sample],
    records: Path,
    strata: int,
    draw: int = 0,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[HeldoutLoss, ...]:
    """Measure a transformer, with whatever adapters are active in it.

    Args:
        transformer: On its device, not wrapped for distribution; left as it was.
        objective: Of its base.
        samples: The held-out windows, of any sizes.
        records: Folder of their records, one file a name.
        strata: Number of timesteps for each clip.
        draw: Which noise; others than 0 only to learn how much the noise itself moves.
        on_progress: Called with losses measured and losses wanted after each one.

    Returns:
        One loss for each window and timestep, in their order; see `by_clip`.

    Raises:
        IntegrityError: A record is absent or damaged.
    """
    losses: list[HeldoutLoss] = []
    for loss in measure(
        transformer, objective, samples=samples, records=records, strata=strata, draw=draw
    ):
        losses.append(loss)
        on_progress(len(losses), len(samples) * strata)
    return tuple(losses)


def measure(
    transformer: CogVideoXTransformer3DModel,
    objective: Objective,
    *,
    samples: Sequence[Sample],
    records: Path,
    strata: int,
    draw: int = 0,
) -> Iterator[HeldoutLoss]:
    """Like `heldout_losses`, one at a time, so that a caller in a hurry may stop in between."""
    read = Records(records)
    timesteps = heldout_timesteps(objective.schedule.timesteps, strata)
    for sample in samples:
        latents_bfchw = pad_front(
            mean_latents(
                read.moments(sample).unsqueeze(0),
                scaling_factor=objective.facts.scaling_factor,
            ),
            objective.facts.patch_t,
        ).to(transformer.device)
        images_bfchw = None
        if objective.image_scale is not None:
            image_bcfhw = read.image(sample, 0).unsqueeze(0)
            image_bfchw = mean_latents(image_bcfhw, scaling_factor=objective.image_factor)
            images_bfchw = image_track(image_bfchw, latents_bfchw.shape[1]).to(transformer.device)
        prompts_bsd = read.prompt(sample.prompt).unsqueeze(0)
        for timestep in timesteps:
            with torch.no_grad():
                place = (timestep, draw) if draw else (timestep,)
                noise_bfchw = torch.randn(
                    latents_bfchw.shape, generator=generator(sample.latents, "heldout", *place)
                )
                loss_b = objective.loss_b(
                    transformer,
                    latents_bfchw,
                    noise_bfchw=noise_bfchw.to(transformer.device),
                    timesteps_b=torch.tensor([timestep]),
                    prompts_bsd=prompts_bsd,
                    images_bfchw=images_bfchw,
                )
            yield HeldoutLoss(clip=sample.clip, timestep=timestep, loss=loss_b.item())


def by_clip(losses: Iterable[HeldoutLoss]) -> tuple[HeldoutLoss, ...]:
    """One loss for each clip and timestep: the mean over the windows of the clip.

    Windows of one clip are alike, so that counted apiece they would feign certainty, and a long
    clip would outweigh short ones.
    """
    windows: dict[tuple[str, int], list[HeldoutLoss]] = {}
    for loss in losses:
        windows.setdefault((loss.clip, loss.timestep), []).append(loss)
    return tuple(
        HeldoutLoss(clip, timestep, mean_loss(found)) for (clip, timestep), found in windows.items()
    )


def mean_loss(losses: Sequence[HeldoutLoss]) -> float:
    """Mean over everything that was measured.

    Raises:
        ValueError: There are none.
    """
    if not losses:
        raise ValueError("there are no held-out losses to average")
    return sum(loss.loss for loss in losses) / len(losses)
