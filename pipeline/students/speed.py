"""Speed of training and classification with an encoder on this machine, measured once and stored in the home folder.

Forecasts of students are based on it (`pipeline.students.plan`). Measuring takes seconds. Two students are trained on a
few texts of the task that comes with fourshot, in a separate process as in a distillation. One of them then classifies
these texts.
"""

import contextlib
import resource
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, median

import msgspec

from fourshot.engine.errors import FourshotError
from fourshot.engine.machine.files import read_json, write_json
from fourshot.engine.machine.processes import ChildProcess, ParentLink, end_process, run_child
from fourshot.engine.machine.temporary import temporary_folder
from fourshot.engine.machine.threads import TRAIN_SPINS
from fourshot.pipeline.forecasts.probe import TASK, ModelOpened
from fourshot.pipeline.forecasts.speed import busy_cores, doubt_of, machine_cores, speed_file, still_holds
from fourshot.pipeline.token_counter import token_counter
from fourshot.training.students.encoders import ResolvedEncoder
from fourshot.training.students.examples import StudentJob, StudentResult, TaughtExample
from fourshot.training.students.settings import StudentSettings

BATCHES = (2, 12)  # texts per step; the time of a small step is mostly the fixed cost of a step
STEPS = 4  # of each training; the first two take longer
TEXTS = 24  # texts for training and classification; the larger batches cover them in two epochs
ALONE = 5  # texts that are timed one by one


class EncoderSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """Measured seconds and bytes. In a batch, every text counts with the tokens of the longest."""

    open_s: float  # from the start of a process until the encoder is loaded
    training_s: float  # fixed part of a training, without steps and classification: loading and saving
    step_s: float  # fixed part of a step, without its tokens
    learn_token_s: float  # forward and backward, per token
    read_token_s: float  # forward only, per token
    alone_s: float  # one text classified alone
    process_bytes: int  # peak memory of the process
    load: float = 0.0  # cores that were busy before the measurement
    cores: int = 0  # of the machine

    @property
    def doubt(self) -> str:
        return doubt_of(self.load, self.cores)


class EncoderProbe(msgspec.Struct, frozen=True, kw_only=True):
    """Message to the measuring process: train students with this encoder into ``folder``."""

    encoder: str
    max_tokens: int  # of a text
    folder: str


class EncoderMeasured(msgspec.Struct, frozen=True, kw_only=True, tag="measured"):
    """Message from the measuring process: fields of `EncoderSpeed`."""

    fields: dict[str, int | float]


def known_encoder_speed(
    encoder: ResolvedEncoder, max_tokens: int, on_probe: Callable[[], object] = lambda: None, *, anew: bool = False
) -> EncoderSpeed:
    """Return the speed of ``encoder`` on this machine, measured if it is not known yet, or if ``anew``.

    ``on_probe`` is called before a measurement. ``max_tokens``: of the texts used for it. Raises FourshotError if the
    measurement fails.
    """
    file = speed_file(f"encoder-{encoder.revision}")
    if file.exists() and not anew:
        with contextlib.suppress(msgspec.DecodeError):  # the file is of another version
            speed = read_json(file, EncoderSpeed)
            if still_holds(speed.load):
                return speed
    on_probe()
    speed = _measured(encoder, max_tokens)
    with contextlib.suppress(OSError):  # the home folder may be read-only; the next call then measures again
        write_json(file, speed)
    return speed


def _measured(encoder: ResolvedEncoder, max_tokens: int) -> EncoderSpeed:
    load, began, open_s = busy_cores(), time.perf_counter(), 0.0
    with temporary_folder("fourshot-speed-") as scratch:
        log = scratch / "log.txt"
        with ChildProcess("fourshot.pipeline.students.speed", log, spins=TRAIN_SPINS, keeps_log=False) as child:
            child.send(EncoderProbe(encoder=encoder.path, max_tokens=max_tokens, folder=str(scratch)))
            for message in child.messages(ModelOpened | EncoderMeasured):
                if isinstance(message, EncoderMeasured):
                    fields = {**message.fields, "open_s": open_s, "load": round(load, 2), "cores": machine_cores()}
                    return msgspec.convert(fields, EncoderSpeed)
                open_s = round(time.perf_counter() - began, 2)
            raise child.error("The process that measures this machine")


