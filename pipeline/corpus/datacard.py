"""The data card: README.md of a corpus, which tells `datasets` and the Hugging Face hub what the folder contains."""

import hashlib
import json
import random
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from fourshot.engine.machine.files import replace_file
from fourshot.pipeline.corpus.folder import CorpusFolder
from fourshot.pipeline.corpus.manifests import CorpusManifest
from fourshot.pipeline.corpus.rows import features
from fourshot.pipeline.corpus.settings import UNKNOWN, CorpusSettings
from fourshot.pipeline.corpus.shards import ShardRecord
from fourshot.pipeline.corpus.summary import ClassOutcome, CorpusSummary
from fourshot.pipeline.provenance import value_hash
from fourshot.pipeline.synthesis.diversity import distinct, unique_trigram_curve
from fourshot.pipeline.task import Task

SEAL = "<!-- SHA-256 of all above: "  # to detect changes of the card
SAMPLE = 1_000  # texts per task from which diversity is computed
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
COLUMNS = {
    "text, label": "what a classifier is trained on; the label is the one that the text was written for",
    "task, id": "`id` is unique within the task: the class and the number of the draw",
    "unit": "draws that were made together, numbered within the task",
    "prompt_hash, shots, seed": "the prompt (its hash, and which rows of `tasks/<task>/shots.json` it showed, in their "
    "order) and the seed of the request",
    "num_tokens, cumulative_logprob, finish_reason": "of the sampled text; log-probability in nats",
    "attributes": "requested in the prompt, as far as the class has them (topic, style, length)",
    "probabilities": "the annotator's, calibrated, in the order of the task's labels below; empty where no annotator "
    "was used",
    "model, revision": "the base model",
}
RISKS = """\
- **The texts are a language model's.** They may state falsehoods, repeat what the model was trained on, and carry its
  biases.
- **The labels are a model's too.** A text was written for its class and kept where the annotator agreed; both can be
  wrong, and an annotator that misunderstands a class accepts texts that are wrong in the same way.
- **They vary less than real texts.** All descend from a few examples per class, and the more are drawn, the more they
  repeat themselves. Near duplicates within a task were dropped; texts of similar content in other words were not.
- **The class frequencies are those that were requested**, not those of real data.
- Texts near one of the test split were dropped where the task had one. Nobody has checked the texts for personal data:
  names and numbers in them are made up by the model, or come from its training data or the examples.
"""


def write_card(
    folder: CorpusFolder, summary: CorpusSummary, sampled: Sequence[ShardRecord], corpus: CorpusSettings
) -> str:
    """Write README.md, from the files on disk. ``sampled``: shards from which diversity is computed; none: without it.

    Return the name under which a card that somebody had changed was kept, or "".
    """
    tasks = {name: folder.task(name) for name in folder.tasks()}
    by_task: dict[str, list[ShardRecord]] = {}
    for shard in sampled:
        if shard.file:
            by_task.setdefault(shard.task, []).append(shard)
    manifest, file = folder.manifest(), folder.path / "README.md"
    parts = [
        _front_matter(folder, tasks, summary.rows, corpus),
        _introduction(list(tasks), summary, manifest),
        _counts(summary.classes),
        *([_diversity(folder, by_task)] if by_task else []),
        _columns(tasks),
        f"## Known risks\n\n{RISKS}",
        _provenance(manifest),
    ]
    content = "\n".join(parts)
    copy_name = _changed_name(file)
    if copy_name:
        shutil.copy(file, file.with_name(copy_name))
    replace_file(file, f"{content}\n{SEAL}{_hash(content)} -->\n".encode())
    return copy_name


def _changed_name(file: Path) -> str:
    """Return the name under which to keep a card that was changed; "" if it is as written, or does not exist."""
    if not file.exists():
        return ""
    text = file.read_text(encoding="utf-8", errors="replace")
    written, _, seal = text.rpartition(f"\n{SEAL}")
    return "" if seal == f"{_hash(written)} -->\n" else f"README.changed-{_hash(text)[:8]}.md"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def with_licence(folder: CorpusFolder, corpus: CorpusSettings) -> CorpusSettings:
    """Return ``corpus`` with the licence of an earlier call, which is in the card, if this call names none."""
    card = folder.path / "README.md"
    if corpus.licence != UNKNOWN or not card.exists():
        return corpus
    from huggingface_hub import metadata_load
    from yaml import YAMLError

    try:
        licence = (metadata_load(card) or {}).get("license")
    except (YAMLError, ValueError):  # a person changed the card
        return corpus
    return msgspec.structs.replace(corpus, licence=licence) if isinstance(licence, str) and licence else corpus


def _front_matter(folder: CorpusFolder, tasks: Mapping[str, Task], rows: int, corpus: CorpusSettings) -> str:
    """Return the YAML at the beginning of the card, with the number of rows and a hash of the content of each task.

    `datasets` caches a folder by its name and this YAML. Without the hashes, it could return rows of an earlier state,
    or of another folder with the same name.
    """
    import yaml
    from huggingface_hub import DatasetCardData

    shards: dict[str, list[ShardRecord]] = {name: [] for name in tasks}
    for shard in folder.journal():
        if shard.file and shard.task in shards:
            shards[shard.task].append(shard)
    contents = {name: value_hash([(shard.file, shard.rows, shard.sha256) for shard in shards[name]]) for name in tasks}
    configs = [
        {
            "config_name": name,
            "description": f"{sum(shard.rows for shard in shards[name])} rows, content {contents[name]}",
            "data_files": [{"split": "train", "path": f"data/{name}/*.{corpus.format}"}],
        }
        for name in tasks
    ]
    card = DatasetCardData(
        license=corpus.licence,
        task_categories=["text-classification"],
        tags=["synthetic"],
        size_categories=[next((name for most, name in SIZES.items() if rows < most), "n>10M")],
        configs=configs,
        dataset_info=[{"config_name": name, "features": features(task.input_fields)} for name, task in tasks.items()],
    )
    # Ten times as fast as `DatasetCardData.to_yaml`: the card is written after every shard, with every task in it.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return f"---\n{yaml.dump(card.to_dict(), Dumper=dumper, allow_unicode=True, sort_keys=False).strip()}\n---\n"


