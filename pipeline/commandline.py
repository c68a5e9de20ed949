"""The command line as words: which commands and options there are, and what their values mean.

What the commands do is in `fourshot`. Importing this module loads neither torch nor vllm.
"""

import argparse
import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from engine.errors import InputError
from pipeline.options import add_options

DEFAULT_METHODS = ("zero_shot", "icl", "lora", "fourshot")
DEMO_TASK = "support_tickets"
DEMO_FOLDER = f"runs/{DEMO_TASK}/demo"


def read_command(arguments: Sequence[str] | None, version: str) -> argparse.Namespace:
    """The parsed command line; ``command`` says which one it is. Raises SystemExit for help and usage errors."""
    parser = _parser(version)
    options, rest = parser.parse_known_args(arguments)
    if hasattr(options, "texts"):  # argparse takes no more positional arguments after an option
        options.texts += [word for word in rest if not word.startswith("-")]
        rest = [word for word in rest if word.startswith("-")]
    if rest:
        options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def _parser(version: str) -> argparse.ArgumentParser:
    parser = Parser(prog="fourshot", description="Four labelled examples per class in, a LoRA text classifier out.")
    parser.add_argument("--version", action="version", version=f"fourshot {version}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: str, help_text: str, to: Any = commands, **more: Any) -> Parser:
        added: Parser = to.add_parser(
            name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}.", **more
        )
        added.add_argument("--json", action="store_true", help="JSON Lines on standard output, and nothing else there")
        added.add_argument("--quiet", action="store_true", help="no progress")
        added.set_defaults(command=command, parser=added)
        return added

    def add_task(added: Parser, without: Sequence[str] = ()) -> None:
        added.add_argument("task", metavar="TASK", help="a task that comes with fourshot, a task file, or its folder")
        added.add_argument("--model", help="base model: a Hugging Face id or a folder (default: the embedded one)")
        added.add_argument("--data", metavar="FOLDER", help="train and test files, in place of the task's own data")
        added.add_argument(
            "--out", metavar="FOLDER", help="run folder (default: runs/TASK/...); a used one is continued"
        )
        add_options(added, without)

    for name, until, help_text, aliases in (
        ("run", None, "all steps: shots, synthetic texts, training, evaluation, report", []),
        ("generate", "generate", "write and filter the synthetic texts, and stop there", ["filter"]),
        ("train", "train", "run until the adapter is trained", []),
        ("evaluate", "evaluate", "run until the classifier is measured", []),
    ):
        added = add(name, "run", help_text, aliases=aliases)
        added.set_defaults(until=until)
        add_task(added)

    added = add("compare", "compare", "measure several methods on one task, as a table")
    add_task(added, without=["--seed"])
    added.add_argument("--methods", default=",".join(DEFAULT_METHODS), help="comma-separated (default: %(default)s)")
    added.add_argument("--seeds", default="1", help="a count, or a list such as 0,1,2; each draws its own shots")

    added = add("predict", "predict", "classify texts with a trained adapter")
    added.add_argument("folder", metavar="ADAPTER", help="an adapter's folder, or that of a finished run")
    added.add_argument("texts", metavar="TEXT", nargs="*", help="texts; without any, standard input, one per line")
    added.add_argument("--model", help="the base model, where it is not where it was in training")
    added.add_argument(
        "--engine", choices=["vllm", "transformers"], help="default: transformers for few texts, vllm for many"
    )

    added = add("demo", "demo", "the main job on an embedded task, from nothing to an answered sentence")
    added.add_argument("--model", help="base model: a Hugging Face id or a folder (default: the embedded one)")
    added.add_argument("--out", metavar="FOLDER", default=DEMO_FOLDER, help="default: %(default)s")

    tasks = commands.add_parser("tasks", help="list, make and check tasks", description="List, make and check tasks.")
    tasks = tasks.add_subparsers(metavar="COMMAND", required=True)
    add("list", "tasks_list", "the tasks that come with fourshot", tasks)
    added = add("new", "tasks_new", "write a task folder from a table of texts and labels", tasks)
    added.add_argument("table", metavar="TABLE", help="a JSONL, CSV, TSV or Parquet file")
    added.add_argument("--out", metavar="FOLDER", help="default: the table's name without its ending")
    added.add_argument("--name", help="of the task (default: the table's)")
    added.add_argument("--text-column", metavar="NAME")
    added.add_argument("--label-column", metavar="NAME")
    added.add_argument("--seed", type=int, default=0, help="draws the test split (default: %(default)s)")
    added = add("check", "tasks_check", "explain every fault of a task file and its data, all at once", tasks)
    added.add_argument("task", metavar="TASK", help="a task that comes with fourshot, a task file, or its folder")
    added.add_argument("--model", help="whose tokenizer reads the label words (default: the embedded one)")
    added.add_argument("--no-model", action="store_true", help="leave the label words unread; faster")
    added.add_argument("--data", metavar="FOLDER", help="train and test files, in place of the task's own data")
    added.add_argument("--shots", dest="k", metavar="K", type=int, default=4, help="default: %(default)s")

    added = add("doctor", "doctor", "what this machine has of what fourshot needs")
    added.add_argument("--model", help="base model: a Hugging Face id or a folder (default: the embedded one)")
    added.add_argument("--deep", action="store_true", help="load torch and vLLM too, and ask the model something")

    added = add("bench", "bench", "measure throughput and latency")
    added.add_argument("suite", choices=["engine-start"], help="engine-start: our start of vLLM beside vLLM's own")
    added.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="of the suite; --help shows them")
    return parser


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors name what was probably meant. Python 3.14 has the like as ``suggest_on_error``."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Print usage and the message with near matches, exit with 2."""
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
        super().error(f"{message}{hint}")


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
