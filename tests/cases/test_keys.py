"""Keys as they come out of files, variables and copied headers: docs/inputs.md says what becomes of them."""

import pytest

from fourshot.cli import main as cli
from tests.serving.fake_server import FakeService, served


@pytest.mark.parametrize("key", ["fs-abc\n", "  fs-abc ", "\tfs-abc\r\n"])
def test_blanks_around_a_key_do_not_matter(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOURSHOT_API_KEY", key)
    with served(FakeService()) as service:
        assert cli.main(["predict", "--url", service.url, "tone", "good"]) == 0
        assert [request.headers.get("Authorization") for request in service.received] == ["Bearer fs-abc"]


@pytest.mark.parametrize(
    "key", ['"fs-abc"', "'fs-abc'", "Bearer fs-abc", "fs-\N{ZERO WIDTH SPACE}abc", "fs-abc\nfs-def"]
)
def test_what_can_be_no_key_is_refused_before_it_is_sent_and_not_shown(
    key: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FOURSHOT_API_KEY", key)
    with served(FakeService()) as service:
        assert cli.main(["predict", "--url", service.url, "tone", "good"]) == 2
        assert service.received == []
    said = capfd.readouterr().err
    assert "the key has characters that do not occur in keys" in said and "abc" not in said
