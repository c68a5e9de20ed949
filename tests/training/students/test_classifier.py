"""What a student reads of a text, by its tokenizer alone; and where it computes."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from fourshot.engine.errors import FourshotError
from fourshot.training.students.classifier import StudentClassifier
from fourshot.training.students.llama_writer import LlamaWriter


def test_a_student_reads_as_many_characters_as_its_tokens_are(tmp_path: Path) -> None:
    tokenizer = Tokenizer(WordLevel({"[CLS]": 0, "[SEP]": 1, "snow": 2, "[UNK]": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)])
    tokenizer.enable_truncation(4)  # as transformers may save it
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    student = object.__new__(StudentClassifier)  # without a checkpoint
    student._folder, student._max_tokens, student._windows = tmp_path, 8, False
    for text, read in (("snow", 4), ("snow " * 6, 30), ("snow " * 7, 29), ("Schnee für " * 9, 32)):
        assert student.read_chars(text) == read and student.parts(text) == [text]
    student._windows = True
    words = [f"w{number}" for number in range(15)]
    parts = student.parts(" ".join(words))
    assert [len(part.split()) for part in parts] == [6, 6, 6] and student.read_chars(" ".join(words)) == 49
    assert list(dict.fromkeys(" ".join(parts).split())) == words
    assert student.parts("w1 w2") == ["w1 w2"]


def test_a_student_that_writes_does_not_take_the_cpu_in_place_of_a_gpu_in_silence(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr("fourshot.engine.machine.gpus.version", lambda package: "0.32.0")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(FourshotError, match="cannot use it"):
        LlamaWriter(Path(tiny_model))
