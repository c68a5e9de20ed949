"""What is given as the address of a service, and what answers there: read, or said what is wrong with it."""

from collections.abc import Callable

import pytest

from fourshot import InputError, RequestError, ServiceError
from fourshot.serving.clients.address import read_address
from fourshot.serving.clients.remote.settings import checked_endpoint
from tests.serving.client_caller import ClientCaller
from tests.serving.fake_server import FakeService, Reply, refusal


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:8000", "http:// or https:// is missing"),
        ("localhost/", "http:// or https:// is missing"),
        ("[::1]:8000", "http:// or https:// is missing"),
        ("", "not an address"),
        ("http://", "not an address"),
        ("ftp://a", "not an address"),
        ("http://a:b", "not an address"),
        ("http://::1:8000", "not an address"),
        ("http://a:0", "not an address"),
        ("http://a:-1", "not an address"),
        ("http://a..b:8000", "not an address"),
        (f"http://{'a' * 70}.de", "not an address"),
        ("'http://a'", "not an address"),
        ("http://a/?key=1", "has a query"),
    ],
)
def test_what_is_no_address_is_bad_input(ask: ClientCaller, url: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ask("tasks", settings={"url": url})


@pytest.mark.parametrize(
    "url",
    [
        *("http://[::1/v1", "http://[zz]/v1", "http://a:99999/v1", "http://a:x/v1", "http://a..b/v1", "ftp://a/v1"),
        *("http://a b:8000", "http://a:0/v1", "http://a\n/v1", "http:///v1", "a/v1", f"http://{'a' * 70}.de/v1"),
    ],
)
def test_what_is_no_address_of_a_teacher_is_bad_input(url: str) -> None:
    with pytest.raises(InputError, match=r"not an address|is missing"):
        checked_endpoint(url)


def test_addresses_of_teachers_that_are_fine() -> None:
    assert checked_endpoint(" http://[::1]:8000/v1/ ") == "http://[::1]:8000/v1"
    assert checked_endpoint("https://host.example/v1") == "https://host.example/v1"


@pytest.mark.parametrize("url", ["http://me:secret@a:99999", "http://me:secret@a/?b", "http://me:secret@[::1/v1"])
@pytest.mark.parametrize("read", [read_address, checked_endpoint])
def test_no_error_about_an_address_repeats_its_password(read: Callable[[str], object], url: str) -> None:
    with pytest.raises(InputError) as error:
        read(url)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("address", [" {}\n", "{}/", "{}/#top"])
def test_blanks_and_what_a_browser_adds_to_an_address_do_not_matter(
    ask: ClientCaller, service: FakeService, address: str
) -> None:
    ask("classify", "tone", "good", settings={"url": address.format(service.url)})
    assert service.received[0].path == "/v1/classify/tone"


def test_a_password_in_an_address_is_in_no_message(ask: ClientCaller, service: FakeService) -> None:
    service.replies = [Reply(404, body=b"{}")]
    with pytest.raises(RequestError, match=r"http://me:\.\.\.@127") as error:
        ask("tasks", settings={"url": service.url.replace("//", "//me:secret@")})
    assert "secret" not in str(error.value)
    assert service.received[0].headers["Authorization"].startswith("Basic ")


@pytest.mark.parametrize("ending", ["/v1", "/v1/", "/v1/classify/tone", "/v1/chat/completions"])
def test_an_address_of_a_route_is_pointed_out(ask: ClientCaller, service: FakeService, ending: str) -> None:
    service.replies = [refusal(404, "not_found"), Reply(404, body=b"{}")]
    for _ in range(2):
        with pytest.raises(RequestError, match=rf"leave out '{ending}'"):
            ask("classify", "tone", "good", settings={"url": f"{service.url}{ending}"})


def test_a_redirect_is_not_followed_and_where_it_leads_is_said(ask: ClientCaller, service: FakeService) -> None:
    service.replies = [Reply(307, {"Location": "https://elsewhere.example/v1/tasks"})]
    with pytest.raises(ServiceError, match=r"redirects to https://elsewhere\.example/v1/tasks, which is not followed"):
        ask("tasks")
    assert len(service.received) == 1


def test_what_is_said_where_tls_is_spoken_on_one_side_alone(ask: ClientCaller, service: FakeService) -> None:
    with pytest.raises(ServiceError, match="give the address with http://"):
        ask("tasks", settings={"url": service.url.replace("http:", "https:")})
    service.replies = [Reply(do="hang up")] * 5  # as a server with TLS does
    with pytest.raises(ServiceError, match="give the address with https://"):
        ask("tasks")


def test_an_answer_that_cannot_be_unpacked_is_a_strange_one(ask: ClientCaller, service: FakeService) -> None:
    service.replies = [Reply(200, {"Content-Encoding": "gzip"}, b"{}")]
    with pytest.raises(ServiceError, match="cannot be decompressed") as error:
        ask("tasks")
    assert error.value.kind == "strange_answer"


def test_of_a_password_and_a_key_none_is_passed_over(
    ask: ClientCaller, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = service.url.replace("//", "//alice:s3cret@")
    monkeypatch.setenv("FOURSHOT_API_KEY", "fs-key")
    for settings in ({"url": url}, {"url": url, "key": "fs-other"}):
        with pytest.raises(InputError, match=r"//alice:\.\.\.@.*or FOURSHOT_API_KEY.*Leave one of them out") as error:
            ask("tasks", settings=settings)
        assert "s3cret" not in str(error.value) and not service.received
    ask("tasks", settings={"url": url, "key": ""})
    assert service.received[0].headers["Authorization"].startswith("Basic ")
