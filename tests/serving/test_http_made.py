"""Requests that hypothesis makes: whatever comes, the answer is one of those documented, and the log has no trace.

FOURSHOT_EXAMPLES=10000 tries as many; a few, always the same, are tried otherwise.
"""

import asyncio
import gzip
import json
import logging
import os
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fourshot.serving.app.keys import Keys, add_key
from fourshot.serving.settings import Limits
from tests.serving.app_in_process import InProcess

gzipped = partial(gzip.compress, mtime=0)  # the same bytes in every process

EXAMPLES = int(os.environ.get("FOURSHOT_EXAMPLES", "0"))
LIMITS = Limits(max_body_bytes=4000, max_texts=5, max_text_chars=200, timeout_s=5)
CODES = {200, 400, 401, 403, 404, 405, 408, 413, 415, 429}  # no 5xx: nothing of the service has failed
OPEN = ("/docs", "/redoc", "/openapi.json", "/")  # answer with something else than our JSON

text = st.text(max_size=30) | st.sampled_from(["\u200b", "\ud800", "\x00", "é", "../", "%2f", "null", "٣", " "])
scalar = st.none() | st.booleans() | st.integers() | st.floats() | text
value = st.recursive(scalar, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4))
FIELDS = (
    "input",
    "method",
    "model",
    "user",
    "stream",
    "encoding_format",
    "metadata",
    "inputs",
    "messages",
    "dimensions",
)
usual = st.fixed_dictionaries(
    {"input": st.lists(text, max_size=7) | text},
    optional={"method": st.sampled_from(["icl", "adapter", "ICL", None, 3]), "model": value, "user": value},
)
described = usual | st.dictionaries(st.sampled_from(FIELDS) | text, value, max_size=5) | value


def encoded(document: object) -> bytes:
    return json.dumps(document).encode()


body = (
    described.map(encoded)
    | described.map(lambda document: b"\xef\xbb\xbf" + encoded(document))
    | described.map(lambda document: gzipped(encoded(document)))
    | described.map(lambda document: zlib.compress(encoded(document)))
    | st.tuples(described, st.integers(0, 60)).map(lambda document: encoded(document[0])[: document[1]])
    | st.tuples(described, st.integers(0, 40)).map(lambda document: gzipped(encoded(document[0]))[: document[1]])
    | st.binary(max_size=200)
    | st.sampled_from([b"", b"[" * 3000, b"{" * 50, b" " * 5000, gzipped(b" " * 100_000), b'{"input":"a",' * 99])
)
segment = st.sampled_from(["v1", "classify", "tasks", "desk", "docs", "files", "..", ".", "", "health"]) | st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="?#/"), max_size=12
)
KNOWN = [
    "/", "/v1/classify/desk", "/v1/classify/desk/", "/v1/tasks", "/v1/tasks?all=1", "/v1/tasks?all=é", "/openapi.json",
    "/docs", "/redoc/", "/docs/files/swagger-ui.css", "/docs/files/../x", "/v1/classify/%00", "/v1/classify/%ff%2F",
]  # fmt: skip
path = st.sampled_from(KNOWN) | st.lists(segment, max_size=6).map(lambda parts: "/" + "/".join(parts))
latin = st.binary(max_size=40).map(lambda raw: raw.translate(None, b"\r\n\0"))
header = (
    st.tuples(st.sampled_from(["Content-Encoding"]), st.sampled_from(["gzip", "deflate", "br", "gzip,gzip", ""]))
    | st.tuples(st.sampled_from(["X-Deadline-Ms"]), st.integers(-1, 10**17).map(str) | latin)
    | st.tuples(st.sampled_from(["Content-Length"]), st.sampled_from(["0", "9", "99999", "x", "-1", "9" * 5000, "²"]))
    | st.tuples(st.sampled_from(["Authorization"]), st.sampled_from(["Bearer fs-x", "Bearer", "Basic eDp4"]) | latin)
    | st.tuples(st.sampled_from(["Origin"]), st.sampled_from(["https://app.example", "null"]) | latin)
    | st.tuples(
        st.sampled_from(["Access-Control-Request-Method", "Access-Control-Request-Headers", "Host", "X-Forwarded-For"])
        | st.sampled_from(["Content-Type", "Accept", "Cookie", "Expect", "X-Fourshot-Asker", "Range", "If-None-Match"]),
        st.sampled_from(["POST", "*/*", "a/b; charset=x", "bytes=0-9,99-"]) | latin,
    )
)
method = st.sampled_from(["POST"] * 4 + ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "X"])


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, list[InProcess], str]]:
    """Open, with keys, and with pages of other sites."""
    file: Path = tmp_path_factory.mktemp("keys") / "keys.toml"
    key = add_key(file, "limited", ("desk",))
    with asyncio.Runner() as runner:
        apps = [
            InProcess(LIMITS),
            InProcess(LIMITS, Keys(file)),
            InProcess(LIMITS, cors_origins=("https://app.example",)),
        ]
        yield runner, apps, key


@settings(
    max_examples=EXAMPLES or 150,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    app_index=st.integers(0, 2),
    with_key=st.booleans(),
    request=st.tuples(method, path, body, st.lists(header, max_size=4)),
    pieces=st.integers(1, 3),
)
def test_every_answer_is_one_of_those_documented(
    services: tuple[asyncio.Runner, list[InProcess], str],
    caplog: pytest.LogCaptureFixture,
    app_index: int,
    with_key: bool,
    request: tuple[str, str, bytes, list[tuple[str, str | bytes]]],
    pieces: int,
) -> None:
    runner, apps, key = services
    verb, at, sent, headers = request
    headers = [(name, value.encode() if isinstance(value, str) else value) for name, value in headers]
    if with_key:
        headers.append(("Authorization", f"Bearer {key}".encode()))
    parts = [
        sent[start : start + len(sent) // pieces + 1] for start in range(0, len(sent) or 1, len(sent) // pieces + 1)
    ]
    caplog.clear()
    answer = runner.run(apps[app_index].ask(verb, at, headers=headers, parts=parts))
    assert answer.code in CODES or (at.startswith("/docs/files") and answer.code in (206, 304, 416)), answer
    assert "location" not in answer.headers
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    if verb == "HEAD":
        assert answer.body == b""
    elif answer.code >= 400:
        assert answer.error["message"] and answer.headers["content-type"] == "application/json"
    elif answer.code == 200 and at.startswith("/v1/"):
        json.loads(answer.body)
    assert b"Traceback" not in answer.body
