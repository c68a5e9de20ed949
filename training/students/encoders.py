"""Encoders that students are made from: finding one, and building a classifier with its weights."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fourshot.engine.checkpoints.config import read_config
from fourshot.engine.checkpoints.hub import NOT_NEEDED_OF_ENCODERS, WEIGHTS, download_model, is_path, split_revision
from fourshot.engine.checkpoints.models import broken_shards, content_hash
from fourshot.engine.encoder import embedded_encoder
from fourshot.engine.errors import InputError, ModelNotFoundError
from fourshot.engine.machine.collector import collector_paused

if TYPE_CHECKING:
    import torch

NAME = "all-MiniLM-L6-v2"
BATCH = 64
HOW_TO_GO_ON = "Leave --student out to use the embedded encoder, name a Hugging Face id, or give a checkpoint folder."
# Model types whose position numbers start after the padding token's id.
PADDED = ("roberta", "camembert", "mpnet", "longformer", "xmod", "ibert", "data2vec-text", "luke", "esm")
MIXES_PADDING = ("fnet", "convbert")  # a prediction would depend on the other texts in the batch
TOKENIZER_FILES = ("tokenizer.json", "vocab*", "*.model")


class ResolvedEncoder(msgspec.Struct, frozen=True, kw_only=True):
    """An encoder on this machine."""

    path: str
    name: str  # accepted by --student
    revision: str


def resolve_encoder(name: str | None) -> ResolvedEncoder:
    """Find an encoder: None is the bundled one, a folder is checked, anything else is a Hugging Face id.

    Raises ModelNotFoundError, an InputError.
    """
    if name is None or name == NAME:
        folder = embedded_encoder()
        return ResolvedEncoder(path=str(folder), name=NAME, revision=content_hash(folder))
    if not name.strip():  # as a path, this would be the current folder
        raise ModelNotFoundError(f"The name of the encoder is blank. {HOW_TO_GO_ON}")
    folder = Path(name).expanduser()
    if not folder.is_dir():
        model, revision = split_revision(name)
        if is_path(name):
            raise ModelNotFoundError(f"There is no encoder folder {name!r}. {HOW_TO_GO_ON}")
        folder = download_model(model, revision, HOW_TO_GO_ON, not_needed=NOT_NEEDED_OF_ENCODERS)
        _check(folder)
        return ResolvedEncoder(path=str(folder), name=model, revision=folder.name)
    _check(folder)
    return ResolvedEncoder(path=str(folder.resolve()), name=name, revision=content_hash(folder))


def _check(folder: Path) -> None:
    """Raise ModelNotFoundError if ``folder`` has no encoder that can become a classifier."""
    faults = broken_shards(folder)
    try:
        config = read_config(folder)
        kind = str(config.get("model_type"))
        from transformers import AutoConfig
        from transformers.models.auto.modeling_auto import (
            MODEL_FOR_MASKED_LM_MAPPING_NAMES,
            MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        )

        if kind not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
            faults.append(f"transformers has no text classifier of the kind {kind!r}")
        elif config.get("is_encoder_decoder") or any(
            name.endswith(("ForCausalLM", "LMHeadModel")) for name in config.get("architectures") or ()
        ):
            faults.append(f"it is not an encoder: config.json has the architectures {config.get('architectures')}")
        elif (
            kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
            or AutoConfig.from_pretrained(folder, trust_remote_code=False).is_encoder_decoder
        ):
            faults.append(f"a model of the kind {kind!r} is not a text encoder, such as BERT or RoBERTa")
        elif kind in MIXES_PADDING:
            faults.append(f"an encoder of the kind {kind!r} treats the padding of a batch as a part of its texts")
        else:
            faults += _tokenizer_faults(folder)
    except OSError:
        faults.append("it has no config.json")
    except (ValueError, AttributeError) as error:
        faults.append(f"its config.json cannot be read: {error}")
    if not any(any(folder.glob(pattern)) for pattern in WEIGHTS):
        faults.append(f"it has no weights ({' or '.join(WEIGHTS)})")
    if faults:
        raise ModelNotFoundError(f"{folder} cannot be used as a student: {'; '.join(faults)}. {HOW_TO_GO_ON}")


def _tokenizer_faults(folder: Path) -> list[str]:
    """Return why texts cannot be encoded in batches. Without files, ``transformers`` would make an empty tokenizer."""
    if not any(any(folder.glob(pattern)) for pattern in TOKENIZER_FILES):
        return [f"it has no tokenizer ({' or '.join(TOKENIZER_FILES)})"]
    try:
        tokenizer = open_tokenizer(folder)
    except Exception as error:  # the libraries raise errors of any type
        return [f"its tokenizer cannot be loaded: {error}"]
    return [] if tokenizer.pad_token else ["its tokenizer has no padding token (pad_token in tokenizer_config.json)"]


def open_tokenizer(folder: str | Path) -> Any:
    """Load the tokenizer in ``folder`` with `transformers`, truncating and padding on the right.

    This overrides its files, because positions count from the first token, and serving code uses the right side too.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    return tokenizer


