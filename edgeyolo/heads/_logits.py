"""Scores that are no sigmoids, as the logits whose sigmoids they are; numpy and torch alike."""

from __future__ import annotations

import importlib

from edgeyolo.heads._head import Array, Maths

_LOG_CERTAIN = -(2.0**-23)  # a score of 1 has no logit


def maths_of(values: Array) -> Maths:
    """The module, numpy or torch, that an array is of; the ground floor does not import torch by itself."""
    return importlib.import_module(type(values).__module__.partition(".")[0])


def log_sigmoid(logits: Array, maths: Maths) -> Array:
    """ln of the sigmoid, without overflow."""
    return maths.clip(logits, None, 0.0) - maths.log1p(maths.exp(-maths.abs(logits)))


def log_softmax(logits: Array, maths: Maths) -> Array:
    """ln of the shares along the last axis."""
    falls = logits - maths.amax(logits, axis=-1, keepdims=True)
    return falls - maths.log(maths.exp(falls).sum(-1)[..., None])


def logit_of_log(log_scores: Array, maths: Maths) -> Array:
    """ln of scores in 0-1 -> the logits whose sigmoids these scores are."""
    logs = maths.clip(log_scores, None, _LOG_CERTAIN)
    return logs - maths.log(-maths.expm1(logs))
