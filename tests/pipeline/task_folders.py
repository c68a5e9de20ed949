"""Writes small task folders, which tests then break in one place."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

TASK = """\
name = "colours"
instruction = "Classify the note as warm or cold."
noun = "note"

[data]
folder = "."

[[labels]]
name = "warm"

[[labels]]
name = "cold"
"""
WARM = (
    "Sunlight on the red barn.",
    "A cup of cocoa by the fire.",
    "Sand burns my feet at noon.",
    "Fresh bread smells.",
)
COLD = (
    "Frost on every window.",
    "The lake froze over night.",
    "My fingers hurt in the snow.",
    "Grey wind from the sea.",
)


PAIRS: list[dict[str, object]] = [
    {"premise": premise, "hypothesis": hypothesis, "label": label}
    for premise, hypothesis, label in (
        ("It rains hard.", "It is wet.", "yes"),
        ("The barn burns.", "A building is on fire.", "yes"),
        ("Ann sold her car.", "Ann has sold something.", "yes"),
        ("All shops are shut today.", "The baker is shut.", "yes"),
        ("It rains hard.", "It is Monday.", "no"),
        ("The barn is red.", "The barn burns.", "no"),
        ("Ann sold her car.", "Ann has bought a house.", "no"),
        ("Some shops are shut.", "The baker is shut.", "no"),
    )
]


def write_pairs(folder: Path) -> Path:
    """Write a task with the fields premise and hypothesis, four pairs per class. Return the task file."""
    labels = TASK[TASK.index("[[labels]]") :].replace("warm", "yes").replace("cold", "no")
    head = 'name = "pairs"\ninstruction = "Does the premise entail the hypothesis?"\nnoun = "pair"\n'
    path = folder / "pairs.toml"
    path.write_text(f'{head}fields = ["premise", "hypothesis"]\n\n[data]\nfolder = "."\n\n{labels}', encoding="utf-8")
    write_jsonl(folder / "train.jsonl", PAIRS)
    tests = [("Snow fell all night.", "It snowed.", "yes"), ("Tom sings.", "Tom is rich.", "no")]
    write_jsonl(folder / "test.jsonl", [dict(zip(PAIRS[0], row, strict=True)) for row in tests])
    return path


def rows_of(texts: Iterable[str], label: object) -> list[dict[str, object]]:
    """Return rows with the default columns."""
    return [{"text": text, "label": label} for text in texts]


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write one JSON object per line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_task(folder: Path, toml: str = TASK) -> Path:
    """Write a task folder that is valid unless ``toml`` has a fault. Return the task file."""
    write_jsonl(folder / "train.jsonl", rows_of(WARM, "warm") + rows_of(COLD, "cold"))
    write_jsonl(
        folder / "test.jsonl", [*rows_of(["An oven door left open."], "warm"), *rows_of(["Ice cubes."], "cold")]
    )
    path = folder / "task.toml"
    path.write_text(toml, encoding="utf-8")
    return path


def tasks_in(folder: Path) -> Path:
    """Write four tasks: two valid ones, one with a single class, one with too few examples. Return ``folder``."""
    for name in ("colours", "shades", "one_class", "few"):
        (folder / name).mkdir(parents=True)
        write_task(folder / name, TASK.replace('"colours"', f'"{name}"'))
    (folder / "one_class" / "task.toml").write_text(TASK[: TASK.rindex("[[labels]]")])
    train = folder / "few" / "train.jsonl"
    train.write_text("".join(train.read_text().splitlines(keepends=True)[:6]))
    return folder


FACTS = """\
kind = "generation"
name = "facts"
instruction = "Write the facts."
input_name = "Facts"
target_name = "Text"

[data]
folder = "."
references_column = "targets"
"""
PLACES = {"Rome": "Italy", "Oslo": "Norway", "Bonn": "Germany", "Nice": "France"}


def write_facts(folder: Path, toml: str = FACTS) -> Path:
    """Write a text generation task. Return the task file.

    In its training data, one row repeats another, and one has no target.
    """
    train = [{"input": f"{city} | in | {land}", "target": f"{city} is in {land}."} for city, land in PLACES.items()]
    write_jsonl(folder / "train.jsonl", [*train, dict(train[0]), {"input": "Bern", "target": " "}])
    test: list[dict[str, object]] = [
        {"input": ["Lyon | in | France", "Lyon | on | Rhone"], "target": "Lyon, in France, is on the Rhone."},
        {
            "input": "Kiel | in | Germany",
            "target": "Kiel is in Germany.",
            "targets": ["Kiel is in Germany.", "Kiel lies in Germany.", "In Germany lies Kiel."],
        },
    ]
    write_jsonl(folder / "test.jsonl", test)
    path = folder / "task.toml"
    path.write_text(toml, encoding="utf-8")
    return path
