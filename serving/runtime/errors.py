"""The kinds of failure of a request; each protocol maps them to its own codes and bodies."""

from __future__ import annotations

import reprlib

# Python's own repr fails at a thousand levels of JSON, and is slow for megabytes.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 60, 60

OUT_OF_MEMORY = "The server is short of memory. Try again later."


def shown(value: object) -> str:
    """A received value as a message shows it: at most 60 characters, however large or deep it is."""
    text = _SHORT.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def one_line(error: Exception) -> str:
    """A library's message as one line of at most 300 characters."""
    return " ".join(str(error).split())[:300]


class ServingError(Exception):
    """A failure with a message for the client.

    `error_type` is part of the wire format. `retry_after` is in seconds, and None where waiting does not help.
    """

    error_type = "internal"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BundleError(ServingError, ValueError):
    """A bundle that is incomplete, damaged or of another format; the message says which file and why."""

    error_type = "bundle"


class Malformed(ServingError, ValueError):
    """The body is not what its content type says: broken JSON, truncated tensor, bad base64."""

    error_type = "malformed"


class Invalid(ServingError, ValueError):
    """A well-formed request with a field that is missing, unknown, of the wrong type or out of range."""

    error_type = "validation"


class TooLarge(ServingError):
    """More bytes or more work than this server takes in one request."""

    error_type = "too_large"


class NotFound(ServingError):
    """No such model, version or path."""

    error_type = "not_found"


class WrongHost(ServingError):
    """The `Host` of the request is none of this server's names."""

    error_type = "wrong_host"


class MethodNotAllowed(ServingError):
    """The path exists, the method does not."""

    error_type = "method_not_allowed"


class UnsupportedMediaType(ServingError):
    """The body's content type or encoding is not read here."""

    error_type = "unsupported_media_type"


class Unauthorized(ServingError):
    """No API key, or a wrong one."""

    error_type = "unauthorized"


class Overloaded(ServingError):
    """The queue is full; nothing was done."""

    error_type = "overloaded"


class DeadlineExceeded(ServingError):
    """The request's time ran out before its result was there."""

    error_type = "deadline"


class Timeout(ServingError):
    """The client took too long to send its request."""

    error_type = "timeout"


class Unavailable(ServingError):
    """Not ready: starting, or draining before the end."""

    error_type = "unavailable"


class Unimplemented(ServingError):
    """The request is valid, but this installation lacks an extra that it needs."""

    error_type = "unimplemented"


class Cancelled(ServingError):
    """The client went away; the error is not sent."""

    error_type = "cancelled"
