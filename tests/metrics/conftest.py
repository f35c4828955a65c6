"""The toy networks, made once for this room."""

import pytest

from tests.metrics.networks import build_networks


@pytest.fixture(scope="session")
def networks(tmp_path_factory):
    """Folders by kind; do not change them."""
    return build_networks(tmp_path_factory.mktemp("networks"))
