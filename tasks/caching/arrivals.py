"""The event that new clips are announced by, and the name of a dataset in it.

A deployment's trigger and whoever announces clips must spell both alike; this is where they do.
"""

import posixpath
from datetime import UTC, datetime
from urllib.parse import quote, unquote, urlsplit
from uuid import UUID, uuid5

from prefect.client.orchestration import get_client

from cogvx.data.arrivals import Arrival
from tasks.clients.pool import asking

ARRIVED = "cogvx.dataset.arrived"

# What Prefect would read as a pattern (* ? [ !) and what is rare in paths is written as %2A.
_PLAIN = "/:@._-~+=,"
# Ours alone, so that one arrival always has the same id, whoever announces it.
_IDS = UUID("5a0e6d2c-6a3e-4c1b-9f0d-0c6c6f9a7b11")


def dataset_resource(uri: str) -> str:
    """Prefect's name for the dataset at `uri`, by which a trigger and an event find each other.

    Made from the spelling alone, as the machine that deploys may not see the folder: `clips/`,
    `./clips` and `clips` are one dataset, `s3://bucket/clips/` and `s3://bucket/clips` as well.
    """
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        place = f"s3://{parts.netloc}/{uri.split('://', 1)[1].partition('/')[2]}".rstrip("/")
    else:
        place = posixpath.normpath(unquote(parts.path) if parts.scheme == "file" else uri)
    return f"cogvx.dataset.{quote(place, safe=_PLAIN)}"


def event_id(arrival: Arrival) -> UUID:
    """The id of an arrival's event: sent twice within minutes, the server takes it once."""
    return uuid5(_IDS, f"{arrival.dataset} {arrival.seq} {arrival.listing}")


def announce(uri: str, arrival: Arrival, *, again: bool = False) -> None:
    """Tell Prefect's server that the clips at `uri` changed.

    By a request that the server answers, as an event on its way in a thread is lost with the
    process. `again` asks first whether the server has it: whoever was to announce it was killed,
    perhaps only afterwards.

    Raises:
        TransientError: The server did not take it.
    """
    event = {
        "id": str(event_id(arrival)),
        "event": ARRIVED,
        # Now, and not when it was found: to triggers an event of the past is a late one.
        "occurred": datetime.now(UTC).isoformat(),
        "resource": {"prefect.resource.id": dataset_resource(uri), "prefect.resource.name": uri},
        "payload": {
            "uri": uri,
            "added": arrival.added,
            "removed": arrival.removed,
            "changed": arrival.changed,
            "listing": arrival.listing,
        },
    }
    with get_client(sync_client=True) as client, asking(f"take the event {ARRIVED}"):
        if again:
            known = client.request(
                "POST", "/events/filter", json={"filter": {"id": {"id": [event["id"]]}}}
            )
            if known.json()["total"]:
                return
        client.request("POST", "/events", json=[event])
