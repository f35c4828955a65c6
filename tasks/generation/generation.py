"""From a document of what is wanted to a base and adapters on this machine, every fault at once.

No model is loaded, and nothing large is fetched before all that can be known has been checked.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cogvx.adapters.fit import fit_problems
from cogvx.adapters.same_base import (
    NamedBase,
    base_doubt,
    base_in_folder,
    base_problem,
    is_hub_id,
)
from cogvx.errors import ConfigError, IntegrityError, Problem
from cogvx.inference.choices import (
    BaseChoice,
    FoundAdapter,
    choose_base,
    disagreements,
    engine_of,
    memory_of,
)
from cogvx.inference.job import GenerateJob, adapter_problems
from cogvx.inference.provenance import Base
from cogvx.inference.shots import ReadImage, Shot, find_shots
from cogvx.inference.video_key import Engine
from cogvx.model.hashes import FileHashes
from cogvx.model.identity import BASE_PARTS, TEXT_PARTS, commit_of, fingerprint, resolve_base
from cogvx.shapes import VideoSize
from cogvx.store import ObjectStore
from cogvx.variants import BaseFacts, published_facts, read_facts
from tasks.registry.adapter_refs import Faults, find_adapters
from tasks.settings import Settings

if TYPE_CHECKING:
    from cogvx.inference.session import Session

logger = logging.getLogger(__name__)

_SHOWN = 12


@dataclass(frozen=True)
class Ready:
    """A job of which everything is here and checked, but for the model in memory.

    `text_fingerprint` is of the base's text encoder with its tokenizer.
    """

    job: GenerateJob
    adapters: tuple[FoundAdapter, ...]
    base: Base
    folder: Path
    engine: Engine
    text_fingerprint: str
    shots: tuple[Shot, ...]

    def open_session(self, device: str, store: ObjectStore) -> "Session":
        """Load the base, which takes a while; embeddings of prompts are kept in the store."""
        from cogvx.inference.prompts import CachedPrompts  # noqa: PLC0415 - loads torch
        from cogvx.inference.session import Session  # noqa: PLC0415

        return Session.open(
            self.folder,
            dtype=self.engine.dtype,
            device=device,
            memory=memory_of(self.job),
            fingerprint=self.engine.base_fingerprint,
            image_scale=self.engine.image_scale,
            prompts=CachedPrompts(
                store=store,
                encoder_fingerprint=self.text_fingerprint,
                max_length=read_facts(self.folder).text_tokens,
                dtype=self.engine.dtype,
            ),
        )


def read_picture(name: str, size: VideoSize) -> np.ndarray:
    """A first frame from a file on this machine.

    Raises:
        UserError: It is no such picture.
    """
    from cogvx.inference.image import load_image  # noqa: PLC0415 - loads torch

    return load_image(Path(name).expanduser(), size)


def prepare(
    job: GenerateJob,
    here: Settings,
    *,
    read_image: ReadImage = read_picture,
    store: ObjectStore | None = None,
    problems: Sequence[Problem] = (),
) -> Ready:
    """Find adapters and base, and check every video against them.

    Args:
        job: With its prompts, not with the address of a file of them.
        here: Says where the registry is, and where fetched adapters go.
        read_image: Gives the first frames that the job names.
        store: Where adapters lie that the job names by their bytes.
        problems: What the caller has found already, to be said with all the others.

    Raises:
        ConfigError: With every problem.
        IntegrityError: An adapter was trained on another base.
        TransientError: The registry or the hub did not answer this time.
    """
    faults = Faults([*problems, *adapter_problems(job.adapters, job.scales)])
    adapters = find_adapters(job.adapters, here, store, faults)
    faults.problems += disagreements(job, adapters)
    choice = _choice(job, adapters, faults)
    facts = None if choice is None else _known_facts(choice, faults)
    if facts is not None:
        _check(job, adapters, facts, read_image, faults)
    if choice is not None:
        _check_bases(adapters, choice, facts, faults)
    faults.require_none()
    assert choice is not None  # otherwise there was a fault
    folder = resolve_base(choice.path, choice.revision)
    hashes = FileHashes(here.file_hashes)
    named, text = (fingerprint(folder, parts, hashes=hashes) for parts in (BASE_PARTS, TEXT_PARTS))
    hashes.save()
    facts = read_facts(folder)
    _require_base(job, adapters, choice.path, base_in_folder(folder, facts, named))
    return Ready(
        job=job,
        adapters=adapters,
        base=Base(
            path=choice.path, revision=commit_of(folder) or choice.revision, fingerprint=named
        ),
        folder=folder,
        engine=engine_of(job, adapters, facts, named),
        text_fingerprint=text,
        shots=find_shots(job, adapters, facts, read_image),
    )


def _choice(
    job: GenerateJob, adapters: Sequence[FoundAdapter], faults: Faults
) -> BaseChoice | None:
    if len(adapters) < len(job.adapters) and job.base is None:
        return None  # one that was not found might have said it
    try:
        return choose_base(job, adapters)
    except ConfigError as error:
        faults.problems.append(Problem("base", None, f"is missing: {error}"))
        return None


def _known_facts(choice: BaseChoice, faults: Faults) -> BaseFacts | None:
    """What can be said of the base before it is fetched."""
    folder = Path(choice.path).expanduser()
    try:
        if folder.is_dir():
            resolve_base(choice.path, choice.revision)  # a revision means nothing there
            return read_facts(folder)
    except ConfigError as error:
        faults.add("base", error)
        return None
    if not is_hub_id(choice.path):
        wrong, use = "is not a folder on this machine", "say with --base where it is"
        faults.problems.append(Problem("base", choice.path, wrong, use))
    return published_facts(choice.path)


def _check(
    job: GenerateJob,
    adapters: Sequence[FoundAdapter],
    facts: BaseFacts,
    read_image: ReadImage,
    faults: Faults,
) -> None:
    for found in adapters:
        for wrong in fit_problems(found.path, facts):
            said = f"does not fit {facts.variant.name}: {wrong}"
            faults.problems.append(Problem(f"adapter {found.name}", None, said))
    try:
        engine_of(job, adapters, facts, "")
    except ConfigError as error:
        faults.add("base", error)
    try:
        find_shots(job, adapters, facts, read_image)
    except ConfigError as error:
        faults.add("prompts", error)


def _check_bases(
    adapters: Sequence[FoundAdapter], choice: BaseChoice, facts: BaseFacts | None, faults: Faults
) -> None:
    """What cards say against a base whose bytes are not known yet."""
    base = NamedBase(choice.path, choice.revision, None, facts)
    for found in adapters:
        card = found.card
        # what knows its bytes and lies in a folder is for the bytes to tell
        if card is None or (card.base_fingerprint and not is_hub_id(choice.path)):
            continue
        if problem := base_problem(card, base):
            faults.problems.append(Problem(f"adapter {found.name}", None, problem))


def _require_base(
    job: GenerateJob, adapters: Sequence[FoundAdapter], path: str, base: NamedBase
) -> None:
    """Refuse another base, and say where nothing proves that it is the one.

    Raises:
        IntegrityError: It is another one.
    """
    known = base.fingerprint or ""
    if job.fingerprint not in (None, known):
        raise IntegrityError(
            f"{path} on this machine is {known[:_SHOWN]}, and {job.fingerprint[:_SHOWN]} "
            "is meant; put the same base on every machine"
        )
    for found in adapters:
        if found.card is None:
            continue
        if problem := base_problem(found.card, base):
            raise IntegrityError(f"{found.name}: {problem}")
        if doubt := base_doubt(found.card, base):
            logger.warning("%s: %s", found.name, doubt)
