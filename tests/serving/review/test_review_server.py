"""What the page of a review may do, and who may ask it."""

import socket
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from fourshot.cli import main as cli
from fourshot.engine.errors import InputError
from fourshot.pipeline.cells.review import ASK, REVIEW, decisions, write_rows
from fourshot.pipeline.cells.run_folder import RunFolder
from fourshot.pipeline.rows.review_table import ReviewAnswer, ReviewRow
from fourshot.serving.review.server import HOST, MOST_BYTES, ReviewDesk, review_app
from tests.pipeline.runs.small_run import TASK, write_run

TOKEN = "a-secret"
KEPT, DOUBTFUL = "r00-000000", "r00-000001"


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return write_run(tmp_path / "run")


def client_of(folder: RunFolder, **more: str) -> TestClient:
    return TestClient(review_app(ReviewDesk(folder), TOKEN), base_url=f"http://{more.get('host', HOST)}/{TOKEN}/")


def test_texts_are_shown_and_decisions_are_in_the_table_at_once(folder: RunFolder) -> None:
    client = client_of(folder)
    view = client.get("rows").json()
    assert (view["labels"], view["table"], view["has_report"]) == (["warm", "cold"], "review.csv", False)
    assert [row["id"] for row in view["rows"]] == ["shot-0", "shot-1", DOUBTFUL, "r00-000003", KEPT]
    assert client.put(f"rows/{DOUBTFUL}", json={"label": "cold", "keep": True}).status_code == 200
    assert client.put("rows/shot-0", json={"label": "warm", "keep": False}).status_code == 200
    review = decisions(folder, REVIEW, TASK)
    assert review.answers == {
        DOUBTFUL: ReviewAnswer(label="cold", keep=True),
        "shot-0": ReviewAnswer(label="warm", keep=False),
    }
    shown = {row["id"]: row["said"] for row in client_of(folder).get("rows").json()["rows"]}
    assert (shown[DOUBTFUL]["label"], shown["shot-0"]["keep"]) == ("cold", False)


@pytest.mark.parametrize(
    ("path", "body", "code", "reason"),
    [
        (f"rows/{KEPT}", {"label": "hot", "keep": True}, 400, "unknown label 'hot'; allowed are warm, cold"),
        (f"rows/{KEPT}", {"label": "", "keep": True}, 400, "unknown label ''"),
        (f"rows/{KEPT}", {"label": "warm"}, 400, "keep"),
        (f"rows/{KEPT}", {"label": "warm", "keep": True, "text": "x"}, 400, "text"),
        ("rows/r09-000000", {"label": "warm", "keep": True}, 400, "no text 'r09-000000'"),
        (f"rows/{KEPT}", {"label": "w" * MOST_BYTES, "keep": True}, 413, "65,536 bytes"),
    ],
)
def test_what_is_no_decision_is_refused(
    folder: RunFolder, path: str, body: dict[str, object], code: int, reason: str
) -> None:
    answer = client_of(folder).put(path, json=body)
    assert answer.status_code == code and reason in answer.json()["error"]
    assert not decisions(folder, REVIEW, TASK).answers


def test_only_who_knows_the_address_on_this_machine_may_ask(folder: RunFolder) -> None:
    client = client_of(folder)
    assert client.get("").status_code == 200
    for path in ("/", "/rows", "/wrong/rows", f"/{TOKEN[:-1]}/rows"):
        assert client.get(f"http://{HOST}{path}").status_code == 404, path
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
    decide = f"rows/{KEPT}", {"label": "cold", "keep": True}
    with folder.lock():
        assert "Another fourshot process works" in client.put(decide[0], json=decide[1]).json()["error"]
    table.write_text(table.read_text("utf-8").replace("why", "notes", 1), "utf-8")
    assert "has columns of yours (notes)" in client.put(decide[0], json=decide[1]).json()["error"]
    table.write_text(table.read_text("utf-8").replace(KEPT, "r7"), "utf-8")
    assert "review.csv:" in client.get("rows").json()["error"]


def test_what_a_person_is_asked_comes_before_the_review(folder: RunFolder) -> None:
    write_rows(folder, ASK, [ReviewRow(id="u00000001", text="Slush.", label="", keep=True, why="asked")])
    client = client_of(folder)
    assert client.get("rows").json()["table"] == "ask.csv"
    client.put("rows/u00000001", json={"label": "cold", "keep": True})
    assert decisions(folder, ASK, TASK).answers == {"u00000001": ReviewAnswer(label="cold", keep=True)}
    assert not (folder.path / "review.csv").exists()
    assert ReviewDesk(folder).name == REVIEW


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
        for port, reason in ((70000, "go from 0, which takes a free one, to 65,535"), (taken, "cannot be had")):
            assert cli.main(["report", str(folder.path), "--serve", "--port", str(port)]) == 2
            assert reason in capfd.readouterr().err and sorted(folder.path.iterdir()) == before


def test_a_port_without_a_page_is_refused(folder: RunFolder, capfd: pytest.CaptureFixture[str]) -> None:
    (folder.path / "report.html").write_text("<p>a report</p>")
    assert cli.main(["report", str(folder.path), "--port", "0"]) == 2
    assert "--port is for the page that --serve opens" in capfd.readouterr().err
