"""What changed between two manifests, as training sees it: bytes and captions, not file names."""

from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict

from cogvx.data.manifest import Clip, Manifest

_EXAMPLES = 5
_LONGEST = 60


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Change(_Document):
    """How many clips changed in one way, and up to five of them."""

    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        """The count, then the examples in brackets."""
        more = ", ..." if self.count > len(self.examples) else ""
        return f"{self.count} ({', '.join(self.examples)}{more})" if self.count else "0"


class ManifestDiff(_Document):
    """The way from one manifest to another; `before` and `after` are their content digests.

    A clip is its bytes: one that was renamed has not changed, one whose bytes were replaced was
    removed and added. Windows of a clip count once.
    """

    before: str
    after: str
    added: Change
    removed: Change
    recaptioned: Change

    @property
    def is_empty(self) -> bool:
        """Whether the same clips stand there with the same captions."""
        return not (self.added.count or self.removed.count or self.recaptioned.count)

    def __str__(self) -> str:
        """One line with counts and examples."""
        if self.is_empty:
            return "the same clips and captions"
        changes = [("added", self.added), ("removed", self.removed)]
        changes.append(("recaptioned", self.recaptioned))
        return "; ".join(f"{name} {change}" for name, change in changes if change.count)


def diff_manifests(before: Manifest, after: Manifest) -> ManifestDiff:
    """Which clips `after` has that `before` had not, the reverse, and which got another caption."""
    old, new = _by_bytes(before.clips), _by_bytes(after.clips)
    both = [sha256 for sha256 in new if sha256 in old]
    return ManifestDiff(
        before=before.content_digest(),
        after=after.content_digest(),
        added=_change([clip.key for sha256, clip in new.items() if sha256 not in old]),
        removed=_change([clip.key for sha256, clip in old.items() if sha256 not in new]),
        recaptioned=_change(
            [
                f"{new[sha256].key}: {_quoted(old[sha256])} became {_quoted(new[sha256])}"
                for sha256 in both
                if old[sha256].caption != new[sha256].caption
            ]
        ),
    )


def _by_bytes(clips: Iterable[Clip]) -> dict[str, Clip]:
    return {clip.sha256: clip for clip in clips}


def _change(clips: Sequence[str]) -> Change:
    return Change(count=len(clips), examples=tuple(clips[:_EXAMPLES]))


def _quoted(clip: Clip) -> str:
    caption = clip.caption
    return f'"{caption if len(caption) <= _LONGEST else caption[: _LONGEST - 3] + "..."}"'
