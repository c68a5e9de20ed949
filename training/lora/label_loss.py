"""The loss of a batch, its gradients, and the label probabilities, computed in packed rows."""

from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from msgspec import UNSET

from fourshot.engine.errors import FourshotError, InputError
from fourshot.engine.labels import LabelTokens
from fourshot.engine.machine.memory import free_bytes
from fourshot.engine.tokens import encode_prompts
from fourshot.training.lora.examples import TrainingExample
from fourshot.training.lora.frozen_states import FrozenStates, fits
from fourshot.training.lora.llama import LlamaDecoder
from fourshot.training.lora.masks import attention_mask
from fourshot.training.lora.memory import SHARE, is_out_of_memory, release_gradients, row_tokens, text_bytes
from fourshot.training.lora.output_layer import OutputLayer
from fourshot.training.lora.packing import ROW_MULTIPLE, PackedRow, micro_batches, pack, shared_prefix_length
from fourshot.training.lora.share import ALL, BatchShare
from fourshot.training.lora.written import encode_written

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class LabelLoss:
    """Mean cross-entropy of a batch, and its gradients, computed by ``decoder`` if it is given, else by ``wrapped``."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        wrapped: Any,
        examples: Sequence[TrainingExample],
        tokens: LabelTokens | None,
        *,
        whole_text: bool,
        smoothing: float = 0.0,
        decoder: LlamaDecoder | None = None,
    ) -> None:
        """``tokens``: of the labels; None if the examples have written continuations instead.

        ``smoothing``: the share of each target that is spread evenly over all labels.

        Source: Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7. Raises InputError for soft
        targets or smoothing if a label has several tokens, or if the loss is on the whole text.
        """
        model = wrapped.get_base_model()
        self.device, self._dtype = str(model.device), model.dtype
        self._config = model.config.get_text_config()
        self._written_out, self._decoder, self._head = decoder, model.get_decoder(), OutputLayer(model)
        self._whole_text, self._multiple = whole_text, decoder.row_multiple if decoder else ROW_MULTIPLE
        self._weights = [example.weight for example in examples]
        prompts = encode_prompts(tokenizer, [example.prompt for example in examples])
        answers = (
            [tokens.ids[example.target] for example in examples]
            if tokens
            else encode_written(tokenizer, examples, prompts)
        )
        # The last token of an answer is only predicted, so it is not part of the input.
        sequences = [[*prompt, *answer[:-1]] for prompt, answer in zip(prompts, answers, strict=True)]
        shown = [[] if whole_text else _shown_labels(tokenizer, *pair) for pair in zip(examples, prompts, strict=True)]
        first_label = min((labels[0][0] for labels in shown if labels), default=None)
        shared = 0 if whole_text else min(shared_prefix_length(prompts), first_label or len(prompts[0]))
        self._prefix = sequences[0][:shared]
        self._tails = [sequence[shared:] for sequence in sequences]
        self._answers = answers
        self._prompts = [prompt[shared:] for prompt in prompts]
        self._shown = [[(position - shared, target) for position, target in labels] for labels in shown]
        self._labels = tokens.ids if tokens else ()
        self.frozen_states = _frozen_states(decoder, self._prefix, self._tails, self.device, model.config.hidden_size)
        self.parameters = decoder.parameters() if decoder else [p for p in wrapped.parameters() if p.requires_grad]
        sees, free = shared + max(len(tail) for tail in self._tails), free_bytes(model.device.type)
        self.most_tokens = row_tokens(model.config, sees, free)
        if decoder:
            decoder.checkpointing = text_bytes(model.config, sees) > SHARE * free
        # Labels of one token each are compared by one softmax over the labels, as in scoring. Words of several tokens
        # are scored by whole-vocabulary probabilities at every step, so they are trained on those.
        self._choices = (
            torch.tensor([label[0] for label in tokens.ids], device=self.device) if tokens and tokens.one_step else None
        )
        self._targets = [example.target for example in examples]
        self._spread = _spread_targets(examples, tokens, smoothing, whole_text) if tokens else None
        self._hard = torch.eye(len(self._labels)) * (1 - smoothing) + smoothing / max(1, len(self._labels))

    def backward(
        self, batch: Sequence[int], scaler: torch.amp.GradScaler, share: BatchShare = ALL
    ) -> tuple[float, float, int]:
        """Compute the gradients of the batch's mean loss, or this process's ``share`` of them.

        There must be no gradients before the call. Returns that loss, the mean loss on label tokens (both in nats), and
        the number of tokens computed. Raises FourshotError if not even one text fits into memory.
        """
        while True:
            try:
                return self._backward(batch, scaler, share)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).splitlines()[0]
            release_gradients(self.parameters)
            self._make_room(batch, reason)

    def _make_room(self, batch: Sequence[int], reason: str) -> None:
        """Halve the row length or, if a row has one text, turn on checkpointing; raise FourshotError if it is on."""
        longest = len(self._prefix) + max(len(self._tails[index]) for index in batch)
        if self.most_tokens > longest:
            self.most_tokens = max(longest, self.most_tokens // 2)
        elif self._written_out and not self._written_out.checkpointing:
            self._written_out.checkpointing = True
        else:
            shows = any(self._shown[index] for index in batch)
            of_shots = "show no shots in prompts (annotate.show_shots=never), " if shows else ""
            raise FourshotError(
                f"Memory runs out even with a single prompt of {longest} tokens: {reason}. Nothing was saved. Shorten "
                f"the texts (max_text_words), {of_shots}close other programs, or use a smaller base."
            )

    def _backward(
        self, indices: Sequence[int], scaler: torch.amp.GradScaler, share: BatchShare
    ) -> tuple[float, float, int]:
        total_weight = sum(self._weights[index] for index in indices)
        batch = share.of(indices)
        lengths = [len(self._tails[index]) for index in batch]
        loss_value, label_value, num_tokens = 0.0, 0.0, 0
        for run in micro_batches(lengths, len(self._prefix), self.most_tokens):
            chosen = [batch[position] for position in run]
            row = pack(self._prefix, [self._tails[index] for index in chosen], self.device, self._multiple)
            positions, targets, weights, label_weights = self._prediction_targets(chosen, row.starts)
            known = self.frozen_states
            states = known.of_row(chosen, row.input_ids.shape[1], self.most_tokens) if known else None
            logits = self._logits(self._hidden(row, positions, states))
            if self._spread is not None:
                shown = [self._hard[[target for _, target in self._shown[index]]] for index in chosen]
                pairs = zip(shown, self._spread[chosen], strict=True)
                targets = torch.cat([rows for before, last in pairs for rows in (before, last[None])]).to(self.device)
            losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
            loss = (losses * weights).sum() / total_weight
            scaler.scale(loss).backward()
            loss_value += float(loss.detach())
            label_value += float((losses.detach() * label_weights).sum() / total_weight)
            num_tokens += row.input_ids.shape[1]
        return loss_value, label_value, num_tokens

    def probabilities(self, chosen: Sequence[int]) -> torch.Tensor:
        """Return label probabilities as in scoring: float32 [num_chosen, num_labels], each row sums to one."""
        # One text per prompt if each label is one token, else one per prompt and label.
        beginnings = [()] if self._choices is not None else [label[:-1] for label in self._labels]
        tails = [[*self._prompts[index], *beginning] for index in chosen for beginning in beginnings]
        scores: list[torch.Tensor] = []
        with torch.no_grad():
            for run in micro_batches([len(tail) for tail in tails], len(self._prefix), self.most_tokens):
                row = pack(self._prefix, [tails[number] for number in run], self.device, self._multiple)
                hidden = self._hidden(row)
                for number, start in zip(run, row.starts, strict=True):
                    prompt = self._prompts[chosen[number // len(beginnings)]]
                    scores.append(self._label_scores(hidden, start + len(prompt) - 1, number % len(beginnings)))
            return torch.cat(scores).view(len(chosen), -1).softmax(dim=1).cpu()

    def _label_scores(self, hidden: torch.Tensor, last: int, label: int) -> torch.Tensor:
        """Return the logits [num_labels] of labels of one token each, or the log-probability [1] of ``label`` alone.

        ``last`` is the index of the prompt's last token in ``hidden``.
        """
        if self._choices is not None:
            return self._head(hidden[last], self._choices)
        answer = torch.tensor(self._labels[label], device=self.device)
        logits = self._head(hidden[last : last + len(answer)])
        return logits.log_softmax(dim=1).gather(1, answer[:, None]).sum()[None]

    def _hidden(
        self, row: PackedRow, positions: torch.Tensor | None = None, states: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the last hidden states [N, hidden_size] at N ``positions`` of the row, or at all its tokens.

        ``states``: the input of the lowest layer with an adapter, if it is known.
        """
        if self._written_out:
            return self._written_out(row, positions, states)
        output = self._decoder(
            input_ids=row.input_ids,
            position_ids=row.position_ids,
            attention_mask=attention_mask(row, self._config, self._dtype),
            use_cache=False,
        )
        hidden: torch.Tensor = output.last_hidden_state[0]
        return hidden if positions is None else hidden[positions]

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return float32 logits [num_positions, num_labels or vocabulary] of states [num_positions, hidden_size]."""
        return self._head(hidden, None if self._whole_text else self._choices)

    def _prediction_targets(self, chosen: Sequence[int], starts: Sequence[int]) -> list[torch.Tensor]:
        """Return the positions of the row that predict something, their targets, weights, and weights as label tokens.

        Each is [num_positions]. Both kinds of weights of one text sum to the text's weight.
        """
        positions: list[int] = []
        targets: list[int] = []
        weights: list[float] = []
        label_weights: list[float] = []
        for index, start in zip(chosen, starts, strict=True):
            tail, answer, weight = self._tails[index], self._answers[index], self._weights[index]
            last = len(tail) - len(answer)  # the prompt's last token, which predicts the label's first
            aimed: list[tuple[int, int]] = []  # token of the tail, and what it predicts
            if self._whole_text:
                aimed = list(enumerate([*tail[1:], answer[-1]]))
            elif self._choices is not None:
                aimed = [*self._shown[index], (last, self._targets[index])]
            else:
                of_shown = [(position, self._labels[target]) for position, target in self._shown[index]]
                for position, label in [*of_shown, (last, answer)]:
                    aimed += zip(count(position), label)
            is_label = [not self._whole_text or position >= last for position, _ in aimed]
            positions.extend(start + position for position, _ in aimed)
            targets.extend(target for _, target in aimed)
            weights.extend([weight / len(aimed)] * len(aimed))
            label_weights.extend(weight / sum(is_label) if labelled else 0.0 for labelled in is_label)
        return [torch.tensor(values, device=self.device) for values in (positions, targets, weights, label_weights)]


def _shown_labels(
    tokenizer: "PreTrainedTokenizerBase", example: TrainingExample, prompt: Sequence[int]
) -> list[tuple[int, int]]:
    """Return (index of the token of ``prompt`` before a shown label, target) of each label that can be learnt.

    ``prompt``: the token ids of the example's prompt. A label is left out if the tokenizer merges it with the text
    before it, because no token then ends where the label begins.
    """
    if example.shown is UNSET:
        return []
    beginnings = encode_prompts(tokenizer, [example.prompt[: label.start] for label in example.shown])
    return [
        (len(ids) - 1, label.target)
        for ids, label in zip(beginnings, example.shown, strict=True)
        if ids == list(prompt[: len(ids)])
    ]


def _frozen_states(
    decoder: LlamaDecoder | None, prefix: Sequence[int], tails: Sequence[Sequence[int]], device: str, width: int
) -> FrozenStates | None:
    """Return the cache of frozen states; None if no layer is below the adapters, or the states need too much memory."""
    if decoder is None or not decoder.first or not fits(sum(map(len, tails)), 2 * width):
        return None
    return FrozenStates(decoder, prefix, tails, device)


def _spread_targets(
    examples: Sequence[TrainingExample], tokens: LabelTokens, smoothing: float, whole_text: bool
) -> torch.Tensor | None:
    """Return target probabilities, float32 [num_examples, num_labels], each row summing to one.

    None if every target is a single label. Raises InputError as `LabelLoss` does.
    """
    if not smoothing and all(example.soft is UNSET for example in examples):
        return None
    if whole_text or not tokens.one_step:
        raise InputError(
            "Soft targets and label_smoothing need the loss on the label alone and labels that one token "
            f"distinguishes; got loss {'text' if whole_text else 'label'!r} and the label words {list(tokens.words)}. "
            "Set train.loss to 'label' and verbalizer to 'token'."
        )
    rows = torch.zeros(len(examples), len(tokens.ids))
    for row, example in zip(rows, examples, strict=True):
        if example.soft is UNSET:
            row[example.target] = 1.0
        else:
            row[:] = torch.tensor(example.soft)
    return rows * (1 - smoothing) + smoothing / rows.shape[1]
