"""What the page of a review may do, and who may ask it."""

import socket
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from fourshot.cli import main as cli
from fourshot.engine.errors import InputError
from fourshot.pipeline.cells.review import ASK, REVIEW, decisions, write_rows
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.rows.review_table import ReviewAnswer, ReviewRow, read_review
from fourshot.serving.review import desk
from fourshot.serving.review.desk import ReviewDesk
from fourshot.serving.review.server import HOST, MOST_BYTES, review_app
from tests.pipeline.runs.small_run import TASK, write_run

TOKEN = "a-secret"
KEPT, DOUBTFUL = "r00-000000", "r00-000001"


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return write_run(tmp_path / "run")


def client_of(folder: RunFolder, **more: str) -> TestClient:
    return TestClient(review_app(ReviewDesk(folder), TOKEN), base_url=f"http://{more.get('host', HOST)}/{TOKEN}/")


def put(client: TestClient, text_id: str, shown: tuple[str, bool], **said: Any) -> tuple[int, Any]:
    """Status and body. ``shown``: label and keep, as they were before."""
    decision = {"before": {"label": shown[0], "keep": shown[1]}, **said}
    answer = client.put(f"rows/review.csv/{text_id}", json=decision)
    return answer.status_code, answer.json()


def test_texts_are_shown_and_decisions_are_in_the_table_at_once(folder: RunFolder) -> None:
    client = client_of(folder)
    view = client.get("rows").json()
    assert (view["labels"], view["table"], view["has_report"]) == (["warm", "cold"], "review.csv", False)
    assert [row["id"] for row in view["rows"]] == ["shot-0", "shot-1", DOUBTFUL, "r00-000003", KEPT]
    assert put(client, DOUBTFUL, ("warm", False), label="cold", keep=True)[0] == 200
    assert put(client, "shot-0", ("warm", True), label="warm", keep=False)[0] == 200
    review = decisions(folder, REVIEW, TASK)
    assert review.answers == {
        DOUBTFUL: ReviewAnswer(label="cold", keep=True),
        "shot-0": ReviewAnswer(label="warm", keep=False),
    }
    shown = {row["id"]: row["said"] for row in client_of(folder).get("rows").json()["rows"]}
    assert (shown[DOUBTFUL]["label"], shown["shot-0"]["keep"]) == ("cold", False)


@pytest.mark.parametrize(
    ("text_id", "said", "code", "reason"),
    [
        (KEPT, {"label": "hot", "keep": True}, 400, "unknown label 'hot'; allowed are warm, cold"),
        (KEPT, {"label": "", "keep": True}, 400, "unknown label ''"),
        (KEPT, {"label": "warm"}, 400, "keep"),
        (KEPT, {"label": "cold", "keep": True, "before": None}, 400, "before"),
        (KEPT, {"label": "warm", "keep": True, "text": "x"}, 400, "text"),
        ("r09-000000", {"label": "warm", "keep": True}, 400, "no text 'r09-000000'"),
        (KEPT, {"label": "w" * MOST_BYTES, "keep": True}, 413, "65,536 bytes"),
    ],
)
def test_what_is_no_decision_is_refused(
    folder: RunFolder, text_id: str, said: dict[str, object], code: int, reason: str
) -> None:
    status, body = put(client_of(folder), text_id, ("warm", True), **said)
    assert status == code and reason in body["error"]
    assert not decisions(folder, REVIEW, TASK).answers


def test_a_decision_on_what_the_table_does_not_say_any_more_is_refused(folder: RunFolder) -> None:
    client = client_of(folder)
    assert put(client, KEPT, ("warm", True), label="cold", keep=True)[0] == 200
    status, body = put(client, KEPT, ("warm", True), label="warm", keep=False)
    assert status == 409
    assert body == {
        "error": "It was changed elsewhere and is kept as cold now. Decide again.",
        "present": {"label": "cold", "keep": True, "is_deleted": False},
    }
    assert put(client, KEPT, ("warm", True), label="cold", keep=True)[0] == 200, "sent twice: it says so already"
    assert decisions(folder, REVIEW, TASK).answers == {KEPT: ReviewAnswer(label="cold", keep=True)}


