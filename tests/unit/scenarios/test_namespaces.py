"""The network of a scenario, as data: who is where, by which commands, and what a file may not ask for."""

import os
import subprocess
import sys

import pytest

from gossip.errors import GossamerError
from node.config.addresses import listen_address
from scenarios import cli
from scenarios.partitions import Parting, sides_of
from scenarios.plan import plan
from scenarios.processes import namespaces, sweeper
from scenarios.processes.namespaces import NamespaceError, layout, refuse_unable
from scenarios.reports.processes import Moment
from scenarios.spec.scenario import Cut, HomeTable, Line, NetworkTable, OptionError, find_scenario

RUN = "gsm-1f3a-9c02"
DSL = Line("dsl", up_mbit=1.0, down_mbit=16.0)
TWO_HOMES = NetworkTable(home=(HomeTable("north", 2, "dsl"), HomeTable("south", 1)), line=(DSL,))

FILE = """
name = "apart"
summary = "Six of a kind in two homes."
task = "digits"
test = "every fifth image"
rounds = 20

[devices]
count = 6
data = "shard={index}/{count}"

[[network.line]]
name = "dsl"
up_mbit = 1.0

[[network.home]]
name = "north"
devices = 4
line = "dsl"

[[network.home]]
name = "south"
devices = 2

[[network.cut]]
home = "south"
round = 5
for_rounds = 10
"""


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "scenario.toml"
        path.write_text(text)
        return path

    return write


# --- the file --------------------------------------------------------------------------------------------------


def test_a_scenario_says_who_lives_where_and_which_link_fails(written):
    network = plan(written(FILE)).network
    assert [(home.name, home.devices) for home in network.home] == [("north", 4), ("south", 2)]
    assert network.line_of(network.home[0]) == Line("dsl", up_mbit=1.0)
    assert network.line_of(network.home[1]) is None
    assert [str(cut) for cut in network.cut] == ["cut south off in round 5 for 10 rounds"]


def test_a_scenario_without_homes_has_no_network(written):
    assert plan(written(FILE.partition("[[network")[0])).network == NetworkTable()


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (
            "devices = 4",
            "devices = 5",
            "network.home: there are 7 devices in the homes, and 6 in the scenario",
        ),
        ("devices = 4", "devices = 0", "network.home[0].devices: 0 does not fit"),
        ('line = "dsl"', 'line = "dls"', 'network.home[0].line: there is no line "dls"; did you mean "dsl"?'),
        ('line = "dsl"', 'lime = "dsl"', "network.home[0].lime: no such key; did you mean line?"),
        ('name = "south"', 'name = "north"', 'network.home: two are called "north"'),
        ("up_mbit = 1.0", "up_mbit = 0.0", "network.line[0].up_mbit: 0.0 does not fit"),
        ("up_mbit = 1.0", "loss = 0.9", "network.line[0].loss: 0.9 does not fit"),
        ('home = "south"', 'home = "sooth"', 'network.cut[0].home: there is no home "sooth"; did you mean'),
        ("round = 5", "round = 5\nat_s = 3.0", "network.cut[0].round: say when the link goes down"),
        ("round = 5", "", "network.cut[0].round: say when the link goes down"),
        ("for_rounds = 10", "", "network.cut[0].for_rounds: say for how long"),
        ("for_rounds = 10", "for_rounds = 10\nfor_s = 3.0", "network.cut[0].for_rounds: say for how long"),
        ("for_rounds = 10", "for_rounds = 16", "comes back in round 21, beyond the 20 of the run"),
        ("round = 5", "round = 21", "beyond the 20 of the run"),
    ],
)
def test_a_network_that_could_not_be_is_refused_in_one_line(written, before, after, words):
    assert before in FILE
    with pytest.raises(GossamerError) as caught:
        plan(written(FILE.replace(before, after, 1)))
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert caught.value.exit_code == 4


def test_one_home_cannot_be_cut_off_from_anything(written):
    alone = FILE.replace('[[network.home]]\nname = "north"\ndevices = 4\nline = "dsl"\n', "").replace(
        "devices = 2", "devices = 6"
    )
    with pytest.raises(GossamerError, match=r"network\.cut\[0\]\.home: there is no other home"):
        plan(written(alone))


