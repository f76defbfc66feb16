"""DAMO-YOLO: backbones found by a search, a neck that mixes every level with both its neighbours, almost no head.

Paper: DAMO-YOLO, arXiv 2211.15444. The nano sizes (Ns, Nm, Nl) are rows of inverted residuals, T and S rows of
re-parameterised residuals, M and L have these in cross-stage-partial stages. The head is one convolution for classes
and one for boxes, which are distributions; a cell's point is its top left corner. Matched by AlignedOTA. The input is
RGB in 0-255, in the top left corner.

Differs:
    - The pyramid's pools are a chain of three (the same function, cheaper).
    - Folded, the number that each level multiplies its boxes by is in the convolution: three parameters less than the
      authors' folded networks have, which keep it.
    - The authors squeeze pictures to the square of the nano sizes; here they keep their proportions.
"""

from __future__ import annotations

from edgeyolo.models.damoyolo.config import VARIANTS, DamoYoloConfig, Stage
from edgeyolo.models.damoyolo.network import Network
from edgeyolo.models.damoyolo.official import PUBLISHED

__all__ = ["PUBLISHED", "VARIANTS", "DamoYoloConfig", "Network", "Stage"]