def padded_tokens(lengths: Sequence[int], batch: int) -> float:
    """Return the mean length of the longest text in a random batch of ``batch`` texts with these ``lengths``.

    This is the number of tokens that each text of a padded batch costs.
    """
    count = len(lengths)
    return sum(
        length * ((place / count) ** batch - ((place - 1) / count) ** batch)
        for place, length in enumerate(sorted(lengths), start=1)
    )


def token_lengths(encoder: str, texts: Sequence[str], max_tokens: int) -> list[int]:
    """Return the tokens of each text for an encoder: with a token before and one after, truncated to ``max_tokens``."""
    tokens = token_counter(encoder)
    return [min(tokens(text) + 2, max_tokens) for text in texts]


def _work(parent: ParentLink) -> None:
    fields = measure(parent.receive(EncoderProbe), lambda: parent.send(ModelOpened()))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    parent.send(EncoderMeasured(fields={**fields, "process_bytes": most}))


def measure(probe: EncoderProbe, opened: Callable[[], object]) -> dict[str, int | float]:
    """Return the fields of `EncoderSpeed` that the process itself can measure.

    ``opened`` is called once the encoder is loaded.
    """
    from fourshot.pipeline.rows.examples import load_split
    from fourshot.pipeline.tasks.task_file import load_task, shipped_tasks
    from fourshot.training.students.classifier import StudentClassifier
    from fourshot.training.students.encoders import open_classifier
    from fourshot.training.students.train import train_student

    task = load_task(shipped_tasks()[TASK])
    labels, examples = task.label_names, load_split(task, "test").examples[:TEXTS]
    texts = [example.text for example in examples]
    lengths = token_lengths(probe.encoder, texts, probe.max_tokens)
    taught = [
        TaughtExample(text=example.text, probabilities=tuple(float(example.label == name) for name in labels))
        for example in examples
    ]
    open_classifier(probe.encoder, labels, 0)
    opened()

    def train(batch: int) -> tuple[float, StudentResult]:
        """Train `STEPS` steps; return the mean seconds of those after the first two, and the result."""
        times = list[float]()
        job = StudentJob(
            name="probe",
            title="",
            encoder=probe.encoder,
            encoder_revision="",
            labels=labels,
            examples=tuple(taught[: batch * STEPS // 2]),
            settings=StudentSettings(
                strategy="plain",
                held_out=0.0,
                num_epochs=2,
                min_steps=STEPS,
                batch_size=batch,
                max_tokens=probe.max_tokens,
            ),
        )
        result = train_student(job, Path(probe.folder), lambda *_: times.append(time.perf_counter()))
        return (times[-1] - times[1]) / (STEPS - 2), result

    few, many = BATCHES
    step_few_s, _ = train(few)
    step_many_s, result = train(many)
    tokens_few, tokens_many = (size * padded_tokens(lengths[: size * STEPS // 2], size) for size in BATCHES)
    # If other processes are busy, both may take the same time.
    learn_token_s = max(step_many_s - step_few_s, step_many_s / 10) / (tokens_many - tokens_few)
    classifier = StudentClassifier(result.path, probe.max_tokens)
    classifier.probabilities(texts[:ALONE])  # warm-up: the first texts take longer
    read_token_s = _seconds(partial(classifier.probabilities, texts)) / sum(lengths)
    beside_s = result.seconds - result.steps * step_many_s - read_token_s * TEXTS * fmean(lengths)
    return {
        "training_s": max(0.0, beside_s),
        "step_s": max(0.0, step_few_s - tokens_few * learn_token_s),
        "learn_token_s": learn_token_s,
        "read_token_s": read_token_s,
        "alone_s": median(_seconds(partial(classifier.probabilities, [text])) for text in texts[:ALONE]),
    }


def _seconds(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


if __name__ == "__main__":
    end_process(run_child(_work, reported=(FourshotError, OSError)))