def test_fewer_devices_than_the_homes_hold_are_a_usage_error(written):
    with pytest.raises(OptionError, match="there are 6 devices in the homes, and 5 in the scenario"):
        plan(written(FILE), nodes=5)


# --- the plan --------------------------------------------------------------------------------------------------


def test_each_device_has_a_namespace_and_an_address_of_its_own():
    planned = layout(TWO_HOMES, RUN)
    assert [(place.namespace, place.address) for place in planned.places] == [
        (f"{RUN}-0", "10.213.1.1"),
        (f"{RUN}-1", "10.213.1.2"),
        (f"{RUN}-2", "10.213.2.1"),
    ]
    assert planned.home_of == (0, 0, 1)
    assert planned.places[2].inside == ("ip", "netns", "exec", f"{RUN}-2")
    assert listen_address(planned.places[2].listen) == ("10.213.2.1", namespaces.PORT)


def test_everything_is_made_in_namespaces_of_the_run():
    """So that to remove those is to remove everything."""
    for command in layout(TWO_HOMES, RUN).commands:
        if command[:3] == ("ip", "netns", "add"):
            assert command[3].startswith(f"{RUN}-")
        else:
            assert command[0] in {"ip", "tc"}
            assert command[1] == "-n"
            assert command[2].startswith(f"{RUN}-")


def test_a_home_is_a_bridge_with_its_devices_and_one_uplink():
    planned = layout(TWO_HOMES, RUN)
    net = f"{RUN}-net"
    masters = {
        command[5]: command[7]
        for command in planned.commands
        if command[3:5] == ("link", "set") and "master" in command
    }
    assert masters == {
        "uplink0": "home0",
        "street0": "street",
        "uplink1": "home1",
        "street1": "street",
        "port0": "home0",
        "port1": "home0",
        "port2": "home1",
    }
    assert planned.uplink("south", "down") == ("ip", "-n", net, "link", "set", "uplink1", "down")


def test_the_largest_network_has_short_interface_names_and_no_address_twice():
    largest = NetworkTable(home=tuple(HomeTable(f"h{number}", 250) for number in range(64)))
    planned = layout(largest, RUN)
    names = [
        word
        for command in planned.commands
        for word in command
        if word.startswith(("port", "uplink", "street"))
    ]
    assert max(map(len, names)) <= 15  # IFNAMSIZ
    addresses = {place.address for place in planned.places}
    assert len(addresses) == 64 * 250
    assert not [each for each in addresses if each.endswith((".0", ".255"))]


def test_only_who_has_a_line_is_capped_and_either_direction_where_it_sends():
    planned = layout(TWO_HOMES, RUN)
    caps = [command for command in planned.commands if command[0] == "tc"]
    assert planned.kinds == ("tbf",)
    assert [(command[2], command[6], command[command.index("rate") + 1]) for command in caps] == [
        (f"{RUN}-0", "eth0", "1000000bit"),
        (f"{RUN}-net", "port0", "16000000bit"),
        (f"{RUN}-1", "eth0", "1000000bit"),
        (f"{RUN}-net", "port1", "16000000bit"),
    ]
    assert [command[command.index("burst") + 1] for command in caps[:2]] == ["16384", "20000"]


def test_a_loss_comes_before_the_cap_and_takes_netem():
    lossy = NetworkTable(
        home=(HomeTable("north", 1, "radio"),), line=(Line("radio", up_mbit=1.0, loss=0.025),)
    )
    planned = layout(lossy, RUN)
    up = [" ".join(command[7:]) for command in planned.commands if command[:3] == ("tc", "-n", f"{RUN}-0")]
    assert planned.kinds == ("netem", "tbf")
    assert up == [
        "root handle 1: netem loss 2.5%",
        "parent 1:1 handle 2: tbf rate 1000000bit burst 16384 latency 200ms",
    ]


NAT = NetworkTable(home=(HomeTable("street", 1), HomeTable("north", 2, nat="independent", delay_ms=12.5)))


