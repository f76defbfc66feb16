"""Results of calibration on this machine, one JSON file each: never used when anything they depend on has changed.

The name of a file is the digest of its key: weights and graph, pictures in order, input, recipe, code. It is renamed
into place when whole. The folder keeps the latest 64; a file is at most a few MiB, and any may be deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch
from torch import fx

from edgeyolo.backends import list_packages
from edgeyolo.quantization.calibrate.scales import Scales
from edgeyolo.spec.atomic import write_file
from edgeyolo.spec.cache import cache_folder
from edgeyolo.spec.errors import FormatError, OutputError
from edgeyolo.spec.model import InputSpec, RawDecode
from edgeyolo.spec.provenance import sha256_of, tool_versions
from edgeyolo.spec.recipe import QatRecipe, Recipe
from edgeyolo.spec.strict import encode_json, load_json

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
_KEPT = 64
_PACKAGE = Path(__file__).resolve().parent.parent


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What calibration finds.

    Attributes:
        count: pictures seen.
        biases: module path -> corrected bias; empty without bias correction.
        float_layers: module path -> why, of the int8 layers that calibration keeps float.
    """

    scales: Scales
    count: int
    biases: dict[str, tuple[float, ...]] = {}
    float_layers: dict[str, str] = {}


class CacheKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that a calibration depends on.

    Attributes:
        deploy_sha256: of the float deploy form.
        pictures_sha256: of the digests of the pictures, in order.
        decode: what ranges chosen at the output are chosen by; None for a model without.
        recipe: without what calibration does not read.
        code_sha256: of this package, so that a changed checkout does not read what it left before.
        tools: package name -> version.
    """

    format_version: int = FORMAT_VERSION
    deploy_sha256: str
    pictures_sha256: str
    input: InputSpec
    decode: RawDecode | None
    recipe: Recipe
    code_sha256: str
    tools: dict[str, str]

    def digest(self) -> str:
        """Name of its file."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:32]


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file; `sha256` is that of the encoded `calibration`."""

    key: CacheKey
    calibration: Calibration
    sha256: str


@dataclass(frozen=True)
class CalibrationCache:
    """Calibrations of models with one input.

    Attributes:
        input: how pictures become network inputs.
    """

    input: InputSpec
    folder: Path = field(default_factory=lambda: cache_folder("calibration"))

    def make_key(
        self,
        deploy: fx.GraphModule,
        picture_hashes: Mapping[str, str],
        recipe: Recipe,
        decode: RawDecode | None = None,
    ) -> CacheKey:
        """The key of calibrating `deploy` on these pictures.

        Args:
            picture_hashes: image id -> sha256 of the file, in the order used.
        """
        return CacheKey(
            deploy_sha256=digest_of_graph(deploy),
            pictures_sha256=hashlib.sha256("\n".join(picture_hashes.values()).encode()).hexdigest(),
            input=self.input,
            decode=decode,
            recipe=msgspec.structs.replace(recipe, title="", count=1, seed=0, qat=QatRecipe()),
            code_sha256=_digest_of_code(),
            tools=tool_versions(list_packages()),
        )

    def load(self, key: CacheKey) -> Calibration | None:
        """The calibration of `key`, None where there is none that is whole."""
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            entry = load_json(path, _Entry)
        except FormatError as error:
            logger.warning("a cached calibration is damaged and is made again (%s)", error)
            return None
        if entry.key != key or entry.sha256 != _digest(entry.calibration):
            logger.warning("the cached calibration %s is not what it says and is made again", path)
            return None
        with contextlib.suppress(OSError):  # a folder of others, or an entry that somebody has just pruned
            os.utime(path)
        return entry.calibration

    def store(self, key: CacheKey, calibration: Calibration) -> None:
        """Keep a calibration; a folder that cannot be written costs a warning only."""
        entry = _Entry(key=key, calibration=calibration, sha256=_digest(calibration))
        try:
            write_file(self._path(key), encode_json(entry))
            for path in sorted(self.folder.glob("*.json"), key=lambda path: path.stat().st_mtime)[:-_KEPT]:
                path.unlink(missing_ok=True)
        except (OutputError, OSError) as error:
            logger.warning("the calibration is not kept for the next run (%s)", error)

    def _path(self, key: CacheKey) -> Path:
        return self.folder / f"{key.digest()}.json"


def digest_of_graph(deploy: fx.GraphModule) -> str:
    """sha256 of what a traced module computes: its code, its modules with their settings, and every number in it."""
    digest = hashlib.sha256(str(deploy).encode())
    for name, tensor in (*deploy.named_parameters(), *deploy.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _digest_of_code() -> str:
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(_PACKAGE)} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


def _digest(calibration: Calibration) -> str:
    return hashlib.sha256(msgspec.json.encode(calibration, order="sorted")).hexdigest()
