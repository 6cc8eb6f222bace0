"""Log lines: one JSON object each, or text for people."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import Any

from serving.web.guard import SlowClient

STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}

# Characters that a terminal acts on, C1 ones and line separators among them.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def _escaped(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode()


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in STANDARD}


def _time(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


class JSONFormatter(logging.Formatter):
    """`{"time", "level", "logger", "message", ...}`; what a caller passes as `extra` becomes members."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        line |= {"message": record.getMessage(), **_extra(record)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """`time level message key=value ...`."""

    def format(self, record: logging.LogRecord) -> str:
        extra = " ".join(f"{name}={value}" for name, value in _extra(record).items())
        line = f"{_time(record)} {record.levelname.lower():7s} {record.getMessage()} {extra}".rstrip()
        # A line break inside a value must not look like another line of the log, nor may a terminal obey a value.
        line = CONTROL.sub(_escaped, line)
        if record.exc_info:
            line += "\n" + "\n".join(
                CONTROL.sub(_escaped, each) for each in self.formatException(record.exc_info).split("\n")
            )
        return line


def _is_news(record: logging.LogRecord) -> bool:
    """Leaves out the traceback that uvicorn logs for a dropped slow client: the request's own line tells of it."""
    return not (record.exc_info and record.exc_info[0] is SlowClient)


def set_up_logs(style: str, level: str) -> None:
    """Sends all logs to stderr as `json` or `text`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter() if style == "json" else TextFormatter())
    handler.addFilter(_is_news)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "websockets"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    for name in ("uvicorn", "websockets", "PIL", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
