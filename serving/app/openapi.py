"""Our routes in the service's OpenAPI document, with the types of `serving.api`."""

from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import FastAPI

from fourshot.pipeline.rows.text_lists import VISIBLE
from fourshot.serving.api import (
    DEADLINE,
    ClassifyRequest,
    ClassifyResponse,
    ErrorAnswer,
    GenerateRequest,
    GenerateResponse,
    TaskList,
)
from fourshot.serving.settings import Limits

REF = "#/components/schemas/{name}"
OURS, VLLMS = "fourshot", "vLLM"  # tags by which the document groups routes
TYPES = (ClassifyRequest, ClassifyResponse, GenerateRequest, GenerateResponse, TaskList, ErrorAnswer)


def _schema(of: type) -> dict[str, Any]:
    return {"schema": {"$ref": REF.format(name=of.__name__)}}


def _refers(to: type) -> dict[str, Any]:
    return {"content": {"application/json": _schema(to)}}


def _errors(descriptions: Mapping[int, str]) -> dict[int, Any]:
    return {code: {"description": description, **_refers(ErrorAnswer)} for code, description in descriptions.items()}


GUARDED = {
    401: "No key, or an unknown one.",
    403: "A key that may not do this.",
    421: "A name in the header Host that the service does not accept.",
}


def _task_route(name: str, summary: str, result: str, request_type: type, response_type: type) -> dict[str, Any]:
    body = {**_schema(request_type), "example": {"input": "A text."}}  # else a page would also show all ignored fields
    return {
        "operation_id": name,
        "tags": [OURS],
        "summary": summary,
        "response_model": None,
        "openapi_extra": {
            "requestBody": {"required": True, "content": {"application/json": body}},
            "parameters": [  # beside the task, which the framework adds
                {
                    "name": DEADLINE,
                    "in": "header",
                    "required": False,
                    "schema": {"type": "integer", "minimum": 1, "maximum": 10**15 - 1},
                    "description": (
                        "Milliseconds within which the response is needed; a request that cannot meet this is rejected."
                    ),
                },
            ],
        },
        "responses": {
            200: {"description": result, **_refers(response_type)},
            **_errors(
                {
                    400: "Not a request of this form, too many texts, one that is blank or too long, or a task of "
                    "another kind.",
                    **GUARDED,
                    404: "No such task.",
                    408: "The body did not arrive in time.",
                    413: "A body beyond the limit.",
                    415: "A body that is compressed in another way than gzip and deflate.",
                    429: "Too busy, or too busy for the given deadline, or too many requests at a time; Retry-After "
                    "says when to try again.",
                    503: "The engine is not ready; Retry-After says when to try again.",
                    504: "No response in time, or by the given deadline.",
                }
            ),
        },
    }


CLASSIFY = _task_route(
    "classify",
    "The label of one text or of many.",
    "One result per text, in their order.",
    ClassifyRequest,
    ClassifyResponse,
)
GENERATE = _task_route(
    "generate",
    "A text for one input or for many, of a text generation task.",
    "One result per input, in their order.",
    GenerateRequest,
    GenerateResponse,
)
TASKS: dict[str, Any] = {
    "operation_id": "tasks",
    "tags": [OURS],
    "summary": "What is served.",
    "response_model": None,
    "openapi_extra": {
        "parameters": [
            {
                "name": "all",
                "in": "query",
                "required": False,
                "schema": {"type": "string", "enum": ["0", "1"]},
                "description": "1: also what is not served, and why",
            }
        ]
    },
    "responses": {
        200: {"description": "The tasks.", **_refers(TaskList)},
        **_errors({400: "A value of `all` other than 0 and 1.", **GUARDED}),
    },
}


def add_schemas(app: FastAPI, limits: Limits, has_keys: bool) -> None:
    """Add our types to the app's OpenAPI document, with ``limits``, and the use of keys if ``has_keys``."""
    original = app.openapi
    _, components = msgspec.json.schema_components(TYPES, ref_template=REF)
    text = {"type": "string", "pattern": VISIBLE, "maxLength": limits.max_text_chars}
    fields = {"type": "object", "additionalProperties": text, "description": "An input of a task with fields."}
    ignored = {"description": "Accepted, as OpenAI's clients send it, and ignored."}
    for name, kinds in (("ClassifyRequest", [text, fields]), ("GenerateRequest", [text])):
        properties = components[name]["properties"]
        texts = {"type": "array", "items": {"anyOf": kinds}, "minItems": 1, "maxItems": limits.max_texts}
        properties["input"] = {"anyOf": [*kinds, texts]}
        properties |= {name: ignored for name, schema in properties.items() if not schema}  # of any type

    def openapi() -> dict[str, Any]:
        document = original()
        document.setdefault("components", {}).setdefault("schemas", {}).update(components)
        if has_keys:
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"key": []}]
        document["info"]["title"] = OURS  # vLLM's app has the title of its framework
        tags = {
            path: [operation.setdefault("tags", [VLLMS]) for operation in operations.values()]
            for path, operations in document["paths"].items()
        }
        document["paths"] = dict(sorted(document["paths"].items(), key=lambda item: [OURS] not in tags[item[0]]))
        return document

    app.openapi = openapi  # type: ignore[method-assign]
