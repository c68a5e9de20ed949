"""Students that write: sequence-to-sequence, trained and used here; causal, an adapter merged into its base."""

import time
from pathlib import Path
from typing import ClassVar

import msgspec

from fourshot.engine.core import Adapter
from fourshot.engine.machine.files import append_lines, read_lines
from fourshot.engine.machine.threads import TRAIN_SPINS
from fourshot.pipeline.events import Event, OnEvent
from fourshot.pipeline.provenance import value_hash
from fourshot.pipeline.runs.stages.stage import Stage
from fourshot.pipeline.runs.stages.write import PART, WrittenAnswer
from fourshot.training.lora.merging import merge
from fourshot.training.students.seq2seq import Seq2SeqJob, Seq2SeqWriter, finished_seq2seq, train_seq2seq


class Seq2SeqItem(msgspec.Struct, frozen=True, kw_only=True):
    """A student to train, and the inputs for which it then writes texts into ``folder``."""

    job: Seq2SeqJob
    texts: tuple[str, ...]
    folder: str

    @property
    def key(self) -> str:
        return self.job.key

    @property
    def file(self) -> Path:
        return Path(self.folder) / f"{value_hash((self.texts, self.job.key))}.jsonl"

    def lines(self) -> list[WrittenAnswer]:
        return read_lines(self.file, WrittenAnswer)


class Seq2SeqStage(Stage, frozen=True, kw_only=True, tag="seq2seq"):
    """Train the students that the store does not have yet, and write their texts."""

    items: tuple[Seq2SeqItem, ...]
    store: str

    spins: ClassVar[str] = TRAIN_SPINS

    def is_finished(self, item: Seq2SeqItem) -> bool:
        return finished_seq2seq(Path(self.store), item.job) is not None and len(item.lines()) == len(item.texts)

    def _do(self, item: Seq2SeqItem, on_event: OnEvent) -> None:
        def report(step: int, planned: int, loss: float) -> None:
            figures = {"loss": round(loss, 4)}
            title = item.job.title
            on_event(Event(stage="train", message=title, done=step, total=planned, unit="steps", figures=figures))

        store = Path(self.store)
        result = finished_seq2seq(store, item.job) or train_seq2seq(item.job, store, report)
        item.file.parent.mkdir(parents=True, exist_ok=True)
        done, total = len(item.lines()), len(item.texts)
        writer = Seq2SeqWriter(result.path) if done < total else None
        while writer and done < total:
            began_s = time.perf_counter()
            answers = writer.write(item.texts[done : done + PART])
            seconds = round((time.perf_counter() - began_s) / len(answers), 5)
            append_lines(
                item.file, [WrittenAnswer(text=text, is_whole=ended, seconds=seconds) for text, ended, _ in answers]
            )
            done += len(answers)
            on_event(Event(stage="write", message=item.job.title, done=done, total=total, unit="texts"))


class CausalItem(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter, and the folder for the checkpoint that it is merged into."""

    adapter: Adapter
    out: str

    @property
    def key(self) -> str:
        return self.adapter.name


class CausalStage(Stage, frozen=True, kw_only=True, tag="causal_student"):
    """Merge adapters into their base. A checkpoint's folder is complete or absent."""

    items: tuple[CausalItem, ...]

    def is_finished(self, item: CausalItem) -> bool:
        return (Path(item.out) / "config.json").is_file()

    def _do(self, item: CausalItem, on_event: OnEvent) -> None:
        on_event(Event(stage="merge", message=f"writing {item.out}"))
        merge(self.model_path, item.adapter.path, item.out)
