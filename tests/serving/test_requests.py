"""What the service makes of a body: what other servers' clients send, packed bodies, deadlines; no model."""

import asyncio
import gzip
import json
import zlib
from functools import partial
from typing import Any

import pytest

from fourshot.serving.settings import Limits
from tests.serving.app_in_process import Answer, InProcess, answer_to
from tests.waiting import until

gzipped = partial(gzip.compress, mtime=0)  # the same bytes in every process

DESK = "/v1/classify/desk"
TEXT = b'{"input": "The bolt is stuck"}'


@pytest.mark.parametrize(
    "added",
    [
        {"model": "desk"},
        {"model": None, "stream": True, "stream_options": {"include_usage": True}},
        {"user": "u-17", "metadata": {"trace": ["a1"]}},
        {"encoding_format": "base64", "model": "x"},
        {"store": False, "service_tier": "auto", "safety_identifier": "s", "prompt_cache_key": "p"},
    ],
)
def test_what_openai_clients_and_gateways_add_is_ignored(added: dict[str, Any]) -> None:
    answer = answer_to("POST", DESK, json.dumps({"input": ["x", "y"], **added}).encode())
    assert answer.code == 200, answer
    assert [result["label"] for result in json.loads(answer.body)["results"]] == ["lock", "lock"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"inputs": "x"}', "`inputs`. Did you mean 'input'?"),
        (b'{"input": "x", "abstain": 0.5}', "`abstain`. Did you mean 'abstain_below'?"),
        (b'{"input": "x", "dimensions": 3}', "`dimensions`"),
        (b'{"messages": [{"role": "user", "content": "x"}]}', "`messages`"),
        (b'{"input": [1, 2, 3]}', "$.input[0]"),
        (b'{"input": ["x", null]}', "$.input[1]"),
        (b'{"input": "x", "method": "ICL"}', "$.method"),
        (b'{"input": "one", "input": "two"}', "`input` twice"),
        (b'{"input": "x", "method": null, "method": "icl"}', "`method` twice"),
        (b'{"input": "one", "inp\\u0075t": "two"}', "`input` twice"),
        (b'{"in\\u0070ut": "one", "i\\u006Eput": "two"}', "`input` twice"),
        (b'{"input": {"subject": "a", "sub\\u006aect": "b", "body": "c"}}', "`subject` twice"),
        (b"input=The+bolt", "It looks like a form"),
        (b'--b\r\nContent-Disposition: form-data; name="input"\r\n\r\nx\r\n--b--', "multipart form"),
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"'{input: x}'", "quotes"),
        (json.dumps(json.dumps({"input": "x"})).encode(), "JSON twice over"),
        (b'{"input": "x", "metadata": {"n": 1e999}}', "out of range"),
        (b'{"input": {"subject": "a", "subject": "b", "body": "c"}}', "`subject` twice"),
        ('{"input": "x"}'.encode("utf-16-le"), "UTF-8"),
        (b'{"input": "broken \\ud83d smile"}', "half of a surrogate pair"),
        (b'{"input": ["fine", "a cut smile \\uD83D"]}', "half of a surrogate pair"),
        ('{"input": "x"}'.encode("utf-16"), "UTF-8"),
        (gzipped(TEXT), "Content-Encoding: gzip"),
        ('{"input": "\u200b\ufeff"}'.encode(), "nothing to classify"),
        ('{"input": ["x", "\u2060\u00ad \u3164"]}'.encode(), "at [1]"),
    ],
)
def test_what_is_no_request_is_refused_by_name(body: bytes, message: str) -> None:
    answer = answer_to("POST", DESK, body)
    assert answer.code == 400 and message in answer.error["message"], answer


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + TEXT,  # PowerShell's
        b'{"input": "say \\"input\\" and \\"input\\""}',
        b'{"input": "x", "metadata": {"input": 1}}',
        '{"input": "👩\u200d🚒"}'.encode(),
        '{"input": "\u202b\u05e9\u05dc\u05d5\u05dd\u202c"}'.encode(),
        b'{"input": "x", "method": null}',
    ],
)
def test_what_only_looks_strange_is_answered(body: bytes) -> None:
    assert answer_to("POST", DESK, body).code == 200


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"subject": "Door", "body": "It is stuck"}, ""),
        ([{"subject": "Door", "body": "It is stuck"}, "Subject: Door\nBody: Stuck"], ""),
        ("It is stuck", "The input at 0: an input of the task split is an object with the fields subject, body"),
        ([{"subject": "a", "body": "b"}, {"subject": "a"}], "The input at 1: the field 'body' is missing"),
        ({"subject": "a", "body": " "}, "the field 'body' is blank"),
        ({"subject": "\u200b", "body": ""}, "nothing to classify"),
        ({"subject": "a", "body": 3}, "$.input"),
    ],
)
def test_an_input_with_fields_is_an_object(value: Any, message: str) -> None:
    answer = answer_to("POST", "/v1/classify/split", json.dumps({"input": value}).encode())
    assert answer.code == (400 if message else 200), answer
    assert not message or message in answer.error["message"]
    assert "Give a string" in answer_to("POST", DESK, b'{"input": {"subject": "a"}}').error["message"]


