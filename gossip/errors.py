"""Who is to blame is in the error's type."""

from pathlib import PurePath

PATH_PARTS = 2  # that name a file: its room and itself


class GossamerError(Exception):
    """The root of every error that this project raises on purpose."""


class PeerViolation(GossamerError):
    """A peer broke the rules. It costs the peer reputation and changes nothing here."""


class MisuseError(GossamerError):
    """Our own code called a protocol wrongly: a bug of ours, to be fixed and not to be caught."""


class ManifestError(GossamerError):
    """A swarm's settings contradict each other: change the ones that are named."""


def place_of(error: BaseException) -> str:
    """The file, line and function that raised it; nothing for an exception that was never raised."""
    trace = error.__traceback__
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    name = "/".join(PurePath(code.co_filename).parts[-PATH_PARTS:])
    return f"{name}:{trace.tb_lineno} in {code.co_qualname}"
