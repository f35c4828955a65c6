"""`python -m tests.promises.table OUT`: what the gate does with good adapters, bad ones, and luck.

Ten adapters are trained on neon with ten seeds and ten more are overcooked; then everything is
judged under the demo's suite as a retraining judges: held-out losses, videos that are really
rendered, the written rule. At last the base is judged against itself. What is in OUT already is not
done again, so a run that was cut off goes on. From nothing it takes two hours on two cores.

OUT/verdicts/*.json hold every report, and OUT/table.md the counts, which docs/promises.md shows.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cogvx import files
from cogvx.check import check_file
from cogvx.digest import digest, sha256_file
from cogvx.evaluation.documents import EvaluationReport, Verdict
from cogvx.evaluation.gate import RULE
from cogvx.evaluation.render import Arm
from cogvx.evaluation.suite import Suite, load_suite
from cogvx.inference.batch import AdapterAtWeight
from cogvx.model.nano.carried import carried_nano
from cogvx.model.nano.teach import render_lessons
from tasks.evaluation.aa import hold_aa
from tasks.evaluation.contest import hold_contest
from tasks.settings import settings
from tasks.workbench import Workbench, open_workbench
from tests.fixtures.bad_adapters import doubled, overcooked, untrained
from tests.fixtures.chain import ROOT, home_of, recipe_of, train_on

SUITE = ROOT / "deployments" / "suites" / "nano.toml"
CLIPS, HELD_OUT, STEPS = 60, 12, 240
GOOD = "well trained"
OUTCOMES = ("PROMOTE", "HOLD", "REJECT", "INVALID")


@dataclass(frozen=True)
class Bout:
    """Who is judged, and against whom: a champion, or the base where there is none."""

    kind: str
    number: int
    challenger: Path
    champion: Path | None = None

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Base, champion if there is one, challenger."""
        champion = [] if self.champion is None else [_arm("champion", self.champion)]
        return (Arm("base"), *champion, _arm("challenger", self.challenger))


def train_good(out: Path, runs: int) -> list[Path]:
    """Adapters of one teaching set, which differ in the seed of their training."""
    clips = out / "clips"
    if not clips.exists():
        render_lessons(clips, "neon", clips=CLIPS)
    how = {"min_heldout": HELD_OUT, "steps": STEPS}
    names = (f"good-{number}" for number in range(runs))
    return [
        train_on(clips, out, name=name, base=carried_nano(), seed=seed, **how)
        for seed, name in enumerate(names)
    ]


def bouts(out: Path, good: Sequence[Path]) -> Iterator[Bout]:
    """Each good adapter against the base; then, as champion, against three bad ones."""
    base = carried_nano()
    for number, champion in enumerate(good):
        yield Bout(GOOD, number, champion)
        idle = untrained(base, out / f"untrained-{number}", seed=number)
        yield Bout("untrained", number, idle, champion)
        yield Bout("overcooked", number, overcooked(base, out, number=number), champion)
        strong = doubled(champion, out / f"doubled-{number}")
        yield Bout("double strength", number, strong, champion)


def rules() -> dict[str, Suite]:
    """The demo's suite, and the same without the screen that spares videos."""
    suite = load_suite(SUITE)
    parts = {name: getattr(suite, name) for name in Suite.model_fields}
    gate = suite.gate.model_copy(update={"screen": False})
    return {"whole": suite, "no screen": Suite(**{**parts, "gate": gate})}


def judge_all(out: Path, good: Sequence[Path]) -> Iterator[tuple[Bout, str, Verdict]]:
    """Every bout under both rules; what was judged before is read."""
    bench = bench_of(out)
    for bout in bouts(out, good):
        for rule, suite in rules().items():
            yield bout, rule, _judged(bout, bench, suite, out)


def bench_of(out: Path) -> Workbench:
    """The workbench of the good adapters; COGVX_HOME must say where they were trained."""
    return open_workbench(check_file(recipe_of(out, "good-0")).recipe)


def run(out: Path, *, runs: int, twins: int) -> list[str]:
    """Train, judge, and give the table's lines; `twins` is how often the base meets itself."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for bout, rule, verdict in judge_all(out, train_good(out, runs)):
        counts.setdefault((bout.kind, rule), Counter())[verdict.outcome] += 1
        typer.echo(f"{bout.kind} {bout.number}: {verdict.outcome}. {verdict.headline}")
    bench = bench_of(out)
    suite, manifest = load_suite(SUITE), bench.latest_manifest()
    luck = hold_aa(bench, suite, manifest, runs=twins, folder=out / "aa")
    lines = ["| challenger | judged against | rule | " + " | ".join(OUTCOMES) + " |"]
    lines.append("|---" * (3 + len(OUTCOMES)) + "|")
    for (kind, rule), counter in counts.items():
        lines.append(_row(kind, "base" if kind == GOOD else "champion", rule, counter))
    return [*lines, _row("the base again", "base", "no screen", luck.outcomes)]


def _judged(bout: Bout, bench: Workbench, suite: Suite, out: Path) -> Verdict:
    """Judge a bout, or read how the same adapters were judged before under the same rule."""
    arms = [[adapter.sha256 for adapter in arm.adapters] for arm in bout.arms]
    what = digest({"rule": RULE, "suite": suite.digest, "arms": arms})
    name = f"{bout.kind}-{bout.number}-{what[:16]}".replace(" ", "-")
    kept = out / "verdicts" / f"{name}.json"
    if not kept.exists():
        manifest = bench.latest_manifest()
        held = hold_contest(bench, bout.arms, suite, manifest, model="neon", provenance={})
        files.write_document(kept, held.report)
    return files.read_document(kept, EvaluationReport).verdict


def _row(kind: str, other: str, rule: str, counts: Mapping[str, int]) -> str:
    numbers = " | ".join(str(counts.get(outcome, 0)) for outcome in OUTCOMES)
    return f"| {kind} | {other} | {rule} | {numbers} |"


def main(
    out: Annotated[Path, typer.Argument(help="Folder to work in; run again to go on.")],
    runs: Annotated[int, typer.Option(help="Trainings.", min=1)] = 10,
    twins: Annotated[int, typer.Option(help="How often the base meets itself.", min=1)] = 40,
) -> None:
    """Train, judge, and print the table."""
    out = out.resolve()
    os.environ["COGVX_HOME"] = str(home_of(out))
    os.chdir(ROOT)
    settings.cache_clear()
    lines = run(out, runs=runs, twins=twins)
    files.write_bytes(out / "table.md", ("\n".join(lines) + "\n").encode())
    for line in lines:
        typer.echo(line)


def _arm(name: str, path: Path) -> Arm:
    return Arm(name, (AdapterAtWeight(sha256_file(path), path),))


if __name__ == "__main__":
    typer.run(main)
