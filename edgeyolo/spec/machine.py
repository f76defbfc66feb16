"""What this computer is, for reports of what was measured on it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

_CPUINFO = Path("/proc/cpuinfo")

# Features that decide how fast int8 and half precision run, as Linux names them: x86 first, then ARM.
_TELLING = (
    *("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve"),
)


def describe_machine() -> dict[str, Any]:
    """Versions, processor, cores and the telling processor features."""
    from edgeyolo import __version__

    found = _read_cpuinfo()
    features = set(found.get("flags", found.get("Features", "")).split())
    return {
        "edgeyolo": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": processor_name(),
        "cores": os.cpu_count() or 0,
        "cpu_features": [name for name in _TELLING if name in features],
    }


def processor_name() -> str:
    """As the system names it, such as "AMD Ryzen 7"; the architecture where it gives no name."""
    return _read_cpuinfo().get("model name") or platform.processor() or platform.machine()


def _read_cpuinfo() -> dict[str, str]:
    """Fields of the first processor; empty where Linux is not."""
    if not _CPUINFO.exists():
        return {}
    first = _CPUINFO.read_text(errors="replace").split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
