"""What racing processes do to one model's aliases; run as `python -m tests.tasks.moves`."""

import random
import sys
from pathlib import Path

from mlflow import MlflowClient

from cogvx.errors import TransientError, UserError
from cogvx.store import LocalStore
from tasks.clients.aliases import CHAMPION, Aliases
from tasks.clients.journal import Reason


def make_versions(tracking_uri: str, name: str, count: int) -> None:
    """A registered model whose versions have nothing in them: aliases need no more."""
    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    client.create_registered_model(name)
    for number in range(count):
        client.create_model_version(name, source=f"s3://nowhere/{number}")


def race(tracking_uri: str, store: str, name: str, *, seed: int, moves: int) -> int:
    """Challenge, promote and roll back at random; returns how many decisions were made here."""
    aliases = Aliases(tracking_uri, store=LocalStore(Path(store)))
    chance, made = random.Random(seed), 0
    while made < moves:
        champion = aliases.aliases(name).get(CHAMPION)
        version = chance.randint(1, 6)
        why = Reason(f"{seed}:{made}")
        try:
            if chance.random() < 0.2:
                found = aliases.challenge(name, version, why)
            elif chance.random() < 0.7:
                found = aliases.crown(name, version, expected_champion=champion, reason=why)
            else:
                found = aliases.roll_back(name, expected_champion=champion, reason=why)
        except UserError:
            continue  # somebody was faster, which is what this is about
        except TransientError as error:
            if "is made and kept" not in str(error):
                continue
            found = None
            made += 1
        made += found is not None
    return made


if __name__ == "__main__":
    race(*sys.argv[1:4], seed=int(sys.argv[4]), moves=int(sys.argv[5]))
