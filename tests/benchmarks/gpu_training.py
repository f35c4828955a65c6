"""What a step costs on a GPU at full size, as a Markdown table: seconds, MFU, peak memory.

The peak that is held against the estimate is what torch has reserved, from an emptied cache on, and
what was allocated of it stands beside. Neither has CUDA's own context in it, which nvidia-smi adds
and the estimate has: some hundred MiB.

    python -m tests.benchmarks.gpu_training --out results [--bases 2b 5b] [--updates 5]
    python -m tests.benchmarks.gpu_training --out results --toy     # on the CPU: does it work?

The weights are random, made from the published configurations; nothing is downloaded. Everything
else is the trainer's own: records, batches drawn ahead, objective, optimiser. Each cell is a line
of cells.jsonl as soon as it is measured, and one that is there is not measured again, so that the
command may be cut short and run again. A cell that has no room is a row that says so. table.md is
written anew after every cell.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import CogVideoXDPMScheduler, CogVideoXTransformer3DModel

from cogvx.errors import ConfigError
from cogvx.model.load import torch_dtype
from cogvx.objective.batch import Batches
from cogvx.objective.objective import Objective
from cogvx.objective.precision import scaler_of
from cogvx.objective.records import Records
from cogvx.preflight.devices import known_device
from cogvx.preflight.fit import Fit, choose
from cogvx.preflight.flops import pass_flops
from cogvx.preflight.memory import GIB, peak_memory
from cogvx.recipe import Recipe
from cogvx.runs.folder import RunFolder
from cogvx.shapes import VideoSize
from cogvx.training.fitting import make_ready, probe
from cogvx.training.loop import Learner, accumulate, update
from cogvx.training.optimiser import make_optimiser
from cogvx.training.prefetch import Feed
from cogvx.variants import PUBLISHED, BaseFacts, read_facts
from tests.fixtures.training_runs import make_prompt, make_sample

BASES = {"2b": "CogVideoX-2b", "5b": "CogVideoX-5b", "1.5": "CogVideoX1.5-5B"}
WAYS: tuple[dict[str, Any], ...] = (
    *({"preset": preset} for preset in ("fast", "balanced", "small")),
    *(
        {"checkpointing": kept, "compile": compiled, "base_weights": "as_is"}
        for kept in ("none", "selective", "full")
        for compiled in (False, True)
    ),
    {"checkpointing": "full", "compile": True, "base_weights": "float8"},
    {"checkpointing": "full", "compile": False, "base_weights": "int8"},
)
POOL = 4_194_301  # prime, so that no two rows of a matrix are alike
MEMORY = ("peak GiB reserved", "of them allocated", "estimated GiB")
OTHERS = """\
Published by others, for LoRA at 49x480x720 (GB of GPU memory; none gives a step time to compare):

