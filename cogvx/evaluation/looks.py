"""The second look: after a HOLD on videos, two more seeds of every prompt, once.

Of four seeds two are new, so an interval over prompts is a little shorter and what an arm does by
luck weighs less. Held-out losses know no seeds and stay what they were.

What is equal has a second chance to be promoted by luck. So the second look may err half as often
as the first: together 3.75 % at most where the first errs in 2.5 %. It is looked at once, whatever
comes out: to look until the result pleases is no test.
"""

import hashlib
from collections.abc import Sequence

from cogvx.evaluation.documents import Comparison, Verdict
from cogvx.evaluation.suite import Suite
from cogvx.evaluation.suite_rule import GateConfig
from cogvx.metrics.relative import BASE_DRIFT

MORE_SEEDS = 2


def more_seeds(suite: Suite) -> Suite:
    """The suite of the second look: every prompt has two more seeds, the same two for all.

    They are drawn from the seeds that there are and from nothing else, so that a margin may change
    and the videos of base and champion stay good. The name stays; the digest is another one, so all
    arms are measured under the new suite.
    """
    taken, more = suite.all_seeds, list[int]()
    text = "/".join(["cogvx", "second look", *map(str, sorted({*suite.seeds, *taken}))])
    number = 0
    while len(more) < MORE_SEEDS:
        entropy = hashlib.sha256(f"{text}/{number}".encode()).digest()
        seed = int.from_bytes(entropy[:4], "big") % 2**31
        if seed not in (*suite.seeds, *taken, *more):
            more.append(seed)
        number += 1
    prompts = tuple(
        prompt
        if prompt.seeds is None
        else prompt.model_copy(update={"seeds": (*prompt.seeds, *more)})
        for prompt in suite.prompts
    )
    # not model_copy, which would copy the old digest where that was asked for before
    parts = {name: getattr(suite, name) for name in Suite.model_fields}
    return Suite(**{**parts, "seeds": (*suite.seeds, *more), "prompts": prompts})


def confidence_at(gate: GateConfig, look: int) -> float:
    """Of the composite's bound; the second look may err half as often as the first."""
    return gate.confidence if look == 1 else (1.0 + gate.confidence) / 2


def wants_second_look(verdict: Verdict, gate: GateConfig) -> bool:
    """Whether more seeds could turn a verdict: a HOLD for the first time, open on videos alone.

    What hangs on held-out clips, on the drift of predictions, on a metric that was not measured, or
    on a limit or margin that nobody knows would hang there still. Where no video differs at all,
    none of other seeds will.
    """
    if not gate.second_look or verdict.outcome != "HOLD" or verdict.look != 1:
        return False
    composite = verdict.composite
    if composite is None or composite.low is None or not _is_complete(verdict, gate):
        return False
    if any(not _seeds_may_decide(row) for row in open_checks(verdict.comparisons)):
        return False
    if composite.low > 0:
        return True
    on_videos = [row for row in verdict.comparisons if row.role == "primary" and _moves(row)]
    return bool(on_videos)


def open_checks(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Guards and ceilings that decided nothing."""
    return [row for row in comparisons if row.role != "primary" and row.result == "undecided"]


def _is_complete(verdict: Verdict, gate: GateConfig) -> bool:
    """Whether everything that the rule asks for was measured."""
    rows = [row for row in verdict.comparisons if row.role != "info"]
    return len(rows) == len(gate.primaries) + len(gate.guards) + len(gate.ceilings)


def _seeds_may_decide(row: Comparison) -> bool:
    return row.per == "prompt" and row.limit is not None and row.metric != BASE_DRIFT


def _moves(row: Comparison) -> bool:
    return row.per == "prompt" and row.effect.won + row.effect.lost > 0
