"""In: predictions and what they should be, as tensors. Out: differentiable losses. Verb: the loss's name (`ciou`).

One module per term (`iou`, `bce`, ...); the criteria compose them.
"""
