"""What a training promises. Steps are few: what is checked shows after a handful of them."""

import hashlib
from pathlib import Path

import msgspec
import pytest

from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.vllm_seams.adapter_check import check_adapter
from fourshot.training.lora.adapter_files import content_hash
from fourshot.training.lora.examples import TrainingExample
from fourshot.training.lora.settings import PRESETS, LoraSettings
from fourshot.training.lora.train import LoraTrainer
from tests.training import notes

BRIEF = LoraSettings(max_steps=2, batch_size=4)


def weights_of(path: str) -> str:
    return hashlib.sha256((Path(path) / "adapter_model.safetensors").read_bytes()).hexdigest()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tiny_trainer: LoraTrainer, tmp_path: Path) -> None:
    first = tiny_trainer.train(notes.examples(), notes.WORDS, BRIEF, tmp_path / "a")
    other_seed = tiny_trainer.train(notes.examples(), notes.WORDS, BRIEF, tmp_path / "b", seed=1)
    again = tiny_trainer.train(notes.examples(), notes.WORDS, BRIEF, tmp_path / "c")
    assert first.losses == again.losses
    assert first.name == again.name
    assert weights_of(first.path) == weights_of(again.path) != weights_of(other_seed.path)
    assert first.name != other_seed.name


def test_the_bytes_do_not_depend_on_what_the_trainer_did_before(
    tiny_trainer: LoraTrainer, tiny_model: str, tmp_path: Path
) -> None:
    """A run that was killed goes on in a new process: its adapters must be those of a run that was not."""
    used = tiny_trainer.train(notes.examples(), notes.WORDS, BRIEF, tmp_path / "a")
    fresh = LoraTrainer(tiny_model).train(notes.examples(), notes.WORDS, BRIEF, tmp_path / "b")
    assert used.name == fresh.name


def test_dropout_is_drawn_from_the_seed_too(tiny_trainer: LoraTrainer, tmp_path: Path) -> None:
    settings = msgspec.structs.replace(BRIEF, lora_dropout=0.3)
    first = tiny_trainer.train(notes.examples(), notes.WORDS, settings, tmp_path / "a")
    assert tiny_trainer.train(notes.examples(), notes.WORDS, settings, tmp_path / "b").name == first.name


