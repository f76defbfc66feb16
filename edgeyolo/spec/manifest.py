"""`manifest.json` inside a bundle: what the runtime needs, and what a person asks later."""

from __future__ import annotations

import msgspec

from edgeyolo.spec.model import Latency, ModelSpec, Score
from edgeyolo.spec.target import Option, Precision

FORMAT_VERSION = 1


class Artefact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a backend built.

    Attributes:
        engine: name of the module in `edgeyolo.backends` that opens it.
        engine_version: of the package that built it.
        precision: of the convolutions that are not kept float.
        files: role -> file name, such as {"param": "model.ncnn.param", "bin": "model.ncnn.bin"}.
        options: engine options that the runtime must set before loading.
        layers: how many Conv/Gemm layers run in each precision, such as {"int8": 55, "float": 3}.
        graph_candidates: where boxes are decoded inside the graph, how many leave it per picture (see
            `spec.model.GraphDecode`); 0 where raw maps do.
    """

    engine: str
    engine_version: str
    precision: Precision
    files: dict[str, str]
    options: dict[str, Option] = {}
    layers: dict[str, int] = {}
    graph_candidates: int = 0


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file.

    Attributes:
        target: name of the board it was built for.
        threads: engine threads on that board, 0 for the engine's default.
        sha256: file name -> digest, for every file in the bundle but the manifest.
        scores: measured accuracy, float first, each deployed artefact after.
        source: provenance: checkpoint, onnx and qparams digests, recipe name.
        tools: package name -> version.
    """

    format_version: int = FORMAT_VERSION
    model: ModelSpec
    target: str
    artefact: Artefact
    threads: int = 0
    sha256: dict[str, str]
    scores: tuple[Score, ...] = ()
    latency: tuple[Latency, ...] = ()
    source: dict[str, str] = {}
    tools: dict[str, str] = {}
    created: str = ""
