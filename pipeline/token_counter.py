"""Count the tokens of texts for a model of which only the tokenizer is loaded."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from fourshot.engine.checkpoints.models import TOKENIZERS


class TokenCounter:
    """Counts the tokens of a text, by calling it; approximately for a fake model, which has no tokenizer."""

    def __init__(self, model_path: str) -> None:
        self._encode: Callable[[str], list[int]] | None = None
        folder = Path(model_path)
        if (file := folder / "tokenizer.json").exists():  # loads faster than transformers
            from tokenizers import Tokenizer

            tokenizer = Tokenizer.from_file(str(file))
            tokenizer.no_truncation()  # the file may store the limit of a training
            tokenizer.no_padding()
            self._encode = lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)
        elif any((folder / name).exists() for name in TOKENIZERS):
            from fourshot.engine.tokens import load_tokenizer

            slow = load_tokenizer(model_path)
            self._encode = lambda text: list(slow(text, add_special_tokens=False)["input_ids"])

    @property
    def is_exact(self) -> bool:
        return self._encode is not None

    def __call__(self, text: str) -> int:
        return len(self.pieces(text))

    def pieces(self, text: str) -> list[int]:
        """Return the token ids; without a tokenizer, a hash for every four characters."""
        if self._encode is None:
            return [hash(text[at : at + 4]) for at in range(0, len(text), 4)]
        return self._encode(text)


token_counter = cache(TokenCounter)
