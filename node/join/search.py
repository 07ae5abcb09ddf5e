"""A device without a swarm asks to be let in: by a code or a knock among the devices nearby, by a link at the addresses in it.

**Whom a code is shown to.** A code holds no address. Announcing the number beside the addresses would tell every listener which
invitations are open, and a number is all it takes to burn one; so the joiner asks instead, every device around that announces a swarm that
invites, several at once, and each learns the number only when somebody joins. Those that know it are talked to one after another, since
each may test one guess (`node.join.inviter`).

What is found is hints by anybody (`node.lan.notice`): only addresses on networks of this device's own are dialled, each device once.
Nothing is kept of a join that fails.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol

import trio  # noqa: TID251 - the drivers are trio's room

from crypto.identity import Identity, peer_id
from gossip.errors import GossamerError, PeerViolation
from gossip.manifest import Swarm, open_manifest
from gossip.membership.admission import Admission
from node.join.codes import Secret
from node.join.frames import BOX_BYTES, NotJoined
from node.join.inviter import CLAIMANTS_MAX
from node.join.joiner import Admitted, Agreed, Answer, JoinAction, Joiner, Offered
from node.lan.interfaces import usable_interfaces
from node.lan.notice import Interface, Notice, of_swarm
from node.net.libp2p.terms import Unreachable
from node.ports import Entropy

LOOK_S = 20.0  # around, for the device that invites
SETTLE_S = 4.0  # that is looked around for another, though one has said no
GLANCE_S = 0.25
DIAL_S = 6.0
SILENCE_S = 45.0  # of a device that we wait for: it gives a sign of life every ten seconds
AGAIN_S = 3.0  # before a device is asked again that was not reached
ASKED_MAX = 64  # times, all devices together
ASKED_AT_ONCE = 8
ADDRESSES_TRIED = 3  # of one device
KNOCKED_MAX = 3  # devices that a knock is shown on


class NobodyThere(GossamerError):
    """No device that invites was reached: do what the line says. Exit code 7."""

    exit_code: ClassVar[int] = 7


@dataclass(frozen=True, slots=True)
class Joined:
    swarm: Swarm
    statements: tuple[bytes, ...]
    address: str  # of the device that let us in, with /p2p/


class Eyes(Protocol):
    """How a join is followed."""

    def looks(self, text: str) -> None:
        """What is being looked for."""

    def agreed(self, who: str, word: str) -> None:
        """A person at `who` sees this word now, and decides."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What this device brings along. `check` raises what speaks against the swarm, before anybody is asked; `keep` stores."""

    identity: Identity
    name: str
    secret: Secret
    only: bytes | None  # the swarm that it belongs to
    check: Callable[[Swarm], None]
    keep: Callable[[Joined], None]
    entropy: Entropy
    unix_s: Callable[[], float]
    eyes: Eyes


async def join_by_link(wish: Wish) -> Joined:
    """NotJoined, NobodyThere, and what speaks against the swarm."""
    failures = []
    for address in wish.secret.addresses:
        wish.eyes.looks(f"the device that invites, at {address}")
        try:
            return await _join_at(address, wish)
        except (Unreachable, PeerViolation) as error:
            failures.append(str(error))
    raise NobodyThere(
        f"the device that invites was not reached: {'; '.join(failures)}; is it on, does gossamer invite still run there, "
        "and do these addresses lead to it from here? On one network, its code needs no address: gossamer join CODE"
    )


async def join_nearby(wish: Wish, swarm: str = "") -> Joined:
    """By code, or, with `swarm`, by a knock at its members. NotJoined, NobodyThere, NotOne, and what speaks against the swarm."""
    wish.eyes.looks(
        f'members of the swarm "{swarm}" nearby' if swarm else f"invitation {wish.secret.number} nearby"
    )
    return await _Search(wish, swarm).run()


class _Turns:
    """Who has said that it knows the number is talked to in turn, as each may test a guess at the words; CLAIMANTS_MAX in all.

    A knock has nothing to guess at: it is shown on all members at once.
    """

    def __init__(self, *, guessable: bool) -> None:
        self._guessable = guessable
        self._taken = 0
        self._one = trio.Semaphore(1 if guessable else KNOCKED_MAX)

    async def __aenter__(self) -> None:
        await self._one.acquire()
        self._taken += 1
        if self._guessable and self._taken > CLAIMANTS_MAX:
            self._one.release()
            raise NobodyThere(
                f"{CLAIMANTS_MAX} devices said that they know this number, and none let this device in: somebody nearby may play "
                "false; use the link that gossamer invite shows beside the code"
            )

    async def __aexit__(self, *_: object) -> None:
        self._one.release()
        await trio.lowlevel.checkpoint()