| whose | 2b | 5b | 1.5-5B |
|---|---|---|---|
| zai-org/CogVideo, README, rank 128 | 16 | 24 | 35 at 81x768x1360 |
| zai-org's CogKit, README | 12 | 24 | 32 |
| cogvideox-factory, rank 64, full checkpointing, batch 1 | 13.0 | 20.8 | |
| the same, batch 4 | 22.3 | 47.8 | |
| the same, nothing computed again, batch 1 | 44.3 | more than 80 | |
| finetrainers, README, base in float8, rank 128, 49x512x768 | | 18 | |
| diffusers' documentation, batch 1 / 2 | 47 / 61 | 63 / 80 | |
"""


@dataclass(frozen=True)
class Cell:
    """One line of cells.jsonl. `asked` names the cell; no seconds mean that it has no room."""

    base: str
    micro_batch: int
    asked: str
    checkpointing: str = ""
    compile: bool = False
    base_weights: str = ""
    first_seconds: float | None = None
    seconds: float | None = None
    mfu: float | None = None
    reserved_gib: float | None = None
    allocated_gib: float | None = None
    estimated_gib: float | None = None
    fault: str = ""

    @property
    def key(self) -> tuple[str, int, str]:
        return (self.base, self.micro_batch, self.asked)


@dataclass(frozen=True)
class Bench:
    """Where everything lies and how often to measure."""

    work: Path
    accelerator: Accelerator
    updates: int
    toy: bool

    def facts(self, base: str) -> BaseFacts:
        facts = PUBLISHED[BASES[base]]
        if not self.toy:
            return facts
        size = VideoSize(9 if facts.patch_t is None else 17, 32, 48)
        small = {"layers": 2, "heads": 2, "text_tokens": 8, "text_dim": 16, "time_dim": 16}
        return replace(facts, **small, sample_size=size)

    def recipe(self, base: str, micro_batch: int, compute: dict[str, Any]) -> Recipe:
        facts = self.facts(base)
        size = facts.sample_size
        if facts.patch_t and not self.toy:
            size = VideoSize(81, 768, 1360)
        frame = {"frames": size.frames, "height": size.height, "width": size.width}
        return Recipe.model_validate(
            {
                "name": "bench",
                "base": {"path": base, "dtype": "float32" if self.toy else facts.variant.dtype},
                "dataset": {"uri": "file:///nowhere"},
                "video": {**frame, "fps": facts.variant.fps},
                "lora": {"rank": 16, "alpha": 8, "allow_unusual": True} if self.toy else {},
                "train": {
                    "steps": 1000,
                    "global_batch": micro_batch,
                    "micro_batch": micro_batch,
                    "warmup_steps": 0,
                },
                "compute": compute,
                "evaluation": {"suite": "none.toml"},
            }
        )


def write_base(folder: Path, facts: BaseFacts) -> Path:
    """A base's folder without weights."""
    spatial = facts.compression.spatial
    config = {
        "num_attention_heads": facts.heads,
        "attention_head_dim": facts.head_dim,
        "in_channels": facts.in_channels,
        "out_channels": facts.out_channels,
        "num_layers": facts.layers,
        "time_embed_dim": facts.time_dim,
        "text_embed_dim": facts.text_dim,
        "max_text_seq_length": facts.text_tokens,
        "patch_size": facts.patch,
        "patch_size_t": facts.patch_t,
        "patch_bias": facts.patch_t is None,
        "sample_frames": facts.sample_size.frames,
        "sample_height": facts.sample_size.height // spatial,
        "sample_width": facts.sample_size.width // spatial,
        "use_rotary_positional_embeddings": facts.variant.rotary,
    }
    vae = {
        "block_out_channels": [1] * (spatial.bit_length()),
        "temporal_compression_ratio": facts.compression.temporal,
        "latent_channels": facts.latent_channels,
        "scaling_factor": facts.scaling_factor,
    }
    for part, kind, document in (
        ("transformer", "CogVideoXTransformer3DModel", config),
        ("vae", "AutoencoderKLCogVideoX", vae),
    ):
        (folder / part).mkdir(parents=True)
        text = json.dumps({"_class_name": kind, **document})
        (folder / part / "config.json").write_text(text)
    CogVideoXDPMScheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=facts.snr_shift_scale,
        timestep_spacing="trailing",
    ).save_pretrained(folder / "scheduler")
    return folder


def random_transformer(folder: Path, dtype: torch.dtype) -> Any:
    """The published form with random weights in main memory, where a trainer loads them too."""
    config = CogVideoXTransformer3DModel.load_config(folder / "transformer")
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            transformer = CogVideoXTransformer3DModel.from_config(config)
    finally:
        torch.set_default_dtype(before)
    transformer.to_empty(device="cpu")
    # over and over the same numbers: drawing billions on a CPU would take minutes for each cell
    pool = torch.empty(POOL, dtype=dtype).normal_(std=0.02)
    for tensor in (*transformer.parameters(), *transformer.buffers()):
        for part in tensor.data.view(-1).split(POOL):
            part.copy_(pool[: len(part)])
    return transformer.eval().requires_grad_(requires_grad=False)


def learner_of(bench: Bench, recipe: Recipe, fit: Fit, folder: Path) -> Learner:
    """What `prepare` makes, over random weights and made-up records."""
    device, dtype = bench.accelerator.device, recipe.base.dtype
    objective, run = Objective.of(folder), RunFolder(folder / "run")
    samples = tuple(make_sample(run, recipe, objective.facts, number) for number in range(4))
    batches = Batches(
        records=Records(run.records),
        samples=samples,
        empty_prompt=make_prompt(run, objective.facts, ""),
        objective=objective,
        train=recipe.train,
    )
    transformer = random_transformer(folder, torch_dtype(dtype))
    # stored in 8 bits before the GPU sees it, so that none of the larger form stays reserved there
    parameters = make_ready(transformer, recipe, fit, device=device)
    return Learner(
        accelerator=bench.accelerator,
        model=transformer,
        parameters=parameters,
        optimiser=make_optimiser(parameters, recipe.train),
        scaler=scaler_of(torch_dtype(dtype), device.type),
        objective=objective,
        feed=Feed(batches, rank=0, device=device, ahead=fit.prefetch),
        train=recipe.train,
    )


