"""Small suites and arms with known numbers, shared by the tests of the evaluation."""

import numpy as np

from cogvx.evaluation.documents import ArmResult, HeldoutScore, VideoScore
from cogvx.evaluation.suite import Suite

PROMPTS = ("circle", "square", "ring", "cross", "diamond")
SEEDS = (1, 2)


def suite_document(**changes):
    """A suite that is right, as TOML would give it."""
    return {
        "name": "toy",
        "split": "gate",
        "seeds": list(SEEDS),
        "sampling": {"steps": 10, "guidance": 2.0, "sampler": "dpm"},
        "prompts": [{"id": name, "prompt": f"a red {name} moves left"} for name in PROMPTS],
        "gate": {"primaries": ["heldout_loss"]},
        **changes,
    }


def suite_of(**changes):
    return Suite.model_validate(suite_document(**changes))


def arm_of(suite, name="base", *, metrics=None, shift=0.0, losses=(1.0, 1.2, 1.4, 1.1)):
    """An arm whose videos have `metrics` plus a little luck, and whose clips have `losses`."""
    rng = np.random.default_rng(7)
    metrics = {"motion_magnitude": 10.0, "temporal_flickering": 0.9} | (metrics or {})
    videos = []
    for number, prompt in enumerate(suite.prompts):
        for seed in suite.seeds_of(prompt):
            luck = float(rng.normal(0, 0.01))
            own = float(np.random.default_rng([len(name), number, seed]).normal(0, 0.001))
            values = {key: value + luck + own + shift for key, value in metrics.items()}
            videos.append(VideoScore(prompt=prompt.id, seed=seed, key="0" * 64, values=values))
    heldout = [
        HeldoutScore(clip=f"clip-{number}.mp4", timestep=step, loss=loss + step / 1e4)
        for number, loss in enumerate(losses)
        for step in (250, 750)
    ]
    return ArmResult(name=name, suite=suite.digest, videos=tuple(videos), heldout=tuple(heldout))