class _Search:
    """Among what is announced, the device that lets us in."""

    def __init__(self, wish: Wish, swarm: str) -> None:
        self._wish = wish
        self._swarm = swarm
        self._turns = _Turns(guessable=not swarm)
        self._slots = trio.Semaphore(ASKED_AT_ONCE)
        self._asked: dict[str, float] = {}  # by peer id, when it may be asked again; at most ASKED_MAX
        self._asking = 0
        self._said_no: list[GossamerError] = []
        self._unreached: dict[str, str] = {}  # why, by peer id
        self._attempts = 0
        self._joined: Joined | None = None
        self._against: GossamerError | None = None
        self._scope = trio.CancelScope()

    async def run(self) -> Joined:
        from node.lan.mdns import Mdns, NoMulticast  # noqa: PLC0415 - loads what only a few commands need

        interfaces = usable_interfaces()
        try:
            mdns = await trio.to_thread.run_sync(Mdns, interfaces)
        except NoMulticast as error:
            raise NobodyThere(
                f"nothing can be found nearby: {error}; with a link, no search is needed"
            ) from error
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                await self._look(mdns, interfaces, nursery)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(mdns.close)
        if self._joined is not None:
            return self._joined
        raise self._against or self._failure(interfaces)

    async def _look(self, mdns: "object", interfaces: Sequence[Interface], nursery: trio.Nursery) -> None:
        from node.lan.mdns import Mdns  # noqa: PLC0415 - see run

        assert isinstance(mdns, Mdns)
        began = trio.current_time()
        found: dict[str, Notice] = {}
        while True:
            waited = trio.current_time() - began
            if not self._asking and waited > (SETTLE_S if self._said_no else LOOK_S):
                return
            for instance, notice in await trio.to_thread.run_sync(mdns.look):
                if notice is not None and len(found) < ASKED_MAX:
                    found[instance] = notice
            for notice in self._meant(found.values()):
                addresses = notice.reached_by(interfaces)[:ADDRESSES_TRIED]
                if waited < LOOK_S and addresses and self._may_ask(notice.peer_id):
                    self._asked[notice.peer_id] = math.inf
                    self._attempts += 1
                    self._asking += 1
                    nursery.start_soon(self._ask, notice.peer_id, addresses)
            await trio.sleep(GLANCE_S if waited < LOOK_S else SETTLE_S)

    def _may_ask(self, peer: str) -> bool:
        """Each once, and again where it was not reached: the network or the device may be busy."""
        known = self._asked.get(peer)
        return self._attempts < ASKED_MAX and (known is None or trio.current_time() >= known)

    def _meant(self, notices: Iterable[Notice]) -> list[Notice]:
        """Whom to ask: those whose swarm invites, or the members of the swarm that was named."""
        if not self._swarm:
            return [notice for notice in notices if notice.admits in {"invite", "ask"}]
        meant = of_swarm(notices, self._swarm)
        for notice in meant:
            if notice.admits != "ask":
                how = {
                    "open": f'everybody may come: gossamer up --nearby "{self._swarm}"',
                    "invite": "a member has to invite: gossamer invite, there; then: gossamer join CODE",
                }.get(notice.admits, "its founder has listed its members")
                raise NobodyThere(f'the swarm "{notice.swarm_name}" admits {notice.admits}: {how}')
        return meant[:KNOCKED_MAX]

    async def _ask(self, peer: str, addresses: Sequence[str]) -> None:
        try:
            async with self._slots:
                failures = []
                for address in addresses:
                    try:
                        joined = await _join_at(address, self._wish, self._turns)
                    except Unreachable as error:
                        failures.append(str(error))
                    else:
                        self._joined = joined
                        self._scope.cancel()
                        return
                self._unreached[peer] = "; ".join(failures)
                self._asked[peer] = trio.current_time() + AGAIN_S
        except PeerViolation as error:
            self._unreached[peer] = f"{peer} broke the rules: {error}"
        except NotJoined as error:
            if error.why != "unknown":
                self._said_no.append(error)
        except GossamerError as error:  # what speaks against this swarm does so wherever it is asked
            self._against = error
            self._scope.cancel()
        finally:
            self._asking -= 1

    def _failure(self, interfaces: Sequence[Interface]) -> GossamerError:
        if self._said_no:
            return self._said_no[0]
        where = ", ".join(f"{each.name} {each.networks[0].ip}" for each in interfaces)
        what = (
            f'a member of the swarm "{self._swarm}"'
            if self._swarm
            else f"invitation {self._wish.secret.number}"
        )
        heard = (
            f"{len(self._asked)} devices that could know were asked"
            if self._asked
            else "nobody who could know was heard"
        )
        why = f"; not reached: {'; '.join(self._unreached.values())}" if self._unreached else ""
        return NobodyThere(
            f"{what} was not found within {LOOK_S:g} s on {where}: {heard}{why}. Does it still run there (gossamer invite), on "
            "this network? What keeps devices from finding each other: gossamer doctor; a link (gossamer invite shows one) needs no search"
        )


