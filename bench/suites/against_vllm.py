"""Our load generator against vLLM's (`vllm bench serve`): the same completions on the same server, alternating.

    fourshot bench against-vllm --data FOLDER --out FILE.json

If two harnesses disagree, one of them is wrong. Both send the same prompts in the same order, keep the same number of
requests in flight, and request the same number of tokens. The prefix cache is emptied before each turn.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import msgspec

from fourshot.bench.core.load import Load, LoadRequest, generate
from fourshot.bench.core.options import Model, Out, Positive, as_settings
from fourshot.bench.core.parts import Part, TablePart, at_most
from fourshot.bench.core.results import FinishedPieces
from fourshot.bench.core.statistics import ratio
from fourshot.bench.core.suite import Suite
from fourshot.bench.core.workload import load_workload
from fourshot.engine.checkpoints.models import resolve_model
from fourshot.engine.errors import FourshotError
from fourshot.serving.testing.server import RunningService, running_service

AGREEMENT_GOAL = 0.05
MAX_TOKENS = 16


class Options(msgspec.Struct, frozen=True, kw_only=True):
    data: Annotated[Path, "a folder with sst2/"]
    out: Out
    model: Model = None
    requests: Annotated[Positive, "completions per turn"] = 200
    clients: Annotated[Positive, "requests at a time"] = 8
    repeats: Annotated[Positive, "turns"] = 4
    cores: Annotated[str, "of the server, as taskset names them"] = ""
    load_cores: Annotated[str, "of the load generators"] = ""


def our_harness(server: RunningService, model: str, prompts: Sequence[str], options: Options) -> dict[str, float]:
    """Send ``prompts`` with `bench.core.load`. Return the rate and mean latency. Raises FourshotError for failures."""
    body = {"model": model, "max_tokens": MAX_TOKENS, "temperature": 0, "ignore_eos": True}
    body |= {"stream": True, "stream_options": {"include_usage": True}}  # as vLLM's harness does
    load = Load(
        url=server.address,
        requests=tuple(
            LoadRequest(kind="completion", path="/v1/completions", body=json.dumps({**body, "prompt": prompt}))
            for prompt in prompts
        ),
        once=True,
        seconds=600.0,
        clients=options.clients,
    )
    answers = generate(load, options.load_cores)
    if bad := [answer for answer in answers if answer.status != 200]:
        raise FourshotError(f"{len(bad)} of {len(answers)} completions failed: {bad[0].answer[:300]}")
    seconds = max(answer.done_s for answer in answers) - min(answer.sent_s for answer in answers)
    mean_s = fmean(answer.latency_s for answer in answers)
    return {"requests_per_s": len(answers) / seconds, "mean_latency_ms": 1000 * mean_s}


def vllm_harness(
    server: RunningService, model: str, tokenizer: str, prompts: Sequence[str], options: Options
) -> dict[str, float]:
    """Send ``prompts`` with `vllm bench serve`. Returns and raises like `our_harness`."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder) / "prompts.jsonl"
        lines = [json.dumps({"prompt": prompt, "output_tokens": MAX_TOKENS}) + "\n" for prompt in prompts]
        dataset.write_text("".join(lines), encoding="utf-8")
        pinned = ["taskset", "-c", options.load_cores] if options.load_cores else []
        command = [
            *pinned, sys.executable, "-c", _VLLM_BENCH, "--backend", "openai", "--base-url", server.address,
            "--endpoint", "/v1/completions", "--model", model, "--tokenizer", tokenizer,
            "--dataset-name", "custom", "--dataset-path", str(dataset), "--skip-chat-template", "--disable-shuffle",
            "--custom-output-len", str(MAX_TOKENS), "--num-prompts", str(len(prompts)), "--ignore-eos",
            "--max-concurrency", str(options.clients), "--temperature", "0", "--ready-check-timeout-sec", "0",
            "--save-result", "--result-dir", folder, "--result-filename", "found.json", "--disable-tqdm",
            "--percentile-metrics", "e2el",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise FourshotError(f"vllm bench serve ended with code {done.returncode}: {done.stderr[-2000:]}")
        measured = json.loads((Path(folder) / "found.json").read_text(encoding="utf-8"))
    if measured["completed"] != len(prompts):
        raise FourshotError(f"vllm bench serve completed {measured['completed']} of {len(prompts)}")
    return {"requests_per_s": measured["request_throughput"], "mean_latency_ms": measured["mean_e2el_ms"]}


_VLLM_BENCH = """
import argparse
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


def measure(options: Options, done: FinishedPieces) -> dict[str, Any]:
    """Run both harnesses in each turn, first the one that was second in the last turn. Return all numbers."""
    from fourshot.serving.testing.adapters import make_adapter, task_of

    base = resolve_model(options.model)
    workload = load_workload("sst2", options.data, 4)
    workload.check_texts(options.requests, "or fewer --requests")
    prompts = [f"A review: {text}\nAnother review:" for text in workload.texts[: options.requests]]
    os.environ["VLLM_SERVER_DEV_MODE"] = "1"  # lets the cache be emptied
    with tempfile.TemporaryDirectory() as folder:
        adapters = Path(folder) / "served"
        make_adapter(adapters, task_of("random"), base=base)
        base_options = ["--base", options.model] if options.model else []
        with running_service(adapters, Path(folder) / "log", *base_options, cores=options.cores) as server:
            our_harness(server, base.name, prompts[:32], options)  # warm-up

            def pair(turn: int) -> dict[str, Any]:
                measured: dict[str, Any] = {}
                for name in ("ours", "vllm") if turn % 2 else ("vllm", "ours"):
                    server.http.post("/reset_prefix_cache").raise_for_status()
                    time.sleep(0.5)
                    if name == "ours":
                        measured[name] = our_harness(server, base.name, prompts, options)
                    else:
                        measured[name] = vllm_harness(server, base.name, base.path, prompts, options)
                return measured

            progress = "ours {ours[requests_per_s]:.1f} requests/s, vLLM's {vllm[requests_per_s]:.1f}"
            turns = [done.add_once(f"turn {n}", partial(pair, n), progress) for n in range(options.repeats)]
    sides = {
        name: {key: [turn[name][key] for turn in turns] for key in ("requests_per_s", "mean_latency_ms")}
        for name in ("ours", "vllm")
    }
    return {
        "turns": turns,
        **{name: {key: fmean(values) for key, values in side.items()} for name, side in sides.items()},
        "targets": [
            at_most(
                f"{key}: distance of our number from vLLM's",
                "share",
                abs(ratio(sides["ours"][key], sides["vllm"][key]).mean - 1),
                AGREEMENT_GOAL,
            )
            for key in sides["ours"]
        ],
    }


def report(result: Mapping[str, Any]) -> list[Part]:
    """Return a table of both harnesses side by side."""
    rows = [("requests/s", "requests_per_s", 2), ("mean latency, ms", "mean_latency_ms", 1)]
    sides = {"ours": "ours", "`vllm bench serve`": "vllm"}
    cells = [[name, *(f"{result[side][key]:.{digits}f}" for side in sides.values())] for name, key, digits in rows]
    return [TablePart(["", *sides], cells)]


SUITE = Suite(
    options=Options,
    settings=lambda options: {
        **as_settings(options, "requests", "clients"),
        "max_tokens": MAX_TOKENS,
        "repeats": options.repeats,
    },
    tasks=lambda options: ["sst2"],
    measure=measure,
    report=report,
)
