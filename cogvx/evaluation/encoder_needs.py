"""What a suite asks of networks: which must be there, and texts that they read to the end.

Known before anything is rendered, and without loading a network.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from cogvx.errors import ConfigError, Problem
from cogvx.evaluation.suite import Suite
from cogvx.evaluation.suite_texts import scored_text
from cogvx.metrics.encoder_files import SETTING, TEXT_KINDS, TOKENIZER, local_path
from cogvx.metrics.registry import metrics

if TYPE_CHECKING:
    from cogvx.metrics.tokens import Tokens


def asked_problems(suite: Suite, encoders: Mapping[str, str]) -> list[Problem]:
    """What a suite asks of a recipe's networks in vain.

    Texts are held against the vocabularies that lie on this machine; those of the hub are when they
    are opened, which is before any video as well.

    Args:
        suite: Whose rule names metrics, and whose prompts have short texts.
        encoders: Folders, or hub ids with a commit, by kind.
    """
    problems, readers = need_problems(suite, encoders), []
    for kind in TEXT_KINDS:
        folder = local_path(encoders.get(kind, ""))
        if folder is None or not (folder / TOKENIZER).is_file():
            continue
        from cogvx.metrics.tokens import read_tokens  # noqa: PLC0415 - only where it is needed

        try:
            readers.append(read_tokens(kind, folder, where=SETTING + kind))
        except ConfigError as error:
            problems.append(Problem(SETTING + kind, None, f"cannot be used: {error}"))
    return problems + token_problems(suite, readers)


def need_problems(suite: Suite, kinds: Collection[str]) -> list[Problem]:
    """Metrics of the suite's rule whose network is not among `kinds`."""
    known = metrics()
    problems = []
    for where, name in _asked(suite):
        kind = known[name].encoder
        if kind is not None and kind not in kinds:
            wrong = f"needs a network, which {SETTING}{kind} must name"
            problems.append(Problem(where, name, wrong, "name one there, or remove the metric"))
    return problems


def network_warnings(suite: Suite) -> list[Problem]:
    """Metrics of the rule that only recipes with a network can have, for who sees no recipe."""
    return [
        Problem(problem.where, problem.value, problem.wrong, "recipes with this suite need one")
        for problem in need_problems(suite, ())
    ]


def token_problems(suite: Suite, readers: "Iterable[Tokens]") -> list[Problem]:
    """Prompts whose short text a network would not read to its end."""
    found = []
    for tokens in readers:
        for prompt in suite.prompts:
            where = f'prompts["{prompt.id}"].eval_text'
            problem = tokens.problem(scored_text(prompt), where=where)
            found += [] if problem is None else [problem]
    return found


def _asked(suite: Suite) -> list[tuple[str, str]]:
    """Places in the rule, and the metrics that stand there."""
    gate = suite.gate
    return [
        *((f"gate.primaries[{index}]", name) for index, name in enumerate(gate.primaries)),
        *((f"gate.guards[{index}].metric", each.metric) for index, each in enumerate(gate.guards)),
        *(
            (f"gate.ceilings[{index}].metric", each.metric)
            for index, each in enumerate(gate.ceilings)
        ),
    ]
