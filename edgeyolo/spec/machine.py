"""What this computer is, for reports of what was measured on it."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path
from typing import Any

_ALIASES = {"arm64": "aarch64", "amd64": "x86_64"}
_CPUINFO = Path("/proc/cpuinfo")
_TOPOLOGY = Path("/sys/devices/system/cpu")
_BOARD = Path("/proc/device-tree/model")  # an ARM board's name, where cpuinfo has none of its processor

_VNNI = frozenset({"avx512_vnni", "avx_vnni"})

# What the kernel of an aarch64 Linux tells every process of the features that count here: name -> (word, bit).
# Source: Linux, arch/arm64/include/uapi/asm/hwcap.h.
_AT_HWCAP, _AT_HWCAP2 = 16, 26
_ARM_FEATURES = {
    "asimd": (_AT_HWCAP, 1),
    "asimdhp": (_AT_HWCAP, 10),
    "asimddp": (_AT_HWCAP, 20),
    "sve": (_AT_HWCAP, 22),
    "i8mm": (_AT_HWCAP2, 13),
    "bf16": (_AT_HWCAP2, 14),
}

# Features that decide how fast int8 and half precision run, as Linux names them: x86 first, then ARM.
_TELLING = (
    *("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve"),
)


def describe_machine() -> dict[str, Any]:
    """Versions, processor, cores and the telling processor features."""
    from edgeyolo import __version__

    features = list_cpu_features()
    return {
        "edgeyolo": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": processor_name(),
        "cores": os.cpu_count() or 0,
        "cpu_features": [name for name in _TELLING if name in features],
    }


def list_cpu_features() -> frozenset[str]:
    """Features of the processor as Linux names them; empty where they are not known."""
    if sys.platform == "linux" and platform.machine() == "aarch64":
        ask = ctypes.CDLL(None).getauxval
        ask.restype, ask.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
        return frozenset(name for name, (word, bit) in _ARM_FEATURES.items() if ask(word) >> bit & 1)
    found = _read_cpuinfo()
    return frozenset(found.get("flags", found.get("Features", "")).split())


def saturates_bytes() -> bool:
    """Whether int8 kernels may be wrong here: an x86 processor that is not known to have VNNI.

    VNNI adds four products of bytes in 32 bits; without it, kernels add two in 16 bits, where 2 x 255 x 127 saturates.

    Source: Intel 64 and IA-32 Architectures Software Developer's Manual, VPDPBUSD and VPMADDUBSW.
    """
    return machine_here() == "x86_64" and not _VNNI & list_cpu_features()


def machine_here() -> str:
    """The architecture of this computer, as Linux names it: "x86_64", "aarch64" ..."""
    name = platform.machine()
    return _ALIASES.get(name.lower(), name)


def count_cores() -> int:
    """Cores that this process may run on, at least 1; two processors of one core count once, where Linux says so."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    siblings = (_TOPOLOGY / f"cpu{number}/topology/thread_siblings_list" for number in os.sched_getaffinity(0))
    return len({path.read_text() if path.is_file() else str(path) for path in siblings})


def processor_name() -> str:
    """As the system names it, such as "AMD Ryzen 7" or "Raspberry Pi 4 Model B"; else the architecture."""
    board = _BOARD.read_text(errors="replace").strip("\0\n ") if _BOARD.is_file() else ""
    return _read_cpuinfo().get("model name") or board or platform.processor() or platform.machine()


def _read_cpuinfo() -> dict[str, str]:
    """Fields of the first processor; empty where Linux is not."""
    if not _CPUINFO.exists():
        return {}
    first = _CPUINFO.read_text(errors="replace").split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def is_first_process() -> bool:
    """Whether this process speaks and writes: the first of those that `torchrun` starts, or one that is alone."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK") == "0"
