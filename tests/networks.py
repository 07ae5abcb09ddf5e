"""Small networks on this machine: namespaces on one bridge, made and removed by the test. For root on Linux."""

import contextlib
import os
import shutil
import subprocess

import pytest

PATIENCE_S = 60


class Wire:
    """A bridge, and the places that are plugged into it. Each has eth0 with 10.77.0.N/24."""

    def __init__(self):
        self._tag = f"gos{os.getpid()}"
        self._spaces = []
        self.bridge = self._space("x")
        self._ip(self.bridge, "link add br0 type bridge")
        self._ip(self.bridge, "link set br0 up")

    def place(self):
        """The name of a fresh namespace, and its address."""
        number = len(self._spaces)
        space, port, address = self._space(str(number)), f"port{number}", f"10.77.0.{number}"
        self._ip(self.bridge, f"link add {port} type veth peer name eth0 netns {space}")
        self._ip(self.bridge, f"link set {port} master br0 up")
        self._ip(space, "link set lo up")
        self._ip(space, f"addr add {address}/24 dev eth0")
        self._ip(space, "link set eth0 up")
        return space, address

    def without_multicast(self):
        """As a guest Wi-Fi: what is for one device passes, what is for a group does not."""
        for number in range(1, len(self._spaces)):
            self._ip(self.bridge, f"link set port{number} type bridge_slave mcast_flood off")

    def link(self, space, interface, state):
        self._ip(space, f"link set {interface} {state}")

    def address(self, space, word, address):
        """word: add or del."""
        self._ip(space, f"addr {word} {address}/24 dev eth0")

    def close(self):
        for space in self._spaces:
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)

    def _space(self, suffix):
        space = f"{self._tag}{suffix}"
        _run("ip", "netns", "add", space)
        self._spaces.append(space)
        return space

    def _ip(self, space, words):
        _run("ip", "-n", space, *words.split())


@contextlib.contextmanager
def wire():
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("networks of our own need root, and ip of iproute2")
    try:
        made = Wire()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this kernel gives no network namespaces: {error.stderr.strip()}")
    try:
        yield made
    finally:
        made.close()


def within(space, *words):
    """The words of a command that runs in a namespace."""
    return ("ip", "netns", "exec", space, *words)


def _run(*words):
    subprocess.run(words, check=True, capture_output=True, text=True, timeout=PATIENCE_S)
