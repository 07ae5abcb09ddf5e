"""How a device comes to belong to a swarm, once and for ever: the manifest in its home says so.

The first manifest is taken on trust: whoever handed out the bootstrap address, and the device behind it, could have
named any swarm. From then on it is fixed. It is signed by its founder and its hash is the swarm's id, so nobody can
change it afterwards, and a device of another swarm is not even understood.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import trio  # noqa: TID251 - the drivers are trio's room
from msgspec import Meta
from structlog.stdlib import BoundLogger

from crypto.identity import Identity, peer_id
from gossip.errors import GossamerError, ManifestError, PeerViolation
from gossip.events import Put
from gossip.manifest import MANIFEST_BYTES, Swarm, open_manifest
from gossip.membership.admission import Admission
from gossip.membership.statements import STATEMENT_BYTES
from gossip.wire import Wire, pack, unpack
from node.clock import unix_time
from node.home import Home, HomeError
from node.join.codes import KNOCK
from node.join.search import Joined, NobodyThere, Wish, join_nearby
from node.lan.interfaces import usable_interfaces
from node.lan.notice import of_swarm, of_this
from node.net.libp2p.terms import Unreachable
from node.store import SqliteStore, sync_folder

FETCH_S = 10.0  # for one device in the bootstrap list to hand over the manifest
AROUND_S = 3.0  # of listening for devices nearby, at a time
ASKED_MAX = 8  # addresses nearby that are asked for the manifest, at a time
CREDENTIAL_STATEMENTS = 8192  # of a home: a chain, or all that a founder has signed beforehand
CREDENTIAL_FILE_BYTES = CREDENTIAL_STATEMENTS * (STATEMENT_BYTES + 4)
PAUSES_S = (1.0, 2.0, 4.0, 8.0)  # between two rounds through the list; the last one repeats


class KeptCredential(Wire, frozen=True):
    """The file `swarm.credential`."""

    statements: Annotated[
        tuple[Annotated[bytes, Meta(max_length=STATEMENT_BYTES)], ...], Meta(max_length=CREDENTIAL_STATEMENTS)
    ]


class OtherSwarm(GossamerError):
    """This home belongs to another swarm already, for good: use another home."""


class NotAdmitted(GossamerError):
    """This swarm does not admit this device as it is: do what the line says."""


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
    _keep(_path(home), swarm.signed)


def kept_credential(home: Home) -> tuple[bytes, ...]:
    """The statements that admit this device, the founder's first; nothing where nobody has. HomeError for a file that is none."""
    path = _credential_path(home)
    try:
        with path.open("rb") as file:
            data = file.read(CREDENTIAL_FILE_BYTES + 1)
        return unpack(data, KeptCredential, limit_bytes=CREDENTIAL_FILE_BYTES).statements
    except FileNotFoundError:
        return ()
    except (OSError, PeerViolation) as error:
        raise HomeError(f"{path}: cannot be used: {error}") from error


def keep_credential(home: Home, statements: Sequence[bytes]) -> None:
    """Durable and whole, or not there."""
    _keep(_credential_path(home), pack(KeptCredential(tuple(statements))))


def forget_swarm(home: Home) -> None:
    """Delete all that a home knows of its swarm; for whoever holds the home.

    The count of starts stays: others who remember this device's presences take none with a lower number.
    """
    boot: list[tuple[bytes, bytes]] = []
    if home.state.exists():
        store = SqliteStore(home.state)
        boot = store.read("boot")
        store.close()
    for path in (*home.path.glob(home.state.name + "*"), _credential_path(home), _path(home)):
        path.unlink(missing_ok=True)
    store = SqliteStore(home.state)
    store.commit([Put("boot", key, value) for key, value in boot])
    store.close()
    sync_folder(home.path)


def _keep(path: Path, data: bytes) -> None:
    draft = path.with_name(path.name + ".new")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


async def fetch_swarm(
    addresses: Sequence[str], identity: Identity, log: BoundLogger, waits_for: Callable[[str], None]
) -> Swarm:
    """The swarm of the first device that hands its manifest over, however long that takes."""
    waits_for("a device of its bootstrap list to answer")
    pauses = iter(PAUSES_S)
    while True:
        for address in addresses:
            try:
                return await _fetch(address, identity, log)
            except (Unreachable, PeerViolation, ManifestError) as error:
                log.warning("no_manifest", reason=str(error))
                waits_for(f"a device of its bootstrap list to answer; so far: {error}")
        await trio.sleep(next(pauses, PAUSES_S[-1]))


