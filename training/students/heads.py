"""The last layer of a student: fitted to fixed vectors, and calibrated."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

HEAD_STEPS = 60
NUM_FOLDS = 5


class Taught(NamedTuple):
    """Training targets of some texts."""

    targets: "torch.Tensor"  # probabilities [num_texts, num_labels]
    weights: "torch.Tensor"  # weight of each text in the loss [num_texts]

    def at(self, rows: Sequence[int]) -> "Taught":
        return Taught(self.targets[rows], self.weights[rows])

    def to(self, device: "torch.device") -> "Taught":
        return Taught(self.targets.to(device), self.weights.to(device))


def cross_entropy(logits: "torch.Tensor", taught: Taught) -> "torch.Tensor":
    """Return the weighted mean over the texts, in nats."""
    losses = -(taught.targets * logits.log_softmax(1)).sum(1)
    return (taught.weights * losses).sum() / taught.weights.sum()


def fit_head(head: "torch.nn.Linear", vectors: "torch.Tensor", taught: Taught) -> None:
    """Fit ``head`` to ``vectors`` [num_texts, size] by logistic regression, a convex problem."""
    import torch

    head.weight.data.zero_()
    head.bias.data.zero_()
    optimizer = torch.optim.LBFGS(list(head.parameters()), max_iter=HEAD_STEPS, line_search_fn="strong_wolfe")
    scale = 0.5 / len(vectors)  # 1 / (2 C) per text, with scikit-learn's default C = 1

    def closure() -> "torch.Tensor":
        optimizer.zero_grad()
        loss = cross_entropy(head(vectors), taught) + scale * (head.weight**2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)


def logits_without_each(head: "torch.nn.Linear", vectors: "torch.Tensor", taught: Taught) -> "torch.Tensor":
    """Return cross-validated logits [num_texts, num_labels]: each text's are from a layer fitted without its fold.

    There are `NUM_FOLDS` folds, and each has its share of every class. ``head`` itself is not changed.
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
    """Return an uninitialised layer of the same size; a copy would include everything that its hooks refer to."""
    import torch

    size = {"in_features": head.in_features, "out_features": head.out_features}
    return torch.nn.utils.skip_init(torch.nn.Linear, **size, device=head.weight.device, dtype=head.weight.dtype)


def smoothed(taught: Taught, is_real: Sequence[bool]) -> Taught:
    """Return ``taught`` with smoothed targets for the texts that a person labelled; the fewer texts, the more.

    Otherwise the best fit to a few correctly predicted texts would be certainty. Source: Platt 1999, "Probabilistic
    Outputs for Support Vector Machines", section 2.2 (targets of (n + 1) / (n + 2)).
    """
    import torch

    num_texts, num_labels = taught.targets.shape
    doubt = 1 / (num_texts + 2)
    doubted = (1 - doubt - doubt / max(1, num_labels - 1)) * taught.targets + doubt / max(1, num_labels - 1)
    real = torch.tensor(is_real, device=doubted.device)
    return taught._replace(targets=torch.where(real[:, None], doubted, taught.targets))


def best_scale(logits: "torch.Tensor", taught: Taught) -> float:
    """Return the factor, from 0.1 to 32, with which all logits fit the targets best.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2 (temperature scaling).
    """
    import torch

    factors = torch.logspace(-1, 1.5, 51, device=logits.device)
    losses = [cross_entropy(factor * logits, taught) for factor in factors]
    return float(factors[torch.stack(losses).argmin()])
