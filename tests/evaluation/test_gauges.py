"""Distances from the base: only where an adapter should keep away, and only to its own twin."""

import numpy as np
import pytest

from cogvx.digest import sha256_file
from cogvx.evaluation.documents import Reading
from cogvx.evaluation.gauge import Findings, Seen
from cogvx.evaluation.gauges import BaseDistance, Told
from cogvx.metrics.ssim import similarity
from cogvx.mp4 import read_mp4, write_mp4
from cogvx.store import MemoryStore
from tests.evaluation.builders import suite_of

GROUPS = ("domain", "trigger_free", "off_domain", "train_caption")
SUITE = suite_of(prompts=[{"id": name, "prompt": f"a {name}", "group": name} for name in GROUPS])


@pytest.fixture
def video(tmp_path):
    """Write a small video of some shade; the same shade gives the same bytes."""

    def write(name, seed, frames=9):
        shape = (frames, 32, 48, 3)
        path = tmp_path / f"{name}-{seed}-{frames}.mp4"
        rgb_fhwc = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        write_mp4(path, rgb_fhwc, fps=8)
        return path

    return write


def seen_of(prompt, path, seed=1, decode=read_mp4):
    return Seen(prompt=prompt, seed=seed, path=path, sha256=sha256_file(path), decode=decode)


def no_decoding(path):
    raise AssertionError(f"{path} is decoded although nothing needs its frames")


def test_only_prompts_that_are_none_of_its_business_are_measured(video):
    base = {(name, 1): video("base", number) for number, name in enumerate(GROUPS)}
    gauge = BaseDistance(base)
    found = {
        prompt.id: dict(gauge.look(seen_of(prompt, video("mine", 10 + number))))
        for number, prompt in enumerate(SUITE.prompts)
    }
    assert found["domain"] == found["train_caption"] == {}
    for number, name in ((1, "trigger_free"), (2, "off_domain")):
        alike = similarity(
            read_mp4(video("mine", 10 + number)).rgb_fhwc, read_mp4(base[name, 1]).rgb_fhwc
        )
        assert found[name] == {"base_distance": 1.0 - alike}
    assert gauge.findings() == Findings()


def test_the_base_itself_is_at_no_distance_and_is_not_decoded_for_it(video):
    prompt = SUITE.prompts[2]
    gauge = BaseDistance({(prompt.id, 1): video("base", 1)})
    seen = seen_of(prompt, video("copy", 1), decode=no_decoding)
    assert gauge.look(seen) == {"base_distance": 0.0}


def test_a_distance_is_measured_once_and_every_file_has_its_own(video):
    store, prompt = MemoryStore(), SUITE.prompts[2]
    base = {(prompt.id, 1): video("base", 1)}
    first = BaseDistance(base, store).look(seen_of(prompt, video("mine", 2)))
    again = seen_of(prompt, video("mine", 2), decode=no_decoding)
    assert BaseDistance(base, store).look(again) == first
    assert BaseDistance(base, store).look(seen_of(prompt, video("mine", 3))) != first
    other = {(prompt.id, 1): video("base", 4)}
    assert BaseDistance(other, store).look(seen_of(prompt, video("mine", 2))) != first


@pytest.mark.parametrize(
    "tool",
    ["identity._DECODING", "identity.av.__version__", "identity.cv2.__version__", "packages"],
)
def test_whatever_compares_otherwise_has_another_distance(tool, video, monkeypatch):
    store, prompt = MemoryStore(), SUITE.prompts[2]
    base = {(prompt.id, 1): video("base", 1)}
    BaseDistance(base, store).look(seen_of(prompt, video("mine", 2)))
    if tool == "packages":  # torchmetrics and torch
        monkeypatch.setattr("cogvx.evaluation.gauges.version", lambda name: f"{name} 9.9.9")
    else:
        monkeypatch.setattr(f"cogvx.metrics.{tool}", "9.9.9")
    BaseDistance(base, store).look(seen_of(prompt, video("mine", 2)))
    assert len(store.objects) == 2


def test_without_a_twin_of_its_size_there_is_no_distance(video):
    prompt = SUITE.prompts[2]
    gauge = BaseDistance({(prompt.id, 1): video("base", 1)}, MemoryStore())
    assert gauge.look(seen_of(prompt, video("mine", 2), seed=2)) == {}
    assert gauge.look(seen_of(prompt, video("mine", 2, frames=5))) == {}


def test_what_was_found_out_otherwise_is_told_as_it_is(video):
    findings = Findings((Reading(metric="base_drift", unit="a", draw=125, value=0.5),))
    gauge = Told(findings)
    assert gauge.look(seen_of(SUITE.prompts[0], video("any", 1), decode=no_decoding)) == {}
    assert gauge.findings() == findings
