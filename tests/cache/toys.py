"""Small documents that the cache's tests plan with."""

from cogvx.cache.plan import Identities
from cogvx.data.manifest import Clip, ClipFacts
from cogvx.recipe import Recipe, parse_recipe
from cogvx.shapes import VideoSize

IDS = Identities(vae="a" * 64, text="b" * 64)
FACTS = ClipFacts(width=64, height=64, frames=40, fps=16.0, codec="h264")


def clip(number: int, caption: str = "a red circle", **changes: object) -> Clip:
    """Clip `number`, whose bytes no other clip has."""
    fields = {
        "key": f"clips/{number:04d}.mp4",
        "sha256": f"{number:064x}",
        "size": VideoSize(9, 48, 48),
        **changes,
    }
    return Clip(caption=caption, facts=FACTS, **fields)


def recipe(**sections: dict[str, object]) -> Recipe:
    """A recipe at toy size, with some settings of some sections changed."""
    document = {
        "name": "toy",
        "base": {"path": "base", "dtype": "float32"},
        "dataset": {"uri": "clips"},
        "video": {"frames": 9, "height": 48, "width": 48, "fps": 8},
        "train": {"steps": 10, "warmup_steps": 0},
        "evaluation": {"suite": "suite.toml"},
    }
    for name, settings in sections.items():
        document[name] = {**document.get(name, {}), **settings}
    made, problems = parse_recipe(document)
    assert made is not None, problems
    return made
