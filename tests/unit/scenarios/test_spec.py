"""Scenario files: those that come with the program work, and what cannot work is refused in one clear line."""

import re

import pytest

from gossip.errors import GossamerError
from node.config.errors import ConfigError
from scenarios.plan import FIRST_NAMES, plan
from scenarios.spec.scenario import VIRTUAL_DEVICES_MAX, OptionError, find_scenario, known_scenarios

COUNTED = """
name = "counted"
summary = "Ten of a kind."
task = "digits"
test = "every fifth image"
rounds = 20

[devices]
count = 10
data = "shard={index}/{count}"
"""

LISTED = """
name = "listed"
summary = "Four by name."
task = "watch"
test = "strangers"
rounds = 20
device = [
    {name = "Ada", data = "subjects=1"},
    {name = "Bruno", data = "subjects=2"},
    {name = "Chidi", data = "subjects=3"},
    {name = "Dalia", data = "subjects=4"},
]
"""

FAULT = '\n[[fault]]\naction = "kill"\nround = 3\nphase = "MASKED"\nrole = "aggregator"\n'


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "scenario.toml"
        path.write_text(text)
        return path

    return write


def refusal(path, **choices):
    with pytest.raises(GossamerError) as caught:
        plan(path, **choices)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == (2 if isinstance(caught.value, OptionError) else 4)
    return message


SIZES = """
[swarm.cohorts]
n_max = 8

[baselines.fedavg]
local_steps = 11

[[size]]
devices = 20

[size.swarm.cohorts]
n_min = 4

[size.baselines.fedavg]
local_steps = 12

[[size]]
devices = 40

[size.swarm.compression]
levels = 3
"""


@pytest.mark.parametrize(
    ("nodes", "n_min", "n_max", "levels", "steps"),
    [
        (None, 3, 8, 7, 11),
        (19, 3, 8, 7, 11),
        (20, 4, 16, 7, 12),
        (39, 4, 16, 7, 12),
        (40, 3, 16, 3, 11),
        (99, 3, 16, 3, 11),
    ],
)
def test_many_devices_have_settings_of_their_own_with_nothing_taken_from_the_others(
    written, nodes, n_min, n_max, levels, steps
):
    """What they are compared with as well, where something is said of it."""
    planned = plan(written(COUNTED + SIZES), nodes=nodes)
    swarm = planned.swarm
    assert (swarm.cohorts.n_min, swarm.cohorts.n_max, swarm.compression.levels) == (n_min, n_max, levels)
    assert planned.baselines.fedavg.local_steps == steps


def test_sizes_that_do_not_ascend_are_refused(written):
    words = refusal(written(COUNTED + SIZES.replace("= 40", "= 20")))
    assert "size: the numbers of devices must ascend, not [20, 20]" in words


@pytest.mark.parametrize("name", known_scenarios())
def test_every_scenario_that_comes_along_is_found_by_its_name_and_fits_together(name):
    chosen = plan(find_scenario(name), devices_max=VIRTUAL_DEVICES_MAX)
    assert chosen.name == name
    # In `split`, three devices are all that there are on either side; in `adhoc`, they begin with three.
    assert chosen.swarm.cohorts.n_min >= (3 if name in {"adhoc", "split"} else 4)


def test_devices_are_brought_only_where_they_are_admitted_and_find_each_other(written):
    text = find_scenario("adhoc").read_text()
    for spoilt in (text.replace('admit = "invite"', ""), text[: text.index("[[network.home]]")]):
        assert "by_invitation" in refusal(written(spoilt))


def test_the_known_scenarios_are_those_that_the_manual_names():
    assert known_scenarios() == [
        "adhoc",
        "churn",
        "digits",
        "everyday-devices",
        "faults",
        "keyboard",
        "quickstart",
        "scale",
        "split",
        "truth",
        "two-homes",
        "watch",
    ]


def test_the_quickstart_has_one_person_a_device_and_nobody_who_is_tested():
    chosen = plan(find_scenario("quickstart"))
    assert [device.data for device in chosen.devices] == [f"subjects={number}" for number in range(1, 9)]


def test_the_faults_befall_the_devices_of_the_quickstart():
    quiet, stormy = plan(find_scenario("quickstart")), plan(find_scenario("faults"))
    assert (stormy.devices, stormy.swarm, stormy.task) == (quiet.devices, quiet.swarm, quiet.task)
    assert [(fault.action, fault.phase, fault.role) for fault in stormy.faults] == [
        ("restart", "MASKED", "aggregator"),
        ("restart", "MASKED", "member"),
    ]


def test_a_scenario_is_found_by_its_path_too(written):
    path = written(LISTED)
    assert find_scenario(str(path)) == path


def test_an_unknown_scenario_is_answered_with_the_nearest_and_with_all():
    with pytest.raises(
        OptionError, match=r"did you mean quickstart\? known: adhoc, churn, digits, everyday-devices, "
    ):
        find_scenario("quikstart")
    with pytest.raises(OptionError, match="no such file"):
        find_scenario("./quickstart.toml")


def test_counted_devices_get_names_and_a_share_each(written):
    devices = plan(written(COUNTED)).devices
    assert [device.name for device in devices[:3]] == ["Ada", "Bruno", "Chidi"]
    assert [device.data for device in devices] == [f"shard={number}/10" for number in range(1, 11)]


def test_more_devices_than_first_names_are_numbered(written):
    devices = plan(written(COUNTED), nodes=2 * len(FIRST_NAMES) + 1).devices
    names = [device.name for device in devices]
    assert names[len(FIRST_NAMES)] == "Ada 2"
    assert names[-1] == "Ada 3"
    assert len({name.casefold() for name in names}) == len(names)


