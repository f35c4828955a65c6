"""`python -m cogvx.pretraining OUT`: train the nano model that the project carries, on the CPU."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from cogvx.pretraining.card import Settings
from cogvx.pretraining.school import certify, pretrain
from cogvx.pretraining.state import Journal

_DEFAULTS = Settings()

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    out: Annotated[Path, typer.Argument(help="Folder to work in; run again to go on.")],
    vae_steps: Annotated[int, typer.Option(min=1, help="Of the VAE.")] = _DEFAULTS.vae_steps,
    steps: Annotated[int, typer.Option(min=1, help="Of transformer and T5.")] = _DEFAULTS.steps,
    clips: Annotated[int, typer.Option(min=1, help="To learn captions.")] = _DEFAULTS.clips,
    seed: Annotated[int, typer.Option(help="Decides weights, clips, noise.")] = _DEFAULTS.seed,
) -> None:
    """Train, measure, and leave the model with its card in OUT/model."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)  # noqa: TID251 - a program, not the library
    journal = Journal(report=logging.getLogger("cogvx.pretraining").info)
    settings = Settings(seed=seed, vae_steps=vae_steps, steps=steps, clips=clips)
    pretrain(out, settings, journal=journal)
    typer.echo(certify(out, settings).model_dump_json(indent=2))


if __name__ == "__main__":
    app()
