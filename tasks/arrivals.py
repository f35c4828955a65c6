"""The event that new clips are announced by, and the name of a dataset in it.

A deployment's trigger and whoever announces clips must spell both alike; this is where they do.
"""

import posixpath
from urllib.parse import quote, unquote, urlsplit

ARRIVED = "cogvx.dataset.arrived"

# What Prefect would read as a pattern (* ? [ !) and what is rare in paths is written as %2A.
_PLAIN = "/:@._-~+=,"


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
