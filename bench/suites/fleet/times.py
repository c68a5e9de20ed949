"""What a replica takes for its work, from results of other suites: the simulation has no number of its own."""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from fourshot.engine.errors import InputError

TASK = "sst2"  # that all three suites send
ONE_ADAPTER, SEVERAL_ADAPTERS = "lora", "lora_many"  # ways of the latency suite
SIZES = (1, 4, 16, 64)  # texts of a step
MOST_CLIENTS = 16  # that the serving suite measures the capacity with


class ServiceTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Of one replica, on the machine that was measured."""

    texts: tuple[int, ...]  # in a step, ascending
    one_ms: tuple[float, ...]  # a step of so many texts of one adapter
    several_ms: tuple[float, ...]  # the same of `adapters` different ones
    adapters: int
    http_ms: float  # what a text costs beside the engine
    memory_ms: float  # an adapter copied from memory into a slot, in a step
    disk_ms: float  # an adapter read from disk into a slot, in a step
    prompt_tokens: int
    slots: int  # of the engine that was measured

    def step_s(self, texts: int, adapters: int, from_memory: int, from_disk: int) -> float:
        """A step of ``texts`` texts of ``adapters`` adapters, of which so many had to be brought into their slot.

        Between the sizes that were measured a step grows evenly; beyond the largest, with the number of texts.
        """
        one_s, several_s = (self._of(texts, times) for times in (self.one_ms, self.several_ms))
        mixed = min(1.0, (adapters - 1) / (self.adapters - 1))
        engine = one_s + mixed * (several_s - one_s)
        loads = from_memory * self.memory_ms + from_disk * self.disk_ms
        return (engine + texts * self.http_ms + loads) / 1000

    def _of(self, texts: int, times: tuple[float, ...]) -> float:
        if texts > self.texts[-1]:
            return times[-1] * texts / self.texts[-1]
        return float(np.interp(texts, self.texts, times))

    @property
    def capacity_per_s(self) -> float:
        """Texts a second in steps of one text of each of `adapters`, all in their slots."""
        return self.adapters / self.step_s(self.adapters, self.adapters, 0, 0)


def read_times(latency: Mapping[str, Any], serving: Mapping[str, Any], adapters: Mapping[str, Any]) -> ServiceTimes:
    """From results of the suites of those names. Raises InputError where a cell is missing.

    So many requests at a time, each sent when one is answered, are steps of so many texts.
    """
    one_s, several_s = (steps(latency, variant) for variant in (ONE_ADAPTER, SEVERAL_ADAPTERS))
    over_http, in_process = serving["capacity_per_s"], MOST_CLIENTS / several_s[MOST_CLIENTS]
    return ServiceTimes(
        texts=tuple(one_s),
        one_ms=tuple(1000 * seconds for seconds in one_s.values()),
        several_ms=tuple(1000 * seconds for seconds in several_s.values()),
        adapters=latency["settings"]["many_adapters"],
        http_ms=max(0.0, 1000 * (1 / over_http - 1 / in_process)),
        memory_ms=_load_ms(adapters, "memory"),
        disk_ms=_load_ms(adapters, "cold"),
        prompt_tokens=round(_cell(latency, ONE_ADAPTER, 1)["prompt_tokens"]),
        slots=adapters["settings"]["slots"],
    )


def steps(latency: Mapping[str, Any], variant: str) -> dict[int, float]:
    """Seconds of a step by its number of texts, ascending."""
    return {size: size / _cell(latency, variant, size)["requests_per_s"]["mean"] for size in SIZES}


def _cell(latency: Mapping[str, Any], variant: str, load: int) -> Mapping[str, Any]:
    for cell in latency["cells"]:
        if (cell["route"], cell["way"], cell["task"], cell["load"]) == ("in-process", variant, TASK, load):
            return dict(cell)
    raise InputError(
        f"the latency result has no cell of {variant!r} for {TASK!r}, in process, {load} at a time. Measure it: "
        "fourshot bench latency."
    )


def _load_ms(adapters: Mapping[str, Any], kind: str) -> float:
    """The mean over all loads of that kind."""
    loads = [cell["adapter_loads"][kind] for cell in adapters["cells"] if cell["kind"] == "adapters"]
    uses = sum(load["uses"] for load in loads)
    if not uses:
        raise InputError(f"the adapters result has no load of the kind {kind!r}. Measure more adapters than slots.")
    return sum(load["uses"] * load["ms_each"] for load in loads if load["uses"]) / uses
