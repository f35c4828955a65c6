"""Read an adapter file for one loaded base, or say why it must not act on it.

Layers of another member of the family often have the same names and shapes, so what a file's card
says of its base counts as much as whether its tensors fit.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cogvx.adapters.card import AdapterCard, read_card
from cogvx.adapters.container import Header, read_header
from cogvx.adapters.layout import LORA_A, LORA_B, PREFIX, adapted_modules
from cogvx.adapters.same_base import NamedBase, base_doubt, base_in_folder, base_problem
from cogvx.adapters.weights import LoraPair, Pairs, read_pairs
from cogvx.errors import ConfigError, IntegrityError
from cogvx.variants import BaseFacts, ImageScale

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedBase:
    """What adapters are compared with.

    Attributes:
        facts: Of its configuration.
        layers: Inputs and outputs of every linear layer, by its full name.
        dtype: What they are multiplied in.
        fingerprint: Of its bytes, which cards are compared with where both are known.
        image_scale: What a first frame's latent is scaled with here; None for text-to-video.
        folder: Where it lies; compared where bytes are not known.
    """

    facts: BaseFacts
    layers: Mapping[str, tuple[int, int]]
    dtype: torch.dtype
    fingerprint: str | None = None
    image_scale: ImageScale | None = None
    folder: Path | None = None

    @property
    def named(self) -> NamedBase:
        """What cards are compared with."""
        return base_in_folder(self.folder, self.facts, self.fingerprint)


@dataclass(frozen=True, eq=False)
class LoadedAdapter:
    """An adapter in main memory, float32 at strength 1; 504 MiB for 5b at rank 128.

    The matrices are copies: what happens to the file afterwards happens to the file alone.
    """

    path: Path
    card: AdapterCard | None
    pairs: Pairs

    @property
    def rank(self) -> int:
        """The largest of its layers'."""
        return max(pair.rank for pair in self.pairs.values())


def linear_layers(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of every linear layer of a model without adapters, wherever it lies."""
    return {
        name: (part.in_features, part.out_features)
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear)
    }


def load_adapter(path: Path, base: LoadedBase) -> LoadedAdapter:
    """Read a file in diffusers' form that belongs to `base`.

    Header and card are looked at before any tensor is read.

    Raises:
        ConfigError: There is no such file.
        IntegrityError: It is damaged, of another form, of another base, does not record its alpha,
            or holds numbers that are not finite in the base's precision.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such adapter file")
    header, card = read_header(path), read_card(path)
    problems = [*_other_shapes(header, base), *(_other_base(card, base) if card else ())]
    if card and not problems:
        problems = list(_missing(header, card, base))
    if problems:
        raise IntegrityError(f"{path} does not fit the base model: " + "; ".join(problems))
    # A is still the file's own memory map: cutting the file short would end this process
    pairs = {
        module: LoraPair(pair.a_ri.clone(), pair.b_or) for module, pair in read_pairs(path).items()
    }
    _require_finite(path, pairs, base.dtype)
    if card and (doubt := base_doubt(card, base.named)):
        logger.warning("%s: %s", path, doubt)
    return LoadedAdapter(path=path, card=card, pairs=pairs)


def _require_finite(path: Path, pairs: Pairs, dtype: torch.dtype) -> None:
    """Refuse what is finite as it was read, and not as it is used: float16 ends at 65504."""
    largest = torch.finfo(dtype).max
    for module, pair in pairs.items():
        if max(pair.a_ri.abs().max(), pair.b_or.abs().max()) > largest:
            raise IntegrityError(
                f"{path} does not fit the base model: {module} is not finite in {dtype}"
            )


def _other_base(card: AdapterCard, base: LoadedBase) -> Iterator[str]:
    if problem := base_problem(card, base.named):
        yield problem
    # Where an adapter from another program was trained, nobody may have written the scale down.
    is_told = card.origin == "trained" or card.image_latent_scale is not None
    if is_told and card.image_latent_scale != base.image_scale:
        yield (
            f"it was trained with {_scaled(card.image_latent_scale)}, and this session has"
            f" {_scaled(base.image_scale)}"
        )


def _scaled(scale: ImageScale | None) -> str:
    return "no first frame" if scale is None else f"first frames' latents {scale}"


def _other_shapes(header: Header, base: LoadedBase) -> Iterator[str]:
    """Layers that the base lacks, or has in another shape; names of other forms are not judged."""
    shapes = {
        name.removeprefix(PREFIX): info.shape
        for name, info in header.tensors.items()
        if name.startswith(PREFIX) and name.endswith((LORA_A, LORA_B))
    }
    modules = {name.removesuffix(LORA_A).removesuffix(LORA_B) for name in shapes}
    absent = sorted(modules - base.layers.keys())
    if absent:
        known = len(modules) - len(absent)
        yield (
            f"it holds {len(modules)} adapted layers, of which {known} exist here;"
            f" {absent[0]} does not"
        )
    for module in sorted(modules & base.layers.keys()):
        a_ri, b_or = shapes.get(module + LORA_A), shapes.get(module + LORA_B)
        inputs, outputs = base.layers[module]
        if a_ri is None or b_or is None:
            continue  # half a pair has a sentence of its own
        if not (
            len(a_ri) == 2 and a_ri[0] > 0 and a_ri[1] == inputs and b_or == (outputs, a_ri[0])
        ):
            yield (
                f"A is {a_ri} and B is {b_or} for {module}, which has {inputs} inputs and"
                f" {outputs} outputs"
            )
            return  # the others are wrong in the same way


def _missing(header: Header, card: AdapterCard, base: LoadedBase) -> Iterator[str]:
    """Layers that the card's targets select in this base, and the file says nothing of."""
    facts = base.facts
    modules = adapted_modules(facts.layers, card.targets, patch_t=facts.patch_t)
    missing = [
        f"{PREFIX}{module}{end}"
        for module in modules
        for end in (LORA_A, LORA_B)
        if f"{PREFIX}{module}{end}" not in header.tensors
    ]
    if missing:
        yield (
            f"its targets select {2 * len(modules)} tensors here, of which {len(missing)} are"
            f" missing, such as {missing[0]}"
        )
