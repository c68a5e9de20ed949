"""The last layer of a student is fitted to vectors, and made as sure as it is where it was fitted without them."""

import copy

import pytest
import torch

from fourshot.training.students.heads import Taught, best_scale, cross_entropy, fit_head, logits_without_each, smoothed


def clusters(per_class: int, spread: float) -> tuple[torch.Tensor, Taught]:
    """Unit vectors [3 x per_class, 16] about one direction per class, and their labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(per_class)
    vectors = torch.eye(16)[labels] + spread * torch.randn(len(labels), 16, generator=generator)
    targets = torch.nn.functional.one_hot(labels, 3).float()
    return torch.nn.functional.normalize(vectors, dim=1), Taught(targets, torch.ones(len(labels)))


def test_texts_are_answered_by_layers_that_were_fitted_without_them() -> None:
    vectors, taught = clusters(per_class=8, spread=0.1)
    turned = taught._replace(targets=taught.targets.clone())
    turned.targets[0] = torch.tensor([0.0, 1.0, 0.0])  # a label that is wrong: who learnt it would say so
    head = torch.nn.Linear(16, 3)
    fit_head(head, vectors, turned)
    before = copy.deepcopy(head.state_dict())
    logits = logits_without_each(head, vectors, turned)
    assert logits.shape == (24, 3) and logits[0].argmax() == 0
    assert (logits.argmax(1) == taught.targets.argmax(1)).all()
    assert all(torch.equal(before[name], value) for name, value in head.state_dict().items())


def test_layers_of_folds_take_nothing_along_that_hooks_lead_to() -> None:
    """The hook of a training leads to the whole model, which was copied five times."""

    class Training:
        def keep_input(self, module: object, inputs: object) -> None:
            pass

        def __deepcopy__(self, memo: object) -> "Training":
            raise AssertionError

    vectors, taught = clusters(per_class=4, spread=0.1)
    head = torch.nn.Linear(16, 3)
    before = torch.random.get_rng_state()
    expected = logits_without_each(head, vectors, taught)
    assert torch.equal(before, torch.random.get_rng_state()), "what is drawn later is as it was"
    head.register_forward_pre_hook(Training().keep_input)
    assert torch.equal(logits_without_each(head, vectors, taught), expected)


def test_a_layer_of_few_texts_is_scaled_to_be_surer_and_one_that_is_often_wrong_less() -> None:
    vectors, taught = clusters(per_class=8, spread=0.1)
    head = torch.nn.Linear(16, 3)
    fit_head(head, vectors, taught)
    easy = best_scale(logits_without_each(head, vectors, taught), smoothed(taught, [True] * 24))
    scattered, _ = clusters(per_class=8, spread=1.5)
    hard = best_scale(logits_without_each(head, scattered, taught), smoothed(taught, [True] * 24))
    assert easy > 2 and hard < 1
    scaled = easy * head(vectors)
    assert cross_entropy(scaled, taught) < cross_entropy(head(vectors), taught)


def test_a_person_s_few_labels_are_doubted_a_little_and_a_teacher_s_probabilities_are_not() -> None:
    taught = Taught(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]]), torch.tensor([4.0, 4.0, 1.0]))
    doubted = smoothed(taught, [True, True, False])
    assert doubted.targets.flatten().tolist() == pytest.approx([0.8, 0.2, 0.2, 0.8, 0.9, 0.1])  # 4/5 of three texts
    assert doubted.weights is taught.weights
    assert torch.equal(smoothed(taught, [False] * 3).targets, taught.targets)


@pytest.mark.parametrize("num_texts", [1, 2, 4])
def test_there_may_be_fewer_texts_than_folds(num_texts: int) -> None:
    vectors, taught = clusters(per_class=2, spread=0.1)
    logits = logits_without_each(torch.nn.Linear(16, 3), vectors[:num_texts], taught.at(range(num_texts)))
    assert logits.shape == (num_texts, 3) and logits.isfinite().all()
