"""How a device comes to belong to a swarm, once and for ever: the manifest in its home says so.

The first manifest is taken on trust: whoever handed out the bootstrap address, and the device behind it, could have
named any swarm. From then on it is fixed. It is signed by its founder and its hash is the swarm's id, so nobody can
change it afterwards, and a device of another swarm is not even understood.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import trio  # noqa: TID251 - the drivers are trio's room
from structlog.stdlib import BoundLogger

from crypto.identity import Identity, peer_id
from gossip.errors import GossamerError, ManifestError, PeerViolation
from gossip.manifest import MANIFEST_BYTES, Swarm, open_manifest
from node.home import Home, HomeError

FETCH_S = 10.0  # for one device in the bootstrap list to hand over the manifest
PAUSES_S = (1.0, 2.0, 4.0, 8.0)  # between two rounds through the list; the last one repeats


class NotAdmitted(GossamerError):
    """This swarm admits only devices that its founder listed: ask to be listed in a new one."""


def kept_manifest(home: Home) -> Swarm | None:
    """The swarm that the home belongs to, if it belongs to one yet. HomeError for a file that is no manifest."""
    path = _path(home)
    try:
        with path.open("rb") as file:
            return open_manifest(file.read(MANIFEST_BYTES + 1))
    except FileNotFoundError:
        return None
    except (OSError, PeerViolation, ManifestError) as error:
        raise HomeError(f"{path}: cannot be used: {error}") from error


def keep_manifest(home: Home, swarm: Swarm) -> None:
    """Durable and whole, or not there."""
    path = _path(home)
    draft = path.with_suffix(".new")
    with draft.open("wb") as file:
        file.write(swarm.signed)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


async def fetch_swarm(
    addresses: Sequence[str], identity: Identity, log: BoundLogger, waits_for: Callable[[str], None]
) -> Swarm:
    """The swarm of the first device that hands its manifest over, however long that takes."""
    from node.drivers.libp2p import Unreachable, fetch_manifest  # noqa: PLC0415 - takes seconds: see boot

    waits_for("a device of its bootstrap list to answer")
    pauses = iter(PAUSES_S)
    while True:
        for address in addresses:
            try:
                source, signed = await fetch_manifest(address, identity_seed=identity.seed, timeout_s=FETCH_S)
                swarm = open_manifest(signed)
            except (Unreachable, PeerViolation, ManifestError) as error:
                log.warning("no_manifest", reason=str(error))
                waits_for(f"a device of its bootstrap list to answer; so far: {error}")
                continue
            log.warning(
                "this swarm's manifest is trusted on first use, as is whoever told the address",
                swarm=swarm.manifest.name,
                id=swarm.id,
                founder=peer_id(swarm.manifest.founder),
                source=peer_id(source),
            )
            return swarm
        await trio.sleep(next(pauses, PAUSES_S[-1]))


def check_admission(swarm: Swarm, identity: Identity, log: BoundLogger) -> None:
    """Raises NotAdmitted; says loudly what an open swarm means."""
    manifest = swarm.manifest
    if manifest.admit == "open":
        log.warning(
            "this swarm is open: anyone who can reach it is admitted, under as many names as they like"
        )
    elif identity.public_key not in manifest.members:
        raise NotAdmitted(
            f'the swarm "{manifest.name}" admits listed members only, and {identity.peer_id} is not one of them'
        )


def _path(home: Home) -> Path:
    return home.path / "swarm.manifest"
