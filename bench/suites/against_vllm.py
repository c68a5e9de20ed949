"""Our load generator beside vLLM's own (`vllm bench serve`): the same completions on the same server, by turns.

    fourshot bench against-vllm --data FOLDER --out FILE.json

If two harnesses disagree, one of them is wrong. Prompts are the same texts in the same order; both keep the same number
of requests in flight and ask for the same number of tokens. The prefix cache is emptied before each turn.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from fourshot.bench.core.load import Plan, Shot, generate
from fourshot.bench.core.old import at_most, check_data, check_out, header, positive, target_lines, tell, write_json
from fourshot.bench.core.statistics import estimate, ratio
from fourshot.bench.core.workload import material
from fourshot.serving.testing.adapters import make_adapter, task_of
from fourshot.serving.testing.server import RunningService, running_service

SCHEMA = 1
AGREEMENT_GOAL = 0.05
MAX_TOKENS = 16


def ours(server: RunningService, model: str, prompts: Sequence[str], clients: int, load_cores: str) -> dict[str, float]:
    """Requests per second and mean latency, by `bench.load`."""
    shots = tuple(
        Shot(
            kind="completion",
            path="/v1/completions",
            body=json.dumps(
                {
                    "model": model,
                    "prompt": one,
                    "max_tokens": MAX_TOKENS,
                    "temperature": 0,
                    "ignore_eos": True,
                    "stream": True,  # as theirs does
                    "stream_options": {"include_usage": True},
                }
            ),
        )
        for one in prompts
    )
    plan = Plan(
        url=server.address,
        shots=shots,
        weights=(1.0,) * len(shots),
        once=True,
        seconds=600.0,
        clients=clients,
    )
    rows = generate(plan, load_cores)
    bad = [row for row in rows if row.status != 200]
    if bad:
        raise RuntimeError(f"{len(bad)} of {len(rows)} completions failed: {bad[0].answer[:300]}")
    seconds = max(row.done_s for row in rows) - min(row.sent_s for row in rows)
    return {"requests_per_s": len(rows) / seconds, "mean_latency_ms": 1000 * fmean(row.latency_s for row in rows)}


def theirs(
    server: RunningService, model: str, tokenizer: str, prompts: Sequence[str], clients: int, load_cores: str
) -> dict[str, float]:
    """The same by vLLM's own harness."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder) / "prompts.jsonl"
        lines = [json.dumps({"prompt": one, "output_tokens": MAX_TOKENS}) + "\n" for one in prompts]
        dataset.write_text("".join(lines), encoding="utf-8")
        pinned = ["taskset", "-c", load_cores] if load_cores else []
        command = [
            *pinned, sys.executable, "-c", _VLLM_BENCH, "--backend", "openai", "--base-url", server.address,
            "--endpoint", "/v1/completions", "--model", model, "--tokenizer", tokenizer,
            "--dataset-name", "custom", "--dataset-path", str(dataset), "--skip-chat-template", "--disable-shuffle",
            "--custom-output-len", str(MAX_TOKENS), "--num-prompts", str(len(prompts)), "--ignore-eos",
            "--max-concurrency", str(clients), "--temperature", "0", "--ready-check-timeout-sec", "0",
            "--save-result", "--result-dir", folder, "--result-filename", "found.json", "--disable-tqdm",
            "--percentile-metrics", "e2el",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"vllm bench serve ended with code {done.returncode}: {done.stderr[-2000:]}")
        found = json.loads((Path(folder) / "found.json").read_text(encoding="utf-8"))
    if found["completed"] != len(prompts):
        raise RuntimeError(f"vllm bench serve completed {found['completed']} of {len(prompts)}")
    return {"requests_per_s": found["request_throughput"], "mean_latency_ms": found["mean_e2el_ms"]}


_VLLM_BENCH = """
import argparse
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Both harnesses by turns, so many times."""
    import os

    from fourshot.engine.models import resolve_model

    base = resolve_model(options.model)
    check_out(options.out)
    check_data(options.data, ["sst2"])
    stuff = material("sst2", options.data, 4)
    prompts = [f"A review: {text}\nAnother review:" for text in stuff.texts[: options.requests]]
    os.environ["VLLM_SERVER_DEV_MODE"] = "1"  # lets the cache be emptied
    turns = []
    with tempfile.TemporaryDirectory() as folder:
        adapters = Path(folder) / "served"
        make_adapter(adapters, task_of("random"), base=base)
        more = ["--base", options.model] if options.model else []
        with running_service(adapters, Path(folder) / "log", *more, cores=options.cores) as server:
            ours(server, base.name, prompts[:32], options.clients, options.load_cores)  # warm-up
            for turn in range(options.repeats):
                pair = {}
                for name in ("ours", "vllm") if turn % 2 else ("vllm", "ours"):
                    server.http.post("/reset_prefix_cache").raise_for_status()
                    time.sleep(0.5)
                    if name == "ours":
                        pair[name] = ours(server, base.name, prompts, options.clients, options.load_cores)
                    else:
                        pair[name] = theirs(server, base.name, base.path, prompts, options.clients, options.load_cores)
                turns.append(pair)
                tell(json.dumps(pair))
    found = {
        key: ratio([one["ours"][key] for one in turns], [one["vllm"][key] for one in turns])
        for key in ("requests_per_s", "mean_latency_ms")
    }
    told = {
        "model": base.name, "requests": len(prompts), "clients": options.clients, "max_tokens": MAX_TOKENS,
        "repeats": options.repeats,
    }  # fmt: skip
    return {
        **header("against-vllm", SCHEMA, told),
        "turns": turns,
        "ours": {key: estimate([one["ours"][key] for one in turns]).mean for key in found},
        "vllm": {key: estimate([one["vllm"][key] for one in turns]).mean for key in found},
        "targets": [
            at_most(f"{key}: distance of our number from vLLM's", "share", abs(one.mean - 1), AGREEMENT_GOAL)
            for key, one in found.items()
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with sst2/")
    parser.add_argument("--out", type=Path, required=True, help="where the result goes")
    parser.add_argument("--model", help="base model; the embedded one if left out")
    parser.add_argument("--requests", type=positive, default=200, help="completions per turn (default: %(default)s)")
    parser.add_argument("--clients", type=positive, default=8, help="requests at a time (default: %(default)s)")
    parser.add_argument("--repeats", type=positive, default=4, help="turns (default: %(default)s)")
    parser.add_argument("--cores", default="", help="of the server, as taskset names them")
    parser.add_argument("--load-cores", default="", help="of the load generators")
    options = parser.parse_args()
    result = measure(options)
    write_json(options.out, result)
    print("\n".join(target_lines(result)))


if __name__ == "__main__":
    main()
