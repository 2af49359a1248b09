"""The service described as OpenAPI, and as a page that needs no network to be read."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from fastapi.responses import PlainTextResponse

from lifecycle.deployment.messages import CSV, IDS, JSON, JSON_LINES, LARGEST_AMOUNT, RecordFormat

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string", "description": "One sentence: what is wrong, and what to do."}},
}
_ANSWER = {
    "type": "object",
    "properties": {
        "transaction_id": {"description": "As it was sent."},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "decision": {"enum": ["review", "approve"]},
        "error": {"type": "string", "description": "In place of the others, for a record that was refused."},
    },
}
_STATUSES = {
    400: "The request cannot be read, or none of its records can.",
    401: "The token is missing or wrong.",
    406: "The Accept header names no type that is written here.",
    408: "The head or the body did not arrive in time.",
    409: "The transaction id belongs to another payment.",
    413: "The body is too large.",
    415: "The content type is not read here.",
    429: "Too many requests are under way.",
    431: "The head of the request is too large.",
    503: "The payment cannot be recorded just now; nothing was counted.",
}

PING: dict[str, Any] = {"summary": "Whether the service is healthy", "operation_id": "ping"}
EXECUTION_PARAMETERS: dict[str, Any] = {
    "summary": "How a batch platform should call the service",
    "operation_id": "execution_parameters",
}
METRICS: dict[str, Any] = {
    "summary": "Figures of the process that answers, for Prometheus",
    "operation_id": "metrics",
    "response_class": PlainTextResponse,
    "responses": {401: {"description": _STATUSES[401], "content": {JSON: {"schema": _ERROR}}}},
}


def invocations(record_format: RecordFormat) -> dict[str, Any]:
    """Return what FastAPI should say of ``POST /invocations`` for one model's records."""
    record = record_schema(record_format)
    written = {"schema": {"type": "string"}}
    refused = {
        status: {"description": text, "content": {JSON: {"schema": _ERROR}}} for status, text in _STATUSES.items()
    }
    answers = {JSON: {"schema": {"oneOf": [_ANSWER, {"type": "array", "items": _ANSWER}]}}}
    return {
        "summary": "Score payments",
        "operation_id": "invocations",
        "responses": {
            200: {
                "description": "One answer a record, in the order of the request",
                "content": answers | {JSON_LINES: written, CSV: written},
            },
            **refused,
        },
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {
                    JSON: {"schema": {"oneOf": [record, {"type": "array", "minItems": 1, "items": record}]}},
                    JSON_LINES: written,
                    CSV: written,
                },
            }
        },
    }


def record_schema(record_format: RecordFormat) -> dict[str, Any]:
    """Return the JSON schema of one record.

    Examples
    --------
    >>> record_schema(RecordFormat())["properties"]["amount"]["exclusiveMinimum"]
    0
    """
    kinds = {
        "integer": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
        "text": {"type": "string", "maxLength": 200},
    }
    fields: dict[str, Any] = {
        name: kinds[record_format.ids[name]] for name in IDS if record_format.ids[name] != "absent"
    }
    fields["event_time"] = {
        "type": "string",
        "format": "date-time",
        "description": "ISO-8601 with a zone, from 1970 to 2199.",
    }
    fields["amount"] = {"type": "number", "exclusiveMinimum": 0, "maximum": LARGEST_AMOUNT}
    optional = {
        name: {"type": ["number", "null"], "minimum": -LARGEST_AMOUNT, "maximum": LARGEST_AMOUNT}
        if kind == "number"
        else {"type": ["string", "null"], "maxLength": 2000}
        for name, kind in record_format.attributes.items()
    }
    return {"type": "object", "required": list(fields), "properties": fields | optional}


def page(api: Mapping[str, Any]) -> str:
    """Return an OpenAPI description as a page of plain HTML."""
    parts = []
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2>{method.upper()} {html.escape(path)}</h2><p>{html.escape(operation['summary'])}.</p>")
            parts.append(_body(operation))
            rows = "".join(
                f"<tr><td>{status}</td><td>{html.escape(answer['description'])}</td></tr>"
                for status, answer in operation["responses"].items()
            )
            parts.append(f"<table><tr><th>status</th><th>meaning</th></tr>{rows}</table>")
    title = html.escape(api["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        "<style>body{font:16px sans-serif;max-width:50em;margin:2em auto;padding:0 1em}td,th{text-align:left;"
        "padding:.2em 1em .2em 0;vertical-align:top}</style>"
        f'<h1>{title}</h1><p>The same as <a href="/openapi.json">OpenAPI</a>.</p>{"".join(parts)}</html>'
    )


def _body(operation: Mapping[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    if not content:
        return ""
    record = content[JSON]["schema"]["oneOf"][0]
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(field['type']))}</td>"
        f"<td>{'required' if name in record['required'] else 'optional'}</td></tr>"
        for name, field in record["properties"].items()
    )
    return (
        f"<p>Content types: {html.escape(', '.join(content))}.</p>"
        f"<table><tr><th>field</th><th>type</th><th></th></tr>{rows}</table>"
    )
