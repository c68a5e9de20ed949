"""A remote teacher that needs a second round asks for other texts, and keeps what was paid for in the first."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fourshot.pipeline.task import Task
from fourshot.pipeline.tasks.shots import take_shots
from fourshot.serving.clients.remote.completions import CompletionResponse
from fourshot.serving.clients.remote.endpoint import CompletionRequest, Endpoint, RequestRefused
from fourshot.serving.clients.remote.settings import RemoteSettings
from fourshot.serving.clients.remote.teacher import remote_teacher
from tests.serving.fake_server import served
from tests.serving.test_remote_teacher import FakeEndpoint, endpoint, task
from tests.serving.test_remote_writing import DRAWN, WritingEndpoint, draw

__all__ = ("endpoint", "task")  # fixtures


class DullAtFirst(WritingEndpoint):
    """Writes the same text again and again, until it has been asked for as many as there are in the first round."""

    @property
    def writes(self) -> str:  # type: ignore[override]
        return "Text: The weather had a name." if len(self.written) <= DRAWN else "Text: {}"


@pytest.fixture
def dull(endpoint: FakeEndpoint) -> Iterator[WritingEndpoint]:
    with served(DullAtFirst()) as server:
        yield server


def test_a_second_round_with_the_same_prompts_asks_for_other_texts(
    dull: WritingEndpoint, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[CompletionRequest] = []
    ask = Endpoint.ask

    def noted(self: Endpoint, requests: Sequence[CompletionRequest]) -> list[CompletionResponse | RequestRefused]:
        asked.extend(request for request in requests if "Write one more" in str(request.body))
        return ask(self, requests)

    monkeypatch.setattr(Endpoint, "ask", noted)
    one_shot = take_shots(task, 1, 0)  # all prompts for a class are the same
    drawn = draw(remote_teacher(f"{dull.url}/v1", "large", task, one_shot, RemoteSettings(timeout_s=20.0)), tmp_path)
    assert [label for _, label, reason in drawn if reason == "kept"].count("cold") == 4
    numbers = [request.sample for request in asked[1:]]  # the first one is asked to find out how
    assert len(set(numbers)) == len(numbers) > DRAWN
    # As they are in the files of answers that exist.
    assert numbers[:DRAWN] == [int.from_bytes(f"{number:06d}".encode()) for number in range(DRAWN)]
