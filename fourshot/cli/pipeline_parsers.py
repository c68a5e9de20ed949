"""The command line as words: which commands and options there are, and what their values mean.

What the commands do is in `fourshot`. Importing this module loads neither torch nor vllm.
"""

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from fourshot.cli.options import add_options
from fourshot.engine.errors import InputError

DEMO_TASK = "support_tickets"
RAY_HELP = "train over Ray: 'local', 'auto' or a cluster's address; without it one adapter after another, without Ray"
CORPUS_RAY_HELP = "an engine on each device of a Ray cluster: 'local', 'auto' or a cluster's address"
MERGE_HELP = "write base and adapter as one checkpoint too, for servers that know no LoRA"
TASKS_HELP = "in place of TASK: names, task files, or folders of them, each trained to an adapter, many at once"
GPUS_HELP = "GPUs that share each training; without GPUs, processes that share the cores (default: %(default)s)"
BENCH_SUITES = {  # name -> what it measures; each is a module of bench/ with a command line of its own
    "corpus-kills": "whether a corpus loses a row, or gets one twice, when its processes are killed",
    "corpus-overhead": "what a corpus costs beside the engine",
    "corpus-order": "what it gains that a corpus is made task by task",
    "corpus-real": "a corpus of real tasks, with kills on the way, looked through",
    "diversity": "how varied synthetic texts are, and what adapters learn from them, by how they are asked for",
    "filter": "the in-context filter with and without the prefix cache",
    "throughput": "texts drawn per second, beside vLLM alone, transformers, and the limit of this machine",
    "latency": "adapters against in-context learning, each beside the limit of this machine",
    "adapters": "1 to 1,024 adapters on one base, beside as many tasks in context",
    "breakeven": "after how many requests an adapter has paid for itself",
    "all": "latency, adapters, breakeven and paper, one after the other",
    "compare": "two results of latency, or of adapters: what changed by more than noise",
    "noise": "whether `compare` flags a slowdown that is planted, and nothing where nothing changed",
    "against-vllm": "our load generator beside vLLM's own",
    "docs": "no measurement: the numbers in README and docs, and the README's picture, from results",
    "neardup": "time and memory of telling near duplicates",
    "engine-start": "our start of vLLM beside vLLM's own",
    "paper": "the tables and figures of the paper, from comparisons",
    "serving": "the service under load, over its capacity, and with many adapters in a batch",
    "training": "one LoRA training beside Hugging Face Trainer + PEFT",
}


def run_folder(task: str, preset: str, seed: int) -> Path:
    """Where a run lies unless the user names a folder."""
    return Path("runs") / task / f"{preset}-seed{seed}"


def tasks_folder(preset: str, seed: int) -> Path:
    """Where the trainings of many tasks lie unless the user names a folder."""
    return run_folder("tasks", preset, seed)


DEMO_FOLDER = run_folder(DEMO_TASK, "default", 0)  # what `fourshot run` with this task would use


AddCommands = Callable[[Any, Callable[..., Any]], None]  # of another room: adds its own to the parser's