def measure(bench: Bench, cell: Cell, compute: dict[str, Any], folder: Path) -> Cell:
    """Fill in a cell."""
    recipe = bench.recipe(cell.base, cell.micro_batch, compute)
    device, facts = bench.accelerator.device, read_facts(folder)
    try:
        fit = choose(recipe, facts, probe(device))
    except ConfigError as error:  # the estimate is to be judged too, so it is tried all the same
        if "checkpointing" not in compute:
            return replace(cell, fault=str(error))
        needs = peak_memory(
            recipe,
            facts,
            checkpointing=compute["checkpointing"],
            base_weights=compute["base_weights"],
        )
        way = {name: compute[name] for name in ("checkpointing", "compile", "base_weights")}
        fit = Fit(**way, attention="auto", prefetch=2, needs=needs, why="")
    cell = replace(
        cell,
        checkpointing=fit.checkpointing,
        compile=fit.compile,
        base_weights=fit.base_weights,
        estimated_gib=round(fit.needs.gib, 2),
    )
    try:
        return timed(bench, cell, recipe, fit, folder)
    except torch.OutOfMemoryError:
        return replace(cell, fault="out of memory")
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if fit.compile:
            torch.compiler.reset()


def timed(bench: Bench, cell: Cell, recipe: Recipe, fit: Fit, folder: Path) -> Cell:
    cuda = bench.accelerator.device.type == "cuda"
    learner, took = learner_of(bench, recipe, fit, folder), []
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with learner.feed:
        for step in range(bench.updates + 1):
            began = time.perf_counter()
            accumulate(learner, step)
            update(learner, step)
            if cuda:
                torch.cuda.synchronize()
            took.append(time.perf_counter() - began)
    seconds, facts = median(took[1:]), learner.objective.facts
    tokens = max(facts.tokens(size) for size in recipe.video.sizes)
    done = pass_flops(
        facts, recipe.lora, tokens=tokens, clips=cell.micro_batch, checkpointing="none"
    ).total  # what is computed again is no progress
    device = known_device(torch.cuda.get_device_name()) if cuda else None
    peak = None if device is None else device.peak_flops(recipe.base.dtype)
    return replace(
        cell,
        first_seconds=round(took[0], 2),
        seconds=round(seconds, 3),
        mfu=None if peak is None else round(done / seconds / peak, 3),
        reserved_gib=round(torch.cuda.max_memory_reserved() / GIB, 2) if cuda else None,
        allocated_gib=round(torch.cuda.max_memory_allocated() / GIB, 2) if cuda else None,
    )


def cells_of(bases: list[str], micro_batches: list[int]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    for base in bases:
        for micro_batch in micro_batches:
            for way in WAYS:
                asked = ", ".join(f"{name} {json.dumps(value)}" for name, value in way.items())
                yield Cell(base, micro_batch, asked.replace('"', "")), way


def write_table(path: Path, cells: list[Cell], heading: str) -> None:
    columns = ("base", "micro-batch", "asked for", "checkpointing", "compiled", "base weights")
    figures = ("s/step", "first step, s", "MFU", *MEMORY)
    rows = [heading, "", f"| {' | '.join(columns + figures)} |"]
    rows.append("|" + "---|" * len(columns) + "---:|" * len(figures))
    for cell in cells:
        compiled = "yes" if cell.compile else "no"
        memory = (cell.reserved_gib, cell.allocated_gib, cell.estimated_gib)
        found = (cell.seconds, cell.first_seconds, cell.mfu, *memory)
        shown = ["" if figure is None else str(figure) for figure in found]
        if cell.fault:
            shown[0] = "no room" if "memory" in cell.fault else "refused"
        way = [cell.asked, cell.checkpointing, compiled, cell.base_weights]
        rows.append(f"| {cell.base} | {cell.micro_batch} | " + " | ".join(way + shown) + " |")
    path.write_text("\n".join([*rows, "", OTHERS]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for cells.jsonl, table.md")
    parser.add_argument("--bases", nargs="+", choices=tuple(BASES), default=["2b", "5b"])
    parser.add_argument("--micro-batches", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--updates", type=int, default=5)
    parser.add_argument("--toy", action="store_true", help="two narrow blocks, on the CPU")
    asked = parser.parse_args()
    if not asked.toy and not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device; run this on a GPU, or try it out with --toy")
    asked.out.mkdir(parents=True, exist_ok=True)
    lines = asked.out / "cells.jsonl"
    text = lines.read_text().splitlines() if lines.is_file() else []
    known = {cell.key: cell for cell in (Cell(**json.loads(line)) for line in text)}
    name = "the CPU, toy size" if asked.toy else torch.cuda.get_device_name()
    heading = f"{name}, torch {torch.__version__}, random weights, median of {asked.updates} steps"
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(Path(work), Accelerator(cpu=asked.toy), asked.updates, asked.toy)
        for number, (cell, way) in enumerate(cells_of(asked.bases, asked.micro_batches)):
            if cell.key in known or (asked.toy and way.get("compile")):
                continue
            folder = write_base(bench.work / str(number), bench.facts(cell.base))
            known[cell.key] = measured = measure(bench, cell, way, folder)
            with lines.open("a") as file:
                file.write(json.dumps(asdict(measured)) + "\n")
            print(json.dumps(asdict(measured)), flush=True)
            write_table(asked.out / "table.md", list(known.values()), heading)


if __name__ == "__main__":
    main()
