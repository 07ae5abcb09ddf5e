"""A stub codec that looks before it sends, to test the two-phase rules: energies of blocks first, then the top half."""

from dataclasses import dataclass

import numpy as np

from crypto.masking import Lanes
from gossip.compression import Encoded, Phase, Plan, encode_payload, payload_plan
from gossip.residual import Sent

NOTHING = np.zeros(0, np.int64)


@dataclass(frozen=True)
class LooksFirst:
    id: int = 1  # travels as `random`: a body does not tell how its blocks were chosen
    phases: tuple[Phase, ...] = (Phase.SKETCH, Phase.PAYLOAD)

    def plan(self, phase, *, layout, compression, cohort, parents, travelling, look):
        if phase is Phase.SKETCH:
            return Plan(NOTHING, np.zeros(0, np.int8), Lanes(0, layout.blocks, 16), NOTHING)
        energies = np.frombuffer(look, "<u2")
        support = np.sort(np.argsort(-energies.astype(np.int64), kind="stable")[: layout.blocks // 2])
        return payload_plan(support, layout, compression, parents)

    def encode(self, phase, plan, contribution, rounding, *, layout, compression):
        if phase is Phase.PAYLOAD:
            return encode_payload(plan, contribution, rounding, layout, compression)
        vector = plan.lanes.zeros()
        power = np.add.reduceat(contribution.values.astype(np.float64) ** 2, layout.starts)
        plan.lanes.narrow_view(vector)[:] = np.clip(power * 100, 0, 1000).astype("<u2")
        return Encoded(vector, Sent(NOTHING, np.zeros(0, np.float32)))