def _introduction(tasks: Sequence[str], summary: CorpusSummary, manifest: CorpusManifest) -> str:
    states = Counter(outcome.state for outcome in summary.classes)
    unfinished = ", ".join(f"{count} {state}" for state, count in states.items() if state != "finished")
    example = f"\n    load_dataset({json.dumps('this folder')}, {json.dumps(tasks[0])})\n" if tasks else ""
    return (
        f"# Synthetic texts for {len(tasks)} classification task{'s' if len(tasks) != 1 else ''}\n\n"
        f"{summary.rows:,} texts, written by {manifest.model_name} from {manifest.settings.k} real examples per class "
        f"and annotated by {_annotator(manifest)}. Made with fourshot. One configuration per task, one split.\n"
        + (f"\n**Not all classes are finished: {unfinished}.** What is here loads.\n" if unfinished else "")
        + example
    )


def _annotator(manifest: CorpusManifest) -> str:
    annotate = manifest.settings.annotate
    if annotate.annotator == "none":
        return "nobody: every well-formed text keeps the label that it was written for"
    if annotate.annotator == "adapters":
        return "adapters of the same model that were trained for each task"
    calibrated = "without calibration" if annotate.calibration == "none" else f"with {annotate.calibration} calibration"
    return f"the same model, shown the examples of all classes ({calibrated})"


def _counts(classes: Sequence[ClassOutcome]) -> str:
    lines = [
        "## Counts",
        "",
        "| task | label | state | kept | drawn | accepted | rejected | errors |",
        "| --- | --- | --- | ---: | ---: | ---: | --- | ---: |",
    ]
    for outcome in classes:
        accepted = "" if outcome.acceptance is None else f"{outcome.acceptance:.1%}"
        ordered = sorted(outcome.rejected.items(), key=lambda item: -item[1])
        rejected = ", ".join(f"{reason} {count:,}" for reason, count in ordered) or outcome.message.replace("|", "/")
        numbers = f"{outcome.kept:,} | {outcome.drawn:,} | {accepted} | {rejected} | {outcome.faults:,}"
        label = outcome.label.replace("|", r"\|")  # which would begin another column
        lines.append(f"| {outcome.task} | {label} | {outcome.state} | {numbers} |")
    return "\n".join([*lines, ""])


def _diversity(folder: CorpusFolder, by_task: dict[str, list[ShardRecord]]) -> str:
    lines = [
        "## Diversity",
        "",
        f"Of up to {SAMPLE:,} texts per task, drawn at random. Distinct-n: different word n-grams over all of them.",
        "",
        "| task | texts | distinct-1 | distinct-2 | distinct-3 | different tri-grams in 100 texts | in all of them |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for task, shards in by_task.items():
        texts = _sample(folder.texts(shards))
        few, all_of_them = unique_trigram_curve(texts, [min(100, len(texts)), len(texts)])
        shares = " | ".join(f"{distinct(texts, n):.3f}" for n in (1, 2, 3))
        lines.append(f"| {task} | {len(texts):,} | {shares} | {few:,.0f} | {all_of_them:,.0f} |")
    return "\n".join([*lines, ""])


def _sample(texts: Iterable[str]) -> list[str]:
    """Draw up to `SAMPLE` texts uniformly, with a fixed seed. No more than these are held in memory."""
    draw, chosen = random.Random(0), list[str]()
    for number, text in enumerate(texts):
        if number < SAMPLE:
            chosen.append(text)
        elif (place := draw.randrange(number + 1)) < SAMPLE:
            chosen[place] = text
    return chosen


def _columns(tasks: Mapping[str, Task]) -> str:
    lines = ["## Columns", "", "| columns | meaning |", "| --- | --- |"]
    lines += [f"| `{names}` | {meaning} |" for names, meaning in COLUMNS.items()]
    if fields := [f"- {name}: {', '.join(task.input_fields)}" for name, task in tasks.items() if task.input_fields]:
        lines += ["", "`text` has a line for each field of an input; `fields` contains them separately:", "", *fields]
    lines += ["", "Labels, in the order of `probabilities`:", ""]
    lines += [f"- {name}: {', '.join(task.label_names)}" for name, task in tasks.items()]
    return "\n".join([*lines, ""])


def _varied(manifest: CorpusManifest) -> str:
    variety, described = manifest.settings.variety, ""
    if variety.attributes:
        described += "; each asks for a topic, a style and, where the examples differ in it, a length"
        described += " (`tasks/<task>/attributes.json`)"
    if variety.shots_shown:
        described += f"; each shows {variety.shots_shown} examples of its class"
    if variety.suppress:
        described += "; words that a class over-used were made less likely"
    return described


def _provenance(manifest: CorpusManifest) -> str:
    settings = msgspec.to_builtins(manifest.settings)
    for name in ("train", "shot_weight", "test_limit"):  # only for runs that train a classifier
        del settings[name]
    return "\n".join(
        [
            "## How it was made",
            "",
            f"- Base model: {manifest.model_name}, revision {manifest.model_revision}",
            f"- Versions: {', '.join(f'{name} {number}' for name, number in manifest.versions.items())}",
            f"- Prompts: version {manifest.prompt_version}{_varied(manifest)}",
            "",
            "```json",
            json.dumps(settings, indent=1),
            "```",
            "",
        ]
    )
