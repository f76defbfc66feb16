"""In: a training and a validation `Dataset`, a `TrainConfig`. Out: `best` and `last` checkpoints, a log.

Verb: `train`; `train_job` is the same engine for any `Job`.
"""

from edgeyolo.training.loop import TrainResult, train, train_job

__all__ = ["TrainResult", "train", "train_job"]
