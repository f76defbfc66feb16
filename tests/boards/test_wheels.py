"""Which wheels a board can use, and that those are found which its own Python asks for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from empty_wheels import write_wheel

from edgeyolo.boards.own_wheel import write_own_wheel
from edgeyolo.boards.wheels import BoardPython, collect_wheels
from edgeyolo.spec.errors import BoardError


def facts(machine: str = "aarch64", python: str = "3.11", libc: tuple[str, str] = ("glibc", "2.36"), **other) -> dict:
    """As a board tells them."""
    markers = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.2",
        "python_version": python,
        "sys_platform": "linux",
    }
    return {"bits": 64, "libc": list(libc), "markers": markers} | other


NEWEST = "numpy-2.4.6-cp311-cp311-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl"


@pytest.mark.parametrize(
    ("told", "wheel", "fits"),
    [
        (facts(), NEWEST, True),
        (facts(), "rich-15.0.0-py3-none-any.whl", True),
        (facts(), "pyyaml-6.0.3-cp311-cp311-manylinux2014_aarch64.whl", True),
        (facts(), "opencv_python_headless-5.0.0.93-cp37-abi3-manylinux_2_28_aarch64.whl", True),
        (facts(), NEWEST.replace("aarch64", "x86_64"), False),
        (facts(), NEWEST.replace("cp311", "cp312"), False),
        (facts(libc=("glibc", "2.26")), NEWEST, False),  # the board's C library is older
        (facts(bits=32), NEWEST, False),  # Raspberry Pi OS of 32 bits on a kernel of 64
        (facts(bits=32), "numpy-2.4.6-cp311-cp311-linux_armv7l.whl", True),
        (facts(libc=("", "")), NEWEST, False),
        (facts(libc=("", "")), "numpy-2.4.6-cp311-cp311-musllinux_1_2_aarch64.whl", True),
    ],
)
def test_what_fits_a_board(told: dict, wheel: str, fits: bool) -> None:
    assert BoardPython(told).fits(wheel) == fits


def test_a_board_that_is_no_linux() -> None:
    told = facts()
    told["markers"] |= {"sys_platform": "darwin", "platform_system": "Darwin"}
    with pytest.raises(BoardError, match="mini: has CPython on Darwin"):
        BoardPython(told, where="mini")


def test_the_boards_own_markers_decide(wheelhouse: Path) -> None:
    """Not those of the Python that runs here, also for what packages ask for in turn."""
    older = 'Requires-Dist: backport; python_version < "3.11"\nRequires-Dist: arm-only; platform_machine == "aarch64"\n'
    (wheelhouse / "rich-9999-py3-none-any.whl").unlink()
    write_wheel(wheelhouse, "rich", needs=older + 'Requires-Dist: never; extra == "all"\n')
    for name in ("backport", "arm-only", "never"):
        write_wheel(wheelhouse, name)

    def names(told: dict) -> set[str]:
        return {path.name.split("-")[0] for path in collect_wheels(["ncnn"], BoardPython(told), wheelhouse=wheelhouse)}

    on_old, on_x86 = names(facts(python="3.10")), names(facts("x86_64", "3.12"))
    assert {"edgeyolo", "numpy", "ncnn", "tomli", "backport", "arm_only"} <= on_old
    assert on_old - on_x86 == {"tomli", "backport", "arm_only"}
    assert not {"never", "torch", "pnnx"} & on_old


def test_a_wheel_of_another_architecture_is_refused(wheelhouse: Path) -> None:
    (wheelhouse / "ncnn-9999-py3-none-any.whl").unlink()
    with pytest.raises(BoardError, match=r"there is no wheel of ncnn for aarch64, Python 3\.11"):
        collect_wheels(["ncnn"], BoardPython(facts()), wheelhouse=wheelhouse)
    write_wheel(wheelhouse, "ncnn", "cp311-cp311-manylinux_2_28_x86_64")
    with pytest.raises(
        BoardError, match=r"ncnn-9999-\S+x86_64.whl cannot run on the board, which is aarch64, Python 3"
    ):
        collect_wheels(["ncnn"], BoardPython(facts()), wheelhouse=wheelhouse)
    write_wheel(wheelhouse, "ncnn", "cp311-cp311-manylinux_2_28_aarch64")
    assert any("ncnn" in path.name for path in collect_wheels(["ncnn"], BoardPython(facts()), wheelhouse=wheelhouse))


def test_our_own_wheel_is_one_that_pip_installs(tmp_path: Path) -> None:
    wheel = write_own_wheel(tmp_path)
    raw = wheel.read_bytes()
    assert write_own_wheel(tmp_path).read_bytes() == raw
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*command, "--target", str(tmp_path / "site"), str(wheel)], check=True)
    code = "import edgeyolo; from edgeyolo.spec.target import list_targets; print(edgeyolo.__file__, *list_targets())"
    asked = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(tmp_path) in asked.stdout and "raspberry-pi-5" in asked.stdout