async def _join_at(address: str, wish: Wish, turns: _Turns | None = None) -> Joined:
    """One device, to the end. Unreachable, PeerViolation, NotJoined, and what speaks against the swarm."""
    from node.net.libp2p.visits import join_through  # noqa: PLC0415 - takes seconds: see boot

    return await join_through(
        address,
        partial(_converse, address=address, wish=wish, turns=turns),
        identity_seed=wish.identity.seed,
        timeout_s=DIAL_S,
        limit_bytes=BOX_BYTES + 64,
    )


class _Talk(Protocol):
    """As far as it is needed here; see `node.net.libp2p.visits.Talk`."""

    peer: bytes

    async def say(self, message: bytes) -> None: ...
    async def hear(self, silence_s: float) -> bytes: ...
    async def finish(self) -> None: ...


async def _converse(talk: _Talk, *, address: str, wish: Wish, turns: _Turns | None) -> Joined:
    joiner = Joiner(
        me=wish.identity.public_key,
        inviter=talk.peer,
        secret=wish.secret,
        name=wish.name,
        entropy=wish.entropy,
        swarm=wish.only,
    )
    await talk.say(joiner.hello())
    welcomed = joiner.heard(await _heard(talk, joiner))
    async with turns or contextlib.AsyncExitStack():
        return await _conclude(talk, joiner, welcomed, address, wish)


async def _conclude(
    talk: _Talk, joiner: Joiner, welcomed: Sequence[JoinAction], address: str, wish: Wish
) -> Joined:
    actions, swarm = welcomed, None
    while True:
        for action in actions:
            match action:
                case Answer(message):
                    await talk.say(message)
                case Agreed(word):
                    wish.eyes.agreed(peer_id(talk.peer), word)
                case Offered(signed):
                    swarm = open_manifest(signed)
                    if swarm.id != joiner.swarm:
                        raise PeerViolation("hands over the manifest of another swarm than it said")
                    wish.check(swarm)
                case Admitted(statements):
                    assert swarm is not None
                    joined = Joined(swarm, statements, address)
                    _refuse_worthless(joined, wish)
                    wish.keep(joined)
                    with contextlib.suppress(Unreachable):  # we are in, whether they hear of it or not
                        await talk.say(joiner.stored())
                        await talk.finish()
                    return joined
        try:
            actions = joiner.heard(await _heard(talk, joiner))
        except Unreachable as error:
            if joiner.awaits not in {"manifest", "chain"}:
                raise
            raise NobodyThere(
                f"the device that invites is gone: {error}; start it and gossamer invite again, then the same command; what it "
                "allowed before needs no second answer"
            ) from error


async def _heard(talk: _Talk, joiner: Joiner) -> bytes:
    try:
        with trio.fail_after(joiner.patience_s):
            return await talk.hear(SILENCE_S)
    except trio.TooSlowError as error:
        raise Unreachable(f"{peer_id(talk.peer)}: no answer within {joiner.patience_s:g} s") from error


def _refuse_worthless(joined: Joined, wish: Wish) -> None:
    """PeerViolation for certificates that do not make a member of this device."""
    admission = Admission(joined.swarm, wish.identity.public_key)
    admission.add(joined.statements)
    refusal = admission.refusal(wish.identity.public_key, int(wish.unix_s()))
    if refusal:
        raise PeerViolation(f"hands over certificates that admit nobody: {refusal}")