def test_the_table_is_read_again_only_where_somebody_else_wrote_it(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []

    def counted(path: Path, *more: Any) -> dict[str, ReviewAnswer]:
        reads.append(path)
        return read_review(path, *more)

    client, table = client_of(folder), folder.path / "review.csv"
    monkeypatch.setattr(desk, "read_review", counted)
    client.get("rows")
    put(client, KEPT, ("warm", True), label="cold", keep=True)
    put(client, KEPT, ("cold", True), label="cold", keep=False)
    client.get("rows/review.csv")
    assert not reads
    lines = table.read_text("utf-8-sig").splitlines()
    table.write_text("\n".join(line for line in lines if not line.startswith("shot-0")), "utf-8-sig")
    assert put(client, "shot-0", ("warm", True), label="cold", keep=True)[1]["present"]["is_deleted"]
    assert reads == [table]
    table.unlink()
    assert "does not exist any more" in put(client, "shot-0", ("warm", True), label="cold", keep=True)[1]["error"]


def test_only_who_knows_the_address_on_this_machine_may_ask(folder: RunFolder) -> None:
    client = client_of(folder)
    assert client.get("").status_code == 200
    for path in ("/", "/rows", "/wrong/rows", f"/{TOKEN[:-1]}/rows"):
        answer = client.get(f"http://{HOST}{path}")
        assert (answer.status_code, "printed last" in answer.text) == (404, True), path
    assert client_of(folder, host="evil.example").get("rows").status_code == 400
    policy = client.get("").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'self'" in policy


def test_the_report_is_there_when_a_run_wrote_it(folder: RunFolder) -> None:
    client = client_of(folder)
    assert client.get("report").status_code == 404
    (folder.path / "report.html").write_text("<p>a report</p>")
    assert client.get("report").text == "<p>a report</p>"
    assert "script" not in client.get("report").headers["content-security-policy"], "it may be somebody else's"


def test_while_a_run_works_there_or_a_spreadsheet_has_more_nothing_is_overwritten(folder: RunFolder) -> None:
    client, table = client_of(folder), folder.path / "review.csv"

    def refusal() -> str:
        return str(put(client, KEPT, ("warm", True), label="cold", keep=True)[1]["error"])

    with folder.lock():
        assert "Another fourshot process works" in refusal()
    table.write_text(table.read_text("utf-8").replace("why", "notes", 1), "utf-8")
    assert "has columns of your own (notes)" in refusal()
    table.write_text(table.read_text("utf-8").replace(KEPT, "r7"), "utf-8")
    assert "review.csv:" in client.get("rows").json()["error"]


def test_what_a_person_is_asked_comes_before_the_review(folder: RunFolder) -> None:
    write_rows(folder, ASK, [ReviewRow(id="u00000001", text="Slush.", label="", keep=True, why="asked")])
    client, path = client_of(folder), "rows/ask.csv/u00000001"
    assert client.get("rows").json()["table"] == "ask.csv"
    is_open, labelled = {"label": "", "keep": True}, {"label": "cold", "keep": True}
    assert client.put(path, json={**labelled, "before": is_open}).status_code == 200
    assert client.put(path, json={**is_open, "before": labelled}).status_code == 200, "they may think again"
    assert client.put(path, json={**labelled, "before": is_open}).status_code == 200
    assert decisions(folder, ASK, TASK).answers == {"u00000001": ReviewAnswer(label="cold", keep=True)}
    assert not (folder.path / "review.csv").exists()
    assert client.get("rows/ask.csv").json()["rows"][0]["said"]["label"] == "cold", "what a page shows stays its table"
    assert client.get("rows").json()["table"] == "review.csv"
    assert client.get("rows/other.csv").status_code == 400


def test_a_run_that_has_no_texts_yet_is_refused(folder: RunFolder) -> None:
    (folder.path / "generated.json").unlink()
    with pytest.raises(InputError, match="not all annotated yet"):
        ReviewDesk(folder)


def test_a_port_that_cannot_be_had_opens_no_review(folder: RunFolder, capfd: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.path.iterdir())
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        taken = other.getsockname()[1]
        for port, reason in (
            (70000, "give a number from 0, which takes a free one, to 65,535"),
            (taken, "cannot be used"),
        ):
            assert cli.main(["report", str(folder.path), "--serve", "--port", str(port)]) == 2
            assert reason in capfd.readouterr().err and sorted(folder.path.iterdir()) == before


def test_a_port_without_a_page_is_refused(folder: RunFolder, capfd: pytest.CaptureFixture[str]) -> None:
    (folder.path / "report.html").write_text("<p>a report</p>")
    assert cli.main(["report", str(folder.path), "--port", "0"]) == 2
    assert "--port is for the page that --serve opens" in capfd.readouterr().err
