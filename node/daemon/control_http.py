"""The local control API: JSON over HTTP on a unix socket in the home, which nobody but its owner can open.

    GET /status  /peers  /aggregates        POST /evaluate  /alone {"steps": 100}  /ping {"peer": "12D3KooW..."}  /down
    POST /invite {"ttl_s": 600, "uses": 1}  /invite/watch {"number": 4170, "after": 0}  /invite/answer {"talk": 3, "allow": true}
         /invite/withdraw {"number": 4170}
    POST /peers {"peer": "12D3KooW...", "wish": "block"}; or "allow", "remove"

It answers from the first moment of a daemon's life, also while the slow parts of the start are still under way. An error
is {"error": "one line"}: 400 for a question that makes no sense, 409 for a wish that is refused, 503 for one that cannot be answered now, 504 for one that
took too long.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeAlias, TypeVar, cast

import hypercorn
import hypercorn.trio
import msgspec
import trio  # noqa: TID251 - the drivers are trio's room
from hypercorn.typing import ASGIFramework
from msgspec import Meta
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from structlog.stdlib import BoundLogger

from gossip.body import ROUND_MAX
from gossip.errors import GossamerError
from models.messages import STEPS_MAX
from node.control_client import PEER_CHARACTERS_MAX, PEER_CHARACTERS_MIN
from node.daemon.trainer import TrainerDown
from node.errors import Unanswered
from node.join.codes import TTL_S
from node.join.inviter import USES_MAX
from node.net.libp2p.terms import PINGS_MAX

EVALUATE_S = 120.0
ALONE_S = 600.0
PING_S = 15.0
WISH_S = 10.0  # for a fact to be durable
CLOSE_S = 0.5  # for answers under way when the daemon stops
PRIVATE = 0o177  # umask: the socket is for its owner alone

T = TypeVar("T")
Wish: TypeAlias = Literal["block", "allow", "remove", "refuse"]


class NotYet(GossamerError):
    """The node is still starting: ask again."""


class Node(Protocol):
    """What can be asked of a daemon."""

    def status(self) -> dict[str, object]: ...
    def peers(self) -> dict[str, object]: ...
    def aggregates(self) -> dict[str, object]: ...
    async def evaluate(self) -> dict[str, object]: ...
    async def alone(self, steps: int) -> dict[str, object]: ...
    async def ping(self, peer: str, count: int) -> dict[str, object]: ...
    def invite(self, ttl_s: float, uses: int) -> dict[str, object]: ...
    async def watch(self, number: int, after: int) -> dict[str, object]: ...
    def answer(self, talk: int, allow: bool) -> dict[str, object]: ...
    def withdraw(self, number: int) -> dict[str, object]: ...
    async def wish(self, wish: Wish, peer: str, strike_since: int | None = None) -> dict[str, object]: ...
    @property
    def stop(self) -> Callable[[], None]: ...


class NotDone(GossamerError):
    """What this device's owner wants cannot be, and why."""


class AloneRequest(msgspec.Struct, forbid_unknown_fields=True):
    steps: Annotated[int, Meta(ge=1, le=STEPS_MAX)]


class PingRequest(msgspec.Struct, forbid_unknown_fields=True):
    peer: Annotated[
        str, Meta(min_length=PEER_CHARACTERS_MIN, max_length=PEER_CHARACTERS_MAX)
    ]  # a peer id, or how it ends
    count: Annotated[int, Meta(ge=1, le=PINGS_MAX)] = 5


class InviteRequest(msgspec.Struct, forbid_unknown_fields=True):
    ttl_s: Annotated[float, Meta(ge=TTL_S[0], le=TTL_S[1])] = 600.0
    uses: Annotated[int, Meta(ge=1, le=USES_MAX)] = 1


class WatchRequest(msgspec.Struct, forbid_unknown_fields=True):
    number: int
    after: int = 0


class AnswerRequest(msgspec.Struct, forbid_unknown_fields=True):
    talk: int
    allow: bool


class WithdrawRequest(msgspec.Struct, forbid_unknown_fields=True):
    number: int


