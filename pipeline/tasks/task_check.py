"""What can be wrong with a task file by itself: keys, types, labels. Every fault, not the first.

The allowed keys and types are read off the structs in `pipeline.tasks.types`, so that they stand in one place only.
Importing this module loads neither torch nor vllm.
"""

import difflib
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from fourshot.pipeline.tasks.faults import Fault
from fourshot.pipeline.tasks.types import Task

_TOML_NAMES = {str: "string", int: "integer", float: "float", bool: "boolean", list: "array", dict: "table"}


def read_document(path: Path) -> tuple[dict[str, Any], list[Fault]]:
    """The TOML document, or {} and the fault that keeps it from being read."""
    raw = path.read_bytes()
    try:
        return tomllib.loads(raw.decode("utf-8-sig")), []
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{raw[error.start]:02x} is not valid UTF-8."
        return {}, [_error(f"{path}:{line}", what, "Save the file as UTF-8.")]
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"line (\d+), column (\d+)", str(error))
        where = f"{path}:{place[1]}:{place[2]}" if place else f"{path} (end of file)"
        what = "not valid TOML: " + re.sub(r" \(at .*\)$", "", str(error)) + "."
        return {}, [_error(where, what, "The syntax is described at https://toml.io.")]


def shape_faults(document: dict[str, Any], needs_source: bool = True) -> list[Fault]:
    """Unknown keys, wrong types, missing keys, labels that cannot be told apart, a data source named twice or never.

    ``needs_source`` is False where the data's place is given from outside the file.
    """
    faults = _type_faults(document, inspect.type_info(Task), "$")
    faults += _empty_faults(document) + _label_faults(document) + _number_faults(document) + _source_faults(document)
    data = document.get("data", {})
    if needs_source and isinstance(data, dict) and not data.get("hub") and not data.get("folder"):
        what = "neither hub nor folder is set: where is the data?"
        faults.append(_error("$.data", what, "Set one of them, or give --data FOLDER."))
    return faults


def _type_faults(value: Any, kind: inspect.Type, at: str) -> list[Fault]:
    if isinstance(kind, inspect.StructType):
        return _struct_faults(value, kind, at) if isinstance(value, dict) else [_wrong_type(value, "table", at)]
    if isinstance(kind, inspect.VarTupleType):
        if not isinstance(value, list):
            return [_wrong_type(value, "array", at)]
        return [fault for i, item in enumerate(value) for fault in _type_faults(item, kind.item_type, f"{at}[{i}]")]
    if isinstance(kind, inspect.DictType):
        if not isinstance(value, dict):
            return [_wrong_type(value, "table", at)]
        return [fault for key, item in value.items() for fault in _type_faults(item, kind.value_type, f"{at}.{key}")]
    assert isinstance(kind, inspect.StrType), (
        f"a field of type {kind} in fourshot.pipeline.tasks.types needs a rule here"
    )
    return [] if isinstance(value, str) else [_wrong_type(value, "string", at)]


def _struct_faults(value: dict[str, Any], kind: inspect.StructType, at: str) -> list[Fault]:
    fields = {field.encode_name: field for field in kind.fields}
    faults = []
    for key, item in value.items():
        if key in fields:
            faults += _type_faults(item, fields[key].type, f"{at}.{key}")
        else:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else "Remove it."
            faults.append(_error(f"{at}.{key}", f"unknown key; allowed are {', '.join(fields)}.", hint))
    faults += [
        _error(f"{at}.{name}", "missing.", "It has no default: add it.")
        for name, field in fields.items()
        if field.required and name not in value
    ]
    return faults


def _empty_faults(document: dict[str, Any]) -> list[Fault]:
    values = {f"$.{key}": document.get(key) for key in ("name", "instruction", "noun")}
    for i, label in enumerate(_labels(document)):
        values |= {f"$.labels[{i}].{key}": label.get(key) for key in ("name", "word", "description", "plural")}
    faults = [
        _error(where, "empty.", "Write something, or leave the key out where it has a default.")
        for where, value in values.items()
        if isinstance(value, str) and not value.strip()
    ]
    name = document.get("name")
    if isinstance(name, str) and name.strip() and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        what = (
            f"{name!r} is to be a folder's name: allowed are letters, digits, '_', '-', '.', first a letter or digit."
        )
        faults.append(_error("$.name", what, "Choose another name."))
    return faults