def read_command(arguments: Sequence[str] | None, version: str, *more: AddCommands) -> argparse.Namespace:
    """The parsed command line; ``command`` says which one it is. Raises SystemExit for help and usage errors."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = _parser(version, more)
    options, rest = parser.parse_known_args(given or ["--help"])
    if hasattr(options, "texts"):  # argparse takes no more positional arguments after an option
        options.texts += [word for word in rest if not word.startswith("-")]
        rest = [word for word in rest if word.startswith("-")]
    if rest:
        options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def _parser(version: str, more: Sequence[AddCommands]) -> argparse.ArgumentParser:
    parser = Parser(prog="fourshot", description="Four labelled examples per class in, a LoRA text classifier out.")
    parser.add_argument("--version", action="version", version=f"fourshot {version}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_runs(commands)
    _add_corpus(commands)
    _add_predict(commands)
    _add_demo(commands)
    tasks = commands.add_parser("tasks", help="list, make and check tasks", description="List, make and check tasks.")
    _add_tasks(tasks.add_subparsers(metavar="COMMAND", required=True))
    for add_commands in more:
        add_commands(commands, add_command)
    _add_doctor(commands)
    _add_bench(commands)
    return parser


def _add_runs(commands: Any) -> None:
    for name, until, help_text, aliases in (
        ("run", None, "all steps: shots, synthetic texts, training, evaluation, report", []),
        ("generate", "generate", "write and filter the synthetic texts, and stop there", ["filter"]),
        ("train", "train", "run until the adapter is trained", []),
        ("evaluate", "evaluate", "run until the classifier is measured", []),
    ):
        added = add_command(commands, name, "run", help_text, aliases=aliases)
        added.set_defaults(until=until)
        if name == "train":
            added.set_defaults(command="train")
            _task_argument(added, nargs="?")
            added.add_argument("--tasks", nargs="+", metavar="PATH", default=[], help=TASKS_HELP)
            _place_options(added)
        else:
            _task_options(added)
        if name in ("run", "train"):
            added.add_argument("--merge", action="store_true", help=MERGE_HELP)
        else:
            added.set_defaults(merge=False)
        add_options(added)
    added = add_command(commands, "compare", "compare", "measure several methods on one task, as a table")
    _task_options(added)
    added.add_argument("--methods", help="comma-separated, such as icl,lora,fourshot; an unknown one lists them all")
    added.add_argument("--seeds", default="1", help="a count, or a list such as 0,1,2; each draws its own shots")
    add_options(added, without=["--seed"])


def _add_corpus(commands: Any) -> None:
    help_text = "write many texts for many tasks, as a data set"
    added = add_command(commands, "corpus", "corpus", help_text)
    added.add_argument(
        "--tasks", nargs="+", metavar="PATH", required=True, help="names, task files, or folders of them"
    )
    added.add_argument("--data", metavar="FOLDER", help="a folder for each task, named as it, in place of its own data")
    _model_option(added)
    added.add_argument("--out", metavar="FOLDER", required=True, help="of the data set; one in use is continued")
    added.add_argument("--format", choices=["jsonl", "parquet"], default="jsonl", help="of its files (default: jsonl)")
    added.add_argument("--adapters", metavar="FOLDER", default="", help="trained ones, for --annotator adapters")
    added.add_argument("--ray", metavar="WHERE", default="", help=CORPUS_RAY_HELP)
    added.add_argument("--licence", default="unknown", help="for the data card (default: unknown)")
    unused = ["--loss", "--test-limit"]  # nothing is trained or measured
    add_options(added, without=unused, preset="corpus")


def _task_options(added: "Parser") -> None:
    _task_argument(added)
    _place_options(added)


def _place_options(added: "Parser") -> None:
    _model_option(added)
    added.add_argument("--out", metavar="FOLDER", help="run folder (default: in runs/TASK/); a used one is continued")
    added.add_argument("--ray", metavar="WHERE", default="", help=RAY_HELP)
    added.add_argument("--gpus-per-job", metavar="N", type=int, default=1, help=GPUS_HELP)


def _add_predict(commands: Any) -> None:
    added = add_command(commands, "predict", "predict", "classify texts with a trained adapter")
    added.add_argument(
        "adapter", metavar="ADAPTER", help="an adapter's folder, or that of a finished run; with --url a task's name"
    )
    added.add_argument("texts", metavar="TEXT", nargs="*", help="texts; without any, standard input, one per line")
    added.add_argument("--model", help="the base model, where it is not where it was in training")
    added.add_argument(
        "--engine", choices=["vllm", "transformers"], help="default: transformers for few texts, vllm for many"
    )
    added.add_argument("--url", metavar="ADDRESS", help="ask a service (`fourshot serve`), as http://127.0.0.1:8000")
    added.add_argument(
        "--key", help="of the service; better in the environment, FOURSHOT_API_KEY, where no process list shows it"
    )
    added.add_argument("--method", choices=["adapter", "icl"], help="how the service answers (default: its choice)")


def _add_demo(commands: Any) -> None:
    help_text = "the main job on an embedded task, from nothing to an answered sentence"
    added = add_command(commands, "demo", "demo", help_text)
    _model_option(added)
    added.add_argument("--out", metavar="FOLDER", help=f"default: {DEMO_FOLDER}")


def _add_tasks(commands: Any) -> None:
    add_command(commands, "list", "tasks_list", "the tasks that come with fourshot")
    added = add_command(commands, "new", "tasks_new", "write a task folder from a table of texts and labels")
    added.add_argument("table", metavar="TABLE", help="a JSONL, CSV, TSV or Parquet file")
    added.add_argument("--out", metavar="FOLDER", help="default: the table's name without its ending")
    added.add_argument("--name", help="of the task (default: the table's)")
    added.add_argument("--text-column", metavar="NAME", help="default: found by its name or by what is in it")
    added.add_argument("--label-column", metavar="NAME", help="default: found by its name or by what is in it")
    added.add_argument("--seed", type=int, default=0, help="draws the test split (default: %(default)s)")
    added = add_command(
        commands, "check", "tasks_check", "explain every fault of a task file and its data, all at once"
    )
    _task_argument(added)
    _model_option(added)
    added.add_argument("--no-model", action="store_true", help="do not look at the label words as the model sees them")
    added.add_argument("--shots", dest="k", metavar="K", type=int, default=4, help="default: %(default)s")


def _add_doctor(commands: Any) -> None:
    added = add_command(commands, "doctor", "doctor", "what this machine has of what fourshot needs")
    _model_option(added)
    added.add_argument("--deep", action="store_true", help="load torch and vLLM too, and ask the model something")
    added.add_argument("--serve", metavar="FOLDER", help="what a server of this adapters' folder needs, and what fits")


def _add_bench(commands: Any) -> None:
    added = add_command(commands, "bench", "bench", "measure throughput and latency")
    added.add_argument("suite", choices=list(BENCH_SUITES), metavar="SUITE", help="one of those below")
    added.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="of the suite; --help shows them")
    added.formatter_class = argparse.RawDescriptionHelpFormatter
    width = max(map(len, BENCH_SUITES))
    added.epilog = "suites:\n" + "\n".join(f"  {name:<{width}}  {told}" for name, told in BENCH_SUITES.items())


def add_command(commands: Any, name: str, command: str, help_text: str, **more: Any) -> "Parser":
    """A command ``name`` whose options say ``command``, with what every command has."""
    description = f"{help_text[0].upper()}{help_text[1:]}."
    added: Parser = commands.add_parser(name, help=help_text, description=description, **more)
    added.add_argument("--json", action="store_true", help="JSON Lines on standard output, and nothing else there")
    added.add_argument("--quiet", action="store_true", help="no progress")
    added.set_defaults(command=command, parser=added)
    return added


def _task_argument(added: "Parser", **more: Any) -> None:
    told = "a task that comes with fourshot, a task file, or its folder"
    added.add_argument("task", metavar="TASK", help=told, **more)
    added.add_argument("--data", metavar="FOLDER", help="train and test files, in place of the task's own data")


def _model_option(added: "Parser") -> None:
    added.add_argument("--model", help="base model: a Hugging Face id or a folder (default: the embedded one)")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors name what was probably meant. Python 3.14 has the like as ``suggest_on_error``."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Print the message with near matches and where to read on; exit with 2."""
        options = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
        near = [
            match
            for word in re.findall(r"(?<![\w-])--[\w-]+", message.partition("unrecognized arguments: ")[2])
            for match in difflib.get_close_matches(word, options, n=2, cutoff=0.5)
        ]
        if wrong := re.match(r"argument ([^:]+): invalid choice: '([^']*)'", message):
            at = [action for action in self._actions if wrong[1] in (action.metavar, "/".join(action.option_strings))]
            choices = [str(choice) for action in at for choice in action.choices or ()]
            near += difflib.get_close_matches(wrong[2], choices, n=2, cutoff=0.5)
        hint = f". Did you mean {' or '.join(near)}?" if near else ""
        self.exit(2, f"{self.prog}: {message}{hint}\nSee {self.prog} --help.\n")


