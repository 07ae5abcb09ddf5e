"""Who is to blame is in the error's type."""


class GossamerError(Exception):
    """The root of every error that this project raises on purpose."""


class PeerViolation(GossamerError):
    """A peer broke the rules. It costs the peer reputation and changes nothing here."""


class MisuseError(GossamerError):
    """Our own code called a protocol wrongly: a bug of ours, to be fixed and not to be caught."""


class ManifestError(GossamerError):
    """A swarm's settings contradict each other: change the ones that are named."""
