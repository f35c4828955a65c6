"""How fast trained runs went, kept in the store so that the next estimate need not assume it.

One small document for each kind of GPU, base and way of training; the newest run's stands there.
"""

import re

from pydantic import BaseModel, ConfigDict, Field

from cogvx.digest import canonical_json
from cogvx.preflight.compare import Measured
from cogvx.store import ObjectStore
from cogvx.variants import BaseFacts
from tasks.workbench import read_stored


class Speed(BaseModel):
    """Share of the peak that all arithmetic together reached, in one run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    utilisation: float = Field(gt=0, le=1)


def keep_speed(store: ObjectStore, facts: BaseFacts, run: str, measured: Measured | None) -> None:
    """Remember how fast a run went, where the peak of its GPU is known."""
    if measured is None or measured.device is None or not measured.utilisation:
        return
    key = _key(measured.device, facts, measured.checkpointing, compiles=measured.compiles)
    speed = Speed(run=run, utilisation=min(measured.utilisation, 1.0))
    store.write(key, canonical_json(speed))


def known_utilisation(
    store: ObjectStore, facts: BaseFacts, device: str, checkpointing: str, *, compiles: bool
) -> float | None:
    """What the last such run reached; None before the first.

    Raises:
        IntegrityError: The document is damaged.
    """
    key = _key(device, facts, checkpointing, compiles=compiles)
    if store.info(key) is None:
        return None
    return read_stored(store, key, Speed).utilisation


def _key(device: str, facts: BaseFacts, checkpointing: str, *, compiles: bool) -> str:
    way = f"{checkpointing}-compiled" if compiles else checkpointing
    name = re.sub(r"[^a-z0-9.]+", "-", f"{device}-{facts.variant.name}-{way}".lower())
    return f"speeds/{name}.json"
