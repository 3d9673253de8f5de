"""Errors in OpenAI's layout. None of them repeats what was sent at length, and none says what a verdict was."""

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


def error_response(status: int, reason: str, headers: dict | None = None, param: str | None = None) -> JSONResponse:
    return JSONResponse(error_body(status, reason, param), status, headers)


def reasons_of(errors: list[dict]) -> BadRequest:
    """Where and why, from pydantic's errors, without what was sent."""
    found = [f"{_place(error)}: {_reason(error)}" for error in errors[:5]]
    found += [f"and {len(errors) - 5} more"] * (len(errors) > 5)
    return BadRequest("; ".join(found), _place(errors[0]) or None)


def _place(error: dict) -> str:
    return shorten(".".join(map(str, error["loc"])))


def _reason(error: dict) -> str:
    if error["type"] == "extra_forbidden":
        return "this server takes no such field"
    return error["msg"].removeprefix("Value error, ")


def shorten(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..."


async def answer_http_error(request: Request, error: StarletteHTTPException) -> JSONResponse:
    return error_response(error.status_code, str(error.detail), error.headers, getattr(error, "param", None))


async def answer_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    return await answer_http_error(request, reasons_of(error.errors()))


async def answer_failure(request: Request, error: Exception) -> JSONResponse:
    """The server's log says why."""
    headers = {REQUEST_ID: request.headers[REQUEST_ID]} if REQUEST_ID in request.headers else None
    return error_response(500, "The request could not be answered.", headers)


HANDLERS = {
    StarletteHTTPException: answer_http_error,
    RequestValidationError: answer_invalid,
    Exception: answer_failure,
}
