"""Asking a running daemon: the other end of `node.drivers.api`, for the command line and for scenarios."""

from collections.abc import Mapping
from typing import Any

import httpx

from gossip.errors import GossamerError
from node.home import Home, NotRunning, running

ANSWER_S = 5.0


class NotAnswering(GossamerError):
    """The daemon's process is there and does not answer: it may be stopped or overloaded. Look into daemon.log."""


class Refused(GossamerError):
    """The daemon answered that it cannot or will not do that, and why."""


def call(
    home: Home,
    method: str,
    path: str,
    *,
    json: Mapping[str, object] | None = None,
    timeout_s: float = ANSWER_S,
) -> Any:
    """Ask the daemon of a home; the JSON of its answer. Raises NotRunning, NotAnswering, Refused."""
    socket = running(home).socket
    try:
        # verify=False: no TLS on a socket of our own, and building its context costs more than all the rest.
        transport = httpx.HTTPTransport(uds=str(socket), verify=False)
        with httpx.Client(transport=transport, timeout=timeout_s) as client:
            answer = client.request(method, f"http://daemon{path}", json=json)
    except httpx.ConnectError as error:
        raise NotRunning(f"{home.path}: no daemon answers here; start it with: gossamer up") from error
    except httpx.TimeoutException as error:
        raise NotAnswering(f"{home.path}: the daemon gave no answer within {timeout_s:g} s") from error
    except httpx.TransportError as error:
        raise NotAnswering(f"{home.path}: the daemon broke off its answer: {error}") from error
    if answer.is_error:
        raise Refused(str(answer.json()["error"]))
    return answer.json()
