"""What stands before every route: keys, and bounds on size, depth, time and number."""

import asyncio
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fourshot.cli import main as cli
from fourshot.engine.errors import InputError
from fourshot.serving.app.guard import ACCESS, Guard, json_depth
from fourshot.serving.app.keys import Keys, add_key, read_keys, remove_key
from fourshot.serving.settings import Limits

Answer = tuple[int, Any, dict[str, str]]


class App:
    """Says what it was asked; waits until its test lets it go."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, bytes, Any]] = []
        self.wait = asyncio.Event()
        self.wait.set()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body = (await receive())["body"] if scope["type"] == "http" else b""
        self.requests.append((scope["path"], body, scope.get(ACCESS)))
        await self.wait.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'"fine"'})


async def ask(
    guard: Guard,
    path: str = "/v1/classify/mood",
    *,
    parts: Sequence[bytes] = (b"{}",),
    headers: dict[str, str] | None = None,
    method: str = "POST",
    stop_sending: bool = False,
    peer: str = "192.0.2.1",
) -> Answer:
    """What comes back for one request; ``stop_sending`` never sends the last part."""
    raw_headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    waiting, sent = list(parts), []

    async def receive() -> dict[str, Any]:
        if not waiting or (stop_sending and len(waiting) == 1):
            await asyncio.Event().wait()
        body = waiting.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(waiting)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "path": path, "method": method, "headers": raw_headers, "client": (peer, 1)}
    await guard(scope, receive, send)
    status, body = sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])
    return status, json.loads(body), {name.decode(): value.decode() for name, value in sent[0]["headers"]}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def test_without_a_key_file_everybody_may_ask() -> None:
    app = App()
    assert asyncio.run(ask(Guard(app, Limits(), None)))[0] == 200
    assert app.requests == [("/v1/classify/mood", b"{}", None)]


def test_with_one_only_its_keys_may(file: Path) -> None:
    key = add_key(file, "one")
    app = App()
    guard = Guard(app, Limits(), Keys(file))
    for headers in ({}, bearer(key[:-1]), bearer(key + "x"), {"Authorization": key}, bearer("\xff\xfe")):
        status, body, answer_headers = asyncio.run(ask(guard, headers=headers))
        assert (status, body["error"]["code"], answer_headers["www-authenticate"]) == (401, 401, "Bearer")
    assert app.requests == []
    assert asyncio.run(ask(guard, headers=bearer(key)))[0] == 200
    for path in ("/health", "/", "/docs", "/redoc", "/docs/files/swagger-ui.css"):
        assert asyncio.run(ask(guard, path, method="GET"))[0] == 200
    for path in ("/metrics", "/v1/models", "/openapi.json", "/health/../v1/tasks", "/docs/files/../../v1/tasks"):
        assert asyncio.run(ask(guard, path, method="GET"))[0] == 401


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "no key in the request"),
        ({"Authorization": "fs-secret"}, "needs two"),
        ({"Authorization": "Bearer "}, "needs two"),
        ({"Authorization": "Basic OmZz"}, "does not begin with Bearer"),
        ({"Authorization": 'Bearer "fs-secret"'}, "not known here"),
        ({"X-API-Key": "fs-secret"}, "in the header x-api-key, which is not read"),
        ({"api-key": "fs-secret"}, "in the header api-key"),
    ],
)
def test_who_shows_no_key_that_counts_is_told_why(file: Path, headers: dict[str, str], message: str) -> None:
    add_key(file, "all")
    code, body, _ = asyncio.run(ask(Guard(App(), Limits(), Keys(file)), headers=headers))
    assert code == 401 and message in body["error"]["message"]
    assert "Authorization: Bearer KEY" in body["error"]["message"] and "secret" not in body["error"]["message"]


def test_a_key_for_some_tasks_may_nothing_else(file: Path) -> None:
    key = add_key(file, "limited", ("mood", "tone"))
    app = App()
    guard = Guard(app, Limits(), Keys(file))
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/models", "/metrics", "/tokenize"):
        status, body, _ = asyncio.run(ask(guard, path, headers=bearer(key)))
        assert (status, body["error"]["type"]) == (403, "forbidden")
    assert asyncio.run(ask(guard, headers=bearer(key)))[0] == 200
    access = app.requests[0][2]
    assert access.may_ask("mood") and access.may_ask("tone") and not access.may_ask("other")


def test_a_key_that_is_taken_out_stops_working(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fourshot.serving.app.guard.READ_KEYS_EVERY_S", 0.0)
    first, second = add_key(file, "first"), add_key(file, "second")
    guard = Guard(App(), Limits(), Keys(file))
    assert asyncio.run(ask(guard, headers=bearer(first)))[0] == 200
    remove_key(file, "first")
    assert asyncio.run(ask(guard, headers=bearer(first)))[0] == 401
    file.write_text("[[key]\n")  # somebody is editing it
    assert asyncio.run(ask(guard, headers=bearer(second)))[0] == 200


def test_the_file_holds_no_key_and_is_read_by_nobody_else(file: Path) -> None:
    key = add_key(file, "one", ("mood",), 3)
    assert key not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    (stored,) = read_keys(file)
    assert (stored.name, stored.tasks, stored.max_concurrent) == ("one", ("mood",), 3)
    with pytest.raises(InputError, match="already has a key called 'one'"):
        add_key(file, "one")
    with pytest.raises(InputError, match="no key called 'two'"):
        remove_key(file, "two")
    remove_key(file, "one")
    with pytest.raises(InputError, match="holds no key"):
        Keys(file)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_key_file_may_begin_with_a_mark_and_end_its_lines_as_windows_does(file: Path, encoding: str) -> None:
    key = add_key(file, "one")
    file.write_bytes(file.read_text().replace("\n", "\r\n").encode(encoding))
    assert asyncio.run(ask(Guard(App(), Limits(), Keys(file)), headers=bearer(key)))[0] == 200


def test_a_key_has_a_name_and_a_restriction_that_is_empty_opens_nothing(
    file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for words in (["--name", "", "--tasks", ","], ["--name", "a", "--tasks", ""]):
        with pytest.raises(SystemExit) as exited:
            cli.main(["keys", "add", str(file), *words])
        assert exited.value.code == 2 and "contains no name" in capfd.readouterr().err
    assert cli.main(["keys", "add", str(file), "--name", " "]) == 2
    assert "--name is blank" in capfd.readouterr().err
    with pytest.raises(InputError, match="--max-concurrent -1"):
        add_key(file, "one", max_concurrent=-1)
    assert not file.exists()


HASH = "0" * 64


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"[[key]]\nname = 'a'\nsha256 = '{HASH}'\ntasks = []", "tasks of the key 'a' is empty"),
        (f"[[key]]\nname = 'a'\nsha256 = '{HASH}'\ntasks = [' ']", "tasks of the key 'a' is empty"),
        (f"[[key]]\nname = 'a'\nsha256 = '{HASH}'\nmax_concurrent = -1", "max_concurrent"),
        ("[[key]]\nname = 1\nsha256 = ''", "Expected `str`"),
        ("[[key]]\nname='a'\nsha256='b'\nmay='all'", "sha256|unknown field"),
        ("[[key]]\nname='a'\nsha256='\u00e4'", r"\[0-9a-f\]\{64\}.* at `\$\.key\[0\]\.sha256`"),
        (f"[[key]]\nname=' '\nsha256='{HASH}'", r"at `\$\.key\[0\]\.name`"),
    ],
)
def test_a_faulty_key_file_is_bad_input(file: Path, text: str, reason: str) -> None:
    file.write_text(text)
    with pytest.raises(InputError, match=reason):
        Keys(file)
    file.write_text(text, encoding="utf-16")
    with pytest.raises(InputError, match="not UTF-8"):
        Keys(file)


def test_a_body_beyond_the_limit_is_refused_before_it_is_read() -> None:
    guard = Guard(app := App(), Limits(max_body_bytes=100), None)
    status, body, answer_headers = asyncio.run(ask(guard, headers={"Content-Length": "101"}))
    assert (status, body["error"]["type"], answer_headers["connection"]) == (413, "too_large", "close")
    assert asyncio.run(ask(guard, parts=[b"x" * 60, b"x" * 60]))[0] == 413  # sent in chunks, length unsaid
    assert asyncio.run(ask(guard, parts=[b"x" * 50, b"x" * 50]))[0] == 200
    assert [len(body) for _, body, _ in app.requests] == [100]


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    guard = Guard(app := App(), Limits(body_timeout_s=0.05), None)
    status, body, _ = asyncio.run(ask(guard, parts=[b"{", b"}"], stop_sending=True))
    assert (status, body["error"]["type"]) == (408, "timeout")
    assert app.requests == []


def test_deep_nesting_is_refused_and_brackets_in_texts_are_not() -> None:
    guard = Guard(App(), Limits(max_json_depth=20), None)
    assert asyncio.run(ask(guard, parts=[b"[" * 100_000]))[1]["error"]["type"] == "too_deep"
    assert asyncio.run(ask(guard, parts=[b'{"a":' * 21 + b"1" + b"}" * 21]))[0] == 400
    text = json.dumps({"input": "[" * 1000 + '"{{{\\' + "[" * 100})
    assert asyncio.run(ask(guard, parts=[text.encode()]))[0] == 200


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        ('{"a": [1, {"b": 2}]}', 3),
        ('{"a": "[[[", "b": "\\"[[", "c": "\\\\", "d": [1]}', 2),
        ("[]" * 50, 1),
        ("]" * 50, 0),
    ],
)
def test_depth_is_that_of_brackets_outside_strings(monkeypatch: pytest.MonkeyPatch, text: str, depth: int) -> None:
    monkeypatch.setattr("fourshot.serving.app.guard.SHALLOW", 0)
    assert json_depth(text.encode(), 32) == depth


def test_only_a_browsers_preflight_comes_by_without_a_key(file: Path) -> None:
    add_key(file, "k")
    guard = Guard(app := App(), Limits(), Keys(file))
    assert asyncio.run(ask(guard, "/metrics", method="OPTIONS"))[0] == 401
    assert asyncio.run(ask(guard, "/metrics", method="OPTIONS", headers={"Origin": "https://a.example"}))[0] == 401
    assert app.requests == []
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    assert asyncio.run(ask(guard, method="OPTIONS", headers=preflight))[0] == 200


def test_depth_is_counted_no_further_than_it_matters() -> None:
    assert json_depth(b"[" * 40 + b"]" * 40, 32) > 32
    assert json_depth(b"[]" * 500_000, 32) == 1
    assert json_depth(b"{}}" * 100_000, 32) == 1


def test_a_key_file_with_a_fault_is_logged_once(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fourshot.serving.app.guard.READ_KEYS_EVERY_S", 0.0)
    key = add_key(file, "a")
    guard = Guard(App(), Limits(), Keys(file))
    file.write_text("[[key")
    with caplog.at_level(logging.WARNING, "fourshot.serving"):
        for _ in range(3):
            assert asyncio.run(ask(guard, headers=bearer(key)))[0] == 200
    assert caplog.text.count("the keys that were loaded before stay valid") == 1
