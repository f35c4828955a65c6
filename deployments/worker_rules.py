"""What Docker or Kubernetes would refuse of a pool, once its first run is to start."""

import re
from collections.abc import Iterator

from cogvx.errors import Problem
from deployments.catalog_sections import PoolConfig
from deployments.env_rules import holds_secret

_LONGEST_NAME = 255  # characters of an image without its tag and digest
_LONGEST_PREFIX = 253
# [host[:port]/]path[:tag][@digest]; paths are of lower case, which a host need not be.
_LABEL = "[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::[0-9]{{1,5}})?"
_PATH = "[a-z0-9]+(?:(?:[.]|__?|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?P<name>(?:{_HOST}/)?{_PATH}(?:/{_PATH})*)"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@[a-z0-9]+:[0-9a-f]{32,128})?"
)
# Kubernetes, "Labels and Selectors": a key is a name, which may have a prefix and a slash before
# it; name and value have at most 63 letters, digits, dashes, underscores and dots, and begin and
# end with a letter or a digit; the prefix is a DNS subdomain; a value may be empty. Keys and values
# of taints, and so of tolerations, are of the same form.
_WORD = re.compile("[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


def worker_problems(where: str, pool: PoolConfig) -> Iterator[Problem]:
    """Images, labels and taints that cannot be."""
    if pool.image is not None:
        yield from _image_problems(f"{where}.image", pool.image)
    for key, value in pool.node_selector.items():
        yield from _key_problems(f"{where}.node_selector", key)
        yield from _value_problems(f"{where}.node_selector.{key}", value)
    for index, taint in enumerate(pool.tolerations):
        yield from _key_problems(f"{where}.tolerations[{index}].key", taint.key)
        yield from _value_problems(f"{where}.tolerations[{index}].value", taint.value or "")


def _image_problems(where: str, image: str) -> Iterator[Problem]:
    if (found := _IMAGE.fullmatch(image)) and len(found["name"]) <= _LONGEST_NAME:
        return
    use = 'write it like "registry.example.com/team/cogvx-worker:1"'
    if "://" in image or "@" in image or holds_secret(image):
        use += "; a login belongs to the machine that pulls it"
        yield Problem(where, None, "is an address, or holds a login, and no image", use)
    else:
        yield Problem(where, image, "is no name of an image", use)


def _key_problems(where: str, key: str) -> Iterator[Problem]:
    prefix, slash, name = key.rpartition("/")
    is_prefixed = len(prefix) <= _LONGEST_PREFIX and _SUBDOMAIN.fullmatch(prefix)
    if not _WORD.fullmatch(name) or (slash and not is_prefixed):
        use = 'use at most 63 letters, digits, "-", "_" and ".", as gpu or nvidia.com/gpu'
        yield Problem(where, key, "is no key of a label or a taint", use)


def _value_problems(where: str, value: str) -> Iterator[Problem]:
    if value and not _WORD.fullmatch(value):
        use = 'use at most 63 letters, digits, "-", "_" and ".", a letter or digit at both ends'
        yield Problem(where, value, "is no value of a label or a taint", use)
