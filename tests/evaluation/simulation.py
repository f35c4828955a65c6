"""Arms drawn from a known truth, so that it is known how often the rule ought to do what.

Everything is in seed SDs of the reference: its seeds scatter by 1, the two arms' seeds share noise
so that a pair differs by 1 again, and prompts differ by 0.7 in what they gain. The primary and the
guards of one video go together with a correlation of 0.3.
"""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from cogvx.evaluation.compare import Measured
from cogvx.evaluation.gate import Evidence, decide
from cogvx.evaluation.looks import MORE_SEEDS, wants_second_look
from cogvx.evaluation.wording import Contest
from tests.evaluation.builders import suite_of

PRIMARY = "text_alignment"
GUARDS = tuple(f"guard_{number}" for number in range(6))
BETWEEN, WITHIN, TOGETHER = 0.7, 1.0, 0.3


@dataclass(frozen=True)
class Luck:
    """A metric that only exists here: larger is better."""

    name: str
    unit: str = "SD"
    direction: int = 1
    kind: str = "video"


@dataclass(frozen=True)
class Truth:
    """How many prompts and seeds, and by how much the candidate really differs."""

    prompts: int
    seeds: int
    gain: float = 0.0
    worst_guard: float = 0.0

    def draw(self, rng):
        """One evaluation: every metric on both arms."""
        names = (PRIMARY, *GUARDS)
        covariance = np.full((len(names), len(names)), TOGETHER)
        np.fill_diagonal(covariance, 1.0)
        root = np.linalg.cholesky(covariance)

        def scatter(sd, *shape):
            return sd * rng.normal(size=(*shape, len(names))) @ root.T

        truth = np.zeros(len(names))
        truth[0], truth[1] = self.gain, self.worst_guard
        shared = scatter(np.sqrt(0.5), self.prompts, self.seeds)
        old = shared + scatter(np.sqrt(0.5), self.prompts, self.seeds)
        new = shared + scatter(np.sqrt(0.5), self.prompts, self.seeds) + truth
        new += scatter(BETWEEN, self.prompts)[:, None]
        level = 10 * rng.normal(size=(self.prompts, 1, 1))  # prompts differ much, in both arms
        return {
            name: Measured(
                Luck(name), table(old[..., n] + level[..., 0]), table(new[..., n] + level[..., 0])
            )
            for n, name in enumerate(names)
        }


def table(values_ps):
    return {
        (f"prompt-{prompt}", seed): float(value)
        for (prompt, seed), value in np.ndenumerate(values_ps)
    }


def outcomes(truth, *, runs, seed=0):
    """Share of each verdict over so many evaluations."""
    contest, rng = contest_of(truth), np.random.default_rng(seed)
    counts = Counter(decide(contest, Evidence(truth.draw(rng))).outcome for _ in range(runs))
    return {name: counts[name] / runs for name in ("PROMOTE", "HOLD", "REJECT", "INVALID")}


def both_looks(truth, *, runs, seed=0):
    """How many are promoted at the first look, and at the second of those that want one."""
    contest, rng, promoted, looked = contest_of(truth), np.random.default_rng(seed), [0, 0], 0
    whole = replace(truth, seeds=truth.seeds + MORE_SEEDS)
    for _ in range(runs):
        measured = whole.draw(rng)
        first = {name: first_seeds(found, truth.seeds) for name, found in measured.items()}
        once = decide(contest, Evidence(first))
        promoted[0] += once.outcome == "PROMOTE"
        if wants_second_look(once, contest.suite.gate):
            looked += 1
            promoted[1] += decide(contest, Evidence(measured, look=2)).outcome == "PROMOTE"
    return promoted, looked


def contest_of(truth):
    suite = suite_of(
        prompts=[{"id": f"prompt-{n}", "prompt": f"prompt {n}"} for n in range(truth.prompts)],
        gate={"primaries": [PRIMARY], "guards": [{"metric": name} for name in GUARDS]},
    )
    return Contest(suite, "champion", "challenger")


def first_seeds(measured, seeds):
    old, new = (
        {key: value for key, value in values.items() if key[1] < seeds}
        for values in (measured.reference, measured.candidate)
    )
    return replace(measured, reference=old, candidate=new)
