"""`python -m tests.promises.teaching OUT`: can adapters teach the carried model something new?

The project's own chain trains one adapter on a style (neon) and one on a subject (stars), each of
rank 64 on 40 clips. The judge, which reads pixels and has learned nothing, then counts what the
base, each adapter and both together draw. OUT/figures.json has the shares, OUT/*.png the videos.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from cogvx import files
from cogvx.inference.request import Request
from cogvx.inference.session import Session
from cogvx.model.nano.build import FRAMES, SIDE
from cogvx.model.nano.carried import carried_nano
from cogvx.model.nano.judge import read, right_traits
from cogvx.model.nano.teach import LESSON_SEED, Topic, draw_lesson, render_lessons, shows
from cogvx.model.nano.world import Scene, draw_scene, is_held_out
from cogvx.mp4 import write_mp4
from cogvx.pages.contact_sheet import contact_sheet
from cogvx.pretraining.grades import FPS, SAMPLING
from cogvx.pretraining.vae import UNSEEN_SEED
from cogvx.shapes import VideoSize
from tests.fixtures.chain import train_on

TAUGHT: tuple[Topic, ...] = ("neon", "star")
CLIPS, PROMPTS = 40, 32
STEPS: dict[Topic, int] = {"neon": 120, "star": 240}  # the demo's for a style; a subject needs more
TOGETHER: dict[str, float] = {"neon": 1.3, "star": 0.9}  # weights of two adapters at once

_SHOWN = 8  # prompts on a page
_FIRST_UNSEEN = 1000  # no teaching set reaches so far

Judge = Callable[[np.ndarray], Mapping[str, bool]]
Shares = dict[str, dict[str, dict[str, float]]]
"""Right videos, 0 to 1, by question, arm and trait."""


@dataclass(frozen=True)
class Question:
    """Prompts, each with the judge of its videos."""

    name: str
    prompts: tuple[tuple[str, Judge], ...]


def train_adapter(topic: Topic, work: Path, *, base: Path) -> Path:
    """Draw a teaching set and train on it, with the demo's settings but for the steps."""
    clips = work / f"{topic}-clips"
    if not clips.exists():
        render_lessons(clips, topic, clips=CLIPS)
    return train_on(clips, work / topic, name=topic, base=base, steps=STEPS[topic])


def questions() -> list[Question]:
    """What is asked of every arm: each taught topic, all of them at once, and the world."""
    asked = [_taught(topic, frozenset([topic])) for topic in TAUGHT]
    return [*asked, _taught("both", frozenset(TAUGHT)), _untaught()]


def ask(
    session: Session, question: Question, arms: Mapping[str, Mapping[str, float]], out: Path
) -> dict[str, dict[str, float]]:
    """Draw a question's videos with every arm, judge them, and leave a page of the first ones."""
    shares, rows = {}, [(prompt, []) for prompt, _ in question.prompts[:_SHOWN]]
    for arm, weights in arms.items():
        session.use(weights)
        marks = []
        for number, (prompt, judge) in enumerate(question.prompts):
            rgb_fhwc = _draw(session, prompt, seed=7000 + number)
            marks.append(judge(rgb_fhwc))
            if number < _SHOWN:
                path = out / "videos" / question.name / f"{number}-{arm}.mp4"
                write_mp4(path, rgb_fhwc, fps=FPS)
                rows[number][1].append(path)
        shares[arm] = {trait: float(np.mean([mark[trait] for mark in marks])) for trait in marks[0]}
    title = f"Prompts: {question.name}"
    files.write_bytes(out / f"{question.name}.png", contact_sheet(rows, list(arms), title))
    return shares


def run(out: Path, *, base: Path) -> Shares:
    """Train, ask and write everything below `out`."""
    out.mkdir(parents=True, exist_ok=True)
    session = Session.open(base, dtype="float32")
    for topic in TAUGHT:
        session.attach(topic, train_adapter(topic, out, base=base))
    arms: dict[str, dict[str, float]] = {"base": {}}
    arms |= {topic: {topic: 1.0} for topic in TAUGHT}
    arms["both"] = TOGETHER
    shares = {question.name: ask(session, question, arms, out) for question in questions()}
    files.write_bytes(out / "figures.json", json.dumps(shares, indent=2).encode() + b"\n")
    return shares


def _taught(name: str, topics: frozenset[Topic]) -> Question:
    lessons = (draw_lesson(topics, LESSON_SEED, _FIRST_UNSEEN + n) for n in range(PROMPTS))
    return Question(name, tuple((lesson.caption, _judge_of(topics)) for lesson in lessons))


def _untaught() -> Question:
    scenes = (draw_scene(UNSEEN_SEED, number) for number in range(4 * PROMPTS))
    known = islice((scene for scene in scenes if not is_held_out(scene)), PROMPTS)
    return Question("untaught", tuple((scene.caption, _scene_judge(scene)) for scene in known))


def _judge_of(topics: Iterable[Topic]) -> Judge:
    def judge(rgb_fhwc: np.ndarray) -> dict[str, bool]:
        marks: dict[str, bool] = {topic: shows(topic, rgb_fhwc) for topic in sorted(topics)}
        return marks if len(marks) == 1 else {**marks, "both": all(marks.values())}

    return judge


def _scene_judge(scene: Scene) -> Judge:
    return lambda rgb_fhwc: right_traits(read(rgb_fhwc), scene)


def _draw(session: Session, prompt: str, *, seed: int) -> np.ndarray:
    size = VideoSize(FRAMES, SIDE, SIDE)
    return session.generate(
        Request(prompt=prompt, seed=seed, size=size, fps=FPS, sampling=SAMPLING)
    )


def _table(shares: Shares) -> Sequence[str]:
    lines = []
    for question, by_arm in shares.items():
        traits = next(iter(by_arm.values()))
        lines.append(f"{question:<10}" + "".join(f"{trait:>12}" for trait in traits))
        for arm, by_trait in by_arm.items():
            lines.append(f"  {arm:<8}" + "".join(f"{share:>12.0%}" for share in by_trait.values()))
    return lines


def main(
    out: Annotated[Path, typer.Argument(help="Folder to work in; run again to go on.")],
    base: Annotated[Path | None, typer.Option(help="Another nano model.")] = None,
) -> None:
    """Train both adapters, measure them, and print the shares of right videos."""
    for line in _table(run(out.resolve(), base=base or carried_nano())):
        typer.echo(line)


if __name__ == "__main__":
    typer.run(main)
