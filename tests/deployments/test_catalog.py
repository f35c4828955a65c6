"""A catalog is read as it is meant, or refused with every problem at once and where each stands."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

# ruff: noqa: E501 - messages stand here as they are printed
from pathlib import Path

import pytest

from cogvx.errors import ConfigError
from deployments.catalog import CATALOG, Catalog, load_catalog
from tasks.clients.secrets import is_secret
from tasks.settings import Settings

RECIPE = (CATALOG.parent / "recipes" / "nano-demo.toml").read_text()
POOLS = "[pools.cpu]\n[pools.gpu-cache]\n[pools.gpu-train]\n[pools.gpu-eval]\n"
ROW = '[[recipes]]\nfile = "demo.toml"\n'


def loaded(folder: Path, text: str) -> Catalog:
    (folder / "demo.toml").write_text(RECIPE)
    (folder / "other.toml").write_text(RECIPE.replace('"nano-demo"', '"other"'))
    (folder / "twin.toml").write_text(RECIPE)
    (folder / "bad.toml").write_text(RECIPE.replace("rank = 64", "rank = 0\nsize = 1"))
    (folder / "catalog.toml").write_text(text)
    return load_catalog(folder / "catalog.toml")


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, text)
    return [str(problem) for problem in caught.value.problems]


def test_the_shipped_catalog_has_no_problems() -> None:
    catalog = load_catalog(CATALOG)
    assert [one.recipe.name for one in catalog.recipes] == ["nano-demo"]
    assert list(catalog.pools) == ["cpu", "gpu-cache", "gpu-train", "gpu-eval"]


def test_a_catalog_is_read_where_a_loop_runs_as_well() -> None:
    async def read() -> int:
        return len(load_catalog(CATALOG).recipes)

    # on a thread of its own: tests of pages leave a loop that runs in this one
    with ThreadPoolExecutor(1) as alone:
        assert alone.submit(asyncio.run, read()).result() == 1


def test_a_recipe_is_found_beside_its_catalog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    (one,) = loaded(tmp_path, POOLS + ROW).recipes
    assert one.recipe.name == "nano-demo"
    assert one.row.cron is None


# Each is one wrong thing in a catalog that is right otherwise, and what is said of it.
WRONG = {
    "cron": (
        ROW + 'cron = "99 * * * *"',
        'recipes[0].cron = "99 * * * *" is no cron expression; use minute, hour, day, month and weekday, as "0 3 * * *"',
    ),
    "cron with seconds": (
        ROW + 'cron = "0 0 3 * * *"',
        'recipes[0].cron = "0 0 3 * * *" has 6 fields instead of five; use minute, hour, day, month and weekday, as "0 3 * * *"',
    ),
    "cron by name": (
        ROW + 'cron = "@daily"',
        'recipes[0].cron = "@daily" has 1 field instead of five; use minute, hour, day, month and weekday, as "0 3 * * *"',
    ),
    "cron of no day": (
        ROW + 'cron = "0 0 30 2 *"',
        'recipes[0].cron = "0 0 30 2 *" is never due; use a day that its month has',
    ),
    "zone": (
        ROW + 'cron = "0 3 * * *"\ntimezone = "Mars/Olympus"',
        'recipes[0].timezone = "Mars/Olympus" is no time zone; use a name of the tz database, as "Europe/Berlin"',
    ),
    "zone of no schedule": (
        ROW + 'timezone = "Mars/Olympus"',
        'recipes[0].timezone = "Mars/Olympus" is no time zone; use a name of the tz database, as "Europe/Berlin"',
    ),
    "retention's cron": (
        '[retention]\ncron = "sometimes"',
        'retention.cron = "sometimes" is no cron expression; use minute, hour, day, month and weekday, as "0 3 * * *"',
    ),
    "no such recipe": (
        '[[recipes]]\nfile = "gone.toml"',
        'recipes[0].file = "gone.toml" cannot be used: there is no such file',
    ),
    "bad recipe": (
        '[[recipes]]\nfile = "bad.toml"',
        'recipes[0].file = "bad.toml" has a problem: lora.size = 1 is not a setting; known: rank, alpha, targets, allow_unusual',
    ),
    "two of one name": (
        ROW + '[[recipes]]\nfile = "twin.toml"',
        'recipes[1] = "nano-demo" is the name of two recipes, here and in recipes[0]; give one another name in its file',
    ),
    "unknown pool": (
        ROW + 'places.train = "gpu-tain"',
        'recipes[0].places.train = "gpu-tain" is no pool of this catalog; known: cpu, gpu-cache, gpu-train, gpu-eval',
    ),
    "retention's pool": (
        '[retention]\ncron = "0 4 * * *"\npool = "cpus"',
        'retention.pool = "cpus" is no pool of this catalog; known: cpu, gpu-cache, gpu-train, gpu-eval',
    ),
    "a pool's name": (
        '[pools."my pool"]',
        "pools.my pool is not named as a pool can be; use lower-case letters, digits and dashes, at most 63",
    ),
    "a queue's name": (
        '[pools.cpu.queues."night#1"]\npriority = 5',
        "pools.cpu.queues.night#1 is not named as a queue can be; use lower-case letters, digits and dashes, at most 63",
    ),
    "unknown queue": (
        ROW + 'queue = "fast"',
        'recipes[0].queue = "fast" is no queue of its pool; add [pools.cpu.queues.fast]',
    ),
    "one priority twice": (
        "[pools.gpu-cache.queues]\na = {priority = 1}\nb = {priority = 1}",
        "pools.gpu-cache.queues.b.priority = 1 is another queue's, too; use another number",
    ),
    "unknown section": (
        "[pool.cpu]",
        'pool is not a setting; did you mean "pools"?',
    ),
    "unknown setting": (
        ROW + 'corn = "0 3 * * *"',
        'recipes[0].corn = "0 3 * * *" is not a setting; did you mean "cron"?',
    ),
    "wrong kind": (
        ROW + 'paused = "no"',
        'recipes[0].paused = "no" is of the wrong kind; use true or false',
    ),
    "unknown strategy": (
        ROW + 'collision = "DROP"',
        'recipes[0].collision = "DROP" is not known; use one of "ENQUEUE" or "CANCEL_NEW"',
    ),
    "limit's name": (
        "[limits]\ngpus = 8",
        "limits.gpus = 8 does not begin with cogvx-: so a limit is found whose row was removed; call it cogvx-gpus",
    ),
    "a limit's letters": (
        '[limits]\n"cogvx-a/b" = 1',
        "limits.cogvx-a/b is not named as a limit can be; use lower-case letters, digits and dashes, at most 63",
    ),
    "limit's slots": (
        "[limits]\ncogvx-gpus = true",
        "limits.cogvx-gpus = true is no number of slots; use 1 or more",
    ),
    "unknown limit": (
        '[limits]\ncogvx-a = 1\n[pools.more.env]\nCOGVX_GPU_SLOTS = "cogvx-b"',
        'pools.more.env.COGVX_GPU_SLOTS = "cogvx-b" is no limit of this catalog; known: cogvx-a',
    ),
    "secret": (
        '[pools.more.env]\nCOGVX_S3_SECRET_KEY = "hidden"',
        "pools.more.env.COGVX_S3_SECRET_KEY would be readable in Prefect's pages; put it into the workers' own environment",
    ),
    "password in an address": (
        '[pools.more.env]\nCOGVX_TRACKING_URI = "http://me:hidden@mlflow:5000"',
        "pools.more.env.COGVX_TRACKING_URI would be readable in Prefect's pages; put it into the workers' own environment",
    ),
    "token in an address": (
        '[pools.more.env]\nSENTRY_DSN = "https://deadbeef@sentry.io/1"',
        "pools.more.env.SENTRY_DSN would be readable in Prefect's pages; put it into the workers' own environment",
    ),
    "heartbeat as env": (
        '[pools.more.env]\nPREFECT_FLOWS_HEARTBEAT_FREQUENCY = "600"',
        'pools.more.env.PREFECT_FLOWS_HEARTBEAT_FREQUENCY = "600" is the same for every run, as [zombies] counts heartbeats; remove it',
    ),
    "heartbeat by its old name": (
        '[pools.more.env]\nprefect_runner_heartbeat_frequency = "600"',
        'pools.more.env.prefect_runner_heartbeat_frequency = "600" is the same for every run, as [zombies] counts heartbeats; remove it',
    ),
    "password in logs": (
        '[pools.more.env]\nMLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT = "false"',
        'pools.more.env.MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT = "false" is set for every run, as an address may hold a password; remove it',
    ),
    "tag of ours": (
        ROW + 'tags = ["team:harbour", "cogvx:paused"]',
        'recipes[0].tags[1] = "cogvx:paused" begins as the marks of `cogvx deploy` do; use another word',
    ),
    "stop seconds as env": (
        '[pools.more.env]\nCOGVX_STOP_SECONDS = "9"',
        'pools.more.env.COGVX_STOP_SECONDS = "9" has a setting of its own; use stop_seconds',
    ),
    "another type's setting": (
        '[pools.more]\nshm = "8Gi"',
        'pools.more.shm means nothing in a "process" pool; it is for docker and kubernetes only: remove it',
    ),
    "no image": (
        '[pools.more]\ntype = "docker"',
        "pools.more.image is missing; name one with this project installed",
    ),
    "stops too slowly": (
        "[pools.more]\nstop_seconds = 60",
        "pools.more.stop_seconds = 60.0 is more than the 30 s after which Prefect's worker kills; use at most 30",
    ),
    "grace too short": (
        '[pools.more]\ntype = "kubernetes"\nimage = "i"\nstop_seconds = 60.5\ngrace_seconds = 90',
        "pools.more.grace_seconds = 90 is too short to save in stop_seconds = 60.5 and to send the checkpoint to the store; use at least 191",
    ),
    "zombies": (
        "[zombies]\nwithin_seconds = 60",
        "zombies.within_seconds = 60 is less than 3 heartbeats of 30 s; use at least 90",
    ),
    "block": (
        '[notify]\nblock = "Slack"',
        'notify.block = "Slack" is wrong; write it like "slack-webhook/ops"',
    ),
    "ending": (
        '[notify]\nblock = "slack-webhook/ops"\non = ["Sad"]',
        'notify.on[0] = "Sad" is not known; use one of "Failed", "Crashed", "TimedOut" or "Cancelled"',
    ),
    "memory": (
        '[pools.more]\ntype = "docker"\nimage = "i"\nshm = "16 GB"',
        'pools.more.shm = "16 GB" is wrong; write it like "16Gi"',
    ),
    "toleration": (
        '[pools.more]\ntype = "kubernetes"\nimage = "i"\ntolerations = [{effect = "NoSchedule"}]',
        "pools.more.tolerations[0].key is missing",
    ),
}


@pytest.mark.parametrize(("text", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    assert said in problems(tmp_path, f"{POOLS}{text}\n")


SECRETS = (
    *("APIKEY", "COGVX_S3_SECRET_KEY", "DB_PWD", "SMTP_PASS", "SSH_PASSPHRASE", "PGPASSWORD"),
    *("AWS_ACCESS_KEYS", "AWS_ACCESS_KEY_ID", "AZURE_STORAGE_ACCOUNTKEY", "HF_TOKEN", "GITHUB_PAT"),
    *("CLIENTSECRET", "DB_CREDS", "GOOGLE_CREDENTIALS", "apiKey", "MLFLOW_TRACKING_PASSWORD"),
    *("SLACK_WEBHOOK_URL", "TEAM_WEBHOOK", "slackWebhookUrl", "SENTRY_DSN", "DATABASE_CONN_STR"),
    *("AZURE_STORAGE_CONNECTION_STRING", "REDIS_CONNECTIONSTRING"),
)
ORDINARY = (
    *("COGVX_S3_ENDPOINT_URL", "COGVX_DEVICE", "COGVX_GPU_SLOTS", "CUDA_VISIBLE_DEVICES", "PWD"),
    *("TOKENIZERS_PARALLELISM", "OMP_WAIT_POLICY", "PYTHONPATH", "LD_LIBRARY_PATH", "OLDPWD"),
    *("MAX_TOKENS", "KEYBOARD", "MONKEY_BARS", "BYPASS_PROXY", "COMPASS", "PATTERN", "AUTHOR"),
    *("CONNECTIONS", "STRING", "HOOKS", "RECONSTRUCTION", "CONNECTION_TIMEOUT"),
    *("PASSES", "MLFLOW_TRACKING_URI", "AWS_DEFAULT_REGION", "NCCL_SOCKET_IFNAME", "HF_HOME"),
)


def test_secrets_are_known_by_the_words_of_their_names() -> None:
    assert [name for name in SECRETS if not is_secret(name)] == []
    assert [name for name in ORDINARY if is_secret(name)] == []
    keys = {"s3_access_key", "s3_secret_key"}
    assert {name for name in Settings.model_fields if is_secret(f"COGVX_{name.upper()}")} == keys


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, f"{ROW}cron = 'x'\n[pools.cpu]\ngpus = -1\n[limits]\ngpus = 0\n")
    assert [problem.split(" ")[0] for problem in found] == [
        "pools.cpu.gpus",
        "limits.gpus",
        "limits.gpus",
        "pools.gpu-cache",
        "pools.gpu-train",
        "pools.gpu-eval",
        "recipes[0].cron",
    ]


def test_a_pool_with_a_slip_is_not_called_missing(tmp_path: Path) -> None:
    text = POOLS.replace("[pools.cpu]", "[pools.cpu]\ngpus = -1")
    assert problems(tmp_path, text) == ["pools.cpu.gpus = -1 is too small; use at least 0"]


@pytest.mark.parametrize(
    "text", ["", "[pools]", "pools = 1", "recipes = 1", "[recipes]", "limits = 1"]
)
def test_sections_of_the_wrong_form_are_told(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, text)
