"""From files to an arm's scores: every mp4 is decoded once, checked, and measured."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from cogvx.digest import sha256_file
from cogvx.evaluation.documents import AdapterUse, ArmResult, HeldoutScore, VideoScore
from cogvx.evaluation.gauge import Gauge, Seen
from cogvx.evaluation.render import Arm, Rendered
from cogvx.evaluation.scores import Scores
from cogvx.evaluation.suite import Suite


class ClipLoss(Protocol):
    """A held-out loss as the trainer's measurement gives it."""

    @property
    def clip(self) -> str:
        """Which clip."""
        ...

    @property
    def timestep(self) -> int:
        """At which timestep."""
        ...

    @property
    def loss(self) -> float:
        """Mean squared error of v."""
        ...


def score_arm(
    arm: Arm,
    videos: Sequence[Rendered],
    *,
    suite: Suite,
    scores: Scores,
    heldout: Iterable[ClipLoss] = (),
    gauges: Sequence[Gauge] = (),
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> ArmResult:
    """Measure an arm's videos. A broken one is reported as a fault, never left out.

    Args:
        arm: Whose videos these are.
        videos: As `render_arm` returns them.
        suite: What they were rendered under.
        scores: Where a file's own numbers come from.
        heldout: The arm's held-out losses, where it was measured on clips.
        gauges: Measure what frames alone do not tell; this arm's own.
        on_progress: Called with videos scored and videos in all.

    Raises:
        DataError: A file cannot be decoded at all.
        ConfigError: A metric that a team brought gave no finite number.
    """
    scored: list[VideoScore] = []
    prompts = {prompt.id: prompt for prompt in suite.prompts}
    for rendered in videos:
        seen = Seen(
            prompt=prompts[rendered.prompt_id],
            seed=rendered.seed,
            path=rendered.path,
            sha256=sha256_file(rendered.path),
        )
        own = scores.of(seen)
        found = {name: value for gauge in gauges for name, value in gauge.look(seen).items()}
        scored.append(
            VideoScore(
                prompt=rendered.prompt_id,
                seed=rendered.seed,
                key=rendered.key,
                values=own.values | found,
                faults=own.faults,
            )
        )
        on_progress(len(scored), len(videos))
    losses, findings = list(heldout), [gauge.findings() for gauge in gauges]
    return ArmResult(
        name=arm.name,
        suite=suite.digest,
        adapters=tuple(
            AdapterUse(sha256=adapter.sha256, weight=adapter.weight) for adapter in arm.adapters
        ),
        videos=tuple(scored),
        heldout=tuple(
            HeldoutScore(clip=loss.clip, timestep=loss.timestep, loss=loss.loss)
            for loss in losses
            if math.isfinite(loss.loss)
        ),
        readings=tuple(reading for each in findings for reading in each.readings),
        neighbours=tuple(near for each in findings for near in each.neighbours),
        faults=tuple(
            f"{arm.name}'s held-out loss of {loss.clip} at timestep {loss.timestep} is not finite."
            for loss in losses
            if not math.isfinite(loss.loss)
        ),
    )
