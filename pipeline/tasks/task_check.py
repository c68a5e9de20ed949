"""Check the content of a task file without its data: keys, types and labels. All faults are reported.

The allowed keys and types are taken from the structs in `pipeline.task`, so that they are defined only once.
"""

import re
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import inspect

from fourshot.pipeline.faults import (
    MOST_NAMED,
    TaskFault,
    clipped,
    counted,
    error,
    nearest,
    note,
    read_text,
    shorten,
    warning,
)
from fourshot.pipeline.rows.fields import heading, is_field_name
from fourshot.pipeline.rows.labels.cells import is_plain, visible
from fourshot.pipeline.rows.labels.words import is_meaningless, looks_as, propose_words
from fourshot.pipeline.task import DataSource, Task
from fourshot.pipeline.tasks.toml_hints import misplaced, toml_hint, type_hint
from fourshot.pipeline.tasks.wording import instruction_form, instruction_names, noun_form

LONG_WORD = 60  # characters, of a label's word
_TOML_NAMES = {str: "string", int: "integer", float: "float", bool: "boolean", list: "array", dict: "table"}
_EXPECTED: dict[type[inspect.Type], Any] = {
    inspect.StructType: dict,
    inspect.DictType: dict,
    inspect.VarTupleType: list,
    inspect.StrType: str,
    inspect.BoolType: bool,
}


def read_document(path: Path) -> tuple[dict[str, Any], list[TaskFault]]:
    """Return the TOML document, or {} and the fault for which it cannot be read."""
    text, faults = read_text(path)
    try:
        return tomllib.loads(text), faults
    except (tomllib.TOMLDecodeError, RecursionError) as failure:
        place = re.search(r"line (\d+), column (\d+)", str(failure))
        location = f"{path}:{place[1]}:{place[2]}" if place else f"{path} (end of file)"
        reason = re.sub(r" \(at .*\)$", "", str(failure))
        hint = toml_hint(reason, text.splitlines()[int(place[1]) - 1 :][:1] if place else [])
        return {}, [error(location, f"not valid TOML: {reason}.", hint)]


def shape_faults(document: dict[str, Any], needs_source: bool = True) -> list[TaskFault]:
    """Return faults of a document: unknown or missing keys, wrong types, ambiguous labels, no or two data sources.

    ``needs_source``: False if the data source is not taken from the file.
    """
    faults: list[TaskFault] = []
    sound = sound_parts(document, inspect.type_info(Task), "$", faults)
    labels, data = sound.get("labels"), document.get("data", {})
    faults += empty_faults(sound, ("name", "instruction", "noun"), labels or [])
    if labels is not None:
        faults += [*_label_faults(labels), *instruction_names(sound.get("instruction", ""), labels)]
    faults += [*instruction_form(sound.get("instruction", "")), *noun_form(sound)]
    if isinstance(data, dict):
        faults += source_faults(data.get("hub"), data.get("folder"), data.get("hub_config"), needs_source)
        names = [label["name"] for label in labels or [] if "name" in label]
        faults += _column_faults(sound.get("data", {}), names, sound.get("fields"))
    if "fields" in sound:
        faults += field_faults(sound["fields"])
    return faults


def sound_parts(value: Any, kind: inspect.Type, at: str, faults: list[TaskFault]) -> Any:
    """Return the parts of ``value`` that have the type ``kind``; None if it has another type. Other parts are faults.

    ``at``: the key of ``value``, such as "$.data". The faults are added to ``faults``.
    """
    assert type(kind) in _EXPECTED, f"a field of type {kind} in fourshot.pipeline.task needs a rule here"
    expected = _EXPECTED[type(kind)]
    if not isinstance(value, expected):
        type_name = _TOML_NAMES.get(type(value), type(value).__name__)
        quoted = f" ({value!r})" if isinstance(value, int | float | str) else ""
        problem = f"expected {_TOML_NAMES[expected]}, got {type_name}{quoted}."
        faults.append(error(at, problem, type_hint(at, expected, value)))
        return None
    if isinstance(kind, inspect.VarTupleType):
        # A wrong item keeps its position, because faults of later ones name theirs.
        return [sound_parts(item, kind.item_type, f"{at}[{i}]", faults) or {} for i, item in enumerate(value)]
    if isinstance(kind, inspect.StructType):
        fields = {field.encode_name: field for field in kind.fields}
        for key in [key for key in value if key not in fields]:
            problem = f"unknown key; allowed are {', '.join(fields)}."
            hint = misplaced(at, key, Task.__struct_fields__, DataSource.__struct_fields__)
            faults.append(error(f"{at}.{key}", problem, hint or nearest(key, fields, "Remove it.")))
        for name, field in fields.items():
            if field.required and name not in value:
                faults.append(error(f"{at}.{name}", "missing.", "It has no default: add it."))
        kinds = {name: field.type for name, field in fields.items()}
    elif isinstance(kind, inspect.DictType):
        kinds = dict.fromkeys(value, kind.value_type)
    else:
        return value
    parts = {key: sound_parts(item, kinds[key], f"{at}.{key}", faults) for key, item in value.items() if key in kinds}
    return {key: part for key, part in parts.items() if part is not None}


