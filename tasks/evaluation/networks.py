"""The networks of an evaluation, opened once for all its arms. Loads the GPU stack."""

import logging
from collections.abc import Sequence

from cogvx.data.manifest import Clip, Manifest
from cogvx.evaluation.encoder_gauges import Networks, look_at_clips
from cogvx.evaluation.gauges_clips import ClipRows
from cogvx.evaluation.suite import Suite
from cogvx.metrics.encoder_set import open_encoder_set
from cogvx.metrics.features import FrameEncoder
from cogvx.metrics.similarity import Rows
from cogvx.model.hashes import FileHashes
from tasks.clients.stores import kept_on_disk
from tasks.pages.progress import Progress
from tasks.workbench import Workbench

logger = logging.getLogger(__name__)


def networks_of(bench: Workbench, suite: Suite, manifest: Manifest) -> Networks | None:
    """Open the recipe's networks and let them look at the clips; None where it names none.

    Before any video is rendered: what is wrong with networks or texts is told here. They are held
    by whoever calls, not by the process, so that a GPU is free again after an evaluation.

    Raises:
        ConfigError: Networks cannot be had, or texts are too long for them; with all of them.
        TransientError: The hub, the dataset or the store did not answer this time.
        IntegrityError: Features in the store are damaged.
    """
    named = bench.recipe.evaluation.encoders
    if not named:
        return None
    hashes = FileHashes(bench.settings.file_hashes)
    logger.info("open %s on %s", ", ".join(named), bench.device)
    encoders = open_encoder_set(named, device=bench.device, hashes=hashes)
    hashes.save()
    store = kept_on_disk(bench.store, bench.settings)
    clips = ClipRows(
        recipe=bench.recipe, ids=bench.ids, dataset=bench.dataset, store=store, work=bench.work
    )

    def rows_of(windows: Sequence[Clip], encoder: FrameEncoder) -> Sequence[tuple[str, Rows]]:
        return clips.of(windows, encoder, on_progress=Progress("look at clips", "windows", logger))

    return look_at_clips(
        encoders,
        suite,
        heldout=manifest.heldout,
        train=manifest.train,
        rows_of=rows_of,
        store=store,
    )


def provenance_of(bench: Workbench, networks: Networks | None) -> dict[str, str]:
    """What a report should say of each network: its name, its identity, and where it ran.

    The last bits of its numbers are the device's.
    """
    if networks is None:
        return {}
    found = networks.encoders.identities
    return {
        f"network {kind}": f"{named} {found[kind][:16]} on {bench.device}"
        for kind, named in bench.recipe.evaluation.encoders.items()
    }
