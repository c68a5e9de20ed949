"""Addresses of IPv6: given with brackets and without, printed with them, and counted by the client that has them."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from fourshot.cli import main as cli
from fourshot.engine.errors import InputError
from fourshot.serving.app.guard import client_of_address
from fourshot.serving.app.protocol import server_config
from fourshot.serving.fleet.launch import ServiceLaunch, prepare
from fourshot.serving.fleet.supervisor import listen
from fourshot.serving.settings import Limits, ServeSettings
from fourshot.serving.testing.adapters import task_of
from tests.serving.app_in_process import InProcess
from tests.serving.fake_server import FakeService, served
from tests.serving.random_students import make_student


def test_a_service_takes_an_address_with_and_without_brackets_and_prints_it_with_them(tmp_path: Path) -> None:
    make_student(tmp_path, task_of("tone"))
    for host in ("[::1]", "::1", " [::1] "):
        launch = prepare(ServeSettings(adapters=str(tmp_path), host=host, port=0))
        with launch.listening:
            assert launch.listening.family is socket.AF_INET6
            assert launch.settings.host == "::1"
            assert launch.address == f"http://[::1]:{launch.listening.getsockname()[1]}"


@pytest.mark.parametrize("host", ["", "  "])
def test_no_host_is_not_taken_for_every_address(tmp_path: Path, host: str) -> None:
    with pytest.raises(InputError, match=r"--host is empty, .*0\.0\.0\.0 or :: for all"):
        prepare(ServeSettings(adapters=str(tmp_path), host=host))


@pytest.mark.parametrize(
    ("host", "address"), [("::", "[::]"), ("127.0.0.1", "127.0.0.1"), ("fe80::1", "[fe80::1]"), ("desk", "desk")]
)
def test_the_address_that_is_printed(host: str, address: str) -> None:
    nothing: Any = None
    settings = ServeSettings(adapters="", host=host)
    launch = ServiceLaunch(settings=settings, contents=nothing, listening=nothing, replicas=1, ray="")
    assert launch.address == f"http://{address}:8000"


def test_a_name_is_listened_on_by_whichever_address_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    with listen("localhost", 0) as listening:
        assert listening.family is socket.AF_INET
    find = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _, port, **options: find("::1", port, **options))
    bound: list[socket.AddressFamily] = []
    monkeypatch.setattr(socket.socket, "bind", lambda self, _: bound.append(self.family))
    with listen("six.example", 0):
        assert bound == [socket.AF_INET6]


def test_the_command_asks_a_service_at_such_an_address(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(FakeService, "address_family", socket.AF_INET6)
    monkeypatch.setattr(FakeService, "host", "::1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with served(FakeService()) as service:
        port = service.server_address[1]
        assert cli.main(["predict", "--url", f"http://[::1]:{port}", "tone", "so good"]) == 0
        assert capfd.readouterr().out == "good\t0.750\tso good\n"
        assert cli.main(["predict", "--url", f"[::1]:{port}", "tone", "so good"]) == 2
        assert "http:// or https:// is missing" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("address", "home"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("a name", "a name"),
    ],
)
def test_whose_an_address_is(address: str, home: str) -> None:
    assert client_of_address(address) == home


def test_a_client_does_not_get_around_its_limit_with_other_addresses_of_its_own() -> None:
    async def run() -> list[int]:
        app = InProcess(Limits(max_concurrent=1))
        app.scorer.answers.clear()
        ask: Any = lambda peer: app.ask("POST", "/v1/classify/desk", b'{"input": "x"}', peer=peer)  # noqa: E731
        first = asyncio.ensure_future(ask("2001:db8::1"))
        await asyncio.sleep(0.05)
        second = await ask("2001:db8::2")
        app.scorer.answers.set()
        return [(await first).code, second.code, (await ask("2001:db8:0:1::1")).code]

    assert asyncio.run(run()) == [200, 429, 200]


def test_a_proxy_on_this_machine_is_believed_where_the_service_listens_at_all_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["client"][0])

    config: uvicorn.Config = server_config(app, ServeSettings(adapters="", host="::"))
    config.app = app  # without the guard
    config.load()
    for peer in ("::ffff:127.0.0.1", "::1", "127.0.0.1", "::ffff:192.0.2.1"):
        scope = {"type": "http", "headers": [(b"x-forwarded-for", b"203.0.113.9")], "client": (peer, 1)}
        asyncio.run(config.loaded_app(scope, None, None))
    assert seen == ["203.0.113.9"] * 3 + ["::ffff:192.0.2.1"]
