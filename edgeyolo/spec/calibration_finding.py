"""What is wrong with pictures to calibrate on."""

from __future__ import annotations

from typing import Literal

import msgspec

Fault = Literal[
    "few-pictures",
    "duplicates",
    "held-out",
    "unlike-validation",
    "colour-order",
    "value-range",
    "dark",
    "dead-channel",
    "saturation",
]
Verdict = Literal["refused", "warned", "accepted"]


class CalibrationFinding(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing that is wrong.

    Attributes:
        verdict: whether it stops quantization; "accepted" where it would, and the user went on knowingly.
        value: what was measured.
        limit: beyond which it is a finding.
        what: in words, with the number.
        hint: what to do.
    """

    fault: Fault
    verdict: Verdict
    value: float
    limit: float
    what: str
    hint: str

    def __str__(self) -> str:
        return f"{self.fault}: {self.what}. {self.hint}"
