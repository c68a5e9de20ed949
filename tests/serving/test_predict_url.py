"""`fourshot predict --url`: the command asks a service, and says what a local classifier would."""

import json
from collections.abc import Iterator

import pytest

from fourshot.cli import main as cli
from tests.serving.fake_server import FakeService, refusal, served, unused_url


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeService]:
    monkeypatch.delenv("FOURSHOT_API_KEY", raising=False)
    with served(FakeService()) as service:
        yield service


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between the attempts of the command."""
    monkeypatch.setattr("fourshot.serving.clients.calls.FIRST_PAUSE_S", 0.0)


def test_the_command_asks_a_service(service: FakeService, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["predict", "--url", service.url, "--key", "secret", "--method", "icl", "tone", "so good", "so bad"]
    assert cli.main(words) == 0
    assert capfd.readouterr().out == "good\t0.750\tso good\nbad\t0.750\tso bad\n"
    assert (service.received[0].method, service.received[0].headers["Authorization"]) == ("icl", "Bearer secret")
    assert cli.main(["predict", "tone", "so good", "--url", service.url, "--json"]) == 0
    first, last = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert first == {
        "type": "prediction", "text": "so good", "label": "good", "probability": 0.75,
        "probabilities": {"good": 0.75, "other": 0.25},
    }  # fmt: skip
    assert last == {"type": "result", "url": service.url, "task": "tone", "texts": 1}


def test_a_text_is_one_line_and_a_blank_one_is_counted(service: FakeService, capfd: pytest.CaptureFixture[str]) -> None:
    texts = ["First line\nsecond  good", "tab\tin\u2028side\r\n good", " ", ""]
    assert cli.main(["predict", "--url", service.url, "tone", *texts]) == 0
    printed = capfd.readouterr()
    assert printed.out == "good\t0.750\tFirst line second  good\ngood\t0.750\ttab in side  good\n"
    assert "2 blank texts are left out" in printed.err
    assert service.received[0].texts == ["First line\nsecond  good", "tab\tin\u2028side\r\n good"]


@pytest.mark.usefixtures("at_once")
def test_the_command_says_what_is_wrong(service: FakeService, capfd: pytest.CaptureFixture[str]) -> None:
    service.replies = [refusal(404, "unknown_task", "There is no task 'tune' here.")]
    assert cli.main(["predict", "--url", service.url, "tune", "good"]) == 2
    assert "There is no task 'tune' here." in capfd.readouterr().err
    assert cli.main(["predict", "--url", unused_url(), "tone", "good"]) == 1
    assert "`fourshot serve" in capfd.readouterr().err
    assert cli.main(["predict", "--url", "nowhere", "tone", "good"]) == 2
    assert "'nowhere' is not an address" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--url", "http://127.0.0.1:1", "--model", "m"], "--model is for an adapter on this machine"),
        (["--url", "http://127.0.0.1:1", "--model", "m", "--engine", "vllm"], "--model and --engine are for"),
        (["--url", "http://127.0.0.1:1", "--key", '"fs-a"'], "without quotes and without the word"),
        (["--url", "http://127.0.0.1:1", "--key", "Bearer fs-a"], "without quotes and without the word"),
        (["--url", "http://127.0.0.1:1", "--key", "fs-a b"], "characters that do not occur in keys"),
        (["--key", "secret"], "--key is for a service (--url)"),
        (["--method", "icl"], "--method is for a service (--url)"),
    ],
)
def test_options_of_the_other_way_are_bad_input(
    words: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["predict", "tone", "good", *words]) == 2
    assert message in capfd.readouterr().err


def test_what_a_service_says_cannot_steer_the_terminal(service: FakeService, capfd: pytest.CaptureFixture[str]) -> None:
    service.replies = [refusal(400, "bad_input", "no\x1b[2J\x07, and\n\tno")]
    assert cli.main(["predict", "--url", service.url, "tone", "so good"]) == 2
    assert "no\\x1b[2J\\x07, and\n\tno" in capfd.readouterr().err


def test_a_password_in_the_address_is_in_no_result(service: FakeService, capfd: pytest.CaptureFixture[str]) -> None:
    address = service.url.replace("//", "//alice:s3cret@")
    assert cli.main(["predict", "tone", "so good", "--url", address, "--json"]) == 0
    printed = capfd.readouterr()
    assert "s3cret" not in printed.out + printed.err
    assert json.loads(printed.out.splitlines()[-1])["url"] == service.url.replace("//", "//alice:...@")
    assert service.received[0].headers["Authorization"].startswith("Basic ")
