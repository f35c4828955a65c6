"""What the shipped catalogs ask for, as reviewed; `python -m tests.deployments.test_review`.

Any change of a catalog, of its recipe or of how rows are made shows as a change of catalog.txt, the
demo's, or of infra.txt: those of a team, with templates of all types of pools, and all forms.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from deployments import catalog_page
from deployments.catalog import CATALOG, load_catalog
from deployments.plan import compare
from deployments.prefect_yaml import PAGE, prefect_yaml
from deployments.render import lines
from deployments.rows import Desired, desired
from deployments.server import NOTHING
from tests.deployments import review

REVIEWED = Path(__file__).with_name("catalog.txt")
INFRA_REVIEWED = Path(__file__).with_name("infra.txt")
_INFRA = CATALOG.parents[1] / "infra"
_TEAMS = ("kubernetes/catalog.toml", "catalog/catalog.toml")
# No shipped catalog has pools of containers.
_DOCKER = """
[pools.docker]
type = "docker"
image = "cogvx-worker:1"
gpus = 2
memory = "64Gi"
shm = "512Mi"
"""
# Prefect's own texts, and digests: both are in infra.txt as people read them.
_LEFT_OUT = ("    template.", "    form = ")


def asked() -> str:
    """Everything that a new server would be given."""
    plan = compare(NOTHING, desired(load_catalog(CATALOG)))
    shown = [line for line in lines(plan, in_full=True) if not line.startswith(_LEFT_OUT)]
    return "\n".join(shown) + "\n"


def infra_asked() -> str:
    """What the catalogs for teams ask for, and what people fill in anywhere."""
    return "\n".join(_infra_lines()) + "\n"


def _infra_lines() -> Iterator[str]:
    demo = desired(load_catalog(CATALOG))
    for name in _TEAMS:
        yield f"# infra/{name}"
        yield from review.rows(_team((_INFRA / name).read_text()), demo)
        yield ""
    yield "# A pool of containers"
    pools = (_INFRA / _TEAMS[1]).read_text() + _DOCKER
    (pool,) = [row for row in _team(pools).pools if row.type == "docker"]
    yield from review.template(pool.template, pool.type)
    yield ""
    yield "# Forms"
    yield from review.forms(demo)


def _team(text: str) -> Desired:
    """The rows of a team's catalog, with the recipe that infra/README.md copies beside it."""
    with TemporaryDirectory() as folder:
        shutil.copy(CATALOG.parent / "recipes" / "cogvideox-5b.toml", f"{folder}/my-style.toml")
        (Path(folder) / "catalog.toml").write_text(text)
        return desired(load_catalog(Path(folder) / "catalog.toml"))


def test_the_catalog_asks_for_what_was_reviewed() -> None:
    assert asked() == REVIEWED.read_text(), "look at it: python -m tests.deployments.test_review"


def test_the_catalogs_of_a_team_ask_for_what_was_reviewed() -> None:
    now = infra_asked()
    assert now == INFRA_REVIEWED.read_text(), "look at it: python -m tests.deployments.test_review"


def test_the_page_about_the_catalog_is_current() -> None:
    assert catalog_page.PAGE.read_text() == catalog_page.catalog_page(), (
        "run `python -m deployments.catalog_page`"
    )


def test_prefect_yaml_is_current() -> None:
    assert PAGE.read_text() == prefect_yaml(), "run `python -m deployments.prefect_yaml`"


if __name__ == "__main__":
    REVIEWED.write_text(asked())
    INFRA_REVIEWED.write_text(infra_asked())
