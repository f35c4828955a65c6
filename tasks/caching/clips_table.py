"""The clips of a manifest as Prefect's pages show them: a few numbers, and a table of some."""

from collections import Counter

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from cogvx.data.manifest import Clip, Manifest
from tasks.pages.progress import is_watched
from tasks.pages.shown import shown

# A page draws every row at once. Those that are refused come first: a person acts on them.
_MOST_ROWS, _MOST_REFUSED = 100, 60
_MOST_CHARACTERS = 100


def show_clips(manifest: Manifest, name: str, numbers: str) -> None:
    """Make the artifacts of the flow run under way, if there is one.

    Args:
        manifest: Whose clips.
        name: Of the recipe.
        numbers: What is to be said of all of them, as Markdown.
    """
    if not is_watched():
        return
    rows = clip_rows(manifest)
    windows = Counter(clip.key for clip in manifest.clips)
    all_of_them = len(windows) + len(manifest.rejected)
    some = "" if len(rows) == all_of_them else f"{len(rows)} of "
    with shown("clips"):
        create_markdown_artifact(numbers, key="dataset", description=f"Dataset of {name}")
        create_table_artifact(
            rows, key="clips", description=f"{some}{all_of_them:,} clips, refused ones first"
        )


def clip_rows(manifest: Manifest) -> list[dict[str, str]]:
    """A row for a clip: those that were refused with the reason, then some that are used."""
    rows = [
        {
            "clip": one.key,
            "use": f"refused: {one.reason}",
            "size": "",
            "windows": "",
            "what": one.detail,
        }
        for one in manifest.rejected[:_MOST_REFUSED]
    ]
    windows = Counter(clip.key for clip in manifest.clips)
    firsts: dict[str, Clip] = {}
    for clip in manifest.clips:
        if len(firsts) == _MOST_ROWS - len(rows):
            break
        firsts.setdefault(clip.key, clip)
    rows += [_row(clip, windows[key]) for key, clip in firsts.items()]
    return [{name: text[:_MOST_CHARACTERS] for name, text in row.items()} for row in rows]


def _row(clip: Clip, windows: int) -> dict[str, str]:
    return {
        "clip": clip.key,
        "use": "held out" if clip.split == "heldout" else "trained on",
        "size": f"{clip.size}, of {clip.facts.seconds:.3g} s",
        "windows": str(windows),
        "what": clip.caption,
    }
