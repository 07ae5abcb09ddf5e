"""Real daemons of whom one is bad: what it does happens, and the honest ones end well and are told of alone."""

import json

import pytest

from scenarios import cli

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(120)]


def test_a_real_forger_takes_part_and_is_in_no_table(tmp_path, capsys):
    told = tmp_path / "told.json"
    assert cli.swarm("digits", nodes=6, rounds=4, adversary="forge:hub=1", json=told) == 0
    report = json.loads(told.read_text())
    assert len(report["nodes"]) == 5
    assert (report["adversary"]["bad"], report["adversary"]["honest"]) == (1, 5)
    assert "1 bad devices of 6" in capsys.readouterr().out


def test_real_garbage_is_pinned_on_who_sent_it(tmp_path):
    told = tmp_path / "told.json"
    assert cli.swarm("digits", nodes=6, rounds=6, adversary="crash-frames=1+replay=1", json=told) == 0
    effects = json.loads(told.read_text())["adversary"]
    assert effects["caught"] >= 1
    assert effects["wronged"] == 0
