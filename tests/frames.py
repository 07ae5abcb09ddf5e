"""What a device says, in the frame that its kind travels in."""

from crypto.identity import Identity
from gossip.frames import CHANNEL_KINDS, KIND_OF, channel_frame, sign_frame
from gossip.wire import Wire


def spoken(identity: Identity, swarm: bytes, body: Wire, *, cohort: bytes = b"") -> bytes:
    if KIND_OF[type(body)] in CHANNEL_KINDS:
        return channel_frame(body)
    return sign_frame(identity, swarm, body, cohort=cohort)