def empty_faults(
    document: dict[str, Any], keys: Sequence[str], labels: Sequence[dict[str, str]] = ()
) -> list[TaskFault]:
    """Return faults of empty strings, of strings with line breaks, and of a name that cannot be that of a folder."""
    values = {f"$.{key}": document.get(key) for key in keys}
    for i, label in enumerate(labels):
        values |= {f"$.labels[{i}].{key}": label.get(key) for key in ("name", "word", "description", "plural")}
    faults = [
        error(path, "empty.", "Write something, or leave the key out where it has a default.")
        for path, value in values.items()
        if value is not None and not value.strip()
    ]
    faults += [
        error(path, f"{value[:60]!r} has a line break, but is part of a line of a prompt.", "Write it on one line.")
        for path, value in values.items()
        if value and path != "$.instruction" and len(value.strip().splitlines()) > 1
    ]
    name = document.get("name", "")
    if name.strip() and (problem := name_problem(name)):
        faults.append(error("$.name", problem, "Choose another name."))
    return faults


def name_problem(name: str) -> str:
    """Return why ``name`` cannot be a task's name, or "". It is used for folders and in URLs of services."""
    is_name = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", name)
    rule = "allowed are letters, digits, '_', '-', '.', beginning with a letter or digit, at most 128."
    return "" if is_name else f"{clipped(name, 40)!r} cannot be a task's name: {rule}"


def _label_faults(labels: list[dict[str, str]]) -> list[TaskFault]:
    faults = []
    if len(labels) < 2:
        problem = f"{counted(len(labels), 'label')}; a task needs at least 2."
        faults.append(error("$.labels", problem, "Add a [[labels]] entry for each class."))
    names = [label.get("name", "") for label in labels]
    words = [label.get("word") or name for label, name in zip(labels, names, strict=True)]
    for key, texts in (("name", names), ("word", words)):
        index_of: dict[str, int] = {}
        for i, text in enumerate(texts):
            # Labels that differ only in case and outer spaces are equal: neither users nor models can distinguish them.
            if text and (first := index_of.setdefault(text.strip().casefold(), i)) != i:
                if key == "word" and names[i].casefold() == names[first].casefold():
                    continue  # already reported for the name
                problem = f"{text!r} is the {key} of $.labels[{first}] too."
                faults.append(error(f"$.labels[{i}].{key}", problem, f"Give each label a {key} of its own."))
    proposals = propose_words(words)
    remedy = 'Write a word for what the class means, such as word = "{}".'
    faults += [
        warning(
            f"$.labels[{i}].word",
            f"{word.strip()!r} means nothing to a model.",
            remedy.format(proposals.get(word, "refund")),
        )
        for i, word in enumerate(words)
        if word.strip() and is_meaningless(word)
    ]
    faults += [
        warning(f"$.labels[{i}].word", f"it has {len(word):,} characters and is part of each prompt.", "Shorten it.")
        for i, word in enumerate(words)
        if len(word) > LONG_WORD
    ]
    looks = [looks_as(visible(name)) for name in names]
    for i, name in enumerate(names):
        same = [names[j] for j in range(i) if looks[j] == looks[i] and names[j].casefold() != name.casefold()]
        if name.strip() and not is_plain(name):
            problem = f"{name!r} stands for no label, a list or quotes in tables, not for a class."
            faults.append(warning(f"$.labels[{i}].name", problem, "Rename it, and map it under [data.label_values]."))
        elif same:
            problem = f"{name!a} looks like {same[0]!a}."
            faults.append(
                warning(f"$.labels[{i}].name", problem, "Remove one of them, and everything that belongs only to it.")
            )
        word = words[i].strip().casefold()
        if word != name.casefold() and (other := next((text for text in names if text.casefold() == word), "")):
            problem = f"{word!r} is the name of $.labels[{names.index(other)}], another label."
            remedy = f"Does a text of {name!r} get the answer {word!r}? If not, exchange the words."
            faults.append(warning(f"$.labels[{i}].word", problem, remedy))
    return faults


