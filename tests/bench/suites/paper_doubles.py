"""The paper suite without measurements: invented comparisons and times."""

from collections.abc import Sequence
from typing import Any

import msgspec

from fourshot.bench.core.comparisons import MeasuredComparison
from fourshot.bench.suites import paper
from fourshot.bench.suites.paper.plan import (
    Options,
)
from fourshot.bench.suites.paper.scores import PaperScore, scores_of
from fourshot.bench.suites.paper.timing import MERGED, Timing
from fourshot.engine.checkpoints.models import resolve_model
from fourshot.pipeline.cells.methods import METHODS
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.report.data import method_row
from fourshot.pipeline.runs.compare import Comparison, ComparisonRequest, SeedResult
from fourshot.pipeline.scores import Scores
from fourshot.pipeline.synthesis.settings import RunSettings
from fourshot.pipeline.task import Task

ACCURACIES = {
    "zero_shot": 0.4,
    "icl": 0.5,
    "lora": 0.7,
    "paper": 0.6,
    "fourshot": 0.8,
    "lora25": 0.9,
    "unfiltered": 0.75,
}


def comparison(
    task: str,
    methods: Sequence[str],
    seeds: Sequence[int] = (0,),
    settings: RunSettings | None = None,
    model: str | None = None,
) -> Comparison:
    """Return a comparison as `compare` writes it, with invented scores."""
    settings, resolved = settings or RunSettings(allow_short=True), resolve_model(model)
    results = [
        SeedResult(method=method, seed=seed, scores=scores(method, seed), real_examples=8, synthetic_examples=9)
        for method in methods
        for seed in seeds
    ]
    return Comparison(
        task=task,
        model_name=resolved.name,
        model_revision=resolved.revision,
        seeds=list(seeds),
        rows=[method_row(method, method, [scores(method, seed) for seed in seeds]) for method in methods],
        results=results,
        settings={
            method: msgspec.structs.replace(METHODS[method].settings(settings), seed=seeds[0]) for method in methods
        },
        versions={"python": "3.11"},
        commit="abc1234",
    )


def scores(method: str, seed: int) -> Scores:
    tokens = 500 if method == "icl" else 40
    accuracy = ACCURACIES.get(method, 0.5) + 0.02 * seed
    return Scores(
        n=100,
        accuracy=accuracy,
        macro_f1=0.5,
        ece=0.1,
        interval=(0.4, 0.9),
        seconds=2.0,
        prompt_tokens=100 * tokens,
        cached_tokens=0,
    )


def cells(task: str, methods: Sequence[str], seeds: Sequence[int]) -> list[PaperScore]:
    written = msgspec.json.encode(comparison(task, methods, seeds))
    return scores_of(msgspec.json.decode(written, type=MeasuredComparison), 0)


class FakeCompare:
    """A `do_comparison` that measures nothing. ``dies_at``: number of the call that is killed; 0: none."""

    def __init__(self, dies_at: int = 0) -> None:
        self.made: list[tuple[str, tuple[str, ...]]] = []
        self.dies_at = dies_at

    def __call__(self, request: ComparisonRequest, *_: Any) -> None:
        folder, methods = request.folder, request.methods
        self.made.append((f"{folder.parent.name}/{folder.name}", tuple(methods)))
        if len(self.made) == self.dies_at:
            raise KeyboardInterrupt
        result = comparison(request.task.name, methods, request.seeds, request.settings, request.model)
        RunFolder(folder).write("comparison.json", result)


def times(task: Task) -> list[Timing]:
    took = {"zero_shot": 0.05, "icl": 0.3, "lora": 0.1, MERGED: 0.05}
    return [
        Timing(task=task.name, method=method, batch=batch, num_texts=8, s_per_text=seconds, prompt_tokens=40)
        for method, seconds in took.items()
        for batch in (1, 16)
    ]


def in_a_file(options: Options, result: dict[str, Any]) -> Any:
    """Return ``result`` with a header, as built-in types, as in its file."""
    settings = {**paper.settings(options), "model": "tiny"}
    header = {"suite": "paper", "commit": "abc1234", "hardware": {}, "versions": {}, "settings": settings}
    return msgspec.to_builtins({**header, **result})
