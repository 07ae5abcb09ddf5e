"""What a device says, in the frame that its kind travels in."""

from crypto.identity import Identity
from gossip.messages import CHANNEL_KINDS, KIND_OF, Body, channel_frame, sign_frame


def spoken(identity: Identity, swarm: bytes, body: Body, *, cohort: bytes = b"") -> bytes:
    if KIND_OF[type(body)] in CHANNEL_KINDS:
        return channel_frame(body)
    return sign_frame(identity, swarm, body, cohort=cohort)
