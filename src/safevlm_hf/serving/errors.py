"""Errors in OpenAI's layout. None of them repeats what was sent at length, and none says what a verdict was."""

from collections.abc import Awaitable, Callable, Mapping

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from .routes import REQUEST_ID


LONGEST_NAME = 100  # characters of a client's own that an error repeats


class BadRequest(HTTPException):
    """400, with the name of the field that is wrong."""

    def __init__(self, reason: str, param: str | None = None):
        super().__init__(400, reason)
        self.param = param


def error_body(status: int, reason: str, param: str | None = None) -> dict:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": reason, "type": kind, "param": param, "code": status}}


def error_response(
    status: int, reason: str, headers: Mapping[str, str] | None = None, param: str | None = None
) -> JSONResponse:
    return JSONResponse(error_body(status, reason, param), status, headers)


def shorten(text: str, longest: int = LONGEST_NAME) -> str:
    """Return the text's beginning. Halves of surrogate pairs, which cannot be sent, are replaced."""
    text = text[: longest + 1].encode(errors="replace").decode()
    return text if len(text) <= longest else f"{text[:longest]}..."


async def answer_http_error(request: Request, error: StarletteHTTPException) -> JSONResponse:
    return error_response(error.status_code, str(error.detail), error.headers, getattr(error, "param", None))


async def answer_no_object(request: Request, error: RequestValidationError) -> JSONResponse:
    """Say what is wrong with the body. FastAPI itself only checks that it is a JSON object that says so."""
    content_type, first = request.headers.get("content-type"), error.errors()[0]
    if first["type"] == "json_invalid":
        reason = f"The body is no JSON: {first['ctx']['error']}, at character {first['loc'][-1]}."
    elif first["type"] == "missing":
        reason = "The request needs a body: a JSON object."
    elif "json" in (content_type or "").lower():
        reason = "The body must be a JSON object."
    else:
        came = f"came with {shorten(content_type)!r}" if content_type else "came without"
        reason = f"The body must be a JSON object, with the header `Content-Type: application/json`; it {came}."
    return error_response(400, reason)


async def answer_failure(request: Request, error: Exception) -> JSONResponse:
    """Answer 500 without a reason: it stands in the server's log, and may hold what a client must not learn."""
    headers = {REQUEST_ID: request.headers[REQUEST_ID]} if REQUEST_ID in request.headers else None
    return error_response(500, "The request could not be answered.", headers)


HANDLERS: dict[type[Exception], Callable[..., Awaitable[JSONResponse]]] = {
    StarletteHTTPException: answer_http_error,
    RequestValidationError: answer_no_object,
    Exception: answer_failure,
}