async def find_swarm(
    wanted: str, home: Home, name: str, identity: Identity, log: BoundLogger, waits_for: Callable[[str], None]
) -> tuple[Swarm, list[str]]:
    """The swarm nearby of this name or id, however long that takes, and where its devices are. NotOne, NotAdmitted.

    At a swarm that lets devices ask, this one knocks under its `name`, and keeps in its `home` what it is given.
    """
    from node.lan.mdns import NoMulticast, look_around  # noqa: PLC0415

    waits_for(f'a device of the swarm "{wanted}" nearby')
    while True:
        interfaces = usable_interfaces()
        try:
            around = await trio.to_thread.run_sync(look_around, interfaces, AROUND_S)
        except NoMulticast as error:
            log.warning("cannot_look_around", reason=str(error))
            waits_for(f'a network on which to look for the swarm "{wanted}": {error}')
            await trio.sleep(PAUSES_S[-1])
            continue
        meant = of_swarm(around.values(), wanted)
        if any(notice.admits == "invite" for notice in meant):
            raise NotAdmitted(
                f'the swarm "{wanted}" admits by invitation; ask a member for a code (gossamer invite), then: gossamer join CODE'
            )
        if any(notice.admits == "ask" for notice in meant):
            if (joined := await _knock(wanted, home, name, identity, log, waits_for)) is not None:
                return joined.swarm, [joined.address]
            continue
        addresses = [address for notice in meant for address in notice.reached_by(interfaces)][:ASKED_MAX]
        for address in addresses:
            try:
                swarm = await _fetch(address, identity, log)
                if not of_this(swarm.id, swarm.manifest.name, wanted):
                    raise PeerViolation(f"{address}: announces another swarm than it hands over")
            except (Unreachable, PeerViolation, ManifestError) as error:
                log.warning("no_manifest", reason=str(error))
                waits_for(f'a device of the swarm "{wanted}" nearby to answer; so far: {error}')
            else:
                return swarm, addresses


class _Waiting:
    """A knock that a daemon waits for."""

    def __init__(self, log: BoundLogger, waits_for: Callable[[str], None]) -> None:
        self._log = log
        self._waits_for = waits_for

    def looks(self, text: str) -> None:
        self._waits_for(text)

    def agreed(self, who: str, word: str) -> None:
        self._log.warning("knocked", member=who, check_word=word, there="gossamer peers")
        self._waits_for(f"a person at {who} to allow this device (gossamer peers, there); check word: {word}")


async def _knock(
    wanted: str,
    home: Home,
    name: str,
    identity: Identity,
    log: BoundLogger,
    waits_for: Callable[[str], None],
) -> Joined | None:
    """None if nobody was reached: look again. NotJoined."""
    wish = Wish(
        identity=identity,
        name=name,
        secret=KNOCK,
        only=None,
        check=lambda _: None,
        keep=lambda joined: keep_credential(home, joined.statements),
        entropy=os.urandom,
        unix_s=unix_time,
        eyes=_Waiting(log, waits_for),
    )
    try:
        return await join_nearby(wish, wanted)
    except NobodyThere as error:
        log.warning("nobody_let_us_in", reason=str(error))
        return None


async def _fetch(address: str, identity: Identity, log: BoundLogger) -> Swarm:
    """Raises Unreachable, PeerViolation, ManifestError."""
    from node.net.libp2p.visits import fetch_manifest  # noqa: PLC0415 - takes seconds: see boot

    source, signed = await fetch_manifest(address, identity_seed=identity.seed, timeout_s=FETCH_S)
    if not signed:
        raise NotAdmitted(
            f"{address}: its swarm admits by invitation and shows strangers nothing; ask somebody there for a code "
            "(gossamer invite), then: gossamer join CODE"
        )
    swarm = open_manifest(signed)
    log.warning(
        "this swarm's manifest is trusted on first use, as is whoever told the address",
        swarm=swarm.manifest.name,
        id=swarm.id,
        founder=peer_id(swarm.manifest.founder),
        source=peer_id(source),
    )
    return swarm


def check_wanted(swarm: Swarm, wanted: str) -> None:
    """Raises OtherSwarm where a home belongs to another swarm than the one that was asked for."""
    if not of_this(swarm.id, swarm.manifest.name, wanted):
        raise OtherSwarm(
            f'this home belongs to the swarm "{swarm.manifest.name}" and cannot join "{wanted}" as well; '
            "make another home: gossamer init --home FOLDER"
        )


def check_admission(
    swarm: Swarm, identity: Identity, log: BoundLogger, statements: Sequence[bytes] = ()
) -> None:
    """Raises NotAdmitted; says loudly what an open swarm means. `statements` are what the home has of certificates."""
    manifest = swarm.manifest
    if manifest.certifies:
        _check_chain(swarm, identity, statements)
        return
    if manifest.admit == "open":
        log.warning(
            "this swarm is open: anyone who can reach it is admitted, under as many names as they like"
        )
    elif identity.public_key not in manifest.members:
        raise NotAdmitted(
            f'the swarm "{manifest.name}" admits listed members only, and {identity.peer_id} is not one of them'
        )


def _check_chain(swarm: Swarm, identity: Identity, statements: Sequence[bytes]) -> None:
    """Whether the device was ever admitted. Whether it still is, its neighbours tell, who know of renewals and revocations."""
    name = swarm.manifest.name
    ask = "ask one of its devices for an invitation (gossamer invite), then: gossamer join CODE"
    admission = Admission(swarm, identity.public_key)
    try:
        admission.add(statements)
    except PeerViolation as error:
        raise NotAdmitted(
            f'the certificate in this home is none of the swarm "{name}": {error}; {ask}'
        ) from error
    if not admission.certified(identity.public_key):
        raise NotAdmitted(
            f'the swarm "{name}" admits by invitation, and {identity.peer_id} has no certificate of it; {ask}'
        )


def _credential_path(home: Home) -> Path:
    return home.path / "swarm.credential"


def _path(home: Home) -> Path:
    return home.path / "swarm.manifest"
