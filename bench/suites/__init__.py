"""The registry of `fourshot bench`: its suites, each with its own options. Importing it loads none of them."""

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from fourshot.engine.errors import InputError

if TYPE_CHECKING:
    from fourshot.bench.core.suite import Suite, SuiteCommand

SUITES = {  # name -> help; the suite is `SUITE` of the module of that name, with _ for -
    "corpus-kills": "whether a corpus loses a row, or gets one twice, when its processes are killed",
    "corpus-overhead": "what a corpus costs on top of the engine",
    "corpus-order": "making a corpus task by task, against alternating between the tasks",
    "corpus-real": "a corpus of real tasks, checked after kills on the way",
    "distill": "students from real data, and from texts that a teacher annotated or generated",
    "diversity": "how varied synthetic texts are, and what adapters learn from them, by recipe",
    "filter": "the in-context filter with and without the prefix cache",
    "throughput": "texts generated per second, beside vLLM alone, transformers, and the limit of this machine",
    "latency": "adapters against in-context learning, each beside the limit of this machine",
    "adapters": "1 to 1,024 adapters on one base, beside as many tasks in context",
    "fleet": "thousands of adapters on many replicas, simulated: hit rate of slots, latency, replicas needed",
    "breakeven": "after how many requests an adapter has paid for itself",
    "all": "latency, adapters, breakeven and paper, one after the other",
    "compare": "two results of latency, or of adapters: what changed by more than noise",
    "noise": "whether `compare` flags a slowdown that is planted, and nothing where nothing changed",
    "machine": "the two numbers of a roofline: what this machine computes and reads per second at best",
    "against-vllm": "our load generator beside vLLM's own",
    "docs": "no measurement: the numbers in README and docs, and the README's picture, from results",
    "neardup": "time and memory of finding near duplicates",
    "engine-start": "our start of vLLM beside vLLM's own",
    "paper": "the tables and figures of the paper, from comparisons",
    "serving": "the service under load, over its capacity, and with many adapters in a batch",
    "training": "one LoRA training beside Hugging Face Trainer + PEFT",
}


def load_suite(name: str) -> "tuple[Suite | SuiteCommand, str]":
    """Import the suite ``name``. Return it and its module's docstring. Raises InputError for an unknown name."""
    if name not in SUITES:
        raise InputError(f"unknown suite {name!r}. There are {', '.join(SUITES)}.")
    module = import_module(f"{__name__}.{name.replace('-', '_')}")
    return module.SUITE, module.__doc__ or ""


def run_suite(name: str, words: Sequence[str]) -> int:
    """Run `fourshot bench NAME WORDS`. Return the exit code.

    Raises InputError for an unknown suite or wrong options, and SystemExit for --help.
    """
    from fourshot.bench.core.options import read_options

    suite, about = load_suite(name)
    return suite.run(name, read_options(suite.options, words, f"fourshot bench {name}", about))
