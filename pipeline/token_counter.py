"""Count the tokens of texts for a model of which only the tokenizer's file is loaded."""

from functools import cache
from pathlib import Path


class TokenCounter:
    """Counts the tokens of a text, by calling it; approximately for a model without tokenizer.json."""

    def __init__(self, model_path: str) -> None:
        file = Path(model_path) / "tokenizer.json"
        self._tokenizer = None
        if file.exists():
            from tokenizers import Tokenizer

            self._tokenizer = Tokenizer.from_file(str(file))
            self._tokenizer.no_truncation()  # the file may store the limit of a training
            self._tokenizer.no_padding()

    @property
    def is_exact(self) -> bool:
        return self._tokenizer is not None

    def __call__(self, text: str) -> int:
        return len(self.pieces(text))

    def pieces(self, text: str) -> list[int]:
        """Return the token ids; without a tokenizer's file, a hash for every four characters."""
        if self._tokenizer is None:
            return [hash(text[at : at + 4]) for at in range(0, len(text), 4)]
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


token_counter = cache(TokenCounter)
