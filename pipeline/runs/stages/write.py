"""Complete prompts with a base model or an adapter, part by part. A kill loses one part at most."""

import time
from pathlib import Path

import msgspec

from fourshot.engine.core import Adapter, Engine, Sampling
from fourshot.engine.machine.files import append_lines, read_lines
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.provenance import value_hash
from fourshot.pipeline.runs.stages.stage import EngineStage

PART = 128  # texts that are written to disk together: what a kill loses at most


class WrittenAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The completion of one prompt."""

    text: str
    is_whole: bool = True  # it ended by itself
    is_cut: bool = False  # the end of the input was not read
    fault: str = ""  # why there is no text
    seconds: float = 0.0  # its equal share of the time for its part


class WriteItem(msgspec.Struct, frozen=True, kw_only=True):
    """Prompts to complete into ``folder``/<key>.jsonl: a line for each, in their order."""

    title: str  # for people
    folder: str
    prompts: tuple[str, ...]
    sampling: Sampling  # one text per prompt
    model_revision: str
    adapter: Adapter | None = None

    @property
    def key(self) -> str:
        """Hash of all that determines the texts, so that existing ones are not written again."""
        return value_hash((self.prompts, self.sampling, self.model_revision, self.adapter and self.adapter.name))

    @property
    def file(self) -> Path:
        return Path(self.folder) / f"{self.key}.jsonl"

    def lines(self) -> list[WrittenAnswer]:
        """Return the completions that are on disk."""
        return read_lines(self.file, WrittenAnswer)


class WriteStage(EngineStage, frozen=True, kw_only=True, tag="write"):
    """Write the missing completions, part by part."""

    items: tuple[WriteItem, ...]

    def adapters(self) -> set[Adapter]:
        return {item.adapter for item in self.items if item.adapter}

    def is_finished(self, item: WriteItem) -> bool:
        return len(item.lines()) == len(item.prompts)

    def do(self, item: WriteItem, engine: Engine, on_event: OnEvent) -> None:
        item.file.parent.mkdir(parents=True, exist_ok=True)
        done, total = len(item.lines()), len(item.prompts)
        while done < total:
            began_s = time.perf_counter()
            answers = _write_part(engine, item, done)
            seconds = round((time.perf_counter() - began_s) / len(answers), 5)
            append_lines(item.file, [msgspec.structs.replace(answer, seconds=seconds) for answer in answers])
            done += len(answers)
            on_event(Event(stage=self.name, message=item.title, done=done, total=total, unit="texts"))


def _write_part(engine: Engine, item: WriteItem, first: int) -> list[WrittenAnswer]:
    """Complete the next part, from prompt ``first`` on. A prompt that leaves no room for an answer gets a fault."""
    prompts = item.prompts[first : first + PART]
    room = engine.settings.max_model_len - item.sampling.max_tokens
    fits = [index for index, length in enumerate(engine.count_tokens(prompts)) if length <= room]
    answers = [WrittenAnswer(text="", fault=f"its prompt is longer than {room} tokens")] * len(prompts)
    sampling = msgspec.structs.replace(item.sampling, seed_offset=first)
    for completion in engine.sample([prompts[index] for index in fits], sampling, item.adapter):
        answers[fits[completion.prompt_index]] = WrittenAnswer(
            text=completion.text.strip(), is_whole=completion.finish_reason == "stop"
        )
    return answers
