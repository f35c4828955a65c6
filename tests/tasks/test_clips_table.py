"""The table of clips in Prefect's pages: what a person acts on first, and never too long."""

from cogvx.data.manifest import Clip, ClipFacts, Manifest, Rejected, Split
from cogvx.shapes import VideoSize
from tasks.caching.clips_table import clip_rows

FACTS = ClipFacts(width=64, height=48, frames=40, fps=8.0, codec="h264")


def clip(number: int, start: int = 0, split: Split = "train") -> Clip:
    return Clip(
        key=f"{number:05}.mp4",
        sha256="a" * 64,
        caption="a circle " * 50,
        facts=FACTS,
        size=VideoSize(9, 48, 48),
        start_frame=start,
        split=split,
    )


def test_refused_clips_come_first_with_their_reasons() -> None:
    manifest = Manifest(
        dataset="s3://clips/ink",
        clips=(clip(1), clip(1, start=9), clip(2, split="heldout")),
        rejected=(Rejected(key="9.mp4", reason="static", detail="it rests"),),
    )
    rows = clip_rows(manifest)
    assert [row["clip"] for row in rows] == ["9.mp4", "00001.mp4", "00002.mp4"]
    assert [row["use"] for row in rows] == ["refused: static", "trained on", "held out"]
    assert rows[0]["what"] == "it rests"
    assert (rows[1]["windows"], rows[1]["size"]) == ("2", "9x48x48, of 5 s")


def test_a_large_dataset_gives_a_short_table() -> None:
    manifest = Manifest(
        dataset="s3://clips/ink",
        clips=tuple(clip(number) for number in range(500)),
        rejected=tuple(Rejected(key=f"{n}.mp4", reason="black", detail="") for n in range(500)),
    )
    rows = clip_rows(manifest)
    assert len(rows) == 100
    assert sum(row["use"] == "refused: black" for row in rows) == 60
    assert max(len(text) for row in rows for text in row.values()) <= 100
