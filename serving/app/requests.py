"""Parsing of requests: the body as a type of `serving.api`, and the deadline. Refusals state what is allowed."""

import json
import math
import re
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from fourshot.pipeline.faults import nearest
from fourshot.pipeline.rows.fields import each_once
from fourshot.pipeline.rows.text_lists import VISIBLE
from fourshot.serving.answers import RefusalError
from fourshot.serving.api import DEADLINE, ClassifyRequest, GenerateRequest
from fourshot.serving.settings import Limits

AnyRequest = TypeVar("AnyRequest", ClassifyRequest, GenerateRequest)
BOM = b"\xef\xbb\xbf"
NO_UTF8 = " Send it as UTF-8."
HINTS = {  # by the first two bytes of a body that is not JSON
    b"\x1f\x8b": " It looks compressed: declare it with Content-Encoding: gzip.",
    b"\xff\xfe": NO_UTF8,
    b"\xfe\xff": NO_UTF8,
    b"{\0": NO_UTF8,
    b"--": " It looks like a multipart form; send JSON.",
    b"'{": ' A shell has left its quotes in it; on Windows, put " around the body and \\" inside.',
    b'"{': " It is JSON twice over: send the object, not a string that holds it.",
    b'"\\': " It is JSON twice over: send the object, not a string that holds it.",
}
ESCAPED = re.compile(rb"\\u00[2-7]", re.IGNORECASE)  # escaped ASCII that needs no escape: it can hide a duplicate name
FORM = re.compile(rb"(?:input|text|inputs|method)=")
UNKNOWN = re.compile(r"unknown field `(\w{1,40})`$")
MOST_MESSAGE_CHARS = 300  # of the parser's message, which repeats names that may be as long as the body


def read_request(body: bytes, limits: Limits, kind: type[AnyRequest]) -> AnyRequest:
    """Parse ``body``. Raises `RefusalError` if it is no valid request, or exceeds ``limits``."""
    body = body.removeprefix(BOM)
    verb = "classify" if kind is ClassifyRequest else "write for"
    try:
        request = msgspec.json.decode(body, type=kind)
        is_repeated = any(body.count(b'"%s"' % name.encode()) > 1 for name in kind.__struct_fields__)
        if is_repeated or ESCAPED.search(body) or any(not isinstance(item, str) for item in request.inputs):
            json.loads(body, object_pairs_hook=each_once)
    except (ValueError, RecursionError) as error:  # errors of msgspec and of Unicode are ValueErrors
        hint = HINTS.get(body[:2], NO_UTF8 if isinstance(error, UnicodeDecodeError) else "")
        if FORM.match(body):
            hint = " It looks like a form; send JSON (with Python's requests: json=, not data=)."
        if _has_half_a_pair(body):
            hint = " A text has half of a surrogate pair, as where an emoji was cut in two. Send whole characters."
        if unknown := UNKNOWN.search(str(error)):
            hint = f" {nearest(unknown[1], kind.__struct_encode_fields__)}".rstrip()
        message = "it is empty" if not body.strip() else str(error)
        if len(message) > MOST_MESSAGE_CHARS:
            message = f"{message[: MOST_MESSAGE_CHARS // 2]} ... {message[-MOST_MESSAGE_CHARS // 2 :]}"
        form = '{"input": text or [texts], "method": "student"}'
        if kind is ClassifyRequest:
            form = (
                '{"input": text or [texts], "method": "adapter", "student" or "icl"}, where an object of fields may be '
                "a text"
            )
        raise RefusalError(400, "bad_request", f"The body is not {form}: {message}.{hint}") from None
    texts = [item if isinstance(item, str) else "\n".join(item.values()) for item in request.inputs]
    if not texts:
        raise RefusalError(400, "no_text", f"There is nothing to {verb}: input is an empty list.")
    if len(texts) > limits.max_texts:
        raise RefusalError(
            400,
            "too_many_texts",
            f"{len(texts)} texts in one request; at most {limits.max_texts} are allowed. Send several requests.",
        )
    blank = [index for index, text in enumerate(texts) if not re.search(VISIBLE, text)]
    if blank:
        raise RefusalError(
            400, "blank_text", f"There is nothing to {verb} in the texts at {blank[:5]}. Leave them out."
        )
    too_long = [index for index, text in enumerate(texts) if len(text) > limits.max_text_chars]
    if too_long:
        raise RefusalError(
            400,
            "too_long",
            f"The texts at {too_long[:5]} have more than {limits.max_text_chars} characters. Shorten them.",
        )
    return request


def _has_half_a_pair(body: bytes) -> bool:
    """Whether a string has half of a surrogate pair, as JavaScript can cut texts; the parser reports another error."""
    if b"\\ud" not in body.lower():
        return False
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    except (ValueError, RecursionError):
        return False
    return False


def deadline_s(headers: Iterable[tuple[bytes, bytes]]) -> float:
    """Return the seconds within which a request with these headers wants its response; infinity without the header.

    Raises `RefusalError` for an invalid value.
    """
    values = (value for name, value in headers if name == DEADLINE.lower().encode())
    value = next(values, b"").strip()
    if not value:
        return math.inf
    if not (value.isdigit() and len(value) < 16 and int(value)):
        raise RefusalError(
            400,
            "bad_deadline",
            f"{DEADLINE}: {value[:20].decode('latin-1')!r} is not a number of milliseconds. Give a whole number of at "
            "least 1.",
        )
    return int(value) / 1000