def test_the_command_line_chooses_devices_rounds_and_seed(written):
    chosen = plan(written(COUNTED), nodes=5, rounds=7, seed=9)
    assert (len(chosen.devices), chosen.rounds, chosen.seed) == (5, 7, 9)
    assert chosen.devices[4].data == "shard=5/5"
    assert [device.name for device in plan(written(LISTED), nodes=3).devices] == ["Ada", "Bruno", "Chidi"]


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"nodes": 5}, "--nodes 5: expected 1 to 4, the devices that scenario listed lists"),
        ({"nodes": 2}, "devices: 2 are too few for swarm.cohorts.n_min = 3"),
        ({"nodes": 0}, "--nodes 0: expected 1 to 4"),
        ({"rounds": 0}, "--rounds 0: expected 1 to"),
        ({"seed": -1}, "--seed -1: expected 0 to"),
        ({"seed": 1 << 32}, "expected 0 to 4294967295"),
    ],
)
def test_choices_that_do_not_fit_the_scenario_are_usage_errors(written, choices, words):
    assert words in refusal(written(LISTED), **choices)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("rounds = 20", "round = 20", "line 6: round: no such key; did you mean rounds?"),
        ("rounds = 20", "rounds = 0", "line 6: rounds: 0 does not fit; expected a whole number from 1"),
        ("rounds = 20", 'rounds = "20"', "expected a whole number"),
        ("rounds = 20", "", "rounds: missing"),
        ('task = "digits"', 'task = "no task"', "task:"),
        ("count = 10", "cuont = 10", "devices.cuont: no such key; did you mean count?"),
        ("count = 10", "count = 2", "expected a whole number from 3"),
        ("{index}", "{indx}", """data part 'shard={indx}/10' is not understood"""),
        ("[devices]", "[swarm.cohorts]\nn_min = 2\n[devices]", "swarm.cohorts.n_min: 2 does not fit"),
        ("[devices]", "[swarm.cohorts]\nn_min = 12\n[devices]", "10 are too few"),
        ("[devices]", "[swarm.compression]\nlevels = 900\n[devices]", "overflow 8 bits"),
        ("[devices]", "[swarm]\nrounds = 3\n[devices]", "swarm.rounds: no such key"),
        ("[devices]", "[devices", "not valid TOML"),
        ("[devices]", '[[device]]\nname = "Ada"\ndata = "subjects=1"\n[devices]', "name them one by one"),
    ],
)
def test_a_file_that_could_not_run_is_refused(written, before, after, words):
    assert before in COUNTED
    assert words in refusal(written(COUNTED.replace(before, after)))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('"Bruno"', '"ada"', 'device: two are called "ada"'),
        ('"Bruno"', '"leader"', 'device: "leader" is a role'),
        ('"Bruno"', '"../Ada"', "device[1].name"),
        ('"Bruno"', '"Ada"', 'device: two are called "Ada"'),
    ],
)
def test_names_that_two_could_answer_to_are_refused(written, before, after, words):
    assert words in refusal(written(LISTED.replace(before, after)))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('role = "aggregator"', "", "fault[0].role: say whom it befalls"),
        ('role = "aggregator"', 'role = "leader"\nnode = "Ada"', "and not both"),
        ('role = "aggregator"', 'role = "agregator"', 'expected one of "aggregator"'),
        ('role = "aggregator"', 'node = "Brumo"', 'no device "Brumo"; did you mean "Bruno"?'),
        ('phase = "MASKED"', 'phase = "READY"', "nobody has one yet"),
        ('phase = "MASKED"', 'phase = "ROSTER"', "the leader says ROSTER, not the aggregator"),
        ("round = 3", "round = 21", "round: 21 is beyond the 20 rounds"),
        ("round = 3", "round = 3\nfor_s = 2.0", "fault[0].for_s"),
        ("round = 3", "round = 3\nafter_rounds = 2", "fault[0].after_rounds"),
        ('"kill"', '"pause"', "fault[0].for_s"),
        ('"kill"', '"restart"', "fault[0].after_rounds"),
        ('"kill"', '"restart"\nafter_s = 1.0\nafter_rounds = 2', "fault[0].after_rounds"),
        ('"kill"', '"restart"\nafter_rounds = 18', "is beyond the 20 of the run"),
        ('"kill"', '"slay"', "fault[0].action"),
    ],
)
def test_a_fault_that_could_not_happen_is_refused(written, before, after, words):
    assert before in FAULT
    assert words in refusal(written(LISTED + FAULT.replace(before, after)))


def test_faults_that_leave_too_few_are_refused_unless_those_before_are_back(written):
    one = plan(written(LISTED + FAULT))
    assert len(one.faults) == 1
    assert "2 of 4 devices are left in round 5, too few" in refusal(
        written(LISTED + FAULT + FAULT.replace("round = 3", "round = 5"))
    )
    back = FAULT.replace('"kill"', '"restart"\nafter_rounds = 2')
    assert len(plan(written(LISTED + back + FAULT.replace("round = 3", "round = 5"))).faults) == 2
    assert "are left in round 4" in refusal(written(LISTED + back + FAULT.replace("round = 3", "round = 4")))


def test_fewer_rounds_than_a_scenarios_faults_need_are_a_usage_error(written):
    assert "fault[0].round: 3 is beyond the 2 rounds" in refusal(written(LISTED + FAULT), rounds=2)


def test_a_fault_tells_itself_in_words(written):
    (fault,) = plan(written(LISTED + FAULT)).faults
    assert re.fullmatch("kill the aggregator after MASKED in round 3 or later", str(fault))


def test_an_unreadable_file_is_one_clear_line(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        plan(tmp_path)
