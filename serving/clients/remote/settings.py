"""How a remote teacher is queried, and what that may cost. Loads no library for models or HTTP."""

import math
import os
import re
from typing import Literal

from fourshot.engine.core import Typed
from fourshot.engine.errors import InputError

KEY_VARIABLES = ("FOURSHOT_TEACHER_KEY", "OPENAI_API_KEY")  # the first that is set is sent
NO_KEY = "none"  # sent to endpoints without keys: the client requires one


class RemoteSettings(Typed, frozen=True, kw_only=True):
    """Settings of one command. The comments are the help of the options."""

    teacher_api: Literal["auto", "chat", "completions"] = "auto"  # API to use; auto: chat, else completions
    votes: int = 8  # answers sampled per text, if the endpoint returns no probabilities
    answer_tokens: int = 0  # of an answer, at most; 0: what the labels need. Reasoning models need more
    concurrency: int = 8  # concurrent requests at most; fewer while the endpoint is busy
    retries: int = 6  # of a request that failed and may succeed later
    timeout_s: float = 60.0  # seconds that one answer may take
    max_requests: int | None = None
    max_cost: float | None = None
    price_in: float | None = None  # per million tokens
    price_out: float | None = None

    def __post_init__(self) -> None:
        if self.votes < 1 or self.concurrency < 1 or self.retries < 0 or self.answer_tokens < 0:
            raise InputError(
                "--votes and --concurrency must be at least 1, --retries and --answer-tokens at least 0; got "
                f"{self.votes}, {self.concurrency}, {self.retries} and {self.answer_tokens}."
            )
        if not 0 < self.timeout_s < math.inf:
            raise InputError(f"--timeout-s is {self.timeout_s:g}; give more than 0 seconds.")
        if self.max_requests is not None and self.max_requests < 1:
            raise InputError(f"--max-requests is {self.max_requests}; give at least 1, or leave it out for no limit.")
        if self.max_cost is not None and not 0 < self.max_cost < math.inf:
            raise InputError(f"--max-cost is {self.max_cost:g}; give more than 0, or leave it out for no limit.")
        prices = (self.price_in, self.price_out)
        if any(price is not None and not 0 <= price < math.inf for price in prices):
            raise InputError(f"--price-in and --price-out are per million tokens, 0 or more; got {prices}.")
        if (self.price_in is None) != (self.price_out is None):
            raise InputError("--price-in and --price-out go together: a request costs for what it sends and gets.")
        if self.max_cost is not None and self.price_in is None:
            raise InputError("--max-cost needs --price-in and --price-out, per million tokens, to know what is spent.")

    def cost(self, prompt_tokens: float, output_tokens: float) -> float | None:
        """Return the cost, in the unit of the prices; None without prices."""
        if self.price_in is None or self.price_out is None:
            return None
        return (prompt_tokens * self.price_in + output_tokens * self.price_out) / 1e6


def check_has_model(model: str | None, settings: RemoteSettings | None) -> None:
    """Raise InputError for settings of a remote teacher without its model."""
    if settings is not None and not model:
        raise InputError("The settings of a remote teacher need its model: give teacher_model, too (--teacher-model).")


def check_has_address(by: object, model: str | None, key: str | None) -> None:
    """Raise InputError for a model or a key without the address that it is for."""
    if not by and (model or key is not None):
        problem = "--teacher-model is a model" if model else "--key is for a service"
        raise InputError(f"{problem} at an address. Give that, too: --{'teacher' if model else 'by'} http://host.")


def checked_endpoint(url: str) -> str:
    """Return ``url`` as cards and logs have it. Raises InputError for an invalid one, or one that holds a secret."""
    from fourshot.serving.clients.address import read_address

    url = url.strip()
    if re.search(r"[?#]|//[^/]*@", url):
        raise InputError(
            "A teacher's address is written into cards and logs, so it must not contain a name, password or query. "
            f"Give the address alone, and the key in {KEY_VARIABLES[0]}."
        )
    read_address(url)  # raises for what a socket could not connect to
    return url.rstrip("/")


def teacher_key() -> tuple[str, str]:
    """Return (key, the variable it is from); ("none", "") if none is set. Raises InputError for what is no key."""
    for name in KEY_VARIABLES:
        if key := os.environ.get(name, "").strip():
            if re.search(r"[^\x21-\x7e]", key):
                raise InputError(f"{name} has characters that do not occur in keys. Set it to the key alone.")
            return key, name
    return NO_KEY, ""
