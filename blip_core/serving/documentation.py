"""The documentation of the API: as OpenAPI, and as a plain page of it that loads nothing from elsewhere."""

from __future__ import annotations

from html import escape
from typing import Any

from blip_core.serving.api_tasks import GENERATION, SEED, Task

STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; } code, pre { font: 0.9em ui-monospace, monospace; }
pre { overflow-x: auto; padding: 0.8rem; border-radius: 0.5rem; background: color-mix(in srgb, CanvasText 8%, Canvas); }
table { border-collapse: collapse; width: 100%; } td { padding: 0.3rem 0.8rem 0.3rem 0; vertical-align: top; }
tr { border-top: 1px solid color-mix(in srgb, CanvasText 15%, Canvas); } td:first-child { white-space: nowrap; }
"""
ERRORS = {
    400: "not JSON, or a broken form", 401: "the key is missing or wrong", 404: "no model for this; says what there is",
    413: "too many bytes, pixels or texts", 422: "a value that cannot work", 503: "busy; see Retry-After",
    504: "took too long",
}  # fmt: skip
KINDS = {"int": "integer", "float": "number", "bool": "boolean"}


def describe_task(task: Task) -> dict[str, Any]:
    """Return what OpenAPI says of a task: its body, in both forms, and its errors."""
    picture = "a picture in base64 or as a data URI (or its address, where the server fetches them)"
    properties: dict[str, Any] = {"image": {"type": "string", "description": picture}}
    for row in task.fields:
        kinds = [row.kind] if isinstance(row.kind, str) else list(row.kind)
        shapes = [{"type": kind, **({"items": {"type": "string"}} if kind == "array" else {})} for kind in kinds]
        properties[row.name] = {**(shapes[0] if len(shapes) == 1 else {"anyOf": shapes}), "description": row.meaning}
    if task.generates:
        for name, option in GENERATION.items():
            kind = KINDS.get(type(option.default).__name__)
            meaning = f"{option.meaning} ({option.when})"
            properties[name] = {**({"type": kind} if kind else {}), "description": meaning}
        properties[SEED] = {"type": "integer", "description": "fixes what is drawn with do_sample"}
    required = (["image"] if task.picture else []) + [row.name for row in task.fields if row.required]
    body = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    file = {"type": "string", "format": "binary", "description": "a picture's file"}
    form = {**body, "properties": {**properties, "image": file}}
    sentence = {"type": "object", "properties": {"error": {"type": "string"}}}
    failed = {"application/json": {"schema": sentence}}
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": body}, "multipart/form-data": {"schema": form}},
        },
        "responses": {str(status): {"description": text, "content": failed} for status, text in ERRORS.items()},
    }


def documentation_page(description: dict[str, Any]) -> str:
    """Return the OpenAPI description of an application as a page of HTML."""
    parts = []
    for path, methods in description["paths"].items():
        for method, row in methods.items():
            parts.append(
                f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(row.get('summary', ''))}</p>"
            )
            if body := row.get("requestBody"):
                schema = body["content"]["application/json"]["schema"]
                lines = (
                    f"<tr><td><code>{escape(name)}</code>{' *' if name in schema['required'] else ''}</td>"
                    f"<td>{escape(field['description'])}</td></tr>"
                    for name, field in schema["properties"].items()
                )
                fields = " ".join(f"-F {name}=..." for name in schema["required"] if name != "image")
                example = f"curl -F image=@photo.jpg {fields} $SERVER{path}"
                parts.append(f"<pre>{escape(example)}</pre><table>{''.join(lines)}</table>")
    errors = "".join(f"<tr><td>{status}</td><td>{escape(text)}</td></tr>" for status, text in ERRORS.items())
    info = description["info"]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(info['title'])} API</title><style>{STYLE}</style><h1>{escape(info['title'])} API</h1>"
        f"<p>{escape(info.get('description', ''))}</p><p>Requests are JSON, or forms with a file; * must be there. "
        f"For programs: <a href=openapi.json>openapi.json</a>.</p>{''.join(parts)}"
        f'<h2>Errors</h2><p>Each is <code>{{"error": "one sentence"}}</code>.</p><table>{errors}</table></html>'
    )
