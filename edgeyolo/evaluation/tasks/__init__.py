"""What a network is for: how its data is opened, what it finds there, and what that is worth.

In: the `Decode` of a network. Out: its `Task`. Verb: `task_of`. A task is one module here with a `TASK`.
"""

from __future__ import annotations

from edgeyolo.evaluation.tasks._task import Task
from edgeyolo.evaluation.tasks.detection import DetectionTask
from edgeyolo.evaluation.tasks.keypoints import KeypointsTask
from edgeyolo.spec.errors import UnknownNameError
from edgeyolo.spec.model import Decode, HeatmapDecode

__all__ = ["Task", "task_named", "task_of"]

_TASKS: dict[str, Task] = {task.name: task for task in (DetectionTask(), KeypointsTask())}


def task_named(name: str) -> Task:
    """The task that a model says it is for.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in _TASKS:
        raise UnknownNameError("task", name, _TASKS)
    return _TASKS[name]


def task_of(decode: Decode) -> Task:
    """The task of a network whose outputs `decode` describes."""
    return task_named(KeypointsTask.name if isinstance(decode, HeatmapDecode) else DetectionTask.name)
