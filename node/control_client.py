"""Asking a running daemon: the other end of `node.daemon.control_http`, for the command line and for scenarios."""

import contextlib
import http.client
import json as json_text
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gossip.errors import GossamerError
from node.home import Home, NotRunning, running

ANSWER_S = 5.0
PARENT_VARIABLE = "GOSSAMER_PARENT"  # a process without which a daemon shall not live on
PEER_CHARACTERS_MIN, PEER_CHARACTERS_MAX = 4, 64  # of a peer id, or of how it ends


class NotAnswering(GossamerError):
    """The daemon's process is there and does not answer: it may be stopped or overloaded. Look into daemon.log."""


class Refused(GossamerError):
    """The daemon answered that it cannot or will not do that, and why."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("daemon", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def call(
    home: Home,
    method: str,
    path: str,
    *,
    json: Mapping[str, object] | None = None,
    timeout_s: float = ANSWER_S,
) -> Any:
    """Ask the daemon of a home; the JSON of its answer. Raises NotRunning, NotAnswering, Refused."""
    with contextlib.closing(_UnixConnection(running(home).socket, timeout_s)) as connection:
        try:
            connection.request(method, path, None if json is None else json_text.dumps(json))
            answer = connection.getresponse()
            told = json_text.loads(answer.read())
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NotRunning(f"{home.path}: no daemon answers here; start it with: gossamer up") from error
        except TimeoutError as error:
            raise NotAnswering(f"{home.path}: the daemon gave no answer within {timeout_s:g} s") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NotAnswering(f"{home.path}: the daemon broke off its answer: {error}") from error
    if answer.status >= http.client.BAD_REQUEST:
        raise Refused(str(told["error"]))
    return told
