"""The suites that a recipe names, held against its base model: the one that decides, and a sweep's.

Read with everything else that is checked, in seconds and before anything is downloaded or run.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cogvx.data.captions import normalise_caption
from cogvx.errors import ConfigError, Problem
from cogvx.evaluation.encoder_needs import asked_problems
from cogvx.evaluation.suite import Suite, image_problems, load_suite, picture_problems
from cogvx.metrics.encoder_files import encoder_problems
from cogvx.recipe_sections import EvaluationConfig
from cogvx.section import shown_text
from cogvx.variants import BaseFacts


@dataclass(frozen=True)
class Look:
    """What suites are held against.

    Attributes:
        facts: The base model; None where it is not known yet.
        is_judged: An adapter will be judged, so that first frames must be there.
        absent_is_fine: A suite may be missing here; what is there is checked all the same.
    """

    facts: BaseFacts | None
    is_judged: bool
    absent_is_fine: bool


def suites_problems(evaluation: EvaluationConfig, look: Look) -> list[Problem]:
    """Everything that is wrong with the suites of a recipe."""
    gate, problems = _read(evaluation.suite, "evaluation.suite", look)
    problems += _network_problems(evaluation, gate, look)
    if evaluation.sweep is None:
        return problems
    named, where = evaluation.sweep.suite, "evaluation.sweep.suite"
    dev, found = _read(named, where, look)
    problems += found if named != evaluation.suite else []
    if dev is not None and dev.split != "dev":
        wrong = f'is of the split "{dev.split}": a weight is not chosen on prompts that decide'
        problems.append(Problem(where, shown_text(named), wrong, 'use one of the split "dev"'))
    elif dev is not None and gate is not None:
        problems += _shared_problems(dev, gate, named)
    return problems


def _read(named: str, where: str, look: Look) -> tuple[Suite | None, list[Problem]]:
    """A suite, if it can be read, and what is wrong with it."""
    suite = None
    try:
        suite = load_suite(Path(named))
        problems = _misfits(suite, look)
    except ConfigError as error:
        if look.absent_is_fine and isinstance(error.__cause__, FileNotFoundError):
            return None, []
        if not error.problems:
            return None, [Problem(where, None, f"cannot be used: {error}")]
        problems = list(error.problems)
    return suite, _of_suite(named, problems)


def _of_suite(named: str, problems: Iterable[Problem]) -> list[Problem]:
    """The same problems, with the whole name of the file that they are in, however long."""
    return [
        Problem(f"{named}: {problem.where}", problem.value, problem.wrong, problem.use)
        for problem in problems
    ]


def _network_problems(
    evaluation: EvaluationConfig, gate: Suite | None, look: Look
) -> list[Problem]:
    """Of the networks themselves, and of what the deciding suite asks of them."""
    encoders = evaluation.encoders
    problems = encoder_problems(encoders, absent_is_fine=look.absent_is_fine)
    asked = [] if gate is None else asked_problems(gate, encoders)
    return problems + _of_suite(evaluation.suite, asked)


def _misfits(suite: Suite, look: Look) -> list[Problem]:
    """First frames for a base that takes none, or none for one that starts from them."""
    if look.facts is None:
        return []
    if not look.facts.variant.image_to_video:
        return image_problems(suite)
    return picture_problems(suite) if look.is_judged else []


def _shared_problems(dev: Suite, gate: Suite, named: str) -> list[Problem]:
    """Prompts of a sweep that decide as well."""
    deciding = {_same(prompt.prompt) for prompt in gate.prompts}
    wrong = "is a prompt of evaluation.suite as well, which decides"
    return [
        Problem(f'{named}: prompts["{prompt.id}"].prompt', None, wrong, "choose weights on others")
        for prompt in dev.prompts
        if _same(prompt.prompt) in deciding
    ]


def _same(text: str) -> str:
    return normalise_caption(text).casefold()
