"""Addresses, HEAD and errors: the same at every route, and in front of replicas as in a single server."""

import asyncio
from typing import Any

import pytest

from fourshot.serving.answers import RefusalError
from fourshot.serving.app.conventions import Conventions, without_slash
from fourshot.serving.app.service import Caller
from fourshot.serving.settings import Limits
from tests.serving.app_in_process import Answer, InProcess, answer_to

TEXT = b'{"input": "The bolt is stuck"}'
PROXY = [("Host", "api.example"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Prefix", "/llm")]


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize("headers", [[], PROXY])
@pytest.mark.parametrize(
    ("method", "path", "code", "kind"),
    [
        ("POST", "/v1/classify/desk", 200, ""),
        ("POST", "/v1/classify/desk/", 200, ""),
        ("POST", "/v1/classify/desk//?x=1", 200, ""),
        ("GET", "/v1/tasks/", 200, ""),
        ("GET", "/v1/tasks/?all=1", 200, ""),
        ("GET", "/openapi.json/", 200, ""),
        ("GET", "/", 200, ""),
        ("POST", "/v1/classify/desk%2F", 404, "unknown_task"),  # a name that ends in a slash, and no other's
        ("POST", "/v1/classify/my-org%2Fdesk", 404, "unknown_task"),
        ("POST", "/v1/classify/my-org/desk", 404, "unknown_task"),
        ("POST", "/v1/classify/..%2Fdesk", 404, "unknown_task"),
        ("POST", "/v1/classify/desk%00", 404, "unknown_task"),
        ("POST", "/v1/classify/", 404, "not_found"),
        ("POST", "/classify/desk", 404, "not_found"),
        ("GET", "//v1/tasks", 404, "not_found"),
        ("GET", "/v1/classify/desk", 405, "method_not_allowed"),
        ("DELETE", "/v1/tasks", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/tasks", 405, "method_not_allowed"),
    ],
)
def test_an_address_is_answered_or_refused_in_one_form_and_redirects_nowhere(
    guarded: bool, headers: Any, method: str, path: str, code: int, kind: str
) -> None:
    async def run() -> None:
        service = InProcess()
        body = TEXT if method == "POST" else b""
        answer = await service.ask(method, path, body, headers, app=None if guarded else service.bare)
        assert answer.code == code, answer
        assert "location" not in answer.headers
        if kind:
            assert answer.error["type"] == kind and answer.headers["content-type"] == "application/json"
        if kind == "unknown_task":
            assert "Tasks are: desk, split." in answer.error["message"]
        if code == 405:
            assert answer.headers["allow"] in answer.error["message"]

    asyncio.run(run())


@pytest.mark.parametrize("path", ["/", "/v1/tasks", "/openapi.json", "/docs", "/v1/nothing", "/v1/classify/desk"])
def test_head_is_answered_as_get_without_the_body(path: str) -> None:
    head, get = answer_to("HEAD", path), answer_to("GET", path)
    assert (head.code, head.body) == (get.code, b"")
    if head.code < 400:
        assert head.headers["content-length"] == str(len(get.body))


@pytest.mark.parametrize(
    ("scope", "path", "raw"),
    [
        ({"path": "/a/b/", "raw_path": b"/a/b/"}, "/a/b", b"/a/b"),
        ({"path": "/a/b//", "raw_path": b"/a/b%2F/"}, "/a/b/", b"/a/b%2F"),
        ({"path": "/a/", "raw_path": b"/a%2F"}, "/a/", b"/a%2F"),
        ({"path": "/a/é/", "raw_path": b"/a/%C3%A9/?q=/"}, "/a/é", b"/a/%C3%A9"),
        ({"path": "//", "raw_path": b"//"}, "/", b"/"),
        ({"path": "/a//"}, "/a", None),
    ],
)
def test_only_slashes_that_were_sent_as_such_are_left_out(scope: dict[str, Any], path: str, raw: bytes | None) -> None:
    changed = {**scope, **without_slash(scope)}
    assert (changed["path"], changed.get("raw_path")) == (path, raw)


def test_errors_of_others_get_the_form_and_keep_code_and_headers() -> None:
    async def ask(status: int, kind: bytes, *parts: bytes) -> tuple[dict[str, Any], bytes]:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            headers = [(b"content-type", kind), (b"retry-after", b"3"), (b"content-length", b"99")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            for index, part in enumerate(parts):
                await send({"type": "http.response.body", "body": part, "more_body": index + 1 < len(parts)})

        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await Conventions(app)({"type": "http", "method": "POST", "path": "/x"}, None, send)
        return sent[0], b"".join(message.get("body", b"") for message in sent[1:])

    for status, kind, parts, expected in [
        (422, b"application/json", [b'{"detail": ', b'"No."}'], '"message":"No.","type":"unprocessable_'),
        (400, b"text/plain", [b"Bad thing"], '"message":"Bad thing","type":"bad_request"'),
        (500, b"text/plain", [b"Traceback ..."], '"message":"Internal Server Error."'),
        (503, b"text/html", [b""], '"message":"Service Unavailable.","type":"service_unavailable"'),
        (599, b"text/html", [b"<html>"], '"message":"Error.","type":"error","code":599'),
    ]:
        start, body = asyncio.run(ask(status, kind, *parts))
        headers = dict(start["headers"])
        assert expected in body.decode()
        assert (headers[b"retry-after"], headers[b"content-length"]) == (b"3", str(len(body)).encode())
    vllm_error = b'{"error":{"message":"m","type":"t","param":"model","code":404}}'  # vLLM's
    assert asyncio.run(ask(404, b"application/json", vllm_error))[1] == vllm_error
    long_parts = [b"x" * 50_000] * 3  # no error is so long: it is handed on as it comes
    assert asyncio.run(ask(500, b"text/plain", *long_parts))[1] == b"".join(long_parts)


def test_what_an_application_raises_is_told_in_the_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        service = InProcess()
        service.service.classify = None  # type: ignore[assignment, method-assign]
        answer = await service.ask("POST", "/v1/classify/desk", TEXT)
        assert (answer.code, answer.error["type"]) == (500, "fault")
        assert b"NoneType" not in answer.body

    asyncio.run(run())
    assert "NoneType" in caplog.text


def test_a_page_of_another_site_may_ask_where_its_origin_was_named() -> None:
    preflight = [
        ("Origin", "https://app.example"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization,content-type,x-deadline-ms"),
    ]

    def make_app() -> InProcess:
        return InProcess(Limits(max_body_bytes=100), cors_origins=("https://app.example",))

    answer = answer_to("OPTIONS", "/v1/classify/desk", b"", preflight, make_app=make_app)
    assert (answer.code, answer.headers["access-control-allow-origin"]) == (200, "https://app.example")
    refused = answer_to("POST", "/v1/classify/desk", b"x" * 101, [("Origin", "https://app.example")], make_app=make_app)
    assert refused.error["type"] == "too_large"  # which the page may read
    assert refused.headers["access-control-allow-origin"] == "https://app.example"
    other_site = answer_to(
        "OPTIONS", "/v1/classify/desk", b"", [("Origin", "https://b.example"), preflight[1]], make_app=make_app
    )
    assert (other_site.code, other_site.error["type"]) == (400, "cors") and "--cors-origin" in other_site.error[
        "message"
    ]
    plain = answer_to("OPTIONS", "/v1/classify/desk", b"", preflight)
    assert plain.code == 405 and "access-control-allow-origin" not in plain.headers


def test_a_page_may_send_headers_of_its_own_and_is_told_what_it_may_not() -> None:
    def preflight(*more: tuple[str, str], asked: str = "POST") -> Answer:
        usual = [("Origin", "https://app.example"), ("Access-Control-Request-Method", asked)]
        return answer_to(
            "OPTIONS",
            "/v1/chat/completions",
            b"",
            [*usual, *more],
            make_app=lambda: InProcess(Limits(), cors_origins=("https://app.example",)),
        )

    names = "authorization,content-type,x-stainless-arch,x-stainless-retry-count,traceparent"  # OpenAI's client
    answer = preflight(("Access-Control-Request-Headers", names))
    assert (answer.code, answer.headers["access-control-allow-headers"]) == (200, names)
    for refused, what in [
        (preflight(asked="DELETE"), "method"),
        (preflight(("Access-Control-Request-Private-Network", "true")), "private-network"),
    ]:
        assert (refused.code, refused.error["type"]) == (400, "cors")
        assert refused.error["message"] == f"Pages of this origin may send requests, but not with this {what}."


def test_an_address_without_a_slash_is_refused() -> None:
    answer = answer_to("OPTIONS", "*")
    assert (answer.code, answer.error["type"]) == (400, "bad_request")


def test_what_is_cut_off_at_the_stop_is_told_to_come_again() -> None:
    async def never(*_: Any) -> None:
        await asyncio.Event().wait()

    async def run() -> None:
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/classify/desk", "headers": []}
        cut_off = asyncio.create_task(Conventions(never)(scope, never, send))
        await asyncio.sleep(0)
        cut_off.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cut_off
        assert sent[0]["status"] == 503 and (b"retry-after", b"5") in sent[0]["headers"]

    asyncio.run(run())


def test_a_key_for_some_tasks_is_told_of_no_others() -> None:
    async def run(*tasks: str) -> str:
        service = InProcess().service
        with pytest.raises(RefusalError) as refused:
            await service.classify("nothing", TEXT, Caller(tasks=tasks))
        return str(refused.value)

    assert "Tasks are: desk, split." in asyncio.run(run())
    assert "Tasks are: split." in asyncio.run(run("split", "nothing"))
