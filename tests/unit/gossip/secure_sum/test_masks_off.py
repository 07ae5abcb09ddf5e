"""Without masks: the same sum to the last bit, nothing of keys or shares on the wire, and nobody is left in the dark."""

import dataclasses
from pathlib import Path

import msgspec
import pytest

from crypto.identity import Identity
from gossip.cohort.messages import Ready
from gossip.cohort.roster import open_roster
from gossip.errors import PeerViolation
from gossip.events import Report
from gossip.frames import Kind, open_frame, sign_frame
from gossip.manifest import MASKS_OFF, Swarm
from gossip.quorum import unpack_members
from gossip.secure_sum.member import Certified, Outcome
from gossip.secure_sum.messages import Decline
from node.config.errors import ConfigError
from node.config.settings import CohortSettings, SwarmSettings, parse_config
from node.founding import refuse_unmasked
from scenarios.plan import plan, without_masks
from scenarios.reports.virtual import SimulationReport, cautions
from scenarios.spec.scenario import find_scenario
from tests.simulation.harness import tiny_swarm
from tests.unit.gossip.secure_sum import test_member as transitions
from tests.unit.gossip.secure_sum.test_member import Table

DEALT = {Kind.SHARES, Kind.KEYS_SET, Kind.UNMASK}


def bare_swarm(*arguments, **named) -> Swarm:
    swarm = tiny_swarm(*arguments, **named)
    manifest = swarm.manifest
    cohorts = msgspec.structs.replace(manifest.cohorts, masks=False)
    return dataclasses.replace(swarm, manifest=msgspec.structs.replace(manifest, cohorts=cohorts))


class BareTable(Table):
    def ready_of(self, person, _secrets, trained):
        return open_frame(self.swarm.id, sign_frame(person, self.swarm.id, Ready(1, (), trained, b"", b"")))


@pytest.fixture
def bare(monkeypatch):
    """The same swarm's id, devices and contributions, but without masks."""

    def made(n: int = 4) -> BareTable:
        with monkeypatch.context() as patch:
            patch.setattr(transitions, "tiny_swarm", bare_swarm)
            return BareTable(n)

    return made


def fixed_rounding(table: Table) -> Table:
    """Stochastic rounding is the one thing drawn that a sum depends on."""
    for member in table.members:
        member._entropy = bytes
    return table


def sums_of(table: Table) -> tuple[object, ...]:
    bodies = [
        action.aggregate.body
        for actions in table.done.values()
        for action in actions
        if isinstance(action, Certified)
    ]
    (body,) = {body.sums: body for body in bodies}.values()
    return body.sums, body.weights, body.ranges, body.exponents, body.parts[0].contributors


def seen(table: Table) -> set[Kind]:
    return {message.kind for i in range(table.cohort.size) for message in said(table, i)}


def said(table: Table, i: int) -> list:
    return [message for kind in Kind for message in table.said(i, kind)]


def test_the_sum_is_the_same_to_the_last_bit_with_masks_and_without(bare):
    masked, open_ = fixed_rounding(Table(4)), fixed_rounding(bare(4))
    for table in (masked, open_):
        table.start().deal()
    assert sums_of(masked) == sums_of(open_)
    assert not seen(open_) & DEALT
    assert seen(masked) > DEALT
    for table in (masked, open_):
        assert {table.outcome(i) for i in range(4)} == {Outcome.INCLUDED}


def test_a_debit_is_durable_and_a_seal_certified_without_masks_too(bare):
    table = bare(4)
    table.silent = {Kind.SEAL_VOTE}
    table.start().deal()
    assert Kind.BODY_PROPOSAL not in seen(table), "no sum is shown before t have signed who is in it"


def test_who_declines_without_masks_is_not_waited_for(bare):
    table = bare(4)
    late = table.plain[0]
    table.absent = {late}
    table.start().deal()
    assert Kind.SEAL_PROPOSAL not in seen(table)
    table.give(table.first, table.message(late, Decline()))
    table.deal()
    contributors = sums_of(table)[-1]
    assert unpack_members(contributors, 4) == [i for i in range(4) if i != late]


def test_keys_belong_where_masks_are_and_nowhere_else(bare):
    masked, open_ = Table(4), bare(4)
    for table, other in ((masked, open_), (open_, masked)):
        frame = sign_frame(table.people[0], table.swarm.id, other.cohort.roster)
        with pytest.raises(PeerViolation, match=r"READY: (keys|without)"):
            open_roster(table.swarm, open_frame(table.swarm.id, frame))


# --- that everybody knows -------------------------------------------------------------------------------------


def test_nobody_comes_into_a_swarm_without_masks_unless_its_own_settings_say_so():
    founder = Identity(bytes([9] * 32))
    keys = [founder.public_key, *(Identity(bytes([i] * 32)).public_key for i in (1, 2, 3))]
    masked, open_ = tiny_swarm(founder, keys), bare_swarm(founder, keys)
    refuse_unmasked(masked, SwarmSettings())
    with pytest.raises(ConfigError, match=MASKS_OFF):
        refuse_unmasked(open_, SwarmSettings())
    refuse_unmasked(open_, SwarmSettings(cohorts=CohortSettings(masks=False)))


def test_masks_are_on_unless_the_settings_say_otherwise():
    text = 'name = "a"\n[task]\nname = "digits"\ndata = "all"\n'
    assert parse_config(text, Path("config.toml")).swarm.cohorts.masks
    assert not parse_config(
        text + "[swarm.cohorts]\nmasks = false\n", Path("config.toml")
    ).swarm.cohorts.masks


def test_a_run_without_masks_says_so_in_every_output():
    from scenarios.virtual.protocol_only import ProtocolRun
    from tests.simulation.test_scale import Mute

    run = ProtocolRun(without_masks(plan(find_scenario("scale"), nodes=16, devices_max=64)), Mute(), 25)
    told = []
    run.world._report = lambda _now, _device, report: told.append(report)
    run.go()
    report = run.report()
    assert not report.masks
    assert Report("masks_off", {"warning": MASKS_OFF}) in told
    assert run.world.devices[0].core.status(12.0)["warning"] == MASKS_OFF
    assert not {kind.name for kind in DEALT} & report.sent_by_kind.keys()
    assert report.sent_by_kind["RESULT"] > 0
    lines = cautions(SimulationReport("scale", 16, None, "nothing", [report]))
    assert any(MASKS_OFF in line for line in lines)
