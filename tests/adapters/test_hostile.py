"""Whatever stands in an adapter's place: a sentence, nothing run, little memory, nothing left.

Every way into the project is shown every file; what it says must be our own error and short, and
the process may not grow by more than a few hundred megabytes on the way to it.
"""

import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from cogvx.adapters.bake import bake
from cogvx.adapters.base import find_base
from cogvx.adapters.card import read_card
from cogvx.adapters.compose import merge
from cogvx.adapters.convert import convert
from cogvx.adapters.inspect import describe
from cogvx.adapters.layout import adapted_modules
from cogvx.adapters.shares import Share
from cogvx.adapters.weights import MAX_RANK, LoraPair, read_pairs
from cogvx.adapters.write import packed_adapter
from cogvx.digest import canonical_json
from cogvx.errors import CogvxError, IntegrityError
from cogvx.inference.job import parse_adapter
from cogvx.inference.session import Session
from cogvx.model.identity import BASE_PARTS, fingerprint
from cogvx.variants import read_facts
from tests.adapters.toys import toy_card
from tests.fixtures.hostile import (
    LAYERS,
    MARK,
    MEANT_OTHERWISE,
    METADATA,
    NO_CONTAINER,
    RANK,
    TARGETS,
    TORCH,
    WIDTH,
    adapter,
    of,
    tensors,
    wrong,
)

GROWTH = 384 << 20  # bytes of address space; a right file takes 60 MB
LONGEST = 3000  # characters of an error
SLOWEST = 10  # seconds

Entry = Callable[[Path, Path], object]


class Toy:
    """The toy base, and the ways into the project that take an adapter for it."""

    def __init__(self, base: Path, folder: Path) -> None:
        self.base = base
        self.facts = read_facts(base)
        self.named = find_base(str(base))
        self.fingerprint = fingerprint(base, BASE_PARTS)
        self.session = Session.open(base, dtype="float32", fingerprint=self.fingerprint)
        card = toy_card(rank=RANK, alpha=RANK, targets=TARGETS, base_fingerprint=self.fingerprint)
        self.card = canonical_json(card).decode()
        self.good = of(adapter(tensors(), cogvx_card=self.card))(folder)

    def inspected(self, path: Path, _: Path) -> object:
        return describe(path, self.named)

    def inspected_alone(self, path: Path, _: Path) -> object:
        return describe(path)

    def carded(self, path: Path, _: Path) -> object:
        return read_card(path)

    def paired(self, path: Path, _: Path) -> object:
        return read_pairs(path)

    def attached(self, path: Path, _: Path) -> object:
        attached = self.session.attach("it", path)
        self.session.detach("it")
        return attached

    def merged(self, path: Path, out: Path) -> object:
        return merge([Share(self.good), Share(path, 0.5)], out)

    def converted(self, path: Path, out: Path) -> object:
        return convert(path, out, base=self.named)

    def converted_with_alpha(self, path: Path, out: Path) -> object:
        return convert(path, out, base=self.named, alpha=4)

    def baked(self, path: Path, out: Path) -> object:
        return bake(self.base, [Share(path)], out)


