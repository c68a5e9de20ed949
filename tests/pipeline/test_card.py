"""The card beside an adapter."""

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save_file

from fourshot.engine.alignment import PromptFiller
from fourshot.engine.checkpoints.models import resolve_model
from fourshot.engine.errors import AdapterError
from fourshot.pipeline.card import CARD_FILE, AdapterCard, base_of, load_card
from fourshot.pipeline.synthesis.prompts import PromptFormat, classification_prompt
from fourshot.pipeline.task import Example
from fourshot.pipeline.tasks.task_file import load_task
from fourshot.training.lora.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, content_hash
from fourshot.training.lora.settings import LoraSettings

CARD = AdapterCard(
    name="tickets-0123",
    task=load_task("support_tickets"),
    model_name="a/model",
    model_revision="abc",
    training=LoraSettings(r=16),
    real_examples=20,
    synthetic_examples=250,
    steps=40,
    train_tokens=5000,
    train_s=12.5,
)


def test_a_card_comes_back_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / CARD_FILE).write_bytes(msgspec.json.encode(CARD))
    assert load_card(tmp_path) == CARD


def test_a_card_from_before_wordings_is_of_an_adapter_that_knows_the_instruction(tmp_path: Path) -> None:
    old = msgspec.to_builtins(CARD)
    del old["wording"]
    (tmp_path / CARD_FILE).write_bytes(msgspec.json.encode(old))
    assert load_card(tmp_path).prompt("Hi") == classification_prompt(CARD.task, "Hi", PromptFormat())


def test_a_card_from_before_verbalizers_is_of_an_adapter_that_says_whole_words(tmp_path: Path) -> None:
    old = msgspec.to_builtins(CARD)
    del old["verbalizer"]
    (tmp_path / CARD_FILE).write_bytes(msgspec.json.encode(old))
    assert load_card(tmp_path).prompt_format.verbalizer == "word"
    (tmp_path / CARD_FILE).write_bytes(msgspec.json.encode({**old, "verbalizer": "token"}))
    assert load_card(tmp_path).prompt_format.verbalizer == "token"


OLD_TRAINING = {
    "rank": 16,
    "alpha": 8,
    "dropout": 0.1,
    "passes": 3.0,
    "epochs": 100,
    "seed": 7,
    "target_modules": ["q_proj"],
    "batch_size": 4,
    "min_steps": 2,
    "max_steps": 9,
    "loss": "text",
}


def test_a_card_whose_training_has_the_names_of_earlier_versions_is_read(tmp_path: Path) -> None:
    old = msgspec.to_builtins(CARD)
    del old["seed"]
    (tmp_path / CARD_FILE).write_bytes(msgspec.json.encode({**old, "training": OLD_TRAINING}))
    training = LoraSettings(
        r=16,
        lora_alpha=8,
        lora_dropout=0.1,
        num_epochs=3.0,
        target_modules=("q_proj",),
        batch_size=4,
        min_steps=2,
        min_warmup_steps=0,
        max_steps=9,
        loss="text",
    )
    assert load_card(tmp_path) == msgspec.structs.replace(CARD, training=training, seed=7)


def test_a_bound_on_passes_of_earlier_versions_is_kept(tmp_path: Path) -> None:
    training = {**OLD_TRAINING, "epochs": 2, "min_steps": 40, "max_steps": 160}
    (tmp_path / CARD_FILE).write_bytes(msgspec.json.encode({**msgspec.to_builtins(CARD), "training": training}))
    read = load_card(tmp_path).training
    for num_examples in (4, 40, 400, 4000):
        per_pass = num_examples // 4
        assert read.planned_steps(num_examples) == min(160, max(40, 3 * per_pass), 2 * per_pass)


def test_an_adapter_is_asked_in_the_wording_of_its_card_and_the_base_with_the_instruction() -> None:
    bare = msgspec.structs.replace(CARD, wording="bare", max_text_words=3)
    assert bare.prompt("one two three four") == "Text: one two three\nLabel:"
    shots = (Example(text="Refund me", label=CARD.task.label_names[0]),)
    assert bare.prompt("Hi", shots) == classification_prompt(CARD.task, "Hi", PromptFormat(), shots)


def test_filler_stands_before_what_the_adapter_is_asked_and_earlier_versions_refuse_the_card(tmp_path: Path) -> None:
    filler = PromptFiller(token="</s>", number=2, prefix_tokens=32)
    form = PromptFormat(filler=filler)
    card = msgspec.structs.replace(CARD, filler=filler, prompt_version=form.version)
    (tmp_path / CARD_FILE).write_bytes(msgspec.json.encode(card))
    assert load_card(tmp_path) == card
    assert card.prompt("Hi") == f"</s></s>{classification_prompt(CARD.task, 'Hi', PromptFormat())}"
    shots = (Example(text="Lo", label=CARD.task.label_names[0]),)
    assert card.prompt("Hi", shots) == classification_prompt(CARD.task, "Hi", PromptFormat(), shots), (
        "it fits other prompts not"
    )
    assert form.version == "1-aligned" != CARD.prompt_format.version == "1"


def test_a_folder_without_a_card_is_not_ours(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"no card\.json.*fourshot did not make it"):
        load_card(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"name": "x"}', b'{"schema": "one"}', b'{"wording": "short"}', b'{"verbalizer": "x"}']
)
def test_a_broken_card_is_named_with_its_fault(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CARD_FILE).write_bytes(content)
    with pytest.raises(AdapterError, match=r"card\.json is not a card that this version reads"):
        load_card(tmp_path)


def test_what_is_left_out_of_long_texts_lies_on_the_card_and_earlier_versions_refuse_it(tmp_path: Path) -> None:
    form = PromptFormat(max_text_words=4, long_texts="middle")
    card = msgspec.structs.replace(CARD, max_text_words=4, long_texts="middle", prompt_version=form.version)
    (tmp_path / CARD_FILE).write_bytes(msgspec.json.encode(card))
    assert load_card(tmp_path) == card and card.prompt_format.version == form.version == "1-middle"
    assert card.prompt("one two three four five six").endswith("Text: one … four five six\nLabel:")
    old = msgspec.to_builtins(CARD)
    del old["long_texts"]
    (tmp_path / CARD_FILE).write_bytes(msgspec.json.encode(old))
    assert load_card(tmp_path).long_texts == "cut" and load_card(tmp_path).prompt_format.version == "1"


def test_an_adapter_whose_weights_are_not_those_of_its_card_is_not_asked(tmp_path: Path) -> None:
    """Of the same size, so that nothing but their content says so."""
    (tmp_path / ADAPTER_CONFIG).write_text("{}")
    save_file({"weight": np.zeros(1000)}, tmp_path / ADAPTER_WEIGHTS)
    base = resolve_model(None)
    card = msgspec.structs.replace(CARD, name=f"a-{content_hash(tmp_path)}", model_revision=base.revision)
    assert base_of(card, tmp_path, base.path) == base
    with (tmp_path / ADAPTER_WEIGHTS).open("r+b") as file:
        file.seek(-4000, os.SEEK_END)
        file.write(b"x" * 40)
    with pytest.raises(
        AdapterError, match=r"is damaged: its weights are not those that its card names\. Copy it again"
    ):
        base_of(card, tmp_path, base.path)
    os.truncate(tmp_path / ADAPTER_WEIGHTS, 40)
    with pytest.raises(AdapterError, match=r"copy or fetch it again\.$") as refused:
        base_of(card, tmp_path, base.path)
    assert "Copy it again" not in str(refused.value), "once is enough"
