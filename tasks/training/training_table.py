"""The training so far as a person reads it in the Prefect UI: last numbers, held-out losses, bands.

Markdown alone: the UI shows neither scripts nor drawings in it, so curves are drawn with blocks.
"""

import itertools
import re
from collections.abc import Mapping, Sequence

from cogvx.runs.events import Event

_BLOCKS = "▁▂▃▄▅▆▇█"
_COLUMNS = 32
_ROWS = 20
_BAND = re.compile(r"loss_t(\d+)_(\d+)_running")
_SHOWN = (
    ("loss", "loss"),
    ("loss_balanced", "loss, balanced over timesteps"),
    ("grad_norm", "gradient norm"),
    ("grad_norm_max", "largest gradient norm"),
    ("weight_norm", "norm of the adapter"),
    ("update_norm", "norm of the last update"),
    ("learning_rate", "learning rate"),
    ("epoch", "epochs"),
    ("skipped", "skipped updates"),
    ("samples_per_second", "samples a second"),
    ("tokens_per_second", "tokens a second"),
    ("mfu", "share of the device's peak (MFU)"),
    ("data_wait_share", "share of the time waiting for data"),
    ("memory_gib", "most memory, GiB"),
)


def training_markdown(events: Sequence[Event]) -> str:
    """Tables of a run's history, empty while there is nothing to show."""
    metrics = [event for event in events if event["kind"] == "metrics"]
    heldout = [event for event in events if event["kind"] == "heldout"]
    parts = [_heldout(heldout), _last(metrics), _bands(metrics)]
    return "\n\n".join(part for part in parts if part)


def curve(values: Sequence[float]) -> str:
    """Values as blocks of eight heights between their least and their greatest.

    Of more than fit, the mean of each part is shown.
    """
    count = min(len(values), _COLUMNS)
    edges = [len(values) * place // count for place in range(count + 1)] if count else []
    means = [sum(values[start:end]) / (end - start) for start, end in itertools.pairwise(edges)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    span = (high - low) or 1.0
    return "".join(_BLOCKS[round((mean - low) / span * (len(_BLOCKS) - 1))] for mean in means)


def _heldout(events: Sequence[Event]) -> str:
    """Held-out losses: the first one, the best and the newest ones."""
    if not events:
        return ""
    timesteps = sorted(events[-1]["by_timestep"], key=int)
    best = min(events, key=lambda event: float(event["loss"]))
    shown = [events[0], *events[max(1, len(events) - _ROWS) :]]
    if best not in shown:
        shown.insert(1, best)
    head = ["step", "loss", *(f"t = {timestep}" for timestep in timesteps)]
    rows = [
        [
            f"{event['step']}{' (best)' if event is best else ''}",
            f"{event['loss']:.4f}",
            *(_number(event["by_timestep"].get(timestep)) for timestep in timesteps),
        ]
        for event in shown
    ]
    drawn = curve([event["loss"] for event in events])
    return f"### Held-out loss `{drawn}`\n\n{_table(head, rows)}"


def _last(events: Sequence[Event]) -> str:
    if not events:
        return ""
    last = events[-1]
    values = {**last["values"], **last.get("system", {})}
    rows = [
        [words, _number(values[name]), f"`{curve(_series(events, name))}`"]
        for name, words in _SHOWN
        if name in values
    ]
    return f"### Step {last['step']}\n\n{_table(['', 'last', 'so far'], rows)}"


def _bands(events: Sequence[Event]) -> str:
    """Running means by band; few samples fall into one window, so that its means tell little."""
    if not events:
        return ""
    rows = []
    for name in sorted(events[-1]["values"]):
        found = _BAND.fullmatch(name)
        if found is not None:
            first, last = (int(timestep) for timestep in found.groups())
            series = _series(events, name)
            ends = _number(series[0]), _number(series[-1])
            rows.append([f"{first} to {last}", *ends, f"`{curve(series)}`"])
    if not rows:
        return ""
    head = ["timesteps", "at first", "now", "running mean"]
    return f"### Training loss by timestep\n\n{_table(head, rows)}"


def _series(events: Sequence[Event], name: str) -> list[float]:
    """A number at every log line that has it."""
    every: list[Mapping[str, float]] = [
        {**event["values"], **event.get("system", {})} for event in events
    ]
    return [values[name] for values in every if name in values]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
