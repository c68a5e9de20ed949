"""The document of a service is called after us, and lists our routes before those that were there first."""

from pathlib import Path

import msgspec
from fastapi import FastAPI

from fourshot.serving.api import ClassifyRequest
from fourshot.serving.app.routes import add_routes
from fourshot.serving.app.students_server import application
from fourshot.serving.fleet.supervisor import listen, replica_settings
from fourshot.serving.settings import Limits, ServeSettings


def test_our_routes_come_first_and_are_told_from_vllms() -> None:
    app = FastAPI()
    app.get("/version")(lambda: "0.32")
    add_routes(app, Limits())
    for operations in app.openapi()["paths"].values():
        for operation in operations.values():
            names = [(parameter["in"], parameter["name"]) for parameter in operation.get("parameters", ())]
            assert len(names) == len({*names}), "OpenAPI 3.1: the list must not include duplicated parameters"
    for _ in range(2):  # the document is made once, and asked for again
        document = app.openapi()
        assert document["info"]["title"] == "fourshot"
        tags = {path: [of["tags"] for of in operations.values()] for path, operations in document["paths"].items()}
        assert list(tags.items()) == [
            ("/v1/classify/{task}", [["fourshot"]]),
            ("/v1/generate/{task}", [["fourshot"]]),
            ("/v1/tasks", [["fourshot"]]),
            ("/version", [["vLLM"]]),
        ]


def test_only_where_keys_are_asked_for_the_document_says_how_one_is_shown() -> None:
    for has_keys in (False, True):
        app = FastAPI()
        add_routes(app, Limits(), has_keys)
        document = app.openapi()
        assert document.get("security", []) == ([{"key": []}] if has_keys else [])
        assert ("securitySchemes" in document["components"]) == has_keys


def test_behind_a_router_the_document_says_what_clients_of_the_router_need(tmp_path: Path) -> None:
    for keys in ("", "keys.toml"):
        with listen("127.0.0.1", 0) as listening:
            settings = ServeSettings(adapters="", keys=keys)
            replica = replica_settings(settings, "127.0.0.1", listening, tmp_path / "of-the-router.toml")
        assert application(replica, tmp_path).openapi().get("security", []) == ([{"key": []}] if keys else [])


def test_what_can_be_tried_out_is_a_request_of_one_text() -> None:
    app = FastAPI()
    add_routes(app, Limits())
    for name in ("classify", "generate"):
        body = app.openapi()["paths"][f"/v1/{name}/{{task}}"]["post"]["requestBody"]["content"]["application/json"]
        assert msgspec.convert(body["example"], ClassifyRequest) == ClassifyRequest(input="A text.")
