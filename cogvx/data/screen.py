"""Which clips a recipe can learn from: decided by what the probe found, before anything is decoded.

Nothing is invented for a clip: no frame is repeated to fill it up or to reach the rate, and no
pixel is made up by enlarging.
"""

from cogvx.data.manifest import ClipFacts, Fault
from cogvx.data.timing import frames_needed
from cogvx.recipe import VideoConfig

# A source this much slower than the target repeats one frame in twenty, which nobody sees; 24 fps
# brought to 25 is the usual case.
_SLOWEST = 0.95


def fault_of(facts: ClipFacts, *, video: VideoConfig) -> Fault | None:
    """What keeps a clip from giving `video.frames` frames at `video.fps` and the video's size.

    too_slow    the source has fewer frames a second: repeating them would teach stutter
    too_short   it ends before the window does
    too_small   it does not cover height x width
    """
    if facts.fps < _SLOWEST * video.fps:
        detail = f"{facts.fps:.4g} fps is slower than video.fps = {video.fps}; frames would repeat"
        return Fault(reason="too_slow", detail=detail)
    needed = frames_needed(source_fps=facts.fps, target_fps=video.fps, count=video.frames)
    if facts.frames < needed:
        detail = (
            f"{facts.frames} frames at {facts.fps:.4g} fps are fewer than the {needed} behind"
            f" video.frames = {video.frames} at video.fps = {video.fps}"
        )
        return Fault(reason="too_short", detail=detail)
    if facts.height < video.height or facts.width < video.width:
        detail = (
            f"{facts.height}x{facts.width} does not cover {video.height}x{video.width}"
            " (height x width); clips are never enlarged"
        )
        return Fault(reason="too_small", detail=detail)
    return None
