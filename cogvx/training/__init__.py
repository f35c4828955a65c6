"""Train one adapter from a run folder; talks to no network and knows no server."""
