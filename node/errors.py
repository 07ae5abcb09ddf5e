"""Errors that the control API tells its caller."""

from gossip.errors import GossamerError


class Unanswered(GossamerError):
    """A device was asked and gave no answer, or there is no such device."""
