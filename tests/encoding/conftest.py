"""The toy model's encoders, three clips of the toy world, and a bench to encode them on."""

import json
from pathlib import Path

import pytest

from cogvx.data.manifest import Clip
from cogvx.encoding import Encoders
from tests.encoding.benches import Bench, RemoteStore, clip_of, encoders_of


@pytest.fixture(scope="session")
def encoders(nano_base: Path) -> Encoders:
    return encoders_of(nano_base)


@pytest.fixture(scope="session")
def clips(world_clips: Path) -> tuple[Clip, ...]:
    """Three clips, two of which share a caption."""
    lines = (world_clips / "metadata.jsonl").read_text().splitlines()[:3]
    rows = [json.loads(line) for line in lines]
    captions = [rows[0]["text"], rows[1]["text"], f"  {rows[0]['text']} "]
    return tuple(
        clip_of(world_clips / row["file_name"], world_clips, caption)
        for row, caption in zip(rows, captions, strict=True)
    )


@pytest.fixture
def bench(encoders: Encoders, world_clips: Path, tmp_path: Path) -> Bench:
    return Bench(encoders, RemoteStore(world_clips), tmp_path / "work")
