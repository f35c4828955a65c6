"""The toy base with an adapter that really acts on it, one model for all tests of this room."""

import functools

import pytest
import torch

from cogvx.adapters.card import AdapterCard
from cogvx.adapters.export import export_adapter
from cogvx.digest import sha256_file
from cogvx.evaluation.render import Setting
from cogvx.inference.batch import AdapterAtWeight
from cogvx.inference.session import Session
from cogvx.model.identity import BASE_PARTS, fingerprint
from cogvx.model.load import load_transformer
from cogvx.model.lora import attach_lora
from cogvx.recipe_sections import LoraConfig, VideoConfig
from tests.evaluation.builders import suite_of


class CountingSession(Session):
    """A real session that remembers what it was asked for."""

    generated: tuple = ()

    def generate(self, request, **more):
        type(self).generated = (*type(self).generated, request)
        return super().generate(request, **more)


@pytest.fixture(scope="session")
def open_toy(nano_base):
    """One loaded model for all tests; opening it is counted through `counted`."""
    return functools.cache(lambda: CountingSession.open(nano_base, dtype="float32"))


@pytest.fixture
def counted(open_toy):
    """A way to open a session, and what was done with it."""

    class Counter:
        opened = 0

        def __call__(self):
            self.opened += 1
            CountingSession.generated = ()
            return open_toy()

        @property
        def generated(self):
            return CountingSession.generated if self.opened else ()

    return Counter()


@pytest.fixture(scope="session")
def toy_setting(nano_base):
    return Setting(
        video=VideoConfig(frames=9, height=48, width=48, fps=8),
        base_fingerprint=fingerprint(nano_base, BASE_PARTS),
        dtype="float32",
    )


@pytest.fixture(scope="session")
def toy_suite():
    """Two prompts, two seeds, two steps."""
    return suite_of(
        sampling={"steps": 2, "guidance": 1.0, "sampler": "dpm"},
        prompts=[
            {"id": "circle", "prompt": "a large red circle over black that rises"},
            {"id": "square", "prompt": "a small blue square over white that falls"},
        ],
    )


def write_adapter(base, folder, *, seed, size=0.05, **known):
    """Train nothing, but draw B as well, so that the adapter changes what the base predicts."""
    lora = LoraConfig(rank=4, alpha=4, allow_unusual=True)
    transformer = load_transformer(base, dtype="float32")
    generator = torch.Generator().manual_seed(seed)
    for parameter in attach_lora(transformer, lora, seed=seed):
        if not parameter.any():
            parameter.data.normal_(0, size, generator=generator)
    card = AdapterCard(
        name="toy",
        run="0" * 64,
        rank=4,
        alpha=4,
        targets=lora.targets,
        base_path=str(base),
        base_fingerprint=fingerprint(base, BASE_PARTS),
        base_dtype="float32",
        recipe="0" * 64,
        manifest="0" * 64,
        steps=1,
        **known,
    )
    path = export_adapter(transformer, folder, card=card, allow_zero=True)
    return AdapterAtWeight(sha256_file(path), path)


@pytest.fixture(scope="session")
def toy_adapters(nano_base, tmp_path_factory):
    """Two different adapters."""
    folder = tmp_path_factory.mktemp("adapters")
    return tuple(write_adapter(nano_base, folder / str(seed), seed=seed) for seed in (1, 2))


@pytest.fixture(scope="session")
def idle_adapter(nano_base, tmp_path_factory):
    """An adapter that was never trained: its B is zero."""
    return write_adapter(nano_base, tmp_path_factory.mktemp("idle"), seed=3, size=0.0)
