"""Bad devices do what their behaviour says, and the simulator tells what came of it."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from gossip.events import Report
from gossip.frames import Kind, open_frame
from gossip.history.aggregate import lanes
from gossip.history.fold import RECENT_MIN
from gossip.secure_sum.harm import PART_MIN, UNKNOWN
from models.datasets import digits
from node.config.errors import ConfigError
from node.virtual.swarm import VirtualSwarm
from scenarios import cli
from scenarios.adversary import BEHAVIOURS, NAMES, RANDOM, core, drawn, forging, poisoning
from scenarios.adversary.casting import cast_of
from scenarios.adversary.effects import Effects, logged
from scenarios.adversary.examples import poisoned
from scenarios.adversary.silent import said_from
from scenarios.plan import plan
from scenarios.spec.adversary import AdversaryTable, read
from scenarios.spec.scenario import OptionError
from scenarios.virtual import adversary_table
from tests.simulation.test_virtual_driver import SIZE, Drift, a_swarm

LEVELS = 7
FORM = "is not BEHAVIOUR"

# --- what a person says ---------------------------------------------------------------------------------------


def test_the_command_line_says_who_and_how_many():
    assert read("forge:hub=0.2") == AdversaryTable("forge", share=0.2, hub=True)
    assert read("louder=2") == AdversaryTable("louder", count=2)
    assert str(read("forge:hub=0.2")) == "forge:hub=0.2"
    assert str(read("louder=2")) == "louder=2"
    assert [read("forge=0.05").of(each) for each in (5, 20, 50)] == [1, 1, 2]
    assert read("forge=0.0").of(20) == 0


@pytest.mark.parametrize(
    "said", ["forge", "forge=", "forge=x", "forge=1.5", "forge:club=1", "forge=-1", "=1"]
)
def test_what_is_no_adversary_is_refused(said):
    with pytest.raises(ValueError, match=FORM):
        read(said)


SCENARIO = """
name = "tiny"
summary = "A few devices with a part of the digits each."
task = "digits"
test = "every fifth image"
rounds = {rounds}

[swarm.training]
min_steps = 2
max_steps = 4

[swarm.cohorts]
gather_s = 0.5
step_s = 1.0

