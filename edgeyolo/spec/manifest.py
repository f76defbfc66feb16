"""`manifest.json` inside a bundle: what the runtime needs, and what a person asks later."""

from __future__ import annotations

import msgspec

from edgeyolo.spec.detecting import DEFAULT_NMS, DEFAULT_SCORE_THRESHOLD, Nms
from edgeyolo.spec.model import Latency, ModelSpec, Score
from edgeyolo.spec.receptive_field import ReceptiveField
from edgeyolo.spec.target import Option, Precision
from edgeyolo.spec.transfer import ScoreTransfer
from edgeyolo.spec.tuning import Tuning

FORMAT_VERSION = 1


class LayerCost(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A layer that could run in two precisions.

    Attributes:
        runs: in "int8", or in the precision of the board's floats.
        int8: what that costs, from int8 to float, in millions of instructions.
        floating: what the other costs.
    """

    runs: Precision
    int8: float
    floating: float


class LayerChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Why a mixed artefact runs which layer in which precision.

    Attributes:
        core: whose costs it was.
        instructions: estimated for these layers and what stands between them, in millions, were they all in that
            precision, and as chosen ("mixed").
        layers: name -> what it cost either way.
    """

    core: str
    instructions: dict[Precision, float]
    layers: dict[str, LayerCost]


class Artefact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a backend built.

    Attributes:
        engine: name of the module in `edgeyolo.backends` that opens it.
        engine_version: of the package that built it.
        precision: of the convolutions that are not kept float.
        files: role -> file name, such as {"param": "model.ncnn.param", "bin": "model.ncnn.bin"}.
        options: engine options that the runtime must set before loading.
        layers: how many Conv/Gemm layers run in each precision, such as {"int8": 55, "float": 3}.
        choice: why layers run in int8 or not, where that was chosen by cost.
        float_layers: int8 layers that are run in float, which `edgeyolo bench --tune` found faster on the device; the
            files stay as they were built and the engine turns the layers when it loads them.
        graph_candidates: where boxes are decoded inside the graph, how many leave it per picture (see
            `spec.model.GraphDecode`); 0 where raw maps do.
    """

    engine: str
    engine_version: str
    precision: Precision
    files: dict[str, str]
    options: dict[str, Option] = {}
    layers: dict[str, int] = {}
    choice: LayerChoice | None = None
    float_layers: tuple[str, ...] = ()
    graph_candidates: int = 0


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file.

    Attributes:
        target: name of the board it was built for.
        machine: architecture of that board as `platform.machine()` gives it there, "" for any.
        cpu_features: what its processor must have for right results, as Linux names it, such as "asimddp". What the
            engine merely makes use of where it is there is not among them.
        threads: engine threads on that board, 0 for the engine's default.
        receptive_fields: of each level, finest first; none where the graph that it was built from did not say.
        nms: how several boxes of one object become one, unless who loads it says something else.
        sha256: file name -> digest, for every file in the bundle but the manifest.
        scores: measured accuracy, float first, each deployed artefact after.
        score_threshold: of the float model, from which on objects are reported unless who loads it says something else.
        transfer: what stands for score thresholds of the float model, None where that was not measured.
        tuning: what the options, threads and float layers were chosen from, None where they are the target's.
        source: provenance: checkpoint, onnx and qparams digests, recipe name.
        tools: package name -> version.
    """

    format_version: int = FORMAT_VERSION
    model: ModelSpec
    target: str
    machine: str = ""
    cpu_features: tuple[str, ...] = ()
    artefact: Artefact
    threads: int = 0
    receptive_fields: tuple[ReceptiveField, ...] = ()
    nms: Nms = DEFAULT_NMS
    sha256: dict[str, str]
    scores: tuple[Score, ...] = ()
    latency: tuple[Latency, ...] = ()
    score_threshold: float = DEFAULT_SCORE_THRESHOLD
    transfer: ScoreTransfer | None = None
    tuning: Tuning | None = None
    source: dict[str, str] = {}
    tools: dict[str, str] = {}
    created: str = ""
