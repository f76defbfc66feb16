"""Scores of a torch module, taken by all processes of a run together."""

from __future__ import annotations

from edgeyolo.data.dataset import Dataset
from edgeyolo.spec.detecting import Nms
from edgeyolo.spec.model import ModelSpec, Score
from edgeyolo.spec.progress import SILENT, Progress
from edgeyolo.training.distributed import World
from edgeyolo.training.torch_session import TorchSession


def score_together(
    session: TorchSession,
    spec: ModelSpec,
    data: Dataset,
    world: World,
    *,
    artefact: str,
    nms: Nms | None = None,
    progress: Progress = SILENT,
) -> Score:
    """What a model is worth, by the runtime that ships: each process looks at its share, the first one scores.

    Args:
        session: of the same weights on every process.
        artefact: what is measured, for the record.

    Raises:
        UsageError: the data set's classes are not the model's. DataError: no picture can be read.
        TrainingError: another process has failed.
    """
    from edgeyolo.evaluation.tasks import task_of

    task = task_of(spec.decode)
    task.check_data(spec, data)
    rows = range(world.rank, len(data), world.size)
    found = world.collect(lambda: task.find(session, spec, data, rows, nms=nms, batch=session.batch, progress=progress))
    together = {i: seen for part in found for i, seen in part.items()}
    return world.by_first(lambda: task.score(together, data, artefact=artefact))