[devices]
count = {count}
data = "shard={{index}}/{{count}}"
{more}
"""


@pytest.fixture
def scenario(tmp_path):
    def write(count=6, more="", rounds=3):
        path = tmp_path / "tiny.toml"
        path.write_text(SCENARIO.format(count=count, more=more, rounds=rounds))
        return path

    return write


FORGERS = '[[adversary]]\nbehaviour = "forge"\nshare = {share}\nhub = true\n'


def test_a_share_of_the_devices_is_bad_and_never_the_founder(scenario):
    few = plan(scenario(40, FORGERS.format(share=0.1)))
    many = plan(scenario(40, FORGERS.format(share=1.0).replace("share = 1.0", "count = 39")))
    bad = {index for index, each in enumerate(few.hostile) if each is not None}
    assert len(bad) == 4
    assert [index for index, each in enumerate(many.hostile) if each is None] == [0]
    assert {index for index, table in enumerate(few.hardware) if table.hub} == bad
    half = plan(scenario(40, FORGERS.format(share=0.5)))
    assert bad < {index for index, each in enumerate(half.hostile) if each is not None}
    assert plan(scenario(40, FORGERS.format(share=0.1)), seed=1).hostile != few.hostile
    assert not any(plan(scenario(40, FORGERS.format(share=0.1)), adversaries=()).hostile)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (
            '[[adversary]]\nbehaviour = "forg"\nshare = 0.1\n',
            r"adversary\[0\]\.behaviour: .*did you mean \"forge\"",
        ),
        ('[[adversary]]\nbehaviour = "forge"\n', "share or count"),
        (
            '[[adversary]]\nbehaviour = "forge"\ncount = 40\n',
            "more devices than there are besides the founder",
        ),
    ],
)
def test_an_adversary_that_cannot_be_is_refused(scenario, more, told):
    with pytest.raises(ConfigError, match=told):
        plan(scenario(40, more))


def test_random_ones_are_drawn_by_the_seed():
    tables = [drawn(AdversaryTable(RANDOM, share=1.0), 3, device) for device in range(60)]
    assert {each.behaviour for each in tables} <= set(BEHAVIOURS)
    assert len({each.behaviour for each in tables}) > 10
    assert tables == [drawn(AdversaryTable(RANDOM, share=1.0), 3, device) for device in range(60)]


def test_each_behaviour_says_in_a_line_what_it_does():
    assert all(kind.summary for kind in BEHAVIOURS.values())
    assert len({kind.summary for kind in BEHAVIOURS.values()}) == len(NAMES) - 1


def test_the_documentation_says_the_same():
    told = (Path(__file__).parents[3] / "docs" / "adversary.md").read_text()
    assert all(f"| `{name}` | {kind.summary} |" in told for name, kind in BEHAVIOURS.items())


# --- what bad devices do --------------------------------------------------------------------------------------


class Steady(Drift):
    """Every device learns the same: everything goes up by one, so that honest sums do, too."""

    def freeze(self, device):
        _, steps, loss = super().freeze(device)
        return np.ones(SIZE, np.float32), steps, loss


class Unlike(Drift):
    """Every device learns something else, and of one value more than of all others, as models do."""

    def freeze(self, device):
        _, steps, loss = super().freeze(device)
        delta = np.random.default_rng([device, len(self.asked)]).normal(0, 0.1, SIZE)
        delta[0] = 1
        return delta.astype(np.float32), steps, loss


def downhill(_device, model):
    """A loss that rises by one where the model goes down by one."""
    return -float(model.mean())


class Watched(VirtualSwarm):
    """Keeps what bad devices say, and the vectors before and after they are bent."""

    said: list[tuple[int, bytes]]

    def _send(self, device, peer, data):
        self.said.append((device.index, data))
        super()._send(device, peer, data)


def attacked(monkeypatch, word, *, count=6, run_s=15.0, loss=None, hub=False, phases=None):
    """A swarm of so many after a while, its frames by bad devices, all reports, and what vectors were."""
    monkeypatch.setattr("tests.simulation.test_virtual_driver.VirtualSwarm", Watched)
    monkeypatch.setattr(Watched, "said", [], raising=False)
    reports: list[tuple[int, Report]] = []
    vectors, sums = [], []
    encode = core.BentCodec.encode

    def recorded(self, *arguments, **named):
        encoded = encode(self, *arguments, **named)
        league, job = self._behaviour.league, self._job
        honest = league.plain[job.cohort.id][job.owner]
        vectors.append((job, honest, core.Plain(job, encoded.vector.copy(), honest)))
        return encoded

    monkeypatch.setattr(core.BentCodec, "encode", recorded)
    add = forging.Forge.add

    def forged(self, added):
        true = added.values
        add(self, added)
        sums.append((len(added.job.contributors), true, added.values))

    monkeypatch.setattr(forging.Forge, "add", forged)
    world = a_swarm(
        count, phases=phases or Steady(), report=lambda _now, device, report: reports.append((device, report))
    )
    wanted = read(word)
    hostile = [None] * (count - wanted.of(count)) + [wanted] * wanted.of(count)
    world._make_core = cast_of([each.identity for each in world.devices], hostile, 0, loss)
    world.hostile, world.forged = hostile, sums
    world.run(run_s)
    return world, reports, vectors


def sums_of(world):
    """Of an honest device: contributors and values of all sums."""
    history = world.devices[0].core._history
    counted = [each for round_ in range(1, history.round + 1) for each in history.counted(round_)]
    return [(len(each.contributors), lanes(each.body, world._swarm.manifest).astype(int)) for each in counted]


def rounds(world):
    return int(world.devices[0].core.status(world.now)["round"])


def test_without_an_adversary_all_sums_go_up(monkeypatch):
    world, reports, vectors = attacked(monkeypatch, "forge=0")
    assert rounds(world) >= 5
    assert not vectors
    assert all(values.min() >= 0 for _, values in sums_of(world))
    assert not [report for _, report in reports if report.name == "violation"]


def test_a_forger_publishes_the_largest_sum_against_the_true_one(monkeypatch):
    world, _, _ = attacked(monkeypatch, "forge=2")
    assert world.forged, "it was an aggregator at least once"
    for count, true, forged in world.forged:
        assert np.array_equal(forged, -LEVELS * count * np.sign(true))
        assert true.any()


def test_a_forger_may_publish_zeros(monkeypatch):
    world, _, _ = attacked(monkeypatch, "forge-zero=3")
    assert world.forged
    assert all(true.any() and not forged.any() for _, true, forged in world.forged)


def test_a_careful_forger_stays_below_the_tolerance(monkeypatch):
    world, _, _ = attacked(monkeypatch, "forge-below=3", loss=downhill)
    assert any(forged.min() < 0 for _, _, forged in world.forged)
    assert all(forged.min() > -LEVELS * count for count, _, forged in world.forged), (
        "the largest is far beyond it"
    )


def test_a_second_aggregator_does_not_wait_for_its_turn(monkeypatch):
    monkeypatch.setattr("node.core.part_in", lambda *_: UNKNOWN)  # else it is found out, and leads nobody
    world, _, _ = attacked(monkeypatch, "forge=1", run_s=25)
    frames = [data for index, data in world.said if index == 5 and Kind(data[2]) is Kind.BODY_PROPOSAL]
    proposals = [open_frame(world._swarm.id, data) for data in frames]
    assert len({each.cohort for each in proposals}) > len(world.forged), "some sums it never added up"


@pytest.mark.parametrize(
    ("word", "given"),
    [
        ("within=2", lambda job, honest, full: -full),
        ("ones=2", lambda job, honest, full: np.full_like(honest, LEVELS)),
        ("sign-flip=2", lambda job, honest, full: -honest),
        ("free-ride=2", lambda job, honest, full: np.zeros_like(honest)),
        ("backdoor=2", lambda job, honest, full: np.clip(8 * honest, -LEVELS, LEVELS)),
        ("label-flip=2", lambda job, honest, full: honest),
    ],
)
def test_a_member_gives_what_its_behaviour_says(monkeypatch, word, given):
    world, _, vectors = attacked(monkeypatch, word, run_s=8)
    assert vectors
    for job, honest, plain in vectors:
        assert np.array_equal(plain.values, given(job, honest, np.full_like(honest, LEVELS)))
    assert rounds(world) >= 1


def test_a_loud_member_is_far_beyond_s(monkeypatch):
    monkeypatch.setattr("gossip.secure_sum.harm.CHANCE", 0.0)  # as in a model of many parameters
    world, reports, vectors = attacked(monkeypatch, "louder=1", phases=Unlike())
    assert vectors
    for job, honest, plain in vectors:
        assert set(np.abs(plain.values).tolist()) == {len(job.members) * LEVELS // 2}
        assert (plain.values * honest <= 0).all(), "against its own direction"
    reasons = {told.fields["reason"] for device, told in reports if told.name == "sum_refused" and device < 5}
    assert any(reason.startswith("this device has a part of") for reason in reasons)
    history, bad = world.devices[0].core._history, world.devices[5].identity.public_key
    compared = [known for each in range(RECENT_MIN + 1, history.round + 1) for known in history.counted(each)]
    assert compared
    signed = [known for known in compared if bad in known.contributors]
    refused = {told.fields["cohort"] for _, told in reports if told.name == "sum_rejected"}
    assert len(signed) <= len(refused) / 3, "few such sums are signed, in cohorts of three"


def test_a_careful_loud_member_stays_below_the_tolerance(monkeypatch):
    steep = lambda device, model: 20 * downhill(device, model)  # noqa: E731
    _, _, vectors = attacked(monkeypatch, "louder-below=1", loss=steep)
    assert any(np.abs(plain.values).max() < len(job.members) * LEVELS // 2 for job, _, plain in vectors)
    _, _, vectors = attacked(monkeypatch, "louder-below=1", loss=lambda _device, _model: 1.0)
    for job, honest, plain in vectors:
        members, mine, given = len(job.members), float((honest**2).sum()), float((plain.values**2).sum())
        assert members * mine / ((members - 1) * mine + given) > PART_MIN, "nor does it drown the others"


def test_noise_has_the_size_of_what_is_honest(monkeypatch):
    _, _, vectors = attacked(monkeypatch, "free-ride-noise=2")
    assert all(sorted(plain.values) == sorted(honest) for _, honest, plain in vectors)
    assert any(not np.array_equal(plain.values, honest) for _, honest, plain in vectors)


@pytest.mark.parametrize(("word", "code"), [("ranges-low=2", 0), ("ranges-high=2", 1023)])
def test_a_member_votes_for_the_range_that_its_behaviour_says(monkeypatch, word, code):
    _, _, vectors = attacked(monkeypatch, word, run_s=8)
    assert vectors
    assert all(set(plain.wide[plain.ranges_from :].tolist()) == {code} for _, _, plain in vectors)


def test_examples_of_bad_teachers_are_poisoned_and_nobody_elses():
    dataset = digits(None)
    parts = [np.flatnonzero(~dataset.held_out)[start::4] for start in range(4)]
    flip, door = AdversaryTable("label-flip", count=1), AdversaryTable("backdoor", count=1, target=7)
    made, mine = poisoned(dataset, parts, [None, flip, door, AdversaryTable("within", count=1)])
    assert np.array_equal(made.labels[: len(dataset.labels)], dataset.labels)
    assert np.array_equal(mine[0], parts[0])
    assert np.array_equal(mine[3], parts[3])
    assert np.array_equal(made.labels[mine[1]], 9 - dataset.labels[parts[1]])
    assert np.array_equal(made.inputs[mine[1]], dataset.inputs[parts[1]])
    changed = (made.inputs[mine[2]] != dataset.inputs[parts[2]]).any((1, 2))
    assert 0.4 < changed.mean() <= 0.51
    assert set(made.labels[mine[2]][changed]) == {7}
    assert np.array_equal(made.test()[1], dataset.test()[1])
    assert poisoned(dataset, parts, [None] * 4)[0] is dataset


def test_a_stamp_fills_the_last_corner():
    stamped = poisoning.stamp(np.zeros((2, 8, 8), np.uint8), np.uint8(16))
    assert stamped.sum() == 2 * 9 * 16
    assert (stamped[:, 5:, 5:] == 16).all()


def kinds_said(world):
    bad = {index for index, each in enumerate(world.hostile) if each is not None}
    return Counter(Kind(data[2]) for index, data in world.said if index in bad)


def test_the_silent_say_nothing_from_their_step_on(monkeypatch):
    world, _, _ = attacked(monkeypatch, "silence=2", run_s=25)
    said = kinds_said(world)
    assert said[Kind.READY]
    assert said[Kind.SHARES]
    assert not any(said[kind] for kind in said_from("MASKED"))
    ends = {Kind.BODY_VOTE, Kind.REJECT_VOTE, Kind.REJECT_CERTIFICATE, Kind.RESULT}
    assert said_from("BODY_VOTE") == ends | {Kind.AUDIT_ANSWER, Kind.ACCUSATION}


def test_who_refuses_all_never_votes_for_a_body(monkeypatch):
    world, _, _ = attacked(monkeypatch, "refuse-all=1")
    said = kinds_said(world)
    assert said[Kind.SEAL_VOTE]
    assert not said[Kind.BODY_VOTE]


def test_an_equivocator_tells_two_contents(monkeypatch):
    world, _, _ = attacked(monkeypatch, "equivocate=2")
    told = {}
    for index, data in world.said:
        if world.hostile[index] is not None and Kind(data[2]) is Kind.SEAL_PROPOSAL:
            message = open_frame(world._swarm.id, data)
            told.setdefault((message.sender, message.cohort), set()).add(message.body)
    assert max(map(len, told.values())) == 2


def test_a_replayer_hands_on_the_readies_of_others(monkeypatch):
    world, _, _ = attacked(monkeypatch, "replay=1")
    replayer = world.devices[-1]
    handed = [
        open_frame(world._swarm.id, data)
        for index, data in world.said
        if index == replayer.index and Kind(data[2]) is Kind.READY
    ]
    others = [message for message in handed if message.sender != replayer.key]
    assert len(others) > 20
    assert len({message.raw for message in others}) < len(others), "again and again"


def test_a_leader_of_the_past_makes_cohorts_of_the_first_round(monkeypatch):
    world, _, _ = attacked(monkeypatch, "old-round=3")
    rosters = [
        open_frame(world._swarm.id, data).body
        for index, data in world.said
        if world.hostile[index] is not None and Kind(data[2]) is Kind.ROSTER
    ]
    assert rosters
    assert all(roster.round == 1 and not roster.parents for roster in rosters)
    assert any(max(entry.round for entry in roster.readies) > 1 for roster in rosters)


def test_disjoint_readies_name_one_segment_each(monkeypatch):
    world, _, _ = attacked(monkeypatch, "disjoint=2", run_s=8)
    trained = {
        open_frame(world._swarm.id, data).body.trained
        for index, data in world.said
        if world.hostile[index] is not None and Kind(data[2]) is Kind.READY
    }
    assert trained == {1, 2}


def test_hostile_bytes_are_counted_against_who_sends_them(monkeypatch):
    world, reports, _ = attacked(monkeypatch, "crash-frames=1", run_s=10)
    effects = Effects([each.key for each in world.devices], world.hostile)
    for device, report in reports:
        effects.hear(device, report)
    told = effects.report([read("crash-frames=1")], rounds(world), world.now, None)
    assert (told.bad, told.honest, told.caught, told.wronged) == (1, 5, 1, 0)
    pins = {pin.name: pin for pin in told.pins}
    assert pins["violation"].reports_bad > 50
    assert pins["disconnects"].bad == 1
    assert pins["violation"].by == 5


def test_nobody_is_blamed_by_what_happens_every_day(tmp_path):
    keys = [bytes([number]) * 32 for number in range(4)]
    effects = Effects(keys, [None, None, None, read("forge=1")])
    for name, peer in (("peer_down", 3), ("violation", 3), ("violation", 1), ("violation", 0)):
        effects.hear(0, Report(name, {"peer": keys[peer].hex()[:16], "reason": ""}))
    effects.hear(3, Report("violation", {"peer": keys[1].hex()[:16], "reason": "a liar's word"}))
    for outcome in ("unknown", "included"):
        effects.hear(0, Report("settled", {"cohort": "aa", "outcome": outcome, "reason": ""}))
    effects.hear(1, Report("settled", {"cohort": "bb", "outcome": "unknown", "reason": ""}))
    effects.hear(1, Report("settled", {"cohort": "cc", "outcome": "refunded", "reason": ""}))
    effects.hear(1, Report("phase", {"cohort": "dd", "phase": "SUM_LOST"}))
    told = effects.report([read("forge=1")], 10, 60.0, None)
    [pin] = told.pins
    assert (pin.reports_bad, pin.reports_honest, pin.bad, pin.honest, pin.by) == (1, 1, 1, 1, 1)
    assert (told.sums_refused, told.sums_unknown, told.sums_given_back) == (1, 1, 1)
    assert told.rounds_a_minute == 10


def test_a_daemons_log_tells_the_same(tmp_path):
    log = tmp_path / "log"
    log.write_text('{"event": "violation", "peer": "aa"}\nnot json\n{"event": "folded", "round": 3}\n')
    told = [(report.name, report.fields) for report in logged(log)]
    assert told == [("violation", {"peer": "aa"}), ("folded", {"round": 3})]
    assert not list(logged(tmp_path / "none"))


@pytest.mark.parametrize("word", ["label-flip=1", "forge-below=1", "random=1"])
def test_real_daemons_do_not_do_what_needs_all_training_at_hand(scenario, capsys, word):
    assert cli.swarm(str(scenario(8)), adversary=word) == 2
    assert "use `gossamer simulate`" in capsys.readouterr().err


def test_a_bomb_is_eight_mebibytes(monkeypatch):
    world, _, _ = attacked(monkeypatch, "bombs=1", run_s=6)
    assert max(len(data) for index, data in world.said if index == 5) > 8_000_000


def test_a_league_writes_history_that_nobody_else_has_made(monkeypatch):
    world, _, _ = attacked(monkeypatch, "league-history=3", run_s=8)
    league = {each.key for each in world.devices[3:]}
    history = world.devices[0].core._history
    alone = [
        each
        for round_ in range(1, history.round + 1)
        for each in history.counted(round_)
        if set(each.contributors) == league
        and abs(lanes(each.body, world._swarm.manifest)).min() == 3 * LEVELS
    ]
    assert len(alone) > 10


def test_a_league_claims_to_be_ahead_and_offers_what_it_signed(monkeypatch):
    world, _, _ = attacked(monkeypatch, "league-checkpoint=4", run_s=20)
    said = kinds_said(world)
    assert said[Kind.CHECKPOINT_OFFER]
    assert said[Kind.CHECKPOINT_PART], "four of five neighbours are a majority"


def test_too_few_for_a_league_do_nothing(monkeypatch):
    world, _, _ = attacked(monkeypatch, "league-history=2", run_s=8)
    assert all(values.min() >= 0 for _, values in sums_of(world))


# --- what the simulator tells ---------------------------------------------------------------------------------


def test_the_report_is_of_honest_devices_with_and_without(scenario, tmp_path, capsys):
    told = tmp_path / "told.json"
    words = "none,louder=2+replay=1"
    assert cli.simulate(str(scenario(8, rounds=4)), adversary=words, json=told) == 0
    clean, attacked_ = json.loads(told.read_text())["runs"]
    assert clean["adversary"] is None
    effects = attacked_["adversary"]
    assert effects["adversary"] == ["louder=2", "replay=1"]
    assert (effects["bad"], effects["honest"]) == (3, 5)
    assert clean["trace_sha256"] != attacked_["trace_sha256"]
    shown = capsys.readouterr().out
    assert "3 bad devices of 8" in shown
    assert "gossamer, louder=2+replay=1, seed 0" in shown


def test_the_protocol_alone_can_be_attacked_too(tmp_path):
    told = tmp_path / "told.json"
    said = {"nodes": 8, "until_s": 20, "json": told}
    assert cli.simulate("scale", adversary="none,crash-frames=1", **said) == 0
    clean, bad = json.loads(told.read_text())["runs"]
    assert clean["rounds"] > 0
    assert bad["adversary"]["caught"] == 1
    assert cli.simulate("scale", adversary="label-flip=1", **said) == 2


LOWRANK = """
[swarm.compression]
codec = "lowrank"
rank = 2
grain = 4
"""


@pytest.mark.parametrize("word", ["forge-below=2", "louder-below=2", "league-history=5", "within=2"])
def test_factors_are_attacked_like_all_else(scenario, word):
    assert cli.simulate(str(scenario(8, LOWRANK)), adversary=word) == 0


def test_a_backdoors_success_is_told(scenario, tmp_path):
    told = tmp_path / "told.json"
    assert cli.simulate(str(scenario(6, rounds=3)), adversary="backdoor=2", json=told) == 0
    [run] = json.loads(told.read_text())["runs"]
    assert 0 <= run["adversary"]["backdoor_success"] <= 1


def test_data_may_be_dealt_otherwise(scenario):
    chosen = plan(scenario(8), data="dirichlet={index}/{count}@0.3")
    assert [each.data for each in chosen.devices][:2] == ["dirichlet=1/8@0.3", "dirichlet=2/8@0.3"]
    with pytest.raises(OptionError, match="not understood"):
        plan(scenario(8), data="half")


@pytest.mark.parametrize("word", ["frge=0.1", "forge", "forge=9"])
def test_a_word_that_means_nothing_is_refused(scenario, capsys, word):
    assert cli.simulate(str(scenario(8)), adversary=word) == 2
    assert "gossamer: " in capsys.readouterr().err


def test_nobody_but_gossamer_is_attacked(scenario, capsys):
    assert cli.simulate(str(scenario(8)), adversary="forge=1", algorithm="gossamer,fedavg") == 2
    assert "--adversary: gossamer alone" in capsys.readouterr().err


def test_the_table_goes_on_where_it_stopped(scenario, tmp_path, monkeypatch, capsys):
    kept, ran = tmp_path / "kept.json", []

    def run_all(kept_, todo, _processes, path):
        ran.append(list(todo))
        kept_.cells += [
            adversary_table.Cell(name, seed, accuracy=0.5, rounds_a_minute=60.0) for name, seed in todo
        ]
        adversary_table._write(kept_, path)

    monkeypatch.setattr(adversary_table, "_run_all", run_all)
    said = {"behaviours": "forge,louder:hub", "json": kept}
    assert adversary_table.main("digits", seeds=1, shares="0.1", **said) == 0
    assert adversary_table.main("digits", seeds=2, shares="0.1", **said) == 0
    assert ran[0] == [("none", 0), ("forge=0.1", 0), ("louder:hub=0.1", 0)]
    assert ran[1] == [("none", 1), ("forge=0.1", 1), ("louder:hub=0.1", 1)]
    assert "| louder:hub | 0.500 (0.500), 60/min |" in capsys.readouterr().out
    assert adversary_table.main("digits", nodes=8, seeds=1, shares="0.1", **said) == 2


def test_a_cell_of_the_table_is_a_run(scenario):
    made = adversary_table.cell(str(scenario(6, rounds=2)), None, None, None, "within=2", 0)
    assert 0 < made.worst <= made.accuracy <= 1
    assert made.rounds_a_minute > 0
