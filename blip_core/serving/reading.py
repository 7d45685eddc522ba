"""Requests of the API: JSON or a form -> the fields of a task and a picture."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from blip_core.serving.api_tasks import Task
from blip_core.serving.errors import Refused
from blip_core.serving.request_pictures import from_text
from blip_core.serving.server_settings import Settings

TEXT = 2**18
"""Bytes of a request beside its picture."""
Given = tuple[dict[str, Any], bytes | str | None, str | None]
"""The fields, the picture as a file or as text, and its name."""


async def read_request(request: Request, task: Task) -> Given:
    """Read the body of a request by its type. Raises `Refused` for what is neither JSON nor a form."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return from_json(await request.body())
    if kind == "multipart/form-data":
        return await from_form(request, task)
    raise Refused(415, "The request must be JSON (application/json) or a form with a file (multipart/form-data).")


def from_json(body: bytes) -> Given:
    """Read a JSON object."""
    try:
        found = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise Refused(400, "The request is not JSON that can be read; send one object.") from None
    if not isinstance(found, dict):
        raise Refused(400, 'The request must be a JSON object, such as {"image": "data:image/png;base64,..."}.')
    image = found.pop("image", None)
    if image is not None and not isinstance(image, str):
        raise Refused(422, "image must be a text: base64, or a data URI.")
    check_size(found)
    return found, image, None


async def from_form(request: Request, task: Task) -> Given:
    """Read a form: the picture is the file `image`; options are written as in JSON, texts as they are."""
    texts = {row.name for row in task.fields if row.kind != "boolean" and row.kind != "integer"}
    image: bytes | str | None = None
    name, fields = None, {}
    try:
        async with request.form(max_files=1, max_fields=1500, max_part_size=2**25) as form:
            for key in form:
                values = form.getlist(key)
                if key == "image":
                    (file,) = values if len(values) == 1 else (None,)
                    if file is None:
                        raise Refused(422, "There are several images; send one at a time.")
                    image = await file.read() if isinstance(file, UploadFile) else file
                    name = file.filename if isinstance(file, UploadFile) else None
                elif any(isinstance(value, UploadFile) for value in values):
                    raise Refused(422, f"{key!r:.60} is a file; only image may be one.")
                else:
                    read = [value if key in texts else _as_json(str(value)) for value in values]
                    fields[key] = read if len(read) > 1 else read[0]
    except HTTPException as error:
        raise Refused(400, f"The form cannot be read: {error.detail}") from None
    check_size(fields)
    return fields, image, name


def check_size(fields: dict[str, Any]) -> None:
    """Refuse more text than any request needs."""
    try:
        size = len(json.dumps(fields))
    except (ValueError, RecursionError):
        raise Refused(400, "The request is nested too deeply.") from None
    if size > TEXT:
        raise Refused(413, f"The request has {size} bytes beside its image, more than {TEXT}; ask in parts.")


def content_of(image: bytes | str | None, settings: Settings) -> bytes | None:
    """The file of a picture, None where there is none. Raises `Refused`; may fetch an address, and so take time."""
    return from_text(image, settings) if isinstance(image, str) else image


def _as_json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
