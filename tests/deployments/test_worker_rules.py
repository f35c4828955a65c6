"""Images, labels and taints that Docker or Kubernetes would refuse are refused before a run is."""

from pathlib import Path

import pytest

from cogvx.errors import ConfigError
from deployments.catalog_sections import PoolConfig
from deployments.worker_rules import worker_problems
from tests.deployments.test_catalog import POOLS, ROW, loaded


def problems(**said: object) -> list[str]:
    pool = PoolConfig.model_validate({"type": "kubernetes", "image": "cogvx", **said})
    return [str(problem) for problem in worker_problems("pools.more", pool)]


@pytest.mark.parametrize(
    "image",
    [
        "cogvx",
        "cogvx-worker:1",
        "team/cogvx__worker:v1.2_3-rc",
        "registry.example.com:5000/team/cogvx.worker:1@sha256:" + "0a" * 32,
        "localhost/a/b/c",
        "Registry/x",
        "[::1]:5000/x:1",
        "1234.dkr.ecr.eu-central-1.amazonaws.com/cogvx@sha256:" + "f" * 64,
        "a---b",
    ],
)
def test_images_are_taken(image: str) -> None:
    assert problems(image=image) == []


@pytest.mark.parametrize(
    "image",
    [
        *("not an image !!", "x:", "x:1:2", "team/Worker:1", "/x", "x/", "a//b", "a..b", "-a"),
        *("x:" + "t" * 129, "x" * 256, "x\n", "host:port/x", "x:-1"),
    ],
)
def test_what_is_no_image_is_refused(image: str) -> None:
    (said,) = problems(image=image)
    assert said.startswith(f'pools.more.image = "{image}" is no name of an image; write it like ')


@pytest.mark.parametrize(
    "image",
    [
        *("https://me:hunter2@reg.example.com/x:1", "me:hunter2@reg.example.com/x:1"),
        *("https://reg.example.com/x:1", "hunter2@reg/x", "reg/x?password=hunter2"),
    ],
)
def test_an_image_with_a_login_is_refused_and_not_repeated(tmp_path: Path, image: str) -> None:
    text = f'{POOLS}{ROW}[pools.more]\ntype = "docker"\nimage = "{image}"\n'
    with pytest.raises(ConfigError, match=r"pools\.more\.image is an address, or holds") as caught:
        loaded(tmp_path, text)
    assert "hunter2" not in str(caught.value)


def test_labels_and_taints_are_taken() -> None:
    selector = {"gpu": "h100", "nvidia.com/gpu.product": "NVIDIA-H100_80.GB", "a" * 63: ""}
    selector["x" * 63 + "." + "y" * 63 + "/" + "z" * 63] = "1"
    taints = [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}, {"key": "team", "value": "a"}]
    assert problems(node_selector=selector, tolerations=taints) == []


@pytest.mark.parametrize(
    "key",
    [
        *("bad key!!", "-a", "a-", "a" * 64, "/a", "a/", "A.com/gpu", "a/b/c", "a..b/c", "gpu\n"),
        "x" * 254 + "/a",
    ],
)
def test_a_key_that_kubernetes_refuses_is_refused(key: str) -> None:
    wrong = f'key = "{key}" is no key of a label or a taint; use at most 63 letters, digits, '
    (said,) = problems(tolerations=[{"key": key}])
    assert said.startswith(f"pools.more.tolerations[0].{wrong}")
    if len(key) <= 200:
        (said,) = problems(node_selector={key: "x"})
        assert said.startswith(f'pools.more.node_selector = "{key}" is no key of a label')


@pytest.mark.parametrize("value", ["bad value ##", "-a", "a_", "a" * 64, "a/b", "1\n", "ä"])
def test_a_value_that_kubernetes_refuses_is_refused(value: str) -> None:
    (said,) = problems(node_selector={"gpu": value})
    assert said.startswith(f'pools.more.node_selector.gpu = "{value}" is no value of a label')
    if len(value) <= 63:
        (said,) = problems(tolerations=[{"key": "gpu", "value": value}])
        assert said.startswith(f'pools.more.tolerations[0].value = "{value}" is no value of a')


def test_problems_of_a_pool_stand_in_its_catalog(tmp_path: Path) -> None:
    text = '[pools.more]\ntype = "kubernetes"\nimage = "cogvx:1:2"\n'
    text += 'node_selector = {"bad key!!" = "bad value ##"}\n[pools.more.env]\n"1" = "x"\n'
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, POOLS + ROW + text)
    assert [problem.where for problem in caught.value.problems] == [
        "pools.more.env.1",
        "pools.more.image",
        "pools.more.node_selector",
        "pools.more.node_selector.bad key!!",
    ]
