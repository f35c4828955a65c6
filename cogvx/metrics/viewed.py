"""A decoded video, and what several metrics ask of it: each computed once, when first asked for."""

from functools import cached_property

from cogvx.metrics import motion, pixels
from cogvx.metrics.metric import Grey
from cogvx.metrics.pixels import Colours, Floats
from cogvx.mp4 import Mp4


class Viewed(Mp4):
    """An `Mp4` that keeps what was found out about it; only small things."""

    @classmethod
    def of(cls, video: Mp4) -> "Viewed":
        """The same frames; a video that was viewed already as it is."""
        return video if isinstance(video, Viewed) else cls(video.rgb_fhwc, video.fps)

    @cached_property
    def changes_f(self) -> Floats:
        """See `pixels.changes`."""
        return pixels.changes(self.rgb_fhwc)

    @cached_property
    def colours(self) -> Colours:
        """See `pixels.colours`."""
        return pixels.colours(self.rgb_fhwc)

    @cached_property
    def grey_fhw(self) -> Grey:
        """See `motion.shrunk`."""
        return motion.shrunk(self.rgb_fhwc)

    @cached_property
    def speeds_f(self) -> Floats:
        """See `motion.speeds`."""
        return motion.speeds(self.grey_fhw)

    @cached_property
    def sanity_faults(self) -> tuple[str, ...]:
        """See `pixels.sanity_faults`."""
        return pixels.sanity_faults(self.changes_f, self.colours)

    @property
    def dynamic_degree(self) -> float:
        """See `motion.dynamic_degree`."""
        step = motion.dynamic_step(self.fps)
        speeds_f = self.speeds_f if step == 1 else motion.speeds(self.grey_fhw[::step])
        return motion.dynamic_degree(speeds_f)
