"""A device without a home: it announces itself and answers who connects, with a key, a clock and a port of our choice.

python bare_device.py '{"seed": 7, "address": "10.77.0.1", "clock_ahead_s": 3600, "closed": false}'
"""

import contextlib
import json
import sys

import trio

from crypto.identity import Identity
from node.clock import unix_time
from node.lan.interfaces import usable_interfaces
from node.lan.mdns import Mdns, fresh_instance
from node.lan.notice import SWARM_DIGITS, Notice
from node.net.libp2p.terms import Limits
from node.net.libp2p.transport import Libp2pTransport

SWARM = b"\x11" * 32


class NoInbox:
    def __getattr__(self, _):
        return lambda *_: None


async def live(seed, address, clock_ahead_s=0.0, closed=False):
    identity = Identity(bytes.fromhex(seed) if isinstance(seed, str) else bytes([seed]) * 32)
    transport = Libp2pTransport(
        identity_seed=identity.seed,
        swarm=SWARM,
        listen=(f"/ip4/{'127.0.0.1' if closed else address}/tcp/0",),
        limits=Limits(),
        inbox=NoInbox(),
        manifest=lambda: b"",
        log=lambda *_: None,
        clock=lambda: unix_time() + clock_ahead_s,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        notice = Notice(
            swarm=SWARM.hex()[:SWARM_DIGITS],
            swarm_name="bare",
            device=f"bare-{address}",
            peer_id=identity.peer_id,
            admits="open",
            addresses=(f"/ip4/{address}/tcp/{transport.bound[0][1]}",),
        )
        with await trio.to_thread.run_sync(Mdns, usable_interfaces(), notice, fresh_instance()):
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        trio.run(lambda: live(**json.loads(sys.argv[1])))
