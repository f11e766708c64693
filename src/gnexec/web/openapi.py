"""OpenAPI 3.1, made from the operations and from the very types that validate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from gnexec.ids import MAX_SAFE_INT
from gnexec.shapes import Problem
from gnexec.web.resource import Auth, Operation

_CONVERTER = re.compile(r"\{(\w+)(?::\w+)?\}")
_SCHEMES = {Auth.ACCESS: "access_token", Auth.ENROLMENT: "enrolment_token", Auth.JOB: "job_token"}
_REPLIES = {200: "Done.", 201: "Made.", 202: "Not decided yet.", 204: "There is no work."}


def describe(operations: Sequence[Operation]) -> dict[str, Any]:
    """Return the OpenAPI document."""
    types = {kind for op in operations for kind in _types(op)} | {Problem}
    schemas, components = msgspec.json.schema_components(
        sorted(types, key=lambda kind: kind.__name__), ref_template="#/components/schemas/{name}"
    )
    refs = dict(zip(sorted(types, key=lambda kind: kind.__name__), schemas, strict=True))
    paths: dict[str, Any] = {}
    for op in operations:
        path = _CONVERTER.sub(r"{\1}", op.path)
        paths.setdefault(path, {})[op.method.lower()] = _operation(op, path, refs)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "gnexec",
            "version": version("gnexec"),
            "description": "Event-sourced job dispatcher for volunteer and opportunistic computing.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                name: {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": f"The {kind.value}."}
                for kind, name in _SCHEMES.items()
            },
        },
    }


def _types(op: Operation) -> list[type]:
    found: list[type] = []
    for kind in [op.body, *op.replies.values()]:
        found.extend(k for k in (kind if isinstance(kind, tuple) else (kind,)) if isinstance(k, type))
    return found


def _operation(op: Operation, path: str, refs: dict[type, Any]) -> dict[str, Any]:
    doc = (op.handler.__doc__ or "").strip().split("\n", maxsplit=1)[0]
    name = re.sub(r"\W+", "_", f"{op.method.lower()}{path}").strip("_")
    told: dict[str, Any] = {
        "operationId": name,
        "summary": doc,
        "parameters": [_path_parameter(n, kind) for n, kind in re.findall(r"\{(\w+)(?::(\w+))?\}", op.path)]
        + [
            {"name": p.name, "in": "query", "required": False, "schema": dict(p.schema), "description": p.description}
            for p in op.query
        ],
        "responses": {str(status): _reply(status, kind, refs) for status, kind in op.replies.items()}
        | {
            "default": {
                "description": "A problem (RFC 9457).",
                "content": {"application/problem+json": {"schema": refs[Problem]}},
            }
        },
    }
    if op.auth is not Auth.NONE:
        told["security"] = [{_SCHEMES[op.auth]: []}, {}]
    if op.body is not None:
        told["requestBody"] = {"required": True, "content": _content(op.body, refs)}
    return told


def _path_parameter(name: str, kind: str) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 1, "maximum": MAX_SAFE_INT} if kind == "number" else {"type": "string"}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _reply(status: int, kind: Any, refs: dict[type, Any]) -> dict[str, Any]:  # noqa: ANN401 -- as in Operation
    found: dict[str, Any] = {"description": _REPLIES.get(status, "Done.")}
    if kind is not None:
        found["content"] = _content(kind, refs)
    return found


def _content(kind: Any, refs: dict[type, Any]) -> dict[str, Any]:  # noqa: ANN401 -- as in Operation
    if isinstance(kind, str):
        return {kind: {"schema": {"type": "string"} if kind.startswith("text/") else {}}}
    if isinstance(kind, tuple):
        return {"application/json": {"schema": {"anyOf": [refs[k] for k in kind]}}}
    return {"application/json": {"schema": refs[kind]}}
