"""How long texts are to a model, before anything of it is loaded but its tokenizer's file."""

from functools import cache
from pathlib import Path


class TokenCounter:
    """How many tokens a text has."""

    def __init__(self, model_path: str) -> None:
        file = Path(model_path) / "tokenizer.json"
        self._tokenizer = None
        if file.exists():
            from tokenizers import Tokenizer

            self._tokenizer = Tokenizer.from_file(str(file))
            self._tokenizer.no_truncation()  # it may have what a training cut at
            self._tokenizer.no_padding()

    @property
    def is_exact(self) -> bool:
        return self._tokenizer is not None

    def __call__(self, text: str) -> int:
        return len(self.pieces(text))

    def pieces(self, text: str) -> list[int]:
        """Ids; where the model has no such tokenizer, four characters are one."""
        if self._tokenizer is None:
            return [hash(text[at : at + 4]) for at in range(0, len(text), 4)]
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


token_counter = cache(TokenCounter)
