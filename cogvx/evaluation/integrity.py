"""What makes two arms unfit for any verdict, and what is told and makes no difference.

A video that is flat or frozen is a fault of the candidate, unless the reference draws the same
prompt and seed with the same fault: a base that does not know a prompt may draw one flat colour,
and whoever leaves it as it was has broken nothing. A reference's own flat or frozen videos are told
and count as they are: leaving prompts out by what came of them would choose them by the result.
They are no measure of luck, so no yardstick is taken from them, and no margin grows by them. Black
is how NaN shows, and is a fault of whoever draws it.

The base beside a champion takes no part in the verdict, but for metrics that compare with its
videos: where the rule asks for one, what is wrong with the base is a fault like any other, as those
metrics would be over fewer prompts than the suite has. Else it is told and changes nothing.
"""

from collections.abc import Mapping, Sequence

from cogvx.evaluation.documents import ArmResult, VideoScore
from cogvx.evaluation.suite import Suite
from cogvx.metrics.pixels import FLAT, FROZEN
from cogvx.metrics.relative import BASE_DISTANCE, BASE_DRIFT

LIFELESS = frozenset({FLAT, FROZEN})
_BESIDE_BASE = frozenset({BASE_DISTANCE, BASE_DRIFT})
_NAMED = 6  # videos that a sentence names; the report lists all


def faults_of(
    suite: Suite, reference: ArmResult, candidate: ArmResult, base: ArmResult | None = None
) -> list[str]:
    """A sentence for each broken promise; with any, nothing may be compared.

    `base` is the bare base beside a champion, where the reference is not the base itself.
    """
    faults = _base_faults(suite, base) if _BESIDE_BASE & _asked(suite) else []
    faults += [fault for arm in (reference, candidate) for fault in _arm_faults(arm, suite)]
    excused = _lifeless(reference)
    for video in reference.videos:
        faults += _sentences(reference, video, set(video.faults) - LIFELESS)
    for video in candidate.videos:
        same = excused.get((video.prompt, video.seed), frozenset())
        faults += _sentences(candidate, video, set(video.faults) - same)
    return faults or _pairing_faults(reference, candidate)


def remarks_of(
    suite: Suite, reference: ArmResult, candidate: ArmResult, base: ArmResult | None = None
) -> list[str]:
    """What is wrong and is no fault; only where there are no faults."""
    remarks = []
    if wrong := _base_faults(suite, base):
        more = f" And {len(wrong) - _NAMED} more." if len(wrong) > _NAMED else ""
        remarks.append(f"{' '.join(wrong[:_NAMED])}{more} The verdict does not rest on the base.")
    for arm in (reference, candidate):
        found = _lifeless(arm)
        if found:
            named = [f"{prompt}, seed {seed}" for prompt, seed in list(found)[:_NAMED]]
            more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
            told = f"{len(found)} of {arm.name}'s videos are flat or frozen"
            why = f" As {reference.name} draws them so as well, that is no fault."
            if arm is reference:
                why = " They count as they are, and no margin is taken from them."
            remarks.append(f"{told} ({'; '.join(named)}{more}).{why}")
    return remarks


def unsound_videos(reference: ArmResult) -> frozenset[tuple[str, int]]:
    """Prompt and seed of what is no measure of luck."""
    return frozenset(_lifeless(reference))


def _asked(suite: Suite) -> set[str]:
    """Every metric that the rule rests on."""
    gate = suite.gate
    guarded, capped = ([line.metric for line in lines] for lines in (gate.guards, gate.ceilings))
    return {*gate.primaries, *guarded, *capped}


def _base_faults(suite: Suite, base: ArmResult | None) -> list[str]:
    if base is None:
        return []
    broken = (_sentences(base, video, set(video.faults) - LIFELESS) for video in base.videos)
    return [*_arm_faults(base, suite), *(fault for each in broken for fault in each)]


def _lifeless(arm: ArmResult) -> Mapping[tuple[str, int], frozenset[str]]:
    return {
        (video.prompt, video.seed): LIFELESS & set(video.faults)
        for video in arm.videos
        if LIFELESS & set(video.faults)
    }


def _sentences(arm: ArmResult, video: VideoScore, faults: set[str]) -> list[str]:
    where = f"{arm.name}'s video of prompt {video.prompt}, seed {video.seed}"
    return [f"{where} {fault}." for fault in video.faults if fault in faults]


def _arm_faults(arm: ArmResult, suite: Suite) -> list[str]:
    faults = list(arm.faults)
    if arm.suite != suite.digest:
        faults.append(f"{arm.name} was measured under another suite ({arm.suite[:12]}).")
    wanted = {(prompt.id, seed) for prompt, seed in suite.shots}
    found = {(video.prompt, video.seed) for video in arm.videos}
    return faults + [
        f"{arm.name} has no video of prompt {prompt}, seed {seed}."
        for prompt, seed in sorted(wanted - found)
    ]


def _pairing_faults(reference: ArmResult, candidate: ArmResult) -> list[str]:
    both = f"{reference.name} and {candidate.name}"
    faults = []
    if reference.losses().keys() != candidate.losses().keys():
        faults.append(f"{both} have held-out losses of different clips or timesteps.")
    old, new = _metrics_of(reference), _metrics_of(candidate)
    return faults + [
        f"{both} have {name} of different prompts or seeds."
        for name in old
        if name in new and reference.values(name).keys() != candidate.values(name).keys()
    ]


def _metrics_of(arm: ArmResult) -> Sequence[str]:
    """Every metric that an arm's videos or prompts have, each once."""
    of_videos = [name for video in arm.videos for name in video.values]
    return list(dict.fromkeys([*of_videos, *(reading.metric for reading in arm.readings)]))
