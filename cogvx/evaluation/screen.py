"""The screen: what held-out losses say before any video is rendered.

They cost about as much as one video. An adapter that does not lower the loss on clips of its own
domain has learned nothing there, and one that is proved worse than the champion need not be shown.
Passing proves nothing: the videos decide.
"""

import logging
import math
from collections.abc import Mapping, Sequence

from cogvx.evaluation.compare import Measured, Values, as_screened, number
from cogvx.evaluation.documents import ArmRole, Comparison, Outcome, Verdict
from cogvx.evaluation.statistics import by_unit
from cogvx.evaluation.wording import Contest
from cogvx.metrics.registry import HELDOUT_LOSS, METRICS

logger = logging.getLogger(__name__)

_LEAST_CLIPS = 2


def screen(contest: Contest, losses: Mapping[ArmRole, Values]) -> Verdict | None:
    """Stop an evaluation early, or let it go on.

    It stops where the mean loss over clips is not below the base's, and where it is proved above
    the champion's: the upper bound of the gain, at the suite's confidence, below zero. Arms that
    were not measured alike, or losses that are not finite, stop it as invalid.

    Args:
        contest: Who is judged against whom.
        losses: By clip and timestep: of `candidate`, of `reference`, and of `base` where the
            reference is a champion.

    Returns:
        A verdict of stage "screen", REJECT or INVALID; None to render the videos, which is also
        where the suite wants no screen or there are fewer than two clips.
    """
    if not contest.suite.gate.screen:
        return None
    clips = min(len(by_unit(values)) for values in losses.values())
    if clips < _LEAST_CLIPS:
        logger.warning(
            "no screen before the videos: it needs %d held-out clips and there are %d "
            "(dataset.min_heldout)",
            _LEAST_CLIPS,
            clips,
        )
        return None
    names: dict[ArmRole, str] = {
        "base": "base",
        "reference": contest.reference,
        "candidate": contest.candidate,
    }
    faults = _faults(losses, names)
    if faults:
        return _stop(contest, "INVALID", f"Nothing was decided: {faults[0]}", faults, ())
    candidate, champion = losses["candidate"], "base" in losses
    confidence = contest.suite.gate.confidence
    rows = [
        as_screened(
            Measured(METRICS[HELDOUT_LOSS], losses[role], candidate, losses.get("base", {})),
            confidence,
            against=names[role] if role == "base" else None,
        )
        for role in ("base", "reference")
        if role in losses
    ]
    against_base, against_reference = rows[0], rows[-1]
    if against_base.effect.mean <= 0:
        said = _headline(contest, against_base, names["base"] if champion else contest.reference)
    elif champion and against_reference.result == "worse":
        said = _headline(contest, against_reference, contest.reference, proved=True)
    else:
        return None
    return _stop(contest, "REJECT", said, [row.sentence for row in rows], tuple(rows))


def _faults(losses: Mapping[ArmRole, Values], names: Mapping[ArmRole, str]) -> list[str]:
    faults = [
        f"{names[role]}'s held-out loss of {clip} at timestep {timestep} is not finite."
        for role, values in losses.items()
        for (clip, timestep), loss in values.items()
        if not math.isfinite(loss)
    ]
    faults += [
        f"{names[role]} and {names['candidate']} have held-out losses of different clips or "
        "timesteps."
        for role, values in losses.items()
        if values.keys() != losses["candidate"].keys()
    ]
    return faults


def _headline(contest: Contest, row: Comparison, other: str, *, proved: bool = False) -> str:
    what = "is proved worse than" if proved else "does not lower the held-out loss of"
    return (
        f"{contest.candidate} {what} {other}{' on held-out clips' if proved else ''}"
        f" ({number(row.reference)} -> {number(row.candidate)}), so no video was rendered."
    )


def _stop(
    contest: Contest,
    outcome: Outcome,
    headline: str,
    reasons: Sequence[str],
    rows: tuple[Comparison, ...],
) -> Verdict:
    step = "Mend what is named here, then evaluate again."
    if outcome == "REJECT":
        step = (
            f"Keep {contest.reference}; train longer or at another rate. A suite with"
            " gate.screen = false renders the videos all the same."
        )
    return Verdict(
        outcome=outcome,
        headline=headline,
        reasons=tuple(reasons),
        next_step=step,
        reference=contest.reference,
        candidate=contest.candidate,
        suite=contest.suite.digest,
        composite=None,
        comparisons=rows,
        stage="screen",
    )
