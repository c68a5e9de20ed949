"""Our routes in the service's OpenAPI document; the types are those of `serving.api`."""

from typing import Any

import msgspec
from fastapi import FastAPI

from serving.api import ClassifyRequest, ClassifyResponse, ErrorAnswer, TaskList

REF = "#/components/schemas/{name}"
TYPES = (ClassifyRequest, ClassifyResponse, TaskList, ErrorAnswer)


def _refers(to: type) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": {"$ref": REF.format(name=to.__name__)}}}}


def _errors(**told: str) -> dict[str | int, Any]:
    return {code.removeprefix("e"): {"description": why, **_refers(ErrorAnswer)} for code, why in told.items()}


GUARDED = {"e401": "No key, or one that is not known.", "e403": "A key that may not do this."}
CLASSIFY: dict[str, Any] = {
    "operation_id": "classify",
    "summary": "The label of one text or of many.",
    "response_model": None,
    "openapi_extra": {
        "requestBody": {"required": True, **_refers(ClassifyRequest)},
        "parameters": [
            {"name": "task", "in": "path", "required": True, "schema": {"type": "string"}, "description": "Its name."}
        ],
    },
    "responses": {
        200: {"description": "One result per text, in their order.", **_refers(ClassifyResponse)},
        **_errors(
            e400="Not a request of this form, or a text that is blank or too long for the model.",
            **GUARDED,
            e404="No such task.",
            e408="The body did not come in time.",
            e413="A body, a text, or a number of texts beyond the limits.",
            e429="Too busy, or too many requests with this key; Retry-After says when to come back.",
            e503="The engine is not up; Retry-After says when to come back.",
            e504="No answer in time.",
        ),
    },
}
TASKS: dict[str, Any] = {
    "operation_id": "tasks",
    "summary": "What is served.",
    "response_model": None,
    "openapi_extra": {
        "parameters": [
            {
                "name": "all",
                "in": "query",
                "required": False,
                "schema": {"type": "string", "enum": ["0", "1"]},
                "description": "1: with what is refused, and why",
            }
        ]
    },
    "responses": {200: {"description": "The tasks.", **_refers(TaskList)}, **_errors(**GUARDED)},
}


def describe(app: FastAPI) -> None:
    """Add our types to the document that the app gives."""
    given = app.openapi
    _, components = msgspec.json.schema_components(TYPES, ref_template=REF)

    def openapi() -> dict[str, Any]:
        document = given()
        document.setdefault("components", {}).setdefault("schemas", {}).update(components)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
