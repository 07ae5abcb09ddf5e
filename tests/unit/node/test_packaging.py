"""Our rooms have plain names; no dependency may ship one of them."""

from importlib.metadata import packages_distributions

ROOMS = {"crypto", "gossip", "models", "node", "scenarios"}


def test_no_dependency_ships_one_of_our_names():
    taken = {name: owners for name, owners in packages_distributions().items() if name in ROOMS}
    assert all(owners == ["gossamer"] for owners in taken.values()), taken
