"""`import`: weights that a family's authors published -> a checkpoint, without any training."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeyolo.spec.coco_classes import COCO_CLASSES
from edgeyolo.spec.errors import CheckpointError, DataError, OutputError, UsageError
from edgeyolo.spec.joints import COCO_JOINTS, COCO_SKELETON
from edgeyolo.spec.sizes import image_hw_of, image_size_of

if TYPE_CHECKING:
    from edgeyolo.models import DetectorNetwork
    from edgeyolo.spec.model import ModelSpec, TrainedDecode

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImportResult:
    """What `import_weights` wrote."""

    checkpoint: Path
    model: ModelSpec


def import_weights(
    file: Path,
    out: Path,
    *,
    model: str | None = None,
    names: Path | None = None,
    image_size: int | str | None = None,
    cfg: Path | None = None,
) -> ImportResult:
    """Write official weights as `best.safetensors` in the folder `out`, with their origin and licence in its record.

    Args:
        file: as the authors publish it; nothing in it is run.
        model: name in the zoo; None for the one that the tensors fit.
        names: a text file, the name of a class, or joint, on each line; None for COCO's 80 classes or 17 joints.
        image_size: side in pixels of the square input, or such as "384x640"; None for the model's own.
        cfg: of a darknet `.weights`, which says the model, its classes, its anchors and its size.

    Raises:
        CheckpointError: unreadable, of another model, or of none that is known. UnknownNameError, UsageError: no such
            model, several that fit, no or too few class names, or a size that its strides do not divide.
        OutputError: there is a checkpoint in `out` already, or it cannot be written.
    """
    from edgeyolo import models
    from edgeyolo.spec.model import ModelSpec
    from edgeyolo.spec.training import TrainConfig
    from edgeyolo.training.checkpoint import CheckpointRecord, save_checkpoint

    path = out / "best.safetensors"
    if path.exists():
        raise OutputError("there is a checkpoint already", where=path, hint="Give another --out, or remove it")
    if cfg is not None:
        _check_cfg(file, model)
        found = models.load_darknet(cfg, file)
        network, structure, origin = found.network, found.structure, found.origin
        image_hw = image_hw_of(image_size) if image_size else found.image_hw
    else:
        network = models.load_pretrained(model or _only_guess(file), file)
        structure, origin = "", models.origin_of(network.config.name, file)
        image_hw = image_hw_of(image_size) if image_size else models.image_hw_of_model(network.config.name)
    name = network.config.name
    spec = ModelSpec(
        name=name,
        activation=network.config.activation,
        class_names=_class_names(names, network, file),
        input=network.make_input_spec(image_hw),
        decode=_with_skeleton(network.decode, network.config.num_classes, names),
        origin=origin,
        structure=structure,
    )
    config = TrainConfig(model=name, image_size=image_size_of(image_hw))
    tensors = {f"model.{key}": tensor for key, tensor in network.state_dict().items()}
    save_checkpoint(path, tensors, CheckpointRecord(model=spec, config=config, data="", epoch=0))
    return ImportResult(path, spec)


def _check_cfg(file: Path, model: str | None) -> None:
    if file.suffix != ".weights":
        raise UsageError("--cfg is for .weights of darknet", where=file, hint="Leave it out")
    if model is not None:
        raise UsageError("--cfg says which model it is", where=file, hint="Leave --model out")


def _only_guess(file: Path) -> str:
    from edgeyolo import models

    found = models.guess_models(file)
    if not found:
        raise CheckpointError(
            "its tensors are those of no model that is known", where=file, hint="--model NAME says what differs from it"
        )
    if len(found) > 1:
        raise UsageError(f"fits {' and '.join(found)}", where=file, hint="Say which with --model")
    _LOG.info("%s is %s by its tensors", file, found[0])
    return found[0]


def _class_names(names: Path | None, network: DetectorNetwork, file: Path) -> tuple[str, ...]:
    count, what = network.config.num_classes, "joints" if network.task == "keypoints" else "classes"
    if names is None:
        known = {"joints": COCO_JOINTS, "classes": COCO_CLASSES}[what]
        if count != len(known):
            raise UsageError(f"has {count} {what}, and no names", where=file, hint="Give --names FILE, one on a line")
        return known
    found = read_names(names)
    if len(found) != count or len(set(found)) != count:
        raise UsageError(f"has {len(set(found))} different names for {count} {what}", where=names, hint="One for each")
    return found


def _with_skeleton(decode: TrainedDecode, count: int, names: Path | None) -> TrainedDecode:
    """With the lines between COCO's joints, where the joints are those."""
    import msgspec

    from edgeyolo.spec.model import HeatmapDecode

    if names is None and count == len(COCO_JOINTS) and isinstance(decode, HeatmapDecode):
        return msgspec.structs.replace(decode, skeleton=COCO_SKELETON)
    return decode


def read_names(path: Path) -> tuple[str, ...]:
    """The lines of a text file that are not empty.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read ({error})", where=path, hint="A text file, one name on a line") from None
