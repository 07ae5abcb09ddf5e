"""The control API and its caller over a real socket, before a node that says what the test wants."""

import contextlib
import os
import socket
import stat
from functools import partial

import pytest
import structlog
import trio

from node.control_client import NotAnswering, Refused, call
from node.daemon import control_http
from node.daemon.control_http import NotDone, NotYet
from node.daemon.trainer import TrainerDown
from node.errors import Unanswered
from node.home import NotRunning, hold, init_home

SETTINGS = 'name = "x"\n[task]\nname = "digits"\ndata = "shard=1/10"\n'


class Node:
    def __init__(self):
        self.stopped = trio.Event()
        self.stop = self.stopped.set
        self.steps = []

    def status(self):
        return {"doing": "starts"}

    def peers(self):
        raise NotYet("the node starts")

    def aggregates(self):
        raise ZeroDivisionError

    async def evaluate(self):
        await trio.sleep_forever()

    async def alone(self, steps):
        self.steps.append(steps)
        if steps == 13:
            raise TrainerDown("the trainer is not up")
        return {"accuracy": 0.5}

    async def wish(self, wish, peer, strike_since=None):
        if wish == "remove" and strike_since is None:
            raise NotDone("only the founder can")
        return {"peer_id": peer, "wish": wish} | ({} if strike_since is None else {"since": strike_since})

    async def ping(self, peer, count):
        raise Unanswered(f"{peer} gave no answer to {count}")


@pytest.fixture
def home(tmp_path):
    return init_home(tmp_path / "home", SETTINGS, bytes(range(32)))


@contextlib.asynccontextmanager
async def served(home):
    node, log = Node(), structlog.testing.CapturingLogger()
    node.log = log.calls
    with hold(home) as here, trio.fail_after(30):
        node.socket = here.socket
        async with trio.open_nursery() as nursery:
            await nursery.start(control_http.serve, node, here.socket, log)
            yield node
            nursery.cancel_scope.cancel()


async def ask(home, method, path, **options):
    return await trio.to_thread.run_sync(partial(call, home, method, path, **options))


async def test_it_answers_and_only_its_owner_can_ask(home):
    async with served(home) as node:
        assert await ask(home, "GET", "/status") == {"doing": "starts"}
        assert await ask(home, "POST", "/alone", json={"steps": 7}) == {"accuracy": 0.5}
        mode = node.socket.stat().st_mode
        assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
    assert node.steps == [7]


async def test_it_stops_the_node_after_it_has_said_so(home):
    async with served(home) as node:
        assert await ask(home, "POST", "/down") == {"stopping": True}
        await node.stopped.wait()


async def test_a_wish_is_granted_or_refused_with_words(home):
    async with served(home):
        wish = {"peer": "abcd", "wish": "block"}
        assert await ask(home, "POST", "/peers", json=wish) == {"peer_id": "abcd", "wish": "block"}
        with pytest.raises(Refused, match="only the founder can"):
            await ask(home, "POST", "/peers", json=wish | {"wish": "remove"})
        with pytest.raises(Refused, match="wish"):
            await ask(home, "POST", "/peers", json=wish | {"wish": "delete"})
        struck = wish | {"wish": "remove", "strike_since": 7}
        assert await ask(home, "POST", "/peers", json=struck) == {
            "peer_id": "abcd",
            "wish": "remove",
            "since": 7,
        }
        with pytest.raises(Refused, match="strike_since"):
            await ask(home, "POST", "/peers", json=struck | {"strike_since": 0})


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (("GET", "/nothing"), "Not Found"),
        (("GET", "/down"), "Method Not Allowed"),
        (("POST", "/alone"), "/alone: "),
        (("POST", "/alone", {}), "/alone: .*steps"),
        (("POST", "/alone", {"steps": 0}), "/alone: .*>= 1"),
        (("POST", "/alone", {"steps": 5, "more": 1}), "/alone: .*more"),
        (("POST", "/alone", {"steps": 13}), "the trainer is not up"),
        (("POST", "/ping", {"peer": "abcd", "count": 3}), "abcd gave no answer to 3"),
        (("POST", "/ping", {"peer": "abc"}), "/ping: .*>= 4"),
        (("POST", "/ping", {"peer": "abcd", "count": 17}), "/ping: .*<= 16"),
        (("GET", "/peers"), "the node starts"),
        (("GET", "/aggregates"), "a bug: ZeroDivisionError; see daemon.log"),
    ],
)
async def test_every_refusal_is_one_line(home, question, reason):
    method, path, *body = question
    async with served(home) as node:
        with pytest.raises(Refused, match=reason):
            await ask(home, method, path, json=body[0] if body else None)
        assert [entry.method_name for entry in node.log] == (["error"] if path == "/aggregates" else [])
        assert await ask(home, "GET", "/status") == {"doing": "starts"}


async def test_a_question_that_takes_too_long_is_given_up(home, monkeypatch):
    monkeypatch.setattr(control_http, "EVALUATE_S", 0.05)
    async with served(home):
        with pytest.raises(Refused, match="no answer within"):
            await ask(home, "POST", "/evaluate")


async def test_a_node_that_stands_still_is_not_waited_for(home):
    async with served(home):
        with pytest.raises(NotAnswering):
            await ask(home, "POST", "/evaluate", timeout_s=0.05)


async def test_an_open_connection_does_not_delay_the_end(home):
    with socket.socket(socket.AF_UNIX) as connection:
        async with served(home) as node:
            connection.connect(str(node.socket))
            connection.sendall(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
            await trio.to_thread.run_sync(connection.recv, 1000)
            ended_at = trio.current_time()
        assert trio.current_time() - ended_at < 2


def test_without_a_daemon_there_is_nobody_to_ask(home):
    with pytest.raises(NotRunning):
        call(home, "GET", "/status")


def test_what_a_killed_daemon_left_behind_does_not_answer(home):
    # The process number is in use again, by a process that is no daemon: this one.
    abandoned = home.path / "gossamer.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(abandoned))
    home.pid.write_text(f"{os.getpid()}\n{abandoned}\n")
    with pytest.raises(NotRunning):
        call(home, "GET", "/status")