def by_length(
    tokens: "Callable[[Sequence[str]], Any]",
    texts: Sequence[str],
    compute: "Callable[[Any], torch.Tensor]",
    batch: int = BATCH,
) -> "torch.Tensor":
    """Apply ``compute`` to the ``tokens`` of batches of similar lengths; return the rows in the order of ``texts``.

    Raises InputError for no texts.
    """
    import torch

    if not texts:
        raise InputError("there are no texts to encode. Give at least one.")
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    parts = [
        compute(tokens([texts[index] for index in order[start : start + batch]]))
        for start in range(0, len(order), batch)
    ]
    return torch.cat(parts)[torch.tensor(order).argsort()]


def encoded(tokenizer: Any, texts: Sequence[str], max_tokens: int, device: Any = "cpu") -> Any:
    """Return the padded tokens of a batch as tensors on ``device``; texts above ``max_tokens`` are truncated."""
    tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
    return tokens.to(device)


def open_classifier(folder: str | Path, labels: Sequence[str], seed: int) -> Any:
    """Return a classifier of ``labels`` with the encoder's weights, of the class in transformers for that encoder.

    An encoder with mean pooling in sentence-transformers keeps it (`_add_mean_layer`). A classifier of other labels,
    such as RoBERTa for natural language inference, gets a new last layer. Raises InputError if weights of other layers
    do not have the shapes given by the configuration.
    """
    with collector_paused():
        import torch
        from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(
        folder,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={n: i for i, n in enumerate(labels)},
        trust_remote_code=False,
    )
    config.problem_type = "single_label_classification"
    if getattr(config, "classifier_pooling", "") == "late":  # EuroBERT: logits for each token, no text vector
        config.classifier_pooling = "mean"
    model, loading = AutoModelForSequenceClassification.from_pretrained(
        folder,
        config=config,
        dtype=torch.float32,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    head = last_linear(model)
    new = {name for name, parameter in model.named_parameters() if any(parameter is own for own in head.parameters())}
    if wrong := sorted({name for name, *_ in loading["mismatched_keys"]} - new):
        raise InputError(f"The weights of the encoder {folder} do not fit its config.json: {', '.join(wrong[:3])}.")
    if is_read_by_mean(Path(folder)):
        _add_mean_layer(model)
    return model.eval()


def is_read_by_mean(folder: Path) -> bool:
    """Whether sentence-transformers' files in ``folder`` specify mean pooling over the tokens."""
    file = folder / "1_Pooling" / "config.json"
    return file.is_file() and bool(json.loads(file.read_bytes()).get("pooling_mode_mean_tokens"))


def _add_mean_layer(model: Any) -> None:
    """Make the first token's state the mean over all tokens, by adding a layer of the encoder's own architecture.

    Classifiers of BERT-like encoders use the first token only. With this layer, any tool can load them. Its queries and
    keys are zero, so each token attends to all tokens equally. The result is scaled up until the residual input is
    negligible, and normalised, as the mean is in sentence-transformers. The feed-forward part adds nothing. The pooler
    passes the vector on with length one, where tanh is nearly linear. Other encoders keep their classifier's pooling.
    """
    import copy

    import torch

    encoder = getattr(model.base_model, "encoder", None)
    head = getattr(model.base_model, "pooler", None) or getattr(model, "classifier", None)
    layers, dense = getattr(encoder, "layer", None), getattr(head, "dense", None)
    if layers is None or dense is None or not hasattr(getattr(layers[-1], "attention", None), "self"):
        return
    layer, identity = copy.deepcopy(layers[-1]), torch.eye(model.config.hidden_size)
    weights = {
        layer.attention.self.query: 0 * identity,
        layer.attention.self.key: 0 * identity,
        layer.attention.self.value: identity,
        layer.attention.output.dense: 1000 * identity,
        dense: identity / model.config.hidden_size**0.5,
    }
    with torch.no_grad():
        for linear, weight in weights.items():
            linear.weight.copy_(weight)
            linear.bias.zero_()
        for linear in (layer.intermediate.dense, layer.output.dense):
            linear.weight.zero_()
            linear.bias.zero_()
        for norm in (layer.attention.output.LayerNorm, layer.output.LayerNorm):
            norm.weight.fill_(1.0)
            norm.bias.zero_()
    for module in (layer, dense):
        module.requires_grad_(False)
    if hasattr(layer.attention.self, "layer_idx"):
        layer.attention.self.layer_idx = len(layers)
    layers.append(layer)
    model.config.num_hidden_layers += 1


def last_linear(model: Any) -> Any:
    """Return the layer that computes the logits; its input is the text's vector."""
    import torch

    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    return next(module for module in reversed(linears) if module.out_features == model.config.num_labels)


def check_max_tokens(encoder: ResolvedEncoder, max_tokens: int) -> None:
    """Raise InputError if ``max_tokens`` exceeds the number of positions of ``encoder``."""
    config = read_config(encoder.path)
    if "max_position_embeddings" not in config:  # the default of its architecture applies
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(encoder.path, trust_remote_code=False).to_dict()
    positions = config.get("max_position_embeddings")
    if any(kind in str(config.get("model_type")) for kind in PADDED) and isinstance(positions, int):
        positions -= int(config.get("pad_token_id", 1)) + 1
    if isinstance(positions, int) and max_tokens > positions > 0:
        raise InputError(
            f"--max-tokens {max_tokens}: {encoder.name} accepts at most {positions} tokens. Give at most that; "
            "--long-texts windows splits longer texts into parts."
        )
