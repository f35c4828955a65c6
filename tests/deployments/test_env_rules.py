"""What a pool gives its runs can be used by them, and says no secret to who reads Prefect's pages."""

# ruff: noqa: E501 - messages stand here as they are printed
import json
import time
from pathlib import Path

import pytest

from cogvx.errors import ConfigError
from deployments.env_rules import holds_secret
from deployments.plan import _shown
from tests.deployments.test_catalog import POOLS, ROW, loaded

PLANTED = "hunter2planted"
OPEN = "would be readable in Prefect's pages; put it into the workers' own environment"


def said(folder: Path, text: str) -> list[str]:
    """The problems of a catalog with this text, none of which shows what is planted."""
    with pytest.raises(ConfigError) as caught:
        loaded(folder, f"{POOLS}{ROW}{text}\n")
    assert PLANTED not in str(caught.value)
    assert caught.value.__cause__ is None
    return [str(problem) for problem in caught.value.problems]


def env(folder: Path, **values: str) -> list[str]:
    rows = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
    return said(folder, f"[pools.more.env]\n{rows}")


HOLDING = (
    f"https://hooks.slack.com/services/T0AB/B0CD/{PLANTED}",
    f"hooks.slack.com/services/T0AB/B0CD/{PLANTED}",
    f"https://discord.com/api/webhooks/123/{PLANTED}",
    f"https://team.webhook.office.com/webhookb2/1@2/IncomingWebhook/{PLANTED}",
    f"https://prod-1.westeurope.logic.azure.com/workflows/1/triggers/manual?sig={PLANTED}",
    f"https://mattermost.example.com/hooks/{PLANTED}",
    f"https://api.telegram.org/bot123:{PLANTED}/sendMessage",
    f"--verbose --password={PLANTED}",
    f"--api-key {PLANTED} --verbose",
    f"-Ddb.password={PLANTED}",
    f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={PLANTED}==",
    f"Endpoint=sb://a.example.com/;SharedAccessKeyName=Root;SharedAccessKey={PLANTED}",
    f"Server=db;Uid=me;Pwd={PLANTED}",
    f"host=db user=me password='{PLANTED}'",
    f'{{"user": "me", "password": "{PLANTED}"}}',
    f"postgresql://db/mlflow?user=me&password={PLANTED}",
    f"postgresql://me@corp:{PLANTED}@db/x",
    f"Authorization=Basic {PLANTED}",
    f"X-Api-Key: {PLANTED}",
    f"--db-conn-str={PLANTED}",
    f"x-team=a,Bearer {PLANTED}",
    f"xoxb-1234567890-{PLANTED}",
    f"-----BEGIN RSA PRIVATE KEY-----\n{PLANTED}",
)
HARMLESS = (
    *("cuda", "cogvx-gpus", '{"gpu-train": 2.5}', "expandable_segments:True,max_split_size_mb:512"),
    *("s3://bucket/prefix", "http://mlflow:5000/#/models", "postgresql://db/mlflow", "1"),
    *("/usr/bin:/opt/secret:/opt/keys", "--workers 4 --verbose", "-Xmx4g -Dfile.encoding=UTF-8"),
    *("AccountName=team;Region=eu", "SharedAccessKeyName=Root", "monkey=1", "http://proxy:3128"),
    *("--xla_gpu_deterministic_ops=true", "https://github.com/team/hooks", "team:harbour"),
    *("/var/lib/cogvx", "Europe/Berlin", "^eth0,lo", "--password-file=/run/db", ""),
    *("--token-file /run/token", "--max-token-length=5", "--pass-through x", "tokenizer=fast"),
)


@pytest.mark.parametrize("value", HOLDING)
def test_a_value_that_holds_a_secret_is_refused_and_shown_nowhere(
    tmp_path: Path, value: str
) -> None:
    assert env(tmp_path, OPTS=value) == [f"pools.more.env.OPTS {OPEN}"]
    # nor where somebody gave it to a deployment by hand
    assert _shown("job_variables.env.OPTS", value) == "***"


def test_what_holds_no_secret_is_taken() -> None:
    assert [value for value in HARMLESS if holds_secret(value)] == []


def test_long_texts_are_searched_quickly() -> None:
    began = time.process_time()
    for part in ("a", "a-", "-a ", "a='", "--", " ", "a:", "key ", "hooks."):
        holds_secret(part * 20_000)
    holds_secret("://x" * 2_000)
    assert time.process_time() - began < 5


