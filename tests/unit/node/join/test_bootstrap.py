"""What a home holds of its membership: whole or not there, bounded, and gone when its owner leaves."""

import pytest
import structlog

from crypto.hashing import digest
from crypto.identity import Identity
from gossip.events import Put
from gossip.membership.statements import issue
from node.home import HomeError, init_home
from node.join import bootstrap
from node.join.bootstrap import (
    NotAdmitted,
    check_admission,
    forget_swarm,
    keep_credential,
    keep_manifest,
    kept_credential,
    kept_manifest,
)
from node.store import SqliteStore
from tests.simulation.harness import tiny_swarm

FOUNDER, ANA, BEN = (Identity(digest("home of", bytes([i]))) for i in range(3))
SWARM = tiny_swarm(FOUNDER, [], admit="invite")
SETTINGS = 'name = "x"\n[task]\nname = "digits"\ndata = "shard=1/10"\n'


def certificate(swarm=SWARM, device=ANA):
    return issue(FOUNDER, swarm.id, device.public_key, 0, 1, 2, 0)


@pytest.fixture
def home(tmp_path):
    return init_home(tmp_path / "home", SETTINGS, ANA.seed)


def test_a_credential_is_kept(home):
    assert kept_credential(home) == ()
    keep_credential(home, [certificate(), certificate(device=BEN)])
    assert kept_credential(home) == (certificate(), certificate(device=BEN))
    assert not (home.path / "swarm.credential.new").exists()


@pytest.mark.parametrize("data", [b"", b"\x91\x90x", bytes(bootstrap.CREDENTIAL_FILE_BYTES + 2)])
def test_what_is_no_credential_is_refused_by_its_name(home, data):
    (home.path / "swarm.credential").write_bytes(data)
    with pytest.raises(HomeError, match=r"swarm.credential: cannot be used"):
        kept_credential(home)


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        ((), "admits by invitation"),
        ((certificate(device=BEN),), "admits by invitation"),
        ((certificate(tiny_swarm(FOUNDER, [], admit="invite", n_max=9)),), "another swarm"),
        ((certificate()[:-1] + b"x",), "signature does not hold"),
    ],
)
def test_without_a_certificate_nothing_starts(statements, words):
    log = structlog.testing.CapturingLogger()
    with pytest.raises(NotAdmitted, match=words) as refused:
        check_admission(SWARM, ANA, log, statements)
    assert "gossamer join CODE" in str(refused.value)


def test_the_founder_and_whoever_was_ever_admitted_start():
    log = structlog.testing.CapturingLogger()
    check_admission(SWARM, FOUNDER, log, ())
    check_admission(SWARM, ANA, log, (certificate(),))  # expired long ago: its neighbours may know a renewal
    assert log.calls == []


def test_who_leaves_keeps_its_key_its_settings_and_the_count_of_its_starts(home):
    keep_manifest(home, SWARM)
    keep_credential(home, [certificate()])
    store = SqliteStore(home.state)
    store.commit([Put("boot", b"", b"\x07"), Put("residual", b"", b"secret"), Put("statement", b"k", b"v")])
    store.close()
    forget_swarm(home)
    assert (kept_manifest(home), kept_credential(home)) == (None, ())
    store = SqliteStore(home.state)
    assert dict(store.read("boot")) == {b"": b"\x07"}
    assert store.read("residual") == store.read("statement") == []
    store.close()
    assert b"secret" not in b"".join(path.read_bytes() for path in home.path.iterdir())
    assert home.key.read_bytes() == ANA.seed
    assert home.config.read_text() == SETTINGS
    forget_swarm(home)
