"""Costs by stage: from measured attempts to sums, to MLflow's metrics, and to what people read."""

from collections.abc import Iterable, Mapping, Sequence

from tasks.documents import CostReport, DeviceKind, Saved, SpendingStage, StageCost
from tasks.pools.metering import Spent
from tasks.settings import Settings

Row = tuple[str, str]

_MINUTE, _HOUR = 60.0, 3600.0
_WORDS: Mapping[SpendingStage, str] = {
    "cache": "encoding",
    "train": "training",
    "generate": "videos",
    "measure": "measuring",
}


def cost_of(attempts: Iterable[Spent], here: Settings) -> tuple[StageCost, ...]:
    """By stage and kind of device, at the prices of these settings."""
    return merge(
        StageCost(
            stage=spent.stage,
            device=spent.device,
            attempts=1,
            device_seconds=spent.device_seconds,
            made=spent.made,
            money=_money(spent, here),
        )
        for spent in attempts
    )


def saved_of(stage: SpendingStage, reused: int, history: Sequence[StageCost]) -> Saved:
    """What was not made again, at the mean that making one took, on GPUs where any ever did."""
    made = [each for each in history if each.stage == stage and each.made]
    best = max(made, key=lambda each: each.device == "gpu", default=None)
    if best is None:
        return Saved(stage=stage, reused=reused)
    share = reused / best.made
    return Saved(
        stage=stage,
        reused=reused,
        device=best.device,
        device_seconds=best.device_seconds * share,
        money=None if best.money is None else best.money * share,
    )


def cost_metrics(cost: CostReport) -> dict[str, float]:
    """As MLflow has them: seconds by stage and in all, and money where prices are set."""
    found: dict[str, float] = {}
    for each in cost.stages:
        for kind, seconds in (("device", each.device_seconds), ("gpu", each.gpu_seconds)):
            for name in (f"cost/{kind}_seconds_{each.stage}", f"cost/{kind}_seconds"):
                found[name] = found.get(name, 0.0) + seconds
    money = _total_money(cost.stages)
    if money is not None:
        found["cost/money"] = money
    known = [each.device_seconds for each in cost.saved if each.device_seconds is not None]
    if known:
        found["cost/saved_device_seconds"] = sum(known)
    saved = [each.money for each in cost.saved if each.money is not None]
    if saved:
        found["cost/saved_money"] = sum(saved)
    if cost.promoted:
        gpu_seconds = sum(each.gpu_seconds for each in cost.history)
        found["cost/gpu_seconds_per_promoted"] = gpu_seconds / cost.promoted
        spent = _total_money(cost.history)
        if spent is not None:
            found["cost/money_per_promoted"] = spent / cost.promoted
    return found


def cost_rows(report: CostReport) -> list[Row]:
    """What the adapter cost, what reuse saved, and what a promoted one cost so far."""
    parts = ", ".join(
        f"{_WORDS[each.stage]} {_time_text(each.device_seconds)}"
        f"{'' if each.device == 'gpu' else ' of CPU'}"
        for each in report.stages
    )
    rows = [("cost", f"{total_text(report.stages, report.unit)} ({parts})" if parts else "nothing")]
    reused = [each for each in report.saved if each.reused and each.device_seconds is not None]
    if reused:
        counts = " and ".join(_reused_text(each) for each in reused)
        rows.append(("saved", f"{counts}{_saved_money(reused, report.unit)}"))
    if report.promoted:
        each = tuple(_shared(stage, report.promoted) for stage in report.history)
        adapters = f"{report.adapters} adapter(s), {report.promoted} promoted"
        share = total_text(each, report.unit)
        rows.append(("so far", f"{adapters}: {share} for each promoted one"))
    return rows


def merge(costs: Iterable[StageCost]) -> tuple[StageCost, ...]:
    """One for each stage and kind of device; money is known only if all of it is."""
    found: dict[tuple[SpendingStage, DeviceKind], StageCost] = {}
    for each in costs:
        key = (each.stage, each.device)
        found[key] = _plus(found[key], each) if key in found else each
    order = list(_WORDS)
    return tuple(found[key] for key in sorted(found, key=lambda key: (order.index(key[0]), key[1])))


def _plus(one: StageCost, other: StageCost) -> StageCost:
    known = one.money is not None and other.money is not None
    return StageCost(
        stage=one.stage,
        device=one.device,
        attempts=one.attempts + other.attempts,
        device_seconds=one.device_seconds + other.device_seconds,
        made=one.made + other.made,
        money=(one.money or 0.0) + (other.money or 0.0) if known else None,
    )


def _shared(stage: StageCost, by: int) -> StageCost:
    money = None if stage.money is None else stage.money / by
    return stage.model_copy(update={"device_seconds": stage.device_seconds / by, "money": money})


def _money(spent: Spent, here: Settings) -> float | None:
    """A CPU is not what is priced; a GPU without a price costs nobody knows what."""
    price = here.pool_prices.get(spent.pool, here.gpu_hour_price)
    if price is None:
        return None
    return price * spent.device_seconds / _HOUR if spent.device == "gpu" else 0.0


def _total_money(stages: Sequence[StageCost]) -> float | None:
    """None unless all of it is known, or where no GPU was held: nobody said what a CPU costs."""
    known = [each.money for each in stages if each.money is not None]
    is_told = any(each.gpu_seconds for each in stages) and len(known) == len(stages)
    return sum(known) if is_told else None


def total_text(stages: Sequence[StageCost], unit: str) -> str:
    """All stages together in a few words; money only where every part of it is known."""
    gpu_seconds = sum(each.gpu_seconds for each in stages)
    rest = sum(each.device_seconds for each in stages) - gpu_seconds
    parts = [f"{_time_text(gpu_seconds)} of GPU"] if gpu_seconds else []
    parts += [f"{_time_text(rest)} of CPU"] if rest or not parts else []
    money = _total_money(stages)
    return ", ".join([*parts, *([_money_text(money, unit)] if money is not None else [])])


def _time_text(seconds: float) -> str:
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / _MINUTE:.0f} min" if seconds < 2 * _HOUR else f"{seconds / _HOUR:.1f} h"


def _money_text(money: float, unit: str) -> str:
    return f"{money:.2f} {unit}".strip()


def _reused_text(saved: Saved) -> str:
    what = "videos" if saved.stage == "generate" else "records"
    seconds = _time_text(saved.device_seconds or 0.0)
    return f"{saved.reused} {what} reused, about {seconds} of {saved.device.upper()}"


def _saved_money(reused: Sequence[Saved], unit: str) -> str:
    known = [each.money for each in reused if each.money is not None]
    return f"; {_money_text(sum(known), unit)}" if len(known) == len(reused) else ""
