"""In: predictions and what they should be, as tensors. Out: differentiable losses. Verb: the loss's name (`ciou`).

One module per term (`iou`, `bce`, ...); a family's criterion, beside its network in `models`, composes them
into a `criterion.Criterion`: raw maps and objects -> `criterion.Loss`.
"""
