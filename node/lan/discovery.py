"""A running daemon and the devices on its networks: it announces itself, hears of others, and dials those of its swarm.

A device that listens on its own machine alone has nothing to announce and stays silent: it opens no socket here. Else its
concrete addresses are announced on every usable interface, and again whenever those change. What is heard is judged by
`node.lan.notice.Candidates`; the dials are the transport's, whose handshake proves who answers.

zeroconf lives in threads. One is called at a time, a look every LOOK_S, and what it has heard comes back as its result.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

import trio  # noqa: TID251 - the drivers are trio's room
from structlog.stdlib import BoundLogger

from crypto.identity import Identity
from gossip.manifest import Swarm
from node.lan.interfaces import usable_interfaces
from node.lan.mdns import Mdns, NoMulticast, fresh_instance
from node.lan.notice import SWARM_DIGITS, Candidates, Interface, Notice, addresses_to_announce

LOOK_S = 2.0
RETRY_S = 30.0  # after the system refused to announce, or zeroconf failed
CLOSE_S = 1.5  # for the goodbye when the daemon stops

T = TypeVar("T")


class Transport(Protocol):
    """As far as it is needed here; see `node.net.libp2p.transport.Libp2pTransport`."""

    @property
    def bound(self) -> Sequence[tuple[str, int]]: ...
    @property
    def peers(self) -> Sequence[tuple[bytes, str]]: ...
    def dial(self, peer: bytes, addresses: Sequence[str]) -> None: ...


class Nearby:
    def __init__(
        self,
        *,
        name: str,
        identity: Identity,
        swarm: Swarm,
        enough: int,
        transport: Transport,
        log: BoundLogger,
        interfaces: Callable[[], Sequence[Interface]] = usable_interfaces,
    ) -> None:
        """`enough`: neighbours, beyond which nobody is dialled from here."""
        self.instance = fresh_instance()
        self._silent = Notice(
            swarm=swarm.id.hex()[:SWARM_DIGITS],
            swarm_name=swarm.manifest.name,
            device=name,
            peer_id=identity.peer_id,
            admits=swarm.manifest.admit,
            addresses=(),
        )
        self._swarm = swarm
        self._candidates = Candidates(identity.peer_id, self._silent.swarm, self.instance)
        self._enough = enough
        self._transport = transport
        self._log = log
        self._interfaces = interfaces
        self._mdns: Mdns | None = None
        self._announced: tuple[tuple[Interface, ...], tuple[str, ...]] = ((), ())
        self._retry_at = 0.0
        self._known_doubles: set[str] = set()  # at most as many as Candidates holds

    def status(self) -> dict[str, object]:
        return {
            "instance": self.instance,
            "announced": list(self._announced[1]),
            "found": len(self._candidates),
            "doubles": sorted(self._candidates.doubles),
        }

    async def run(self) -> None:
        """Until cancelled. Whatever the network does, only finding others suffers."""
        try:
            while True:
                try:
                    await self._follow_interfaces()
                    await self._look()
                except Exception as error:  # noqa: BLE001 - zeroconf reads what strangers send
                    self._log.warning("nearby_failed", error=repr(error))
                    self._retry_at = trio.current_time() + RETRY_S
                    self._announced = ((), ())
                    await self._close()
                await trio.sleep(LOOK_S)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
                await self._close()

    async def _follow_interfaces(self) -> None:
        interfaces = tuple(await _in_thread(self._interfaces))
        addresses = addresses_to_announce(self._transport.bound, interfaces)
        wanted = (interfaces, addresses) if addresses else ((), ())
        if wanted == self._announced or trio.current_time() < self._retry_at:
            return
        await self._close()
        self._announced = ((), ())
        if addresses:
            notice = replace(self._silent, addresses=addresses)
            try:
                self._mdns = await _in_thread(partial(Mdns, interfaces, notice, self.instance))
            except NoMulticast as error:
                self._retry_at = trio.current_time() + RETRY_S
                self._log.warning("not_announced", reason=str(error))
                return
        self._announced = wanted
        self._log.info("announced", interfaces=[each.name for each in wanted[0]], addresses=list(wanted[1]))

    async def _look(self) -> None:
        if self._mdns is None:
            return
        seen = await _in_thread(self._mdns.look)
        now = trio.current_time()
        for instance, notice in seen:
            self._candidates.saw(instance, notice, now)
        for instance, notice in self._candidates.doubles.items():
            if instance not in self._known_doubles:
                self._log.warning(
                    "duplicate_identity", addresses=list(notice.addresses), next="gossamer doctor"
                )
        self._known_doubles = set(self._candidates.doubles)
        connected = {peer for peer, _ in self._transport.peers}
        for peer, addresses in self._candidates.due(connected, self._enough, self._announced[0], now):
            if not self._swarm.may_admit(peer):
                continue
            self._log.info("nearby", peer=peer.hex()[:16], addresses=list(addresses))
            self._transport.dial(peer, addresses)

    async def _close(self) -> None:
        if self._mdns is not None:
            mdns, self._mdns = self._mdns, None
            try:
                await _in_thread(mdns.close)
            except Exception as error:  # noqa: BLE001 - it is gone for us, whatever zeroconf says
                self._log.warning("nearby_failed", error=repr(error))


async def _in_thread(call: Callable[[], T]) -> T:
    # Abandoned where the daemon stops: each ends by itself, within seconds, and holds nothing durable.
    return await trio.to_thread.run_sync(call, abandon_on_cancel=True)  # type: ignore[call-arg] # old stubs
