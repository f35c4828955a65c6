"""A place to run the real command in: its own home, recipe and suite; Prefect's home is shared."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cogvx.cache.plan import Identities, prompt_key
from cogvx.check import check_file
from cogvx.model.identity import TEXT_PARTS, VAE_PARTS, fingerprint
from cogvx.store import LocalStore
from cogvx.variants import read_facts
from tests.fixtures.forks import Forks, forking
from tests.fixtures.recipes import SUITE, recipe_of
from tests.fixtures.servers import prefect_server
from tests.fixtures.start import PYTHONPATH

RECIPE = recipe_of(
    "global_batch = 2",
    "micro_batch = 2",
    "learning_rate = 2e-3",
    "warmup_steps = 2",
    "checkpoint_every = 4",
    "heldout_every = 8",
    "heldout_strata = 4",
    "log_every = 2",
    heldout=3,
)
CIRCLE = "a red circle over a black background"
SQUARE = "a blue square over a white background"


@dataclass
class Place:
    """A folder with a recipe, and the command line run in it."""

    root: Path
    recipe: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.root / "home"

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "flows.cli", *words]

    def run(self, *words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run `cogvx WORDS` here and give back what it printed."""
        return subprocess.run(
            self.command(*words),
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def succeed(self, *words: str, timeout: float = 300) -> str:
        done = self.run(*words, timeout=timeout)
        assert done.returncode == 0, f"{words} ended with {done.returncode}\n{done.stderr[-6000:]}"
        return done.stdout


def write_recipe(path: Path, *, clips: str, base: Path, name: str = "tiny", steps: int = 8) -> Path:
    suite = path.with_name("suite.toml")
    suite.write_text(SUITE.format(name="tiny", circle=CIRCLE, square=SQUARE))
    path.write_text(RECIPE.format(name=name, base=base, clips=clips, steps=steps, suite=suite))
    return path


@pytest.fixture(scope="session")
def prefect_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One Prefect server for all places that do not test the embedded one."""
    with prefect_server(tmp_path_factory.mktemp("prefect")) as url:
        yield url


@pytest.fixture(scope="session")
def forks(
    tmp_path_factory: pytest.TempPathFactory, nano_base: Path, prefect_url: str
) -> Iterator[Forks]:
    """Processes of ours, cheap to start and to kill; their flows run on the shared server."""
    environment = {**os.environ, "PREFECT_API_URL": prefect_url}
    with forking(tmp_path_factory.mktemp("forks"), environment, nano_base) as parent:
        yield parent


def make_place(root: Path, recipe: Path, **settings: str) -> Place:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("COGVX_")
    }
    environment |= {
        "COGVX_HOME": str(root / "home"),
        "PYTHONPATH": PYTHONPATH,
        "COLUMNS": "300",
        **settings,
    }
    return Place(root, recipe, environment)


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory,
    nano_base: Path,
    world_clips: Path,
) -> Place:
    """The embedded default: no server of any kind, everything below one home."""
    root = tmp_path_factory.mktemp("place")
    recipe = write_recipe(root / "recipe.toml", clips=str(world_clips), base=nano_base)
    return make_place(root, recipe)


@contextmanager
def empty_caption_blocked(store: LocalStore, place: Place, base: Path) -> Iterator[None]:
    """A file stands where the folder of the one record goes that every recipe needs."""
    vae, text = (fingerprint(base, parts) for parts in (VAE_PARTS, TEXT_PARTS))
    facts, recipe = read_facts(base), check_file(place.recipe).recipe
    key = prompt_key("", recipe, Identities(vae=vae, text=text), facts)
    way = store.root / Path(key.path).parent
    way.parent.mkdir(parents=True)
    way.write_text("in the way")
    yield
    way.unlink()