class WishRequest(msgspec.Struct, forbid_unknown_fields=True):
    peer: Annotated[
        str, Meta(min_length=PEER_CHARACTERS_MIN, max_length=PEER_CHARACTERS_MAX)
    ]  # a peer id, or how it ends
    wish: Wish
    strike_since: Annotated[int, Meta(ge=1, le=ROUND_MAX)] | None = (
        None  # of "remove": its sums since then do not count
    )


async def serve(
    node: Node,
    socket: Path,
    log: BoundLogger,
    *,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,  # type: ignore[name-defined] # old stubs
) -> None:
    """Answer on `socket` until cancelled; started once it can be connected to."""
    config = hypercorn.Config()
    config.bind = [f"unix:{socket}"]
    config.umask = PRIVATE
    config.errorlog = None
    config.graceful_timeout = CLOSE_S
    config.include_server_header = False
    app = cast(ASGIFramework, _app(node, log))  # two spellings of one protocol
    await hypercorn.trio.serve(app, config, shutdown_trigger=trio.sleep_forever, task_status=task_status)


def _app(node: Node, log: BoundLogger) -> Starlette:
    def get(path: str, answer: Callable[[], object]) -> Route:
        async def handle(_request: Request) -> Response:
            return JSONResponse(answer())

        return Route(path, handle, methods=["GET"])

    async def evaluate(_request: Request) -> Response:
        return await _within(EVALUATE_S, node.evaluate)

    async def alone(request: Request) -> Response:
        asked = await _asked(request, AloneRequest)
        return await _within(ALONE_S, partial(node.alone, asked.steps))

    async def ping(request: Request) -> Response:
        asked = await _asked(request, PingRequest)
        return await _within(PING_S, partial(node.ping, asked.peer, asked.count))

    async def invite(request: Request) -> Response:
        asked = await _asked(request, InviteRequest)
        return JSONResponse(node.invite(asked.ttl_s, asked.uses))

    async def watch(request: Request) -> Response:
        asked = await _asked(request, WatchRequest)
        return await _within(PING_S, partial(node.watch, asked.number, asked.after))

    async def answer(request: Request) -> Response:
        asked = await _asked(request, AnswerRequest)
        return JSONResponse(node.answer(asked.talk, asked.allow))

    async def withdraw(request: Request) -> Response:
        return JSONResponse(node.withdraw((await _asked(request, WithdrawRequest)).number))

    async def wish(request: Request) -> Response:
        asked = await _asked(request, WishRequest)
        return await _within(WISH_S, partial(node.wish, asked.wish, asked.peer, asked.strike_since))

    async def stop() -> None:  # not in a thread, where a plain function would be run
        node.stop()

    async def down(_request: Request) -> Response:
        return JSONResponse({"stopping": True}, background=BackgroundTask(stop))

    async def refused(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": error.detail}, error.status_code)

    async def not_done(_request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, 409)

    async def unavailable(_request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, 503)

    async def failed(request: Request, error: Exception) -> Response:
        log.error("control_failed", path=request.url.path, exc_info=error)
        return JSONResponse({"error": f"a bug: {type(error).__name__}; see daemon.log"}, 500)

    routes = [
        get("/status", node.status),
        get("/peers", node.peers),
        Route("/peers", wish, methods=["POST"]),
        get("/aggregates", node.aggregates),
        Route("/evaluate", evaluate, methods=["POST"]),
        Route("/alone", alone, methods=["POST"]),
        Route("/ping", ping, methods=["POST"]),
        Route("/invite", invite, methods=["POST"]),
        Route("/invite/watch", watch, methods=["POST"]),
        Route("/invite/answer", answer, methods=["POST"]),
        Route("/invite/withdraw", withdraw, methods=["POST"]),
        Route("/down", down, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {
        HTTPException: refused,
        NotDone: not_done,
        NotYet: unavailable,
        TrainerDown: unavailable,
        Unanswered: unavailable,
        Exception: failed,
    }
    return Starlette(routes=routes, exception_handlers=handlers)


async def _asked(request: Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except msgspec.DecodeError as error:
        raise HTTPException(400, f"{request.url.path}: {error}") from error


async def _within(patience_s: float, answer: Callable[[], Awaitable[dict[str, object]]]) -> Response:
    try:
        with trio.fail_after(patience_s):
            return JSONResponse(await answer())
    except trio.TooSlowError as error:
        raise HTTPException(504, f"no answer within {patience_s:.0f} s") from error
