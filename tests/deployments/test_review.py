"""What the shipped catalog asks for, as it was reviewed; `python -m tests.deployments.test_review`.

Any change of the catalog, of its recipe or of how rows are made shows as a change of catalog.txt.
"""

from pathlib import Path

from deployments import catalog_page
from deployments.catalog import CATALOG, load_catalog
from deployments.plan import compare
from deployments.prefect_yaml import PAGE, prefect_yaml
from deployments.render import lines
from deployments.rows import desired
from deployments.server import NOTHING

REVIEWED = Path(__file__).with_name("catalog.txt")
# Prefect's own texts, and digests: tests of their own look at them.
_LEFT_OUT = ("    template.", "    form = ")


def asked() -> str:
    """Everything that a new server would be given."""
    plan = compare(NOTHING, desired(load_catalog(CATALOG)))
    shown = [line for line in lines(plan, in_full=True) if not line.startswith(_LEFT_OUT)]
    return "\n".join(shown) + "\n"


def test_the_catalog_asks_for_what_was_reviewed() -> None:
    assert asked() == REVIEWED.read_text(), "look at it: python -m tests.deployments.test_review"


def test_the_page_about_the_catalog_is_current() -> None:
    assert catalog_page.PAGE.read_text() == catalog_page.catalog_page(), (
        "run `python -m deployments.catalog_page`"
    )


def test_prefect_yaml_is_current() -> None:
    assert PAGE.read_text() == prefect_yaml(), "run `python -m deployments.prefect_yaml`"


if __name__ == "__main__":
    REVIEWED.write_text(asked())
