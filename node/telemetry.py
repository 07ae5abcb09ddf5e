"""What a daemon tells of itself: a log of one JSON line an event, and what its processes cost.

Peers can put text into an event, so no value reaches a terminal or a line unescaped: a log cannot be forged by a
newline, nor a terminal driven by an escape sequence. The log is rotated by size and bounded as a whole.
"""

import contextlib
import json
import logging
import logging.handlers
import math
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

import psutil
import structlog
from structlog.stdlib import BoundLogger, ProcessorFormatter
from structlog.typing import EventDict, Processor, WrappedLogger

LOG_BYTES_MAX = 4 << 20  # of one file
LOG_FILES_KEPT = 3  # besides the one that is written
TEXT_CHARACTERS_MAX = 1 << 14  # of one value

_BYTES_IN_MB = 1_000_000


class ProcessFigures(TypedDict):
    """None: this system does not tell, or the process is gone. Megabytes are 10^6 bytes."""

    cpu_s: float | None  # user and system
    pss_mb: float | None  # memory, where shared pages count in shares: the figure that adds up over processes
    rss_mb: float | None


def process_figures(pid: int) -> ProcessFigures:
    """What a process has cost so far; it may be gone, or somebody else's."""
    figures = ProcessFigures(cpu_s=None, pss_mb=None, rss_mb=None)
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        spent = process.cpu_times()
        figures["cpu_s"] = spent.user + spent.system
        figures["rss_mb"] = process.memory_info().rss / _BYTES_IN_MB
        pss = getattr(process.memory_full_info(), "pss", None)
        figures["pss_mb"] = None if pss is None else pss / _BYTES_IN_MB
    return figures


@contextlib.contextmanager
def logging_to(
    path: Path,
    level: str,
    *,
    foreground: bool,
    file_bytes_max: int = LOG_BYTES_MAX,
    files_kept: int = LOG_FILES_KEPT,
) -> Iterator[BoundLogger]:
    """A logger whose events of `level` and above go to `path`, and to stderr too when in the foreground.

    What other libraries log goes the same way from WARNING on. `log.info("folded", round=3, id=b"...")`: bytes
    are written as hex. One at a time in a process.
    """
    logging.raiseExceptions = False  # a full disk ends the log, not the terminal in tracebacks
    handlers: list[logging.Handler] = [
        logging.handlers.RotatingFileHandler(
            path, maxBytes=file_bytes_max, backupCount=files_kept, encoding="utf-8"
        )
    ]
    handlers[0].setFormatter(_formatter(_json_line))
    if foreground:
        handlers.append(logging.StreamHandler(sys.stderr))
        handlers[1].setFormatter(_formatter(_human_line))
    root, ours = logging.getLogger(), logging.getLogger("gossamer")
    ours.setLevel(level.upper())
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield structlog.wrap_logger(
            ours,
            processors=[
                structlog.stdlib.filter_by_level,
                ProcessorFormatter.wrap_for_formatter,
            ],
            wrapper_class=BoundLogger,
        )
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


def _formatter(render: Processor) -> ProcessorFormatter:
    return ProcessorFormatter(processors=[structlog.processors.format_exc_info, render])


def _json_line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    record, fields = _taken_apart(event)
    written = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    head = {"time": written, "level": record.levelname.lower(), "logger": record.name}
    return json.dumps(head | fields, allow_nan=False)


def _human_line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    record, fields = _taken_apart(event)
    written = datetime.fromtimestamp(record.created, UTC).astimezone()
    name, trace = _escaped(fields.pop("event")), str(fields.pop("exception", ""))
    values = "".join(f"  {key}={_escaped(value)}" for key, value in fields.items())
    # Behind a bar, so that no text within an exception can pass for a line of its own.
    traced = "".join(f"\n    | {_escaped(line)}" for line in trace.splitlines())
    return f"{written:%H:%M:%S} {record.levelname.lower():<7} {name}{values}{traced}"


def _taken_apart(event: EventDict) -> tuple[logging.LogRecord, dict[str, Any]]:
    """The record that carried an event, and the event's own fields as plain values, `event` first."""
    fields = {key: _plain(value) for key, value in event.items() if key not in {"_record", "_from_structlog"}}
    return event["_record"], {"event": fields.pop("event"), **fields}


def _plain(value: object) -> Any:
    """What JSON can say: bytes as hex, texts up to their bound, and anything unknown by its text."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case bytes():
            return _plain(value.hex())
        case Mapping():
            return {str(key): _plain(below) for key, below in value.items()}
        case list() | tuple():
            return [_plain(below) for below in value]
        case _:
            text = str(value)
            return text if len(text) <= TEXT_CHARACTERS_MAX else f"{text[:TEXT_CHARACTERS_MAX]}..."


def _escaped(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if text.isprintable() else json.dumps(text)
