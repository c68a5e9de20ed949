"""Under which names a service answers: no page of another site reaches one without keys."""

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from fourshot.serving.app.guard import Guard
from fourshot.serving.app.hosts import hosts_of, names_given
from fourshot.serving.app.keys import Keys, add_key
from fourshot.serving.fleet.launch import prepare
from fourshot.serving.fleet.supervisor import replica_settings
from fourshot.serving.settings import Limits, ServeSettings
from fourshot.serving.testing.adapters import task_of
from tests.serving.random_students import make_student
from tests.serving.test_commands import root, run_command, unstarted
from tests.serving.test_guard import Answer, App, ask

__all__ = ("root", "unstarted")  # fixtures

OWN = ("localhost", "LOCALHOST:8000", "localhost.", "app.localhost:3000", "127.0.0.1:8000", "127.1.2.3", "[::1]:8000")
FOREIGN = ("evil.example", "evil.example:8000", "localhost.evil.example", "192.0.2.7", "[2001:db8::1]:80", "[::1]x")


def answered(hosts: Sequence[str], allowed: tuple[str, ...], path: str = "/v1/tasks") -> list[Answer]:
    """What a guard says to each value of the header Host."""

    async def run() -> list[Answer]:
        guard = Guard(App(), Limits(), allowed_hosts=allowed)
        return [await ask(guard, path, method="GET", headers={"Host": host}) for host in hosts]

    return asyncio.run(run())


def test_a_page_of_another_site_does_not_reach_a_service_by_its_own_name() -> None:
    assert {code for code, _, _ in answered(OWN, ("127.0.0.1",))} == {200}
    for path in ("/", "/v1/tasks", "/docs", "/openapi.json", "/metrics", "/v1/completions"):
        for code, body, _ in answered(FOREIGN, ("127.0.0.1",), path):
            assert (code, body["error"]["type"]) == (421, "unknown_host") and "--allowed-hosts" in body["error"][
                "message"
            ]
    assert {code for code, _, _ in answered(FOREIGN, ("127.0.0.1",), "/health")} == {200}, "balancers ask by addresses"
    assert {code for code, _, _ in answered(FOREIGN, ())} == {200}, "any name, where nothing is said"


def test_names_that_are_allowed_are_answered_whatever_the_port_and_how_they_are_written() -> None:
    allowed = names_given(("Classify.Example", "[2001:0db8::1]", "192.0.2.7"))
    named = ("classify.example", "CLASSIFY.example.:8443", "[2001:db8:0::1]:80", "192.0.2.7:8000", *OWN, "", ":8000")
    assert {code for code, _, _ in answered(named, allowed)} == {200}
    assert {code for code, _, _ in answered(("example", "a.classify.example", "192.0.2.8"), allowed)} == {421}


def test_a_program_that_names_no_host_is_answered() -> None:
    """HTTP/1.0 has no such header; no browser leaves it out."""
    assert asyncio.run(ask(Guard(App(), Limits(), allowed_hosts=("127.0.0.1",))))[0] == 200


@pytest.mark.parametrize(
    ("host", "address", "given", "allowed"),
    [
        ("127.0.0.1", "127.0.0.1", (), ("127.0.0.1",)),
        ("Box", "127.0.1.1", (), ("box",)),  # a name of this machine in its own list of hosts
        ("::1", "::1", (), ("::1",)),
        ("0.0.0.0", "0.0.0.0", (), ()),
        ("10.0.0.5", "10.0.0.5", (), ()),
        ("10.0.0.5", "10.0.0.5", ("a.example",), ("10.0.0.5", "a.example")),
        ("127.0.0.1", "127.0.0.1", ("a.example", "*"), ()),
    ],
)
def test_without_keys_a_service_for_this_machine_alone_goes_by_its_own_names(
    host: str, address: str, given: tuple[str, ...], allowed: tuple[str, ...]
) -> None:
    settings = ServeSettings(adapters="", host=host, allowed_hosts=given)
    assert hosts_of(settings, address) == allowed


def test_with_keys_any_name_will_do_unless_names_are_given() -> None:
    assert hosts_of(ServeSettings(adapters="", keys="k.toml"), "127.0.0.1") == ()
    settings = ServeSettings(adapters="", keys="k.toml", allowed_hosts=("a.example",))
    assert hosts_of(settings, "127.0.0.1") == ("127.0.0.1", "a.example")


def test_a_service_is_prepared_with_its_names_and_its_replicas_leave_them_to_the_router(tmp_path: Path) -> None:
    make_student(tmp_path / "served", task_of("mood"))
    launch = prepare(ServeSettings(adapters=str(tmp_path / "served"), port=0))
    with launch.listening, socket.socket() as other:
        assert launch.settings.allowed_hosts == ("127.0.0.1",)
        other.bind(("127.0.0.1", 0))
        assert replica_settings(launch.settings, "127.0.0.1", other, tmp_path).allowed_hosts == ()
    add_key(tmp_path / "keys.toml", "a")
    launch = prepare(ServeSettings(adapters=str(tmp_path / "served"), port=0, keys=str(tmp_path / "keys.toml")))
    with launch.listening:
        assert Keys(launch.settings.keys) and launch.settings.allowed_hosts == ()


@pytest.mark.parametrize(
    "name", ["https://a.example", "a.example:8000", "a.example/x", "*.a.example", "b\u00fccher.example"]
)
def test_what_is_no_name_of_a_host_is_bad_input(root: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    code, text = run_command(capfd, "serve", "--adapters", str(root), "--allowed-hosts", f"b.example,{name}")
    assert code == 2 and f"--allowed-hosts {name}: this is not the name of a host" in text