def test_a_home_behind_a_router_has_the_addresses_of_any_such_home_and_the_router_for_its_way_out():
    planned = layout(NAT, RUN)
    assert [place.address for place in planned.places] == ["10.213.1.1", "192.168.1.2", "192.168.1.3"]
    ways = {
        command[2]: " ".join(command[5:])
        for command in planned.commands
        if command[3:5] == ("route", "add") and "router" not in command[2]
    }
    # To whom nobody is near but its own home, all that is beyond is far.
    assert ways == {
        f"{RUN}-0": "10.213.0.0/16 dev eth0",
        f"{RUN}-1": "default via 192.168.1.1",
        f"{RUN}-2": "default via 192.168.1.1",
    }
    assert ("ip", "-n", f"{RUN}-0", "address", "add", "10.213.1.1/24", "dev", "eth0") in planned.commands
    assert layout(TWO_HOMES, RUN).routers == ()


def test_a_router_translates_in_a_namespace_of_the_run_and_its_home_can_be_cut_off():
    planned = layout(NAT, RUN)
    own = f"{RUN}-router1"
    [router] = planned.routers
    assert router[:4] == ("ip", "netns", "exec", own)
    assert router[4:8] == (sys.executable, "-P", "-m", "scenarios.processes.nat")
    assert router[8:] == ("nat0", "192.168.1.0/24", "10.213.2.1", "independent", "12.5")
    for command in planned.commands:
        place = command[3] if command[:3] == ("ip", "netns", "add") else command[2]
        assert place.startswith(f"{RUN}-")
    legs = {command[5]: command[-3:] for command in planned.commands if command[3:5] == ("link", "add")}
    assert legs["uplink1"] == ("lan", "netns", own)
    assert legs["street1"] == ("wan", "netns", own)
    assert planned.uplink("north", "down")[-2:] == ("uplink1", "down")


def test_a_delay_is_a_routers(written):
    with pytest.raises(
        GossamerError, match=r"network\.home\[0\]\.delay_ms: it is the router's; give the home"
    ):
        plan(written(FILE.replace("devices = 4", "devices = 4\ndelay_ms = 5.0")))


# --- who may ---------------------------------------------------------------------------------------------------


@pytest.fixture
def able(monkeypatch):
    monkeypatch.setattr(namespaces.sys, "platform", "linux")
    monkeypatch.setattr(namespaces.os, "geteuid", lambda: 0)
    monkeypatch.setattr(namespaces.shutil, "which", lambda tool: f"/sbin/{tool}")


def test_root_on_linux_with_iproute2_may(able):
    refuse_unable(TWO_HOMES, "apart")


def test_a_router_takes_a_tun_device(able, monkeypatch, tmp_path):
    monkeypatch.setattr(namespaces, "TUN", tmp_path / "tun")
    refuse_unable(TWO_HOMES, "apart")
    with pytest.raises(OptionError, match=r"has a home with nat, for which .* is missing"):
        refuse_unable(NAT, "apart")
    (tmp_path / "tun").touch()
    refuse_unable(NAT, "apart")


@pytest.mark.parametrize(
    ("part", "name", "value", "words"),
    [
        ("sys", "platform", "darwin", "only Linux has network namespaces"),
        ("os", "geteuid", lambda: 1000, "only root may make network namespaces; run it with sudo"),
        ("shutil", "which", lambda _: None, "there is no `ip`; install iproute2"),
    ],
)
def test_others_are_told_what_to_do_and_nothing_is_started(
    able, monkeypatch, capsys, part, name, value, words
):
    monkeypatch.setattr(getattr(namespaces, part), name, value)
    monkeypatch.setattr(cli, "run", lambda *_, **__: pytest.fail("nothing may be started"))
    assert cli.swarm("split", namespaces=True) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gossamer: --namespaces: ")
    assert words in line


def test_a_scenario_without_a_network_is_refused(able, capsys, monkeypatch):
    monkeypatch.setattr(cli, "run", lambda *_, **__: pytest.fail("nothing may be started"))
    assert cli.swarm("quickstart", namespaces=True) == 2
    assert "scenario quickstart has no [network]; try `split`" in capsys.readouterr().err


def test_a_command_that_fails_is_told_with_the_systems_own_words():
    with pytest.raises(NamespaceError, match="`sh -c echo no such thing >&2; exit 3`: no such thing"):
        namespaces._carry_out(("sh", "-c", "echo no such thing >&2; exit 3"))
    with pytest.raises(NamespaceError, match="`/no/such/tool`: No such file"):
        namespaces._carry_out(("/no/such/tool",))


