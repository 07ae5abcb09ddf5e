"""Ending a run: whatever state its processes are in, none is left."""

import os
import signal
import subprocess
import sys
import time

import pytest
import trio

from node.home import Home
from scenarios.processes import daemon
from scenarios.processes.daemon import Daemon, end_all, members_of
from scenarios.spec.scenario import Device

pytestmark = pytest.mark.swarm

WITH_A_CHILD = """
import signal, subprocess, sys
{first}
child = subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"], stdout=1)
child.wait()
"""
STUBBORN = WITH_A_CHILD.format(first="signal.signal(signal.SIGTERM, signal.SIG_IGN)")
OBEDIENT = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); print(flush=True); signal.pause()"


async def started(tmp_path, script):
    """A daemon's process that runs this script; returns once the script is under way."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True
    )
    with trio.fail_after(20):
        await process.stdout.receive_some(1)
    await process.stdout.aclose()
    return Daemon(Device("Ada", "shard=1/3"), Home(tmp_path), "a peer", process, groups=[process.pid])


async def test_one_that_ignores_every_request_is_killed_with_its_children(tmp_path, monkeypatch):
    monkeypatch.setattr(daemon, "TERMINATE_S", 0.5)
    ada = await started(tmp_path, STUBBORN)
    assert len(members_of(ada.groups)) == 2
    began = time.monotonic()
    assert await end_all([ada]) == []
    assert time.monotonic() - began < 3
    assert members_of(ada.groups) == []
    assert ada.process.returncode == -signal.SIGKILL


async def test_one_that_stands_still_is_woken_to_end_well(tmp_path):
    ada = await started(tmp_path, OBEDIENT)
    ada.process.send_signal(signal.SIGSTOP)
    await trio.to_thread.run_sync(os.waitid, os.P_PID, ada.process.pid, os.WSTOPPED)
    assert ada.stands_still()
    assert await end_all([ada]) == []
    assert ada.process.returncode == 0


async def test_a_crash_is_without_a_word_and_its_orphans_are_ended_too(tmp_path, monkeypatch):
    monkeypatch.setattr(daemon, "TERMINATE_S", 0.5)
    ada = await started(tmp_path, STUBBORN)
    await ada.crash()
    assert ada.process is None
    assert len(members_of(ada.groups)) == 1
    assert await end_all([ada]) == []
    assert members_of(ada.groups) == []


def test_the_runners_own_group_is_none_of_the_runs():
    assert os.getpid() in members_of([os.getpgid(0)])
    assert members_of([]) == []
