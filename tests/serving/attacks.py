"""Tests that attack any service, of adapters or of students. A module that imports them has a fixture `service`."""

import socket
import time
from typing import Any

import pytest

from fourshot.serving.testing.server import RunningService


def version_of(service: RunningService, task: str) -> str:
    return next((str(info["adapter"]) for info in service.tasks()["tasks"] if info["task"] == task), "")


@pytest.mark.parametrize(
    ("task", "body", "code", "kind"),
    [
        ("nothing", {"input": "x"}, 404, "unknown_task"),
        ("task-0", {"input": []}, 400, "no_text"),
        ("task-0", {"input": ["fine", " \n"]}, 400, "blank_text"),
        ("task-0", {"input": ["x"] * 17}, 400, "too_many_texts"),
        ("task-0", {"input": 3}, 400, "bad_request"),
        ("task-0", {"text": "x"}, 400, "bad_request"),
        ("task-0", {"input": "x", "method": "magic"}, 400, "bad_request"),
        ("task-0", {"input": "x", "adapter": "/etc"}, 400, "bad_request"),
    ],
)
def test_a_request_that_cannot_be_answered_says_why(
    service: RunningService, task: str, body: Any, code: int, kind: str
) -> None:
    answer = service.classify(task, body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (code, kind)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b'{"input": "\xff"}', b"null", b"[" * 30_000, b'{"input": "\\ud800"}', b"0" * 30_000],
)
def test_what_is_no_request_is_refused(service: RunningService, body: bytes) -> None:
    answer = service.http.post("/v1/classify/task-0", content=body)
    assert answer.status_code in (200, 400, 413)
    assert answer.status_code != 200 or b"ud800" in body
    assert service.http.get("/health").status_code == 200


@pytest.mark.parametrize(
    "path",
    ["..%2f..%2fetc%2fpasswd", "%2e%2e", "task-0%00", "task-0/../task-1", "%ff", "a" * 5000, "task-0%0d%0aX: y"],
)
def test_a_path_leads_to_a_task_or_nowhere(service: RunningService, path: str) -> None:
    head = f"POST /v1/classify/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 14\r\nConnection: close\r\n\r\n"
    answer = raw(service, head.encode() + b'{"input": "x"}')
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400")), answer[:200]


def test_no_route_takes_an_adapter_by_its_path(service: RunningService) -> None:
    for route in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
        answer = service.http.post(route, json={"lora_name": "x", "lora_path": "/tmp"})
        assert answer.status_code == 404
    answer = service.http.post("/v1/completions", json={"model": "../../etc", "prompt": "x", "max_tokens": 1})
    assert answer.status_code == 404


def raw(service: RunningService, sent: bytes, wait_s: float = 20) -> bytes:
    """Send bytes. Return everything received until the service closes the connection."""
    host, port = service.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=wait_s) as connection:
        connection.sendall(sent)
        parts = []
        try:
            while part := connection.recv(65536):
                parts.append(part)
        except ConnectionError:
            pass
        return b"".join(parts)


def test_a_flood_of_headers_is_hung_up_on(service: RunningService) -> None:
    sent = b"GET /health HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"y" * 1000) for n in range(200))
    assert raw(service, sent) == b""
    assert service.http.get("/health").status_code == 200


def test_a_client_that_sends_its_headers_slowly_is_hung_up_on(service: RunningService) -> None:
    started = time.monotonic()
    assert raw(service, b"GET /health HTTP/1.1\r\nHost: x\r\n") == b""
    assert time.monotonic() - started < 10


def test_a_page_whose_name_was_made_to_lead_here_is_told_nothing(service: RunningService) -> None:
    for path in ("/", "/v1/tasks", "/openapi.json"):
        answer = service.http.get(path, headers={"Host": f"evil.example:{service.http.base_url.port}"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (421, "unknown_host")


def test_the_page_is_there(service: RunningService) -> None:
    answer = service.http.get("/")
    assert answer.status_code == 200 and "<!doctype html>" in answer.text.lower()
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_what_is_no_http_is_told_so_in_the_same_form(service: RunningService) -> None:
    answer = raw(service, b"GET /v1/tasks HTTP/9.9\r\nno header\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400") and b'"type":"bad_request"' in answer