def choose_methods(text: str, known: Mapping[str, str]) -> list[str]:
    """The methods that a comma-separated list names, each once, in its order. Raises `InputError`."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        near = [match for name in unknown for match in difflib.get_close_matches(name, known, n=1)]
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise InputError(
            f"--methods {text}: {'no such method: ' + ', '.join(unknown) if unknown else 'no method named'}.{hint} "
            f"Methods are {', '.join(known)}."
        )
    return names


def read_seeds(text: str) -> list[int]:
    """``3`` is 0, 1, 2; ``4,7`` is 4 and 7; ``4,`` is 4 alone. Raises `InputError`."""
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    seeds = list(range(numbers[0])) if len(numbers) == 1 and "," not in text else numbers
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise InputError(
            f"--seeds {text}: give a count of at least 1 (3 is 0,1,2), or a list of different seeds such as 0,1,2."
        )
    return seeds


def read_texts(given: Sequence[str]) -> list[str]:
    """The texts of the command line, else standard input, one per line. Raises `InputError` where there is none."""
    if given:
        texts = list(given)
    elif sys.stdin.isatty():
        raise InputError("there is nothing to classify. Give texts as arguments, or on standard input, one per line.")
    else:
        try:
            texts = sys.stdin.buffer.read().decode("utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise InputError(f"standard input is not UTF-8: {error}. Convert it first.") from error
    said = [text.strip() for text in texts if text.strip()]
    if not said:
        raise InputError("there is nothing to classify: all texts are blank.")
    return said
