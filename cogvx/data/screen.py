"""Which clips a recipe can learn from, by what the probe found, before anything is encoded."""

from cogvx.data.manifest import ClipFacts, ClipLook, Fault
from cogvx.data.windows import Bucket, best_bucket
from cogvx.recipe_sections import DatasetConfig, VideoConfig


class Screen:
    """Judges the clips of a dataset one after another; of equal ones the first is kept."""

    def __init__(self, config: DatasetConfig, video: VideoConfig) -> None:
        """`config` has the thresholds, `video` the sizes of which a clip must give one."""
        self._config = config
        self._video = video
        self._first_bytes: dict[str, str] = {}
        self._first_frames: dict[str, str] = {}

    def judge(self, key: str, sha256: str, facts: ClipFacts) -> Bucket | Fault:
        """The size that suits a clip, or why it is not used; a clip that is used is remembered.

        Besides the faults of `best_bucket`:

        aspect        the cut would leave too little of its picture
        black static  nothing to be seen, nothing that moves
        duplicate     the same bytes as an earlier clip
        same_frames   the same pixels under another name; copies encoded again are not found
        """
        bucket = best_bucket(facts, self._video)
        if isinstance(bucket, Fault):
            return bucket
        fault = self._poor_fit(facts, bucket) or self._repeated(sha256, facts.look)
        if fault is None and facts.look is not None:
            fault = self._unlit_or_still(facts.look)
        if fault is not None:
            return fault
        self._first_bytes[sha256] = key
        if facts.look is not None:
            self._first_frames[facts.look.frames_sha256] = key
        return bucket

    def _poor_fit(self, facts: ClipFacts, bucket: Bucket) -> Fault | None:
        least = self._config.min_kept_share
        if bucket.kept >= least:
            return None
        detail = (
            f"cut from {facts.height}x{facts.width} to {bucket.size.height}x{bucket.size.width}"
            f" (height x width) it would keep {bucket.kept:.0%} of its picture, less than"
            f" dataset.min_kept_share = {least:g}; add a bucket of its aspect"
        )
        return Fault(reason="aspect", detail=detail)

    def _unlit_or_still(self, look: ClipLook) -> Fault | None:
        darkest, stillest = self._config.min_brightness, self._config.min_motion
        if look.brightness < darkest:
            detail = (
                f"its mean brightness of {look.brightness:.3g} (0 to 255) is below"
                f" dataset.min_brightness = {darkest:g}"
            )
            return Fault(reason="black", detail=detail)
        if look.motion < stillest:
            detail = (
                f"its frames differ by {look.motion:.2g} (0 to 255) on average, less than"
                f" dataset.min_motion = {stillest:g}"
            )
            return Fault(reason="static", detail=detail)
        return None

    def _repeated(self, sha256: str, look: ClipLook | None) -> Fault | None:
        if sha256 in self._first_bytes:
            detail = f"it is the same file as {self._first_bytes[sha256]}"
            return Fault(reason="duplicate", detail=detail)
        first = self._first_frames.get(look.frames_sha256) if look else None
        if first is not None:
            detail = f"it shows the same frames as {first}, pixel for pixel"
            return Fault(reason="same_frames", detail=detail)
        return None
