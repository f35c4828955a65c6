"""No secret is found in anything that a run leaves behind, when a service refuses it.

The chain that succeeds, on workers, is searched in tests/e2e/test_team.py.
"""

import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.e2e.conftest import make_place, write_recipe
from tests.fixtures.forks import Forks
from tests.fixtures.planted import found_in, in_bucket, in_folder, in_prefect
from tests.fixtures.s3 import BUCKET, S3Server
from tests.fixtures.servers import answering, free_port

PASSWORD, DATABASE = "pw/Zq9+x4Lk==7t", "db@9/Kx:wq+Lz=="
SECRETS = {
    "COGVX_S3_ACCESS_KEY": "AKIAPLANTEDACCESSKEY",
    "COGVX_S3_SECRET_KEY": "planted/Secret+Key0123456789abcdefghijkl",
    "HF_TOKEN": "hf_PlantedTokenOfTheHub0123456789",
    "TEAM_WEBHOOK_URL": "https://hooks.example.com/services/T0PLANTED/B0PLANTED/x9Yk2",
    "TEAM_DATABASE_URL": f"postgresql://cogvx:{quote(DATABASE, safe='')}@127.0.0.1:1/cogvx",
}
# As a file gave them, with its line end: no header takes them.
TORN = {
    "AWS_SESSION_TOKEN": "FwoGPlantedSessionTokenOfSomeRole\n",
    "MLFLOW_TRACKING_TOKEN": "planted-token-of-mlflow-0123456789\n",
}
# boto3 takes a session token from the environment alone, with the keys.
NO_KEYS = {
    "COGVX_S3_ACCESS_KEY": "",
    "COGVX_S3_SECRET_KEY": "",
    "AWS_ACCESS_KEY_ID": SECRETS["COGVX_S3_ACCESS_KEY"],
    "AWS_SECRET_ACCESS_KEY": SECRETS["COGVX_S3_SECRET_KEY"],
}
LOGIN = f"team:{quote(PASSWORD, safe='')}@"
WANTED = {
    **SECRETS,
    **{name: value.strip() for name, value in TORN.items()},
    "password": PASSWORD,
    "password of the database": DATABASE,
}

# S3 servers repeat the key that they were shown.
S3_REFUSAL = (
    "<?xml version='1.0'?><Error><Code>InvalidAccessKeyId</Code><Message>no such key "
    f"{SECRETS['COGVX_S3_ACCESS_KEY']}</Message><AWSAccessKeyId>{SECRETS['COGVX_S3_ACCESS_KEY']}"
    "</AWSAccessKeyId></Error>"
)
REFUSAL = "whoever this is may not come in"


def answer(status: str, body: str, kind: str) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n{body}".encode()


@dataclass(frozen=True)
class Case:
    """What is wrong, and what a person reads of it."""

    name: str
    settings: dict[str, str]
    says: str
    base: str = ""


@pytest.fixture(scope="module")
def cases(s3_server: S3Server) -> Iterator[list[Case]]:
    with ExitStack() as stack:
        bad_keys = stack.enter_context(
            answering(answer("403 Forbidden", S3_REFUSAL, "application/xml"))
        )
        refusing = stack.enter_context(answering(answer("403 Forbidden", REFUSAL, "text/plain")))
        yield [
            Case(
                "a bucket that is not there",
                {"COGVX_STORE_URL": "s3://no-such-bucket/store"},
                r"NoSuchBucket; create the bucket",
            ),
            Case(
                "S3 that knows no such key",
                {"COGVX_S3_ENDPOINT_URL": f"http://127.0.0.1:{bad_keys}"},
                r"check COGVX_S3_ACCESS_KEY",
            ),
            Case(
                "MLflow that refuses",
                {"COGVX_TRACKING_URI": f"http://{LOGIN}127.0.0.1:{refusing}"},
                r"MLflow at http://team:\*\*\*@127\.0\.0\.1:\d+ could not",
            ),
            Case(
                "MLflow that is not there",
                {"COGVX_TRACKING_URI": f"http://{LOGIN}127.0.0.1:{free_port()}"},
                r"MLflow at http://team:\*\*\*@127\.0\.0\.1:\d+ could not",
            ),
            Case(
                "a session token that no header takes",
                {"AWS_SESSION_TOKEN": TORN["AWS_SESSION_TOKEN"], **NO_KEYS},
                r"line end .*check COGVX_S3_ACCESS_KEY",
            ),
            Case(
                "a token of MLflow that no header takes",
                {
                    "COGVX_TRACKING_URI": f"http://127.0.0.1:{refusing}",
                    "MLFLOW_TRACKING_TOKEN": TORN["MLFLOW_TRACKING_TOKEN"],
                },
                r"line end .*MLFLOW_TRACKING_TOKEN",
            ),
            Case(
                "a database that is not there",
                {"COGVX_TRACKING_URI": SECRETS["TEAM_DATABASE_URL"]},
                r"MLflow at postgresql://cogvx:\*\*\*@127\.0\.0\.1:1/cogvx could not",
            ),
            Case(
                "a hub that refuses",
                {"HF_ENDPOINT": f"http://{LOGIN}127.0.0.1:{refusing}"},
                r"is neither a folder nor a model that the hub can give",
                base="team/private-model",
            ),
        ]