# --- cuts ------------------------------------------------------------------------------------------------------


def test_a_cut_comes_in_its_round_and_ends_so_many_rounds_later():
    parting = Parting(Cut("south", round=5, for_rounds=10))
    assert not parting.begins(1e6, 4, [])
    assert not parting.begins(0.0, 6, ["south"])  # it is cut off already
    assert parting.begins(0.0, 6, ["north"])
    parting.cut_at = Moment(20.0, 6)
    assert parting.unfinished
    assert not parting.begins(0.0, 7, [])
    assert not parting.ends(1e6, 15, idle=False)
    assert parting.ends(21.0, 16, idle=False)
    assert parting.ends(21.0, 7, idle=True)  # no round will come any more


def test_a_cut_may_go_by_the_clock():
    parting = Parting(Cut("south", at_s=30.0, for_s=60.0))
    assert not parting.begins(29.9, 100, [])
    assert parting.begins(30.0, 0, [])
    parting.cut_at = Moment(45.0, 3)
    assert not parting.ends(104.9, 100, idle=True)
    assert parting.ends(105.0, 3, idle=False)


def test_what_a_cut_has_shown_is_told():
    parting = Parting(Cut("south", round=5, for_rounds=10), Moment(20.0, 6), Moment(60.0, 16))
    assert parting.waits_for_equality
    assert parting.report().rounds_to_equal is None
    parting.equal_at = Moment(64.0, 18)
    assert not parting.waits_for_equality
    assert parting.report().rounds_to_equal == 2


def test_a_home_that_is_cut_off_is_a_side_of_its_own():
    homes = ["north", "south", "west"]
    assert sides_of(homes, []) == [homes]
    assert sides_of(homes, ["south"]) == [["north", "west"], ["south"]]
    assert sides_of(homes, ["south", "north"]) == [["west"], ["north"], ["south"]]
    assert sides_of(homes, homes) == [["north"], ["south"], ["west"]]


# --- whose run it is -------------------------------------------------------------------------------------------

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, as only Linux has it")


@linux
def test_a_runs_name_says_whose_it_is_and_of_when():
    run = sweeper.run_of(os.getpid())
    assert sweeper.is_alive(run)
    pid, mark = run.split("-")[1:]
    assert not sweeper.is_alive(
        f"gsm-{pid}-{int(mark, 16) ^ 1:04x}"
    )  # the number was given to another process


@linux
def test_a_run_is_gone_when_its_process_is_even_if_nobody_has_collected_it():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    run = sweeper.run_of(process.pid)
    process.stdin.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not sweeper.is_alive(run)
    process.wait()
    assert not sweeper.is_alive(run)
    with pytest.raises(ProcessLookupError):
        sweeper.run_of(process.pid)


def test_only_namespaces_of_runs_are_ever_touched(monkeypatch):
    listed = f"{RUN}-net (id: 3)\nnet\ngsm-nobody\n{RUN}-12\n\ngsm-1f3a-9c0-1\nmy-{RUN}-1\n"
    done = []

    def ip(*arguments):
        done.append(arguments)
        return listed if arguments == ("netns", "list") else ""

    monkeypatch.setattr(sweeper, "_ip", ip)
    assert sweeper.namespaces() == [f"{RUN}-net", f"{RUN}-12"]
    assert sweeper.sweep(RUN) == [f"{RUN}-net", f"{RUN}-12"]
    assert [each[2] for each in done if each[1] == "delete"] == [f"{RUN}-net", f"{RUN}-12"]
    done.clear()
    assert sweeper.sweep("gsm-1f3a-9c0f") == []
    assert not [each for each in done if each[1] != "list"]


def test_what_is_no_run_is_not_swept():
    assert sweeper.main("gsm-") == 2
    assert sweeper.main("") == 2


def test_the_scenario_that_comes_along_cuts_two_homes_for_forty_rounds():
    network = plan(find_scenario("split")).network
    assert [home.devices for home in network.home] == [3, 3]
    assert [cut.for_rounds for cut in network.cut] == [40]
