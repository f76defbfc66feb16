"""Layers of a plan from TensorRT's own words: of its inspector and profiler, where a GPU is, and of its builder."""

from __future__ import annotations

from edgeyolo.backends.tensorrt.layers import parse_layers

# Of kernels that are chosen, not compiled for the network, one line each: how TensorRT 8 and 10 write them.
CHOSEN = """\
Layers:
Name: Reformatting CopyNode for Input Tensor 0 to conv1, LayerType: Reformat, Inputs: [ { Name: images, Location: \
Device, Dimensions: [1,3,224,224], Format/Datatype: Row major linear FP32 }], Outputs: [ { Name: in, Location: Device, \
Dimensions: [1,3,224,224], Format/Datatype: Thirty-two wide channel vectorized row major Int8 format }], \
ParameterType: Reformat, Origin: REFORMAT, TacticValue: 0x00000000000003e8
Name: conv1 + relu1, LayerType: CaskConvolution, Inputs: [ { Name: in, Location: Device, Dimensions: [1,3,224,224], \
Format/Datatype: Thirty-two wide channel vectorized row major Int8 format }], Outputs: [ { Name: out, Location: \
Device, Dimensions: [1,64,112,112], Format/Datatype: Channel major FP16 format where channel % 8 == 0 }], \
ParameterType: Convolution, Kernel: [7,7], OutMaps: 64, Weights: {"Type": "Int8", "Count": 9408}, TacticName: sm80
Name: conv2, LayerType: CaskConvolution, Inputs: [ { Name: out, Location: Device, Dimensions: [1,64,112,112], \
Format/Datatype: Channel major FP16 format where channel % 8 == 0 }], Outputs: [ { Name: map_0, Location: Device, \
Dimensions: [1,8,112,112], Format/Datatype: Row major linear FP32 }], ParameterType: Convolution, \
Weights: {"Type": "Half", "Count": 512}, TacticName: sm80
Name: __mye1_myl0_5, LayerType: signal, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0

Bindings:
images
map_0
"""


def test_chosen_kernels() -> None:
    times_ms = {"conv1 + relu1": [1.0, 3.0, 2.0], "conv2": [0.5]}
    reformat, first, second = parse_layers(CHOSEN, times_ms)
    assert (reformat.is_conversion, reformat.takes, reformat.gives, reformat.ms) == (True, "fp32", "int8", None)
    assert (first.name, first.kind, first.precision, first.ms) == ("conv1 + relu1", "CaskConvolution", "int8", 2.0)
    assert (first.takes, first.gives, first.is_conversion) == ("int8", "fp16", False)
    assert (second.precision, second.takes, second.gives) == ("fp16", "fp16", "fp32")


def test_a_plan_without_details_has_names_and_times() -> None:
    rows = list(
        parse_layers("Layers:\nconv1 + relu1\nconv2\n\nBindings:\nimages\n", {"conv1 + relu1": [2.0], "conv2": [1]})
    )
    assert [(row.name, row.precision, row.ms) for row in rows] == [("conv1 + relu1", "", 2.0), ("conv2", "", 1)]
