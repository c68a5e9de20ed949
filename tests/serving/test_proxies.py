"""The environment's proxies: never in the way of this machine, and told by name where they cannot be used."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from fourshot import InputError
from fourshot.serving.clients import proxies
from fourshot.serving.clients.client import AsyncClient, Client
from fourshot.serving.clients.remote.endpoint import Endpoint
from fourshot.serving.clients.remote.settings import RemoteSettings
from tests.serving.fake_server import FakeService, served, unused_url

VARIABLES = [f"{kind}_proxy" for kind in ("http", "https", "all", "no")]
SOCKS = "socks5://127.0.0.1:1080"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


ODD = [
    {"ALL_PROXY": SOCKS},
    {"all_proxy": "socks5h://user:pass@[::1]:1080"},
    {"HTTP_PROXY": "ftp://proxy"},
    {"HTTP_PROXY": "http://proxy:port"},
    {"HTTP_PROXY": "http://proxy", "NO_PROXY": "localhost,[::1]"},
    {"HTTP_PROXY": "proxy:3128", "NO_PROXY": "localhost,fd07:b51a::/64,,*.internal,10.0.0.0/8,http://x:y"},
]


@pytest.mark.parametrize("variables", ODD)
def test_this_machine_is_asked_whatever_the_variables_say(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with served(FakeService()) as service:
        port = service.url.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost", "LOCALHOST"):
            with Client(f"http://{host}:{port}") as client:
                assert client.classify("tone", "good").results[0].label == "good"


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.9.9.9", True), ("::1", True), ("::ffff:127.0.0.1", True), ("0.0.0.0", True), ("a.localhost", True),
        ("localhost.", True), ("10.0.0.1", False), ("fe80::1", False), ("localhost.example", False), ("gpu", False),
    ],
)  # fmt: skip
def test_what_is_this_machine(host: str, local: bool) -> None:
    assert proxies.is_this_machine(host) is local


@pytest.mark.parametrize(
    ("address", "no_proxy", "excepted"),
    [
        ("http://gpu.example", "*", True),
        ("http://gpu.example", "gpu.example", True),
        ("http://GPU.example", " other , .example", True),
        ("http://gpu.example", "*.example", True),
        ("http://gpu.example:8000", "gpu.example:8000", True),
        ("http://gpu.example:8000", "gpu.example:9000", False),
        ("https://gpu.example", "https://gpu.example:443", True),
        ("http://notexample", "example", False),
        ("http://10.1.2.3:8000", "10.0.0.0/8", True),
        ("http://10.1.2.3:8000", "10.1.2.3:8000", True),
        ("http://10.1.2.3", "192.168.0.0/16,10.1.2.4", False),
        ("http://[fd07:b51a::5]:8000", "localhost,fd07:b51a::/64", True),
        ("http://[fd07:b51a::5]:8000", "[fd07:b51a::5]", True),
        ("http://[fd07:b51a::5]:8000", "[fd07:b51a::5]:8000", True),
        ("http://[fd07:b51a::5]", "[::1],::1,fd08::/16", False),
        ("http://gpu.example", ",, .,[::1]", False),
    ],
)
def test_no_proxy_names_hosts_domains_ports_and_ranges(address: str, no_proxy: str, excepted: bool) -> None:
    assert proxies.is_excepted(httpx.URL(address), no_proxy) is excepted


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ALL_PROXY": SOCKS}, "ALL_PROXY names a SOCKS proxy.*pip install"),
        ({"all_proxy": SOCKS, "ALL_PROXY": "http://other"}, "^all_proxy names a SOCKS proxy"),
        ({"HTTP_PROXY": "ftp://proxy"}, "HTTP_PROXY does not name a usable proxy"),
        ({"HTTP_PROXY": "http://proxy:port"}, "HTTP_PROXY does not name a usable proxy"),
        ({"HTTP_PROXY": "http://"}, "HTTP_PROXY does not name a proxy: it has no host"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_bad_input_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], message: str
) -> None:
    monkeypatch.setattr(proxies, "find_spec", lambda name: None)  # httpx without its SOCKS extra
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message) as error:
        Client("http://gpu.example:8000")
    assert "name gpu.example in NO_PROXY" in str(error.value)
    with pytest.raises(InputError, match=message):
        Endpoint("http://gpu.example/v1", "a model", RemoteSettings(), "work")
    monkeypatch.setenv("NO_PROXY", "gpu.example")
    monkeypatch.setenv("FOURSHOT_HOME", str(tmp_path))
    with Endpoint("http://gpu.example/v1", "a model", RemoteSettings(), "work"):
        pass


def test_a_proxy_is_asked_for_others_and_named_where_it_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(FakeService()) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removeprefix("http://"))
        with Client("http://gpu.example:8000") as client:
            client.tasks()
        assert proxy.received[0].path == "http://gpu.example:8000/v1/tasks"
    monkeypatch.setenv("HTTP_PROXY", unused_url())
    with Client("http://gpu.example:8000", retries=0) as client, pytest.raises(Exception, match="proxy of HTTP_PROXY"):
        client.tasks()


def test_a_remote_teacher_has_the_same_proxy_as_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library reads NO_PROXY otherwise: it knows no blanks between hosts."""
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example")
    monkeypatch.setenv("NO_PROXY", "other.example gpu.example")
    for host, has_proxy in (("gpu.example", False), ("host.example", True)):
        address = httpx.URL(f"http://{host}/v1")
        client = proxies.openai_client(address, proxies.proxy_for(address))
        assert bool(client._mounts) is has_proxy


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_variable_that_names_no_certificates_is_bad_input_where_they_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    monkeypatch.setenv("FOURSHOT_HOME", str(tmp_path))
    monkeypatch.setenv("SSL_CERT_FILE", str(file := tmp_path / "ca.pem"))
    if content:
        file.write_text(content)
    with Client("http://gpu.example"), Endpoint("http://gpu.example/v1", "a model", RemoteSettings(), "work"):
        pass
    for client in (Client, AsyncClient):
        with pytest.raises(InputError, match=f"SSL_CERT_FILE names '{file}', which holds no certificates"):
            client("https://gpu.example")
    with pytest.raises(InputError, match="SSL_CERT_FILE names"):
        Endpoint("https://gpu.example/v1", "a model", RemoteSettings(), "work")


def test_the_command_ends_with_2_and_says_which_variable() -> None:
    """In a process of its own, as the variables of a shell reach it."""
    command = [sys.executable, "-m", "fourshot", "predict", "--url", "http://gpu.example", "tone", "good"]
    ended = subprocess.run(command, env={"HTTP_PROXY": "ftp://x", "PATH": ""}, capture_output=True, text=True)
    assert (ended.returncode, "HTTP_PROXY" in ended.stderr, "a fault in" in ended.stderr) == (2, True, False)