@pytest.fixture(scope="module")
def printed(
    tmp_path_factory: pytest.TempPathFactory,
    cases: list[Case],
    s3_server: S3Server,
    forks: Forks,
    prefect_url: str,
    nano_base: Path,
    world_clips: Path,
) -> dict[str, tuple[Path, str]]:
    """What the runs printed, and where they ran; they all fail beside each other."""
    jobs = {}
    for number, case in enumerate(cases):
        root = tmp_path_factory.mktemp("refused")
        recipe = write_recipe(root / "recipe.toml", clips=str(world_clips), base=nano_base)
        if case.base:
            recipe.write_text(recipe.read_text().replace(str(nano_base), case.base))
        settings = {
            **s3_server.environment(f"s3://{BUCKET}/secrets/{number}"),
            **SECRETS,
            "PREFECT_API_URL": prefect_url.replace("://", f"://{LOGIN}"),
            "HOME": str(root),
            "HF_HOME": str(root / "hub"),
        }
        place = make_place(root, recipe, **{**settings, **case.settings})
        call = ("tests.fixtures.forks:call_cli", "retrain", str(recipe))
        jobs[case.name] = root, forks.start(*call, environment=place.environment, cwd=root)
    statuses = {name: job.wait() for name, (_, job) in jobs.items()}
    found = {name: (root, job.output.read_text()) for name, (root, job) in jobs.items()}
    assert all(status in (2, 75) for status in statuses.values()), (statuses, found)
    return found


def test_what_refuses_is_named_and_what_to_look_at(
    cases: list[Case], printed: dict[str, tuple[Path, str]]
) -> None:
    for case in cases:
        said = " ".join(printed[case.name][1].split())
        assert re.search(case.says, said), f"{case.name}: {said}"


def test_no_secret_is_in_what_is_printed_or_kept_on_this_machine(
    printed: dict[str, tuple[Path, str]],
) -> None:
    for name, (root, said) in printed.items():
        assert found_in([(name, said.encode()), *in_folder(root)], WANTED) == []


def test_no_secret_is_in_prefect(
    printed: dict[str, tuple[Path, str]],
    prefect_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    told = list(in_prefect(prefect_url))
    assert sum(b"could not" in data for _, data in told) > 2  # the failures are there to be read
    assert sum(b"# Failed " in data for _, data in told) >= len(printed)  # as on their pages
    assert found_in(told, WANTED) == []
    # other tests' servers, too: none of them knows the secrets either
    databases = tmp_path_factory.getbasetemp().glob("prefect*/prefect.db")
    homes = {path.parent.resolve() for path in databases}  # beside it stands a link to it
    assert homes
    for home in homes:
        assert found_in(in_folder(home), WANTED) == []


def test_no_secret_is_in_the_store(
    printed: dict[str, tuple[Path, str]], s3_server: S3Server
) -> None:
    assert found_in(in_bucket(s3_server, BUCKET), WANTED) == []


@pytest.mark.parametrize("before", ["", "a", "ab", "user:"])
def test_the_search_finds_every_spelling(before: str) -> None:
    for name, secret in WANTED.items():
        plain = (before + secret + "x").encode()
        in_url = quote(plain, safe="").encode()
        for written in (plain, in_url, b64encode(plain), urlsafe_b64encode(plain)):
            assert found_in([("here", written)], {name: secret}), written
            assert not found_in([("here", written[1:-9])], {name: secret})