def test_a_name_of_a_secret_is_refused(tmp_path: Path) -> None:
    found = env(tmp_path, TEAM_WEBHOOK_URL=PLANTED, SENTRY_DSN=PLANTED, REDIS_CONN_STR=PLANTED)
    assert found == [
        f"pools.more.env.{name} {OPEN}"
        for name in ("TEAM_WEBHOOK_URL", "SENTRY_DSN", "REDIS_CONN_STR")
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[pools.more.env]\nDB_PASSWORD = 48151623", f"pools.more.env.DB_PASSWORD {OPEN}"),
        (
            "[pools.more.env]\nDB_PIN = 48151623",
            "pools.more.env.DB_PIN is of the wrong kind; use text in quotes",
        ),
        (
            f'[pools.more.env]\nX = ["{PLANTED}"]',
            "pools.more.env.X is of the wrong kind; use text in quotes",
        ),
        (
            f'[pools.more.env]\n"X={PLANTED}" = 1',
            "pools.more.env.X is of the wrong kind; use text in quotes",
        ),
        (f'[pools.more]\nenv = "X={PLANTED}"', "pools.more.env is wrong; "),
        (
            f'[notify]\nblock = "https://hooks.slack.com/services/T0/B0/{PLANTED}"',
            'notify.block is wrong; write it like "slack-webhook/ops"',
        ),
        (
            f'[notify]\nblock = "T0/B0/{PLANTED}"',
            'notify.block is wrong; write it like "slack-webhook/ops"',
        ),
        (
            f'[notify]\nblock = "slack-webhook/ops"\nwebhook = "{PLANTED}"',
            "notify.webhook is not a setting; known: block, on",
        ),
        (f'[pools.more]\npassword = "{PLANTED}"', "pools.more.password is not a setting; known: "),
        (
            f'[[recipes]]\nfile = "demo.toml"\ntags = 1\non_arival = "--password={PLANTED}"',
            'recipes[1].on_arival is not a setting; did you mean "on_arrival"?',
        ),
    ],
)
def test_a_refused_value_that_may_be_a_secret_is_not_repeated(
    tmp_path: Path, text: str, problem: str
) -> None:
    found = said(tmp_path, text)
    assert any(each.startswith(problem) for each in found), found
    assert "48151623" not in "".join(found)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (f"A={PLANTED}", ".A is no name of a variable; use letters, digits and _, with no digit"),
        (f"DB_PASSWORD={PLANTED}", " holds a name that no variable has; use letters, digits and _"),
        ("1 2", ".1 2 is no name of a variable; use letters, digits and _, with no digit first"),
        ("my.name", ".my.name is no name of a variable; "),
        ("", " holds a name that no variable has; "),
        ("A\nB", " holds a name that no variable has; "),
    ],
)
def test_a_name_that_no_variable_has_is_refused(tmp_path: Path, name: str, problem: str) -> None:
    (found,) = said(tmp_path, f"[pools.more.env]\n{json.dumps(name)} = 'x'")
    assert found.startswith(f"pools.more.env{problem}")


def test_a_value_with_a_nul_is_refused(tmp_path: Path) -> None:
    problem = "pools.more.env.X holds a NUL, which ends a text; remove it"
    assert env(tmp_path, X="a\0b") == [problem]


def test_settings_that_a_run_could_not_read_are_refused_at_once(tmp_path: Path) -> None:
    given = {
        "COGVX_GPU_HOUR_PRICE": "abc",
        "COGVX_DEVICES": "cuda",
        "cogvx_device": "cuda",
        "COGVX_DEVICE": "gpu",
        "COGVX_NOSUCH": "1",
        "COGVX_MACHINES": "2.5",
        "COGVX_STAGE_HOURS": "0",
        "COGVX_POOL_PRICES": "2.5",
        "COGVX_TRAIN_DEPLOYMENT": "train/gpu-train",
    }
    assert env(tmp_path, **given) == [
        f"pools.more.env.{each}"
        for each in (
            'COGVX_GPU_HOUR_PRICE = "abc" is no number; use a number',
            'COGVX_DEVICES = "cuda" is not a setting; did you mean COGVX_DEVICE?',
            'cogvx_device = "cuda" is not a setting; did you mean COGVX_DEVICE?',
            'COGVX_DEVICE = "gpu" is not known; use one of "auto", "cpu" or "cuda"',
            'COGVX_NOSUCH = "1" is not a setting; remove it',
            'COGVX_MACHINES = "2.5" is no whole number; use a whole number',
            'COGVX_STAGE_HOURS = "0" is too small; use more than 0.0',
            'COGVX_POOL_PRICES = "2.5" is no table; write JSON, as {"gpu-train": 2.5}',
            'COGVX_TRAIN_DEPLOYMENT = "train/gpu-train" is set for every run of retrain; remove it, and use places in [[recipes]]',
        )
    ]
    assert env(tmp_path, COGVX_POOL_PRICES="{") == [
        'pools.more.env.COGVX_POOL_PRICES = "{" is no JSON; write it like {"gpu-train": 2.5}'
    ]
    assert env(tmp_path, COGVX_POOL_PRICES='{"gpu-train": "x"}') == [
        'pools.more.env.COGVX_POOL_PRICES.gpu-train = "x" is no number; use a number'
    ]


def test_settings_that_a_run_can_read_are_taken(tmp_path: Path) -> None:
    text = """
    [pools.more.env]
    COGVX_DEVICE = "cuda"
    COGVX_GPU = "H100"
    COGVX_GPU_HOUR_PRICE = "2.5"
    COGVX_POOL_PRICES = '{"gpu-train": 2.5}'
    COGVX_S3_REGION = "eu-central-1"
    COGVX_S3_ENDPOINT_URL = ""
    COGVX_APPROVAL_HOURS = ""
    COGVX_HOME = "/var/lib/cogvx"
    COGVX_MACHINES = "2"
    COGVX_STORE_URL = "s3://bucket/store"
    COGVX_TRACKING_URI = "http://mlflow:5000"
    """
    assert len(loaded(tmp_path, f"{POOLS}{ROW}{text}").pools["more"].env) == 11