def packed(body: bytes, encoding: str, **more: Any) -> Answer:
    return answer_to("POST", DESK, body, [("Content-Encoding", encoding), ("Content-Length", str(len(body)))], **more)


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", "deflate", "identity", "identity, gzip", ""])
def test_a_packed_body_is_unpacked(encoding: str) -> None:
    body = {"deflate": zlib.compress(TEXT), "identity": TEXT, "": TEXT}.get(encoding, gzipped(TEXT))
    assert packed(body, encoding).code == 200


def test_what_is_packed_without_a_head_or_has_zeros_behind_it_is_unpacked_too() -> None:
    assert packed(zlib.compress(TEXT)[2:-4], "deflate").code == 200  # .NET's DeflateStream
    assert packed(gzipped(TEXT) + bytes(20), "gzip").code == 200


def test_a_message_does_not_repeat_all_that_was_sent() -> None:
    for path, body in [
        (DESK, json.dumps({"input": "x", "y" * 50_000: 1})),
        (DESK, json.dumps({"input": "x", "method": "y" * 50_000})),
        (f"/v1/classify/{'y' * 5000}", TEXT.decode()),
    ]:
        answer = answer_to("POST", path, body.encode())
        assert "yyy" in answer.error["message"] and len(answer.body) < 1000


def test_members_of_a_gzip_file_are_one_body() -> None:
    assert packed(gzipped(TEXT[:9]) + gzipped(TEXT[9:]), "gzip").code == 200
    of_many = packed(gzipped(b"") * 1000 + gzipped(TEXT), "gzip")  # 50,000 fit into a body, and took seconds
    assert (of_many.code, of_many.error["type"]) == (400, "bad_encoding")


@pytest.mark.parametrize(
    ("body", "encoding", "code", "kind"),
    [
        (TEXT, "br", 415, "unknown_encoding"),
        (gzipped(gzipped(TEXT)), "gzip, gzip", 415, "unknown_encoding"),
        (TEXT, "gzip", 400, "bad_encoding"),
        (gzipped(TEXT)[:-9], "gzip", 400, "bad_encoding"),
        (gzipped(b" " * 5000), "gzip", 413, "too_large"),
        (gzipped(b" " * 900) + gzipped(b" " * 900), "gzip", 413, "too_large"),
        (gzipped(b"[" * 900), "gzip", 400, "too_deep"),
    ],
)
def test_a_body_that_cannot_be_unpacked_says_why(body: bytes, encoding: str, code: int, kind: str) -> None:
    answer = packed(body, encoding, make_app=lambda: InProcess(Limits(max_body_bytes=1000)))
    assert (answer.code, answer.error["type"]) == (code, kind)
    assert ("gzip" in answer.headers.get("accept-encoding", "")) == (code == 415)


@pytest.mark.parametrize("value", ["", "0", "-5", "1.5", "soon", "9" * 16, "٣", "\xb2"])
def test_a_deadline_is_a_whole_number_of_milliseconds(value: str) -> None:
    answer = answer_to("POST", DESK, TEXT, [("X-Deadline-Ms", value.encode())])
    assert answer.code == (400 if value else 200)
    if value:
        assert answer.error["type"] == "bad_deadline"


def test_what_cannot_be_answered_by_its_deadline_is_refused_at_once_and_what_was_not_is_given_up() -> None:
    async def run() -> None:
        service = InProcess(tokens_per_s=100.0)
        service.scorer.answers.clear()
        waiting = asyncio.create_task(service.ask("POST", DESK, json.dumps({"input": ["x " * 90] * 10}).encode()))
        while not service.dispatcher.num_waiting:
            await asyncio.sleep(0)
        refused = await service.ask("POST", DESK, TEXT, [("X-Deadline-Ms", "2000")])
        assert (refused.code, refused.error["type"]) == (429, "deadline")
        assert int(refused.headers["retry-after"]) >= 1 and "within 2 s" in refused.error["message"]
        late = await service.ask("POST", DESK, TEXT, [("X-Deadline-Ms", "30")], peer="192.0.2.2")
        assert (late.code, late.error["type"], late.headers["retry-after"]) == (504, "timeout", "1")
        assert "X-Deadline-Ms" in late.error["message"]
        service.scorer.answers.set()
        assert (await waiting).code == 200

    asyncio.run(run())


def test_a_client_that_leaves_is_no_fault_of_the_service() -> None:
    async def run() -> dict[int, float]:
        app = InProcess()
        app.scorer.answers.clear()
        asking = asyncio.create_task(app.service.classify("desk", TEXT))
        await until(lambda: app.service.tasks(False).tasks[0].in_flight == 1)
        asking.cancel()
        await asyncio.wait([asking])
        counted = app.service.metrics.requests
        return {code: counted.labels("desk", "icl", code)._value.get() for code in (499, 500)}

    assert asyncio.run(run()) == {499: 1, 500: 0}
