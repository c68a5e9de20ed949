"""The last layer of a student: fitted to vectors that stay as they are, and made as sure as it should be."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

HEAD_STEPS = 60
NUM_FOLDS = 5


class Taught(NamedTuple):
    """What is to be said of some texts."""

    targets: "torch.Tensor"  # probabilities [num_texts, num_labels]
    weights: "torch.Tensor"  # how much each text counts [num_texts]

    def at(self, rows: Sequence[int]) -> "Taught":
        return Taught(self.targets[rows], self.weights[rows])

    def to(self, device: "torch.device") -> "Taught":
        return Taught(self.targets.to(device), self.weights.to(device))


def cross_entropy(logits: "torch.Tensor", taught: Taught) -> "torch.Tensor":
    """Weighted mean, nats."""
    losses = -(taught.targets * logits.log_softmax(1)).sum(1)
    return (taught.weights * losses).sum() / taught.weights.sum()


def fit_head(head: "torch.nn.Linear", vectors: "torch.Tensor", taught: Taught) -> None:
    """The best last layer for ``vectors`` [num_texts, size]: logistic regression, as convex as that is."""
    import torch

    head.weight.data.zero_()
    head.bias.data.zero_()
    optimizer = torch.optim.LBFGS(list(head.parameters()), max_iter=HEAD_STEPS, line_search_fn="strong_wolfe")
    scale = 0.5 / len(vectors)  # one over twice the inverse strength 1, scikit-learn's default

    def closure() -> "torch.Tensor":
        optimizer.zero_grad()
        loss = cross_entropy(head(vectors), taught) + scale * (head.weight**2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)


def logits_without_each(head: "torch.nn.Linear", vectors: "torch.Tensor", taught: Taught) -> "torch.Tensor":
    """What last layers say of texts that they were fitted without: logits [num_texts, num_labels].

    Each fold has its share of every class. ``head`` itself stays as it is.
    """
    import torch

    order = torch.argsort(taught.targets.argmax(1), stable=True).tolist()
    logits = torch.zeros_like(taught.targets)
    for fold in range(NUM_FOLDS):
        left_out = order[fold::NUM_FOLDS]
        others = sorted(set(order).difference(left_out))
        if left_out and others:
            other_head = _like(head)
            fit_head(other_head, vectors[others], taught.at(others))
            with torch.no_grad():
                logits[left_out] = other_head(vectors[left_out])
    return logits


def _like(head: "torch.nn.Linear") -> "torch.nn.Linear":
    """A layer of the same size, whose weights are to be set. A copy would take along what its hooks lead to."""
    import torch

    size = {"in_features": head.in_features, "out_features": head.out_features}
    return torch.nn.utils.skip_init(torch.nn.Linear, **size, device=head.weight.device, dtype=head.weight.dtype)


def smoothed(taught: Taught, is_real: Sequence[bool]) -> Taught:
    """With a little doubt in the labels of those texts that a person labelled; fewer texts leave more.

    Without that, a few texts that are all answered rightly would ask for certainty. Source: Platt 1999, "Probabilistic
    Outputs for Support Vector Machines", section 2.2 (targets of (n + 1) / (n + 2)).
    """
    import torch

    num_texts, num_labels = taught.targets.shape
    doubt = 1 / (num_texts + 2)
    doubted = (1 - doubt - doubt / max(1, num_labels - 1)) * taught.targets + doubt / max(1, num_labels - 1)
    real = torch.tensor(is_real, device=doubted.device)
    return taught._replace(targets=torch.where(real[:, None], doubted, taught.targets))


def best_scale(logits: "torch.Tensor", taught: Taught) -> float:
    """The factor for all logits with which they fit best, 0.1 to 32.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2 (temperature scaling).
    """
    import torch

    factors = torch.logspace(-1, 1.5, 51, device=logits.device)
    losses = [cross_entropy(factor * logits, taught) for factor in factors]
    return float(factors[torch.stack(losses).argmin()])