@pytest.fixture(scope="module")
def toy(nano_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    found = Toy(nano_base, tmp_path_factory.mktemp("good"))
    assert (found.facts.layers, found.facts.width) == (LAYERS, WIDTH)
    return found


@contextmanager
def bounded(growth: int = GROWTH) -> Iterator[None]:
    """Let the process take only so much more address space; what wants more gets a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + growth, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def fault_of(entry: Entry, path: Path, out: Path) -> str | None:
    """How an entry misbehaves when it is given a file, or None."""
    began = time.monotonic()
    try:
        with bounded():
            result = entry(path, out)
    except CogvxError as error:
        said = str(error)
    except BaseException as error:  # noqa: BLE001 - anything else is what is looked for
        return f"{type(error).__name__}: {str(error)[:200]}"
    else:
        said = "\n".join(getattr(result, "problems", ()))
    left = [str(file.relative_to(out)) for file in out.rglob("*")]
    verdicts = {
        "was taken": not said,
        "ran code": any((place / MARK).exists() for place in path.parents),
        f"left {left}": bool(left),
        f"says {len(said)} characters: {said[:200]!r}": len(said) > LONGEST,
        f"says what moves the cursor: {said[:200]!r}": not said.replace("\n", "").isprintable(),
        "ran out of memory": "allocat" in said,
        f"took {time.monotonic() - began:.0f} s": time.monotonic() - began > SLOWEST,
    }
    return next((verdict for verdict, is_so in verdicts.items() if is_so), None)


def faults(entry: Entry, files: Mapping[str, Path], outs: Path) -> str:
    """What went wrong, a line for each file."""
    found = []
    for number, (name, path) in enumerate(files.items()):
        fault = fault_of(entry, path, outs / str(number))
        if fault is not None:
            found.append(f"{name}: {fault}")
    return "\n".join(found)


@pytest.fixture(scope="module")
def files(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """Every hostile file, each in a folder of its own."""
    groups = {"container": NO_CONTAINER, "torch": TORCH, "content": wrong(toy.card)}
    return {
        group: {
            name: make(tmp_path_factory.mktemp(group, numbered=True))
            for name, make in makes.items()
        }
        for group, makes in groups.items()
    }


ENTRIES: list[Callable[[Toy], Entry]] = [
    lambda toy: toy.inspected,
    lambda toy: toy.converted,
    lambda toy: toy.attached,
    lambda toy: toy.merged,
    lambda toy: toy.baked,
]
NAMES = ["inspect", "convert", "attach", "merge", "bake"]


@pytest.mark.parametrize("way", ENTRIES, ids=NAMES)
def test_a_right_file_is_taken(toy: Toy, tmp_path: Path, way: Callable[[Toy], Entry]) -> None:
    """Otherwise what follows would prove nothing."""
    result = way(toy)(toy.good, tmp_path / "out")
    assert not getattr(result, "problems", ())


@pytest.mark.parametrize("way", ENTRIES, ids=NAMES)
@pytest.mark.parametrize("group", ["container", "torch", "content"])
def test_what_is_no_adapter_is_refused_in_a_sentence(
    toy: Toy,
    tmp_path: Path,
    files: dict[str, dict[str, Path]],
    *,
    way: Callable[[Toy], Entry],
    group: str,
) -> None:
    assert faults(way(toy), files[group], tmp_path) == ""


def test_without_a_base_files_are_described_or_refused(
    toy: Toy, tmp_path: Path, files: dict[str, dict[str, Path]]
) -> None:
    """What fits no base cannot be told then, but nothing else goes wrong."""
    lines = faults(toy.inspected_alone, files["content"], tmp_path).splitlines()
    assert [line for line in lines if not line.endswith("was taken")] == []


TRUSTING: list[Callable[[Toy], Entry]] = [
    lambda toy: toy.attached,
    lambda toy: toy.merged,
    lambda toy: toy.baked,
]


@pytest.mark.parametrize("way", TRUSTING, ids=["attach", "merge", "bake"])
@pytest.mark.parametrize("name", MEANT_OTHERWISE)
def test_a_strength_that_is_not_alpha_over_rank_is_refused_where_only_that_is_read(
    toy: Toy, tmp_path: Path, way: Callable[[Toy], Entry], name: str
) -> None:
    path = of(adapter(tensors(), MEANT_OTHERWISE[name], cogvx_card=toy.card))(tmp_path)
    with pytest.raises(IntegrityError, match="strength is not alpha/rank"):
        way(toy)(path, tmp_path / "out")


@pytest.mark.parametrize("way", ENTRIES, ids=NAMES)
def test_a_rank_whose_square_fills_the_memory_does_not(
    toy: Toy, tmp_path: Path, way: Callable[[Toy], Entry]
) -> None:
    """30,000 ranks of 192 inputs are 46 MB; their products with each other would be 7 GB."""
    rank = 30_000
    parts = tensors(a=torch.ones(rank, WIDTH), b=torch.ones(WIDTH, rank))
    parts = {name: part for name, part in parts.items() if ".0.attn1.to_q." in name}
    metadata = {**METADATA, "transformer.r": rank, "transformer.lora_alpha": rank}
    path = of(adapter(parts, metadata, cogvx_card=toy.card))(tmp_path)
    assert fault_of(way(toy), path, tmp_path / "out") is None


@pytest.mark.parametrize(
    "alpha",
    [float("nan"), float("inf"), -4.0, 0.0, [4.0, 4.0], []],
    ids=str,
)
def test_an_alpha_of_kohya_that_is_no_alpha_is_refused(
    toy: Toy, tmp_path: Path, alpha: float | list[float]
) -> None:
    parts = {}
    for name, part in tensors().items():
        module, letter = name.removeprefix("transformer.").split(".lora_")
        stem = "lora_unet__" + module.replace(".", "_")
        parts[f"{stem}.lora_{'down' if letter.startswith('A') else 'up'}.weight"] = part
        parts[f"{stem}.alpha"] = torch.tensor(alpha)
    path = of(save(parts))(tmp_path)
    assert fault_of(toy.converted, path, tmp_path / "out") is None


@pytest.mark.parametrize(
    "way",
    [lambda toy: toy.converted, lambda toy: toy.attached, lambda toy: toy.baked],
    ids=["convert", "attach", "bake"],
)
def test_an_adapter_of_another_base_is_refused_with_both_names(
    toy: Toy, tmp_path: Path, way: Callable[[Toy], Entry]
) -> None:
    card = toy_card(rank=RANK, alpha=RANK, targets=TARGETS, base_fingerprint="ab" * 32)
    path = of(adapter(tensors(), cogvx_card=canonical_json(card).decode()))(tmp_path)
    with pytest.raises(IntegrityError) as caught:
        way(toy)(path, tmp_path / "out")
    assert "ab" * 6 in str(caught.value)
    assert toy.fingerprint[:12] in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("card", ["{}", "no", "[" * 100_000, '{"name": 7, "other": "x"}'])
def test_a_damaged_card_is_one_sentence(tmp_path: Path, card: str) -> None:
    path = of(adapter(tensors(), cogvx_card=card))(tmp_path)
    with pytest.raises(IntegrityError, match="card under cogvx_card is damaged: card") as caught:
        read_card(path)
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_one_layer_of_a_high_rank_does_not_make_a_small_file_fill_the_memory() -> None:
    """Padded to rank 4096, 168 layers of rank 1 and the width of 5b would take 17 GB."""

    def pair(rank: int) -> LoraPair:
        return LoraPair(torch.ones(1).expand(rank, 3072), torch.ones(1).expand(3072, rank))

    modules = adapted_modules(42, TARGETS, patch_t=None)
    pairs = {name: pair(1) for name in modules} | {modules[0]: pair(MAX_RANK)}
    card = toy_card(rank=MAX_RANK, alpha=MAX_RANK, targets=TARGETS)
    with bounded(), pytest.raises(IntegrityError, match="ranks differ so much"):
        packed_adapter(pairs, card=card)


def test_a_weight_is_a_number_that_people_write() -> None:
    assert parse_adapter("a:1e-1").weight == 0.1
    assert parse_adapter("a:1_0").ref == "a:1_0"
