"""In: a training and a validation `Dataset`, a `TrainConfig`. Out: `best` and `last` checkpoints, a log, curves.

Verb: `loop.train`.
"""