def test_an_adapter_is_named_by_its_content_and_is_alone_in_its_folder(
    tiny_trainer: LoraTrainer, tmp_path: Path
) -> None:
    result = tiny_trainer.train(notes.examples(), notes.WORDS, BRIEF, tmp_path, prefix="notes")
    assert result.name == f"notes-{content_hash(Path(result.path))}"
    assert [entry.name for entry in tmp_path.iterdir()] == [result.name]
    assert {entry.name for entry in Path(result.path).iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    check_adapter(Path(result.path))


def test_operations_are_counted_of_the_base_and_of_the_adapter(tiny_trainer: LoraTrainer, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    result = tiny_trainer.train(notes.examples(), notes.WORDS, BRIEF, tmp_path)
    adapter = sum(weights.numel() for weights in load_file(Path(result.path) / "adapter_model.safetensors").values())
    decoder = tiny_trainer._base.get_decoder()
    frozen = sum(weights.numel() for weights in decoder.parameters()) - decoder.get_input_embeddings().weight.numel()
    assert result.flops == result.tokens * (4 * frozen + 6 * adapter)


@pytest.mark.parametrize(("share", "layers"), [(0.5, {1}), (0.1, {1}), (1.0, {0, 1})])
def test_only_the_last_layers_get_an_adapter_and_what_is_below_is_computed_once(
    tiny_trainer: LoraTrainer, tmp_path: Path, share: float, layers: set[int]
) -> None:
    from safetensors.torch import load_file

    settings = msgspec.structs.replace(BRIEF, adapted_layers=share)
    result = tiny_trainer.train(notes.examples(), notes.WORDS, settings, tmp_path)
    weights = load_file(Path(result.path) / "adapter_model.safetensors")
    assert {int(name.split(".layers.")[1].split(".")[0]) for name in weights} == layers
    assert all(tensor.any() for tensor in weights.values())
    below = [p.numel() for name, p in tiny_trainer._base.get_decoder().named_parameters() if "layers.0." in name]
    whole = tiny_trainer.train(notes.examples(), notes.WORDS, BRIEF, tmp_path)
    if share < 1:
        assert result.flops < whole.flops - 2 * result.tokens * sum(below)
    else:
        assert result.path == whole.path


def test_training_leaves_the_base_as_it_was(tiny_trainer: LoraTrainer, tmp_path: Path) -> None:
    import torch

    ids = torch.tensor([tiny_trainer.tokenizer(notes.prompt("Sleet."))["input_ids"]])
    before = tiny_trainer._base(input_ids=ids).logits
    tiny_trainer.train(notes.examples(), notes.WORDS, BRIEF, tmp_path)
    after = tiny_trainer._base(input_ids=ids).logits
    assert torch.equal(before, after)
    assert not any("lora" in name for name, _ in tiny_trainer._base.named_parameters())
    assert not any(parameter.requires_grad for parameter in tiny_trainer._base.parameters())


def test_the_label_loss_is_that_of_the_label_and_the_text_loss_that_of_every_token(
    decided_trainer: LoraTrainer, tmp_path: Path
) -> None:
    """By hand, from the base's logits: a new adapter changes nothing, so the first loss is the base's. bf16: 3 %."""
    import torch

    examples = notes.examples((), notes.WARM[:1])  # the wrong label: the loss of the right one is tiny
    ids = decided_trainer.tokenizer(examples[0].prompt + " cold")["input_ids"]
    warm = decided_trainer.tokenizer(examples[0].prompt + " warm")["input_ids"][-1]
    with torch.no_grad():
        logits = decided_trainer._base(input_ids=torch.tensor([ids])).logits[0].float()
    choice = torch.log_softmax(logits[-2, [ids[-1], warm]], dim=0)
    every = [torch.log_softmax(logits[at], dim=0)[ids[at + 1]] for at in range(len(ids) - 1)]
    single = LoraSettings(max_steps=1)
    label = decided_trainer.train(examples, notes.WORDS, single, tmp_path)
    text = decided_trainer.train(examples, notes.WORDS, msgspec.structs.replace(single, loss="text"), tmp_path)
    assert label.losses[0] == pytest.approx(-float(choice[0]), rel=0.03)
    assert text.losses[0] == pytest.approx(-float(sum(every)) / len(every), rel=0.03)


def test_labels_of_several_tokens_are_learnt(decided_trainer: LoraTrainer, tmp_path: Path) -> None:
    words = ("pleasantly warm", "bitterly cold")
    result = decided_trainer.train(notes.examples(), words, LoraSettings(max_steps=12, learning_rate=0.01), tmp_path)
    assert result.losses[-1] < 0.5 * result.losses[0]


def test_an_example_counts_as_much_as_its_weight(decided_trainer: LoraTrainer, tmp_path: Path) -> None:
    single = LoraSettings(max_steps=1)
    light, heavy = notes.examples(notes.WARM[:1], notes.COLD[:1])
    losses = {}
    for name, pair in {
        "light": [light],
        "heavy": [heavy],
        "even": [light, heavy],
        "uneven": [light, msgspec.structs.replace(heavy, weight=3.0)],
    }.items():
        losses[name] = decided_trainer.train(pair, notes.WORDS, single, tmp_path).losses[0]
    assert losses["even"] == pytest.approx((losses["light"] + losses["heavy"]) / 2, rel=0.03)
    assert losses["uneven"] == pytest.approx((losses["light"] + 3 * losses["heavy"]) / 4, rel=0.03)
    assert abs(losses["light"] - losses["heavy"]) > 0.2  # else nothing was shown


def test_a_training_that_has_converged_stops_before_its_hundred_epochs(trainer: LoraTrainer, tmp_path: Path) -> None:
    quick = msgspec.structs.replace(PRESETS["paper"], learning_rate=3e-3)
    result = trainer.train(notes.examples(notes.WARM[:1], notes.COLD[:1]), notes.WORDS, quick, tmp_path)
    assert result.planned_steps == 100
    assert result.steps == len(result.losses) < 50


def test_progress_is_told_after_every_step(tiny_trainer: LoraTrainer, tmp_path: Path) -> None:
    steps: list[tuple[int, int, float]] = []
    result = tiny_trainer.train(
        notes.examples(), notes.WORDS, BRIEF, tmp_path, on_step=lambda *step: steps.append(step)
    )
    assert [(step, planned) for step, planned, _ in steps] == [(1, 2), (2, 2)]
    assert tuple(loss for *_, loss in steps) == result.losses
    assert result.tokens > 0 and result.seconds > 0 and result.examples == 8


def test_a_loss_that_is_no_number_is_an_error_that_names_the_way_out_and_saves_nothing(
    tiny_trainer: LoraTrainer, tmp_path: Path
) -> None:
    wild = LoraSettings(learning_rate=1e30, max_steps=4, warmup=0.0)
    with pytest.raises(FourshotError, match=r"not a number at step \d of 4.*learning_rate"):
        tiny_trainer.train(notes.examples(), notes.WORDS, wild, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_base_whose_weights_are_no_numbers_is_said_to_be_at_fault(tiny_model: str, tmp_path: Path) -> None:
    trainer = LoraTrainer(tiny_model)
    trainer._base.model.layers[0].self_attn.q_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(FourshotError, match=r"at step 1 of 2.*so the base or a text is at fault"):
        trainer.train(notes.examples(), notes.WORDS, BRIEF, tmp_path)


def test_weights_that_are_no_numbers_at_the_end_are_not_saved(tiny_trainer: LoraTrainer, tmp_path: Path) -> None:
    wild = LoraSettings(learning_rate=1e39, max_steps=1, warmup=0.0)
    with pytest.raises(FourshotError, match=r"weights are not a number at step 1 of 1.*learning_rate"):
        tiny_trainer.train(notes.examples(), notes.WORDS, wild, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_after_an_error_the_trainer_trains_as_before(tiny_trainer: LoraTrainer, tmp_path: Path) -> None:
    before = tiny_trainer.train(notes.examples(), notes.WORDS, BRIEF, tmp_path / "a")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny_trainer.train(notes.examples(), notes.WORDS, BRIEF, tmp_path / "b", on_step=stop)
    assert tiny_trainer.train(notes.examples(), notes.WORDS, BRIEF, tmp_path / "c").name == before.name


@pytest.mark.parametrize(
    ("examples", "words", "message"),
    [
        ([], notes.WORDS, "no examples"),
        ([TrainingExample(prompt="Label:", target=2)], notes.WORDS, r"indices of the 2 labels.*got \[2\]"),
        ([TrainingExample(prompt="Label:", target=-1)], notes.WORDS, r"got \[-1\]"),
        ([TrainingExample(prompt="Label:", target=0)], ("warm",), "at least two labels"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(
    tiny_trainer: LoraTrainer, tmp_path: Path, examples: list[TrainingExample], words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tiny_trainer.train(examples, words, BRIEF, tmp_path)
    assert list(tmp_path.iterdir()) == []
