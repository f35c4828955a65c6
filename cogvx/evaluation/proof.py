"""That an arm's adapters act was proved on this base, and is kept.

Videos lie under names made from their content, so an evaluation may find those that somebody
generated for himself; nobody had looked then whether the adapters act.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from cogvx.digest import canonical_json, digest
from cogvx.inference.video_key import Engine
from cogvx.store import ObjectStore

# Raised when more is asked of adapters, so that proofs of before no longer count.
_VERSION = 1


@dataclass(frozen=True)
class Proof:
    """The place of one mix's proof; `path` is None where no adapter acts, and nothing is to prove.

    `parts` is what the proof is about.
    """

    store: ObjectStore
    path: str | None
    parts: dict[str, object]

    @property
    def is_missing(self) -> bool:
        """Whether nobody has proved it yet."""
        return self.path is not None and self.store.info(self.path) is None

    def keep(self) -> None:
        """Note that it was proved."""
        if self.path is not None and self.is_missing:
            self.store.write(self.path, canonical_json(self.parts))


def proof_of(adapters: Iterable[tuple[str, float]], engine: Engine, *, store: ObjectStore) -> Proof:
    """Where the proof of a mix is kept: named by the base, how it computes, files and weights.

    Args:
        adapters: sha256 of each file and its weight; those of weight 0 change nothing.
        engine: What generates.
        store: Where proofs are kept.
    """
    used = sorted((sha256, float(weight)) for sha256, weight in adapters if weight)
    parts = {"kind": "proof", "version": _VERSION, "adapters": used, **asdict(engine)}
    name = digest(parts)
    return Proof(store, f"proofs/{name[:2]}/{name}.json" if used else None, parts)
