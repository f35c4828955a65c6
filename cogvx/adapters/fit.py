"""Whether a file in diffusers' form fits a base, told from its header and card alone.

Nothing of torch is needed, so that a control machine says it before a base is downloaded.
"""

from collections.abc import Iterator
from pathlib import Path

from cogvx.adapters.card import card_of, image_problem, strength_problem
from cogvx.adapters.container import REAL_NUMBERS, read_header
from cogvx.adapters.layout import LORA_A, LORA_B, PREFIX, adapted_modules, loaded_alpha
from cogvx.adapters.linears import linear_sizes, local_name
from cogvx.errors import IntegrityError
from cogvx.variants import BaseFacts


def fit_problems(path: Path, facts: BaseFacts) -> Iterator[str]:
    """What keeps a file from acting over a base, but for its numbers and the base's bytes.

    A file without a card must hold in every block what it holds in one, as in converting.

    Raises:
        IntegrityError: It is damaged.
    """
    header = read_header(path)
    card = card_of(header.metadata, path)
    sizes = linear_sizes(facts)
    names = {name.removeprefix(PREFIX) for name in header.tensors}
    modules = {name.removesuffix(LORA_A).removesuffix(LORA_B) for name in names}
    if absent := sorted(modules - sizes.keys()):
        yield f"{len(absent)} of its {len(modules)} layers do not exist here, such as {absent[0]}"
    known = [module for module in sizes if module in modules]
    ends = tuple(dict.fromkeys(local_name(module) for module in known))
    wanted = adapted_modules(facts.layers, card.targets if card else ends, patch_t=facts.patch_t)
    both = [f"{module}{end}" for module in (*wanted, *known) for end in (LORA_A, LORA_B)]
    if missing := [name for name in dict.fromkeys(both) if name not in names]:
        yield f"{len(missing)} tensors are missing, such as {PREFIX}{missing[0]}"
    ranks = []
    for module in known:
        first = header.tensors.get(PREFIX + module + LORA_A)
        second = header.tensors.get(PREFIX + module + LORA_B)
        if first is None or second is None:
            continue
        size, rank = sizes[module], first.shape[0] if first.shape else 0
        if not rank or (first.shape, second.shape) != ((rank, size.inputs), (size.outputs, rank)):
            yield (
                f"A is {first.shape} and B is {second.shape} for {module}, which has "
                f"{size.inputs} inputs and {size.outputs} outputs"
            )
            return  # the others are wrong in the same way
        if not {first.dtype, second.dtype} <= REAL_NUMBERS:
            yield f"{module} is of {first.dtype} and {second.dtype}, which no adapter is"
            return
        ranks.append(rank)
    try:
        strength = loaded_alpha(header.metadata, max(ranks)) / max(ranks) if ranks else 1.0
        if card and (problem := strength_problem(strength)):
            yield problem
    except IntegrityError as error:
        yield f"{error}; convert it: cogvx adapter convert"
    if card and (problem := image_problem(card, facts.variant.image_scales)):
        yield problem