def _label_faults(document: dict[str, Any]) -> list[Fault]:
    labels = _labels(document)
    faults = []
    if isinstance(document.get("labels"), list) and len(document["labels"]) < 2:
        what = f"{len(document['labels'])} label{'s' if len(document['labels']) != 1 else ''}; a task needs at least 2."
        faults.append(_error("$.labels", what, "Add a [[labels]] entry for each class."))
    for key, read in (("name", _name), ("word", _word)):
        seen: dict[str, int] = {}
        for i, label in enumerate(labels):
            text = read(label)
            # Case and outer blanks do not make two labels: nobody, the model included, would keep them apart.
            if text and (first := seen.setdefault(text.strip().casefold(), i)) != i:
                if key == "word" and _name(label).casefold() == _name(labels[first]).casefold():
                    continue  # said above, for the name
                what = f"{text!r} is the {key} of $.labels[{first}] too."
                faults.append(_error(f"$.labels[{i}].{key}", what, f"Give each label a {key} of its own."))
    return faults


def _number_faults(document: dict[str, Any]) -> list[Fault]:
    remedy = 'Write a word for what the class means, such as word = "refund".'
    return [
        Fault(severity="warning", where=f"$.labels[{i}].word", what=f"{word!r} tells a model nothing.", remedy=remedy)
        for i, label in enumerate(_labels(document))
        if (word := _word(label).strip()) and not any(character.isalpha() for character in word)
    ]


def _source_faults(document: dict[str, Any]) -> list[Fault]:
    data = document.get("data", {})
    if not isinstance(data, dict):
        return []
    faults = []
    if data.get("hub") and data.get("folder"):
        faults.append(_error("$.data", "both hub and folder are set; allowed is one of them.", "Remove one."))
    if data.get("hub_config") and not data.get("hub"):
        faults.append(_error("$.data.hub_config", "set without $.data.hub.", "Add the hub data set, or remove it."))
    columns = [data.get("text_column", "text"), data.get("label_column", "label")]
    if isinstance(columns[0], str) and columns[0] == columns[1]:
        what = f"text_column and label_column are both {columns[0]!r}."
        faults.append(_error("$.data.text_column", what, "Name the column of the text and the one of the label."))
    names = [_name(label) for label in _labels(document)]
    values = data.get("label_values")
    for value, name in values.items() if isinstance(values, dict) else ():
        if isinstance(name, str) and name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else "Map it to one of them."
            what = f"{name!r} is no label's name; the labels are {', '.join(names)}."
            faults.append(_error(f"$.data.label_values.{value}", what, hint))
    return faults


def word_faults(task: Task, tokenizer: Any) -> list[Fault]:
    """How a model's tokenizer sees the label words. ``tokenizer``: anything with Hugging Face's ``encode``.

    Words that are the same tokens cannot be told apart: an error. Words of several tokens, or with a first token in
    common, are scored right but cost one more pass per token: notes.
    """
    tokens = [tuple(tokenizer.encode(f" {word}", add_special_tokens=False)) for word in task.label_words]
    faults = []
    first = Counter(ids[:1] for ids in set(tokens))
    for i, (word, ids) in enumerate(zip(task.label_words, tokens, strict=True)):
        where = f"$.labels[{i}].word"
        if ids in tokens[:i]:
            other = task.label_words[tokens.index(ids)]
            faults.append(
                _error(where, f"{word!r} and {other!r} are the same tokens to this model.", "Choose another word.")
            )
            continue
        if len(ids) > 1:
            what = f"{word!r} is {len(ids)} tokens to this model; one is faster to score."
            faults.append(
                Fault(severity="note", where=where, what=what, remedy="A common short word may be one token.")
            )
        if first[ids[:1]] > 1:
            others = [w for w, t in zip(task.label_words, tokens, strict=True) if t[:1] == ids[:1] and t != ids]
            what = f"{word!r} starts with the same token as {', '.join(map(repr, others))}; scored token by token."
            faults.append(
                Fault(
                    severity="note", where=where, what=what, remedy="Words with first tokens of their own are faster."
                )
            )
    return faults


def convert(document: dict[str, Any]) -> Task:
    """The task of a document without faults."""
    return msgspec.convert(document, Task)


def _labels(document: dict[str, Any]) -> list[dict[str, Any]]:
    labels = document.get("labels")
    return [label for label in labels if isinstance(label, dict)] if isinstance(labels, list) else []


def _name(label: dict[str, Any]) -> str:
    name = label.get("name")
    return name if isinstance(name, str) else ""


def _word(label: dict[str, Any]) -> str:
    word = label.get("word")
    return word if isinstance(word, str) and word else _name(label)


def _wrong_type(value: Any, expected: str, at: str) -> Fault:
    got = _TOML_NAMES.get(type(value), type(value).__name__)
    quoted = f" ({value!r})" if isinstance(value, int | float | str) else ""
    return _error(at, f"expected {expected}, got {got}{quoted}.")


def _error(where: str, what: str, remedy: str = "") -> Fault:
    return Fault(severity="error", where=where, what=what, remedy=remedy)