def source_faults(hub: Any, folder: Any, hub_config: Any, needs_source: bool) -> list[TaskFault]:
    """Return faults of the data source: an address, two sources, or none although ``needs_source``."""
    faults = []
    for key, place, form in (("hub", hub, "a data set as owner/name"), ("folder", folder, "a folder on this machine")):
        if isinstance(place, str) and "://" in place:
            faults.append(error(f"$.data.{key}", f"{place!r} is an address; allowed is {form}.", "Write that."))
    if hub and folder:
        faults.append(error("$.data", "both hub and folder are set; allowed is one of them.", "Remove one."))
    if hub_config and not hub:
        faults.append(error("$.data.hub_config", "set without $.data.hub.", "Add the hub data set, or remove it."))
    if needs_source and not hub and not folder:
        problem = "neither hub nor folder is set: where is the data?"
        faults.append(error("$.data", problem, "Set one of them, or give --data FOLDER."))
    return faults


def field_faults(fields: list[Any]) -> list[TaskFault]:
    """Return faults of the names of an input's fields."""
    faults = []
    if len(fields) < 2:
        problem = f"{counted(len(fields), 'field')}; allowed are none, for a task of texts, or two or more."
        faults.append(error("$.fields", problem, "To name the column of the texts: text_column under [data]."))
    names = [field if isinstance(field, str) else "" for field in fields]  # other types are already reported
    read_as = [heading(name).casefold() for name in names]
    for i, name in enumerate(names):
        if name and read_as[i] in read_as[:i]:
            faults.append(error(f"$.fields[{i}]", f"{name!r} reads like a field before it.", "Rename one of them."))
        elif isinstance(fields[i], str) and not is_field_name(name):
            problem = (
                f"{name!r} cannot begin a line of a prompt: no colons, line breaks or outer spaces, and not 'label'."
            )
            faults.append(error(f"$.fields[{i}]", problem, "Rename it, and the data's column."))
    return faults


def _column_faults(data: dict[str, Any], names: list[str], fields: Any) -> list[TaskFault]:
    faults = []
    label_column = data.get("label_column", "label")
    column = data.get("text_column", "text")
    if fields:
        if "text_column" in data:
            problem = "set beside $.fields, which name the columns of an input."
            faults.append(error("$.data.text_column", problem, "Remove one of them."))
        if label_column in fields:
            problem = f"{label_column!r} is one of $.fields too."
            faults.append(error("$.data.label_column", problem, "Name the column of the label."))
    elif column == label_column:
        problem = f"text_column and label_column are both {column!r}."
        faults.append(error("$.data.text_column", problem, "Name the column of the text and the one of the label."))
    for i, value in enumerate(data.get("leave_out", [])):
        if value in names:
            problem = f"{value!r} is a label of the task."
            faults.append(error(f"$.data.leave_out[{i}]", problem, "Remove it here, or the label."))
    for value, name in data.get("label_values", {}).items():
        if name not in names:
            problem = f"{name!r} is not the name of a label; the labels are {shorten(names, MOST_NAMED)}."
            faults.append(
                error(f"$.data.label_values.{value}", problem, nearest(name, names, "Map it to one of them."))
            )
    return faults


def word_faults(task: Task, tokenizer: Any) -> list[TaskFault]:
    """Return faults of the label words for a model's tokenizer, any object with Hugging Face's ``encode``.

    Words with the same tokens cannot be distinguished, which is an error. Words of several tokens, or with a common
    first token, are notes: they are scored correctly, but need one more pass per token without an adapter.
    """
    tokens = [tuple(tokenizer.encode(f" {word}", add_special_tokens=False)) for word in task.label_words]
    faults = []
    first = Counter(ids[:1] for ids in set(tokens))
    for i, (word, ids) in enumerate(zip(task.label_words, tokens, strict=True)):
        place = f"$.labels[{i}].word"
        if ids in tokens[:i]:
            twin = task.label_words[tokens.index(ids)]
            problem = f"{word!r} and {twin!r} are the same tokens for this model."
            faults.append(error(place, problem, "Choose another word."))
            continue
        if len(ids) > 1:
            problem = f"{word!r} is {len(ids)} tokens for this model; one is faster to score without an adapter."
            faults.append(note(place, problem, "A common short word may be one token."))
        if first[ids[:1]] > 1:
            alike = [repr(w) for w, t in zip(task.label_words, tokens, strict=True) if t[:1] == ids[:1] and t != ids]
            problem = f"{word!r} starts with the same token as {shorten(alike)}; needs more steps without an adapter."
            faults.append(note(place, problem, "Words with first tokens of their own are faster."))
    return faults
