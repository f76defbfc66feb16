"""Values of a plan's layers in the order of a darknet `.weights`, and under the names of the files of YOLOR.

Names in a `.weights` are made here: `12.conv.weight`, `12.bn.bias`. YOLOR and the smallest of the PyTorch Scaled-YOLOv4
keep darknet's numbers: `module_list.12.Conv2d.weight`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from edgeyolo.nn.plan import Conv, Layer, Vector, count_values, find_outputs, trace_shapes
from edgeyolo.spec.errors import CheckpointError
from edgeyolo.weights.formats.darknet import VALUES

_MOST_CLASSES = 10_000


def name_values(layers: Sequence[Layer], tensors: Mapping[str, Tensor], where: object) -> dict[str, Tensor]:
    """The values of a `.weights`, each tensor under its name; tensors that have names already as they are.

    Of a convolution come the biases, then with batch norm its scales, means and variances, then the weights.

    Raises:
        CheckpointError: the file has more or fewer values than the layers.
    """
    if VALUES not in tensors:
        return dict(tensors)
    values, shapes = tensors[VALUES], trace_shapes(layers)
    wanted = count_all(layers)
    if len(values) != wanted:
        what = "is cut off" if len(values) < wanted else "is of another network, or of other classes"
        raise CheckpointError(
            f"has {len(values):,} values where the network has {wanted:,}: it {what}",
            where=where,
            hint="Give its own cfg with --cfg",
        )
    named: dict[str, Tensor] = {}
    at = 0

    def take(name: str, *shape: int) -> None:
        nonlocal at
        count = 1
        for side in shape:
            count *= side
        named[name] = values[at : at + count].reshape(shape)
        at += count

    for index, layer in enumerate(layers):
        if isinstance(layer, Vector):
            take(f"{index}.vector", 1, layer.chs, 1, 1)
        elif isinstance(layer, Conv):
            if layer.norm:
                for leaf in ("bias", "weight", "running_mean", "running_var"):
                    take(f"{index}.bn.{leaf}", layer.chs)
            else:
                take(f"{index}.conv.bias", layer.chs)
            in_chs = 3 if layer.reads[0] < 0 else shapes[layer.reads[0]].chs
            take(f"{index}.conv.weight", layer.chs, in_chs // layer.groups, layer.size, layer.size)
    return named


def count_all(layers: Sequence[Layer]) -> int:
    """Numbers in the `.weights` of a network."""
    shapes = trace_shapes(layers)
    return sum(
        count_values(layer, sum(3 if read < 0 else shapes[read].chs for read in layer.reads)) for layer in layers
    )


def count_classes(one: Sequence[Layer], two: Sequence[Layer], tensors: Mapping[str, Tensor]) -> int | None:
    """K of a file, from the same network for one class and for two; None where it is not of this network."""
    if VALUES in tensors:
        fewest = count_all(one)
        more, rest = divmod(len(tensors[VALUES]) - fewest, count_all(two) - fewest)
        return 1 + more if rest == 0 and 0 <= more < _MOST_CLASSES else None
    output = find_outputs(one)[0]
    weight = tensors.get(f"module_list.{output.conv}.Conv2d.weight")
    if weight is None or weight.dim() == 0:
        return None
    per_anchor, rest = divmod(len(weight), len(output.detect.anchors_wh))
    return per_anchor - 5 if rest == 0 and per_anchor > 5 else None
