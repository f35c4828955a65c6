"""Look into one record of the store, with the base and the clips of a recipe."""

from pathlib import Path

from cogvx.housekeeping.lookup import find_record
from cogvx.housekeeping.names import kind_of
from cogvx.housekeeping.whose import find_whose
from cogvx.recipe import Recipe
from tasks.keeping.housekeeping_documents import InspectReport
from tasks.workbench import open_workbench


def inspect_record(recipe: Recipe, what: str, out: Path | None) -> InspectReport:
    """Decode a record beside its source window into `out`, and say what it was made from.

    Args:
        recipe: Names the clips and the base whose VAE made the record.
        what: A clip's key, or the beginning of a record's key.
        out: The mp4 to write; by default one in the work folder. Captions have no picture.

    Raises:
        ConfigError: Nothing, or more than one record, is meant; or another base made it.
        IntegrityError: The record is damaged.
    """
    bench = open_workbench(recipe, purpose="cache")
    manifest = bench.latest_manifest()
    found = find_record(what, manifest=manifest, recipe=recipe, ids=bench.ids, store=bench.store)
    whose = find_whose(bench.store, [found.path])[found.path]

    from cogvx.housekeeping import inspection  # noqa: PLC0415 - loads torch

    record = inspection.read_record(bench.store, found.path, found.name)
    facts = [*record.facts(), *(("clip", clip) for clip in whose.clips)]
    facts += [("caption", caption) for caption in whose.captions]
    facts += [("window", f"another one of {what}: {other}") for other in found.others]
    if kind_of(found.path) == "prompts":
        return InspectReport(facts=tuple(facts), video=None)
    looked = inspection.decode_beside_source(
        record,
        inspection.Bench(
            base=bench.base,
            ids=bench.ids,
            device=bench.device,
            manifest=manifest,
            dataset=bench.dataset,
            work=bench.work / "clips",
        ),
    )
    path = out or bench.work / "inspected" / f"{found.name[:16]}.mp4"
    inspection.write_beside(path, record, looked)
    facts.append(("source", looked.source))
    if looked.psnr is not None:
        facts.append(("PSNR", f"{looked.psnr:.2f} dB, worst frame {looked.worst:.2f} dB"))
    return InspectReport(facts=tuple(facts), video=str(path))
