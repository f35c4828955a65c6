"""A generated mp4 tells anyone what made it, and its pictures are those of the store."""

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from cogvx.errors import DataError, IntegrityError
from cogvx.inference.provenance import (
    Base,
    Provenance,
    UsedAdapter,
    describe_video,
    read_provenance,
    read_tags,
    write_provenance,
)
from cogvx.inference.request import Request, Sampling
from cogvx.inference.video_key import Engine, key_of
from cogvx.mp4 import label_mp4, read_mp4, write_mp4
from cogvx.shapes import VideoSize

REQUEST = Request(
    prompt='ein "großer" Kreis,\n= ; # 圆 🎉 \\ ',
    seed=2**62,
    size=VideoSize(9, 48, 64),
    fps=8,
    sampling=Sampling(50, 6.0, "dpm", dynamic_guidance=True),
)
USED = (
    UsedAdapter(name="models:/style/3 (champion)", sha256="a" * 64, weight=0.6),
    UsedAdapter(name="silent.safetensors", sha256="b" * 64, weight=0.0),
)


def told(request: Request = REQUEST, **more: bool) -> Provenance:
    engine = Engine("f" * 64, "bfloat16", tiling=True, fused=True)
    adapters = tuple((used.sha256, used.weight) for used in USED)
    return describe_video(
        request,
        key_of(request, adapters, engine),
        base=Base(path="zai-org/CogVideoX-5b", revision="abc", fingerprint="f" * 64),
        adapters=USED,
        code="0.1.0",
        **more,
    )


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    video = np.random.default_rng(0).integers(0, 255, (9, 48, 64, 3), dtype=np.uint8)
    write_mp4(tmp_path / "plain.mp4", video, fps=8)
    return tmp_path / "plain.mp4"


def tags(path: Path) -> dict[str, str]:
    """As any program reads them."""
    with av.open(str(path)) as container:
        return dict(container.metadata)


def test_other_programs_read_every_fact(plain: Path, tmp_path: Path) -> None:
    write_provenance(plain, tmp_path / "a.mp4", told())
    found = {
        name: json.loads(text)
        for name, text in tags(tmp_path / "a.mp4").items()
        if name.startswith("cogvx_")
    }
    assert found["cogvx_prompt"] == REQUEST.prompt
    assert found["cogvx_seed"] == 2**62
    assert (found["cogvx_sampler"], found["cogvx_steps"]) == ("dpm", 50)
    assert (found["cogvx_guidance"], found["cogvx_dynamic_guidance"]) == (6.0, True)
    assert (found["cogvx_size"], found["cogvx_fps"]) == ("9x48x64", 8)
    assert found["cogvx_code"] == "0.1.0"
    assert found["cogvx_base"] == {
        "path": "zai-org/CogVideoX-5b",
        "revision": "abc",
        "fingerprint": "f" * 64,
    }
    assert found["cogvx_adapters"] == [
        {"name": "models:/style/3 (champion)", "sha256": "a" * 64, "weight": 0.6}
    ], "what has no weight did not act"


def test_it_comes_back_as_it_was(plain: Path, tmp_path: Path) -> None:
    with_image = replace(REQUEST, image_hwc=np.zeros((48, 64, 3), np.uint8), negative_prompt="")
    for provenance in (told(), told(with_image), told(with_prompt=False)):
        write_provenance(plain, tmp_path / "a.mp4", provenance)
        assert read_provenance(tmp_path / "a.mp4") == provenance


def test_the_pictures_are_the_same_frame_for_frame(plain: Path, tmp_path: Path) -> None:
    write_provenance(plain, tmp_path / "a.mp4", told())
    before, after = read_mp4(plain), read_mp4(tmp_path / "a.mp4")
    assert np.array_equal(before.rgb_fhwc, after.rgb_fhwc)
    assert before.fps == after.fps
    with av.open(str(plain)) as one, av.open(str(tmp_path / "a.mp4")) as other:
        for name in ("colorspace", "color_range", "color_primaries", "color_trc"):
            contexts = [each.streams.video[0].codec_context for each in (one, other)]
            assert getattr(contexts[0], name) == getattr(contexts[1], name)
        assert one.streams.video[0].duration == other.streams.video[0].duration
        assert bytes(next(one.demux(video=0))) == bytes(next(other.demux(video=0)))
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "browsers still play it at once"
    write_provenance(plain, tmp_path / "b.mp4", told())
    assert (tmp_path / "b.mp4").read_bytes() == data


def test_a_prompt_that_is_private_is_nowhere_in_the_file(plain: Path, tmp_path: Path) -> None:
    secret = replace(REQUEST, prompt="nobody knows", negative_prompt="nor this")
    write_provenance(plain, tmp_path / "a.mp4", told(secret, with_prompt=False))
    data = (tmp_path / "a.mp4").read_bytes()
    assert b"nobody" not in data
    assert b"nor this" not in data
    assert b"nobody" not in plain.read_bytes()
    assert all(
        "nobody" not in text for row in told(secret, with_prompt=False).rows() for text in row
    )


def test_a_long_prompt_is_whole(plain: Path, tmp_path: Path) -> None:
    long = replace(REQUEST, prompt="a red circle and " * 600)
    write_provenance(plain, tmp_path / "a.mp4", told(long))
    found = read_provenance(tmp_path / "a.mp4")
    assert found is not None
    assert found.prompt == long.prompt


def test_videos_that_say_nothing_or_nonsense(plain: Path, tmp_path: Path) -> None:
    assert read_provenance(plain) is None
    assert read_tags(plain) == []
    label_mp4(plain, tmp_path / "served.mp4", {"cogvx_model": '"style"', "other": "x"})
    assert read_provenance(tmp_path / "served.mp4") is None
    assert read_tags(tmp_path / "served.mp4") == [("model", '"style"')]
    with pytest.raises(DataError, match="no such video"):
        read_provenance(tmp_path / "absent.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DataError, match="cannot be read as a video"):
        read_provenance(tmp_path / "text.mp4")
    with pytest.raises(DataError, match="cannot be read as a video"):
        write_provenance(tmp_path / "text.mp4", tmp_path / "a.mp4", told())
    assert not (tmp_path / "a.mp4").exists()
    for nonsense in ({"cogvx_schema_version": "2"}, {"cogvx_schema_version": "{"}):
        label_mp4(plain, tmp_path / "b.mp4", nonsense)
        with pytest.raises(IntegrityError, match="this version can read"):
            read_provenance(tmp_path / "b.mp4")
