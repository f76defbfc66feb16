"""Package metadata and extras; the shelves `targets/` and `calib/` travel inside the wheel."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "edgeyolo" / "__init__.py").read_text())[1]

ONNX = ["onnx>=1.17"]
NCNN = ["ncnn>=1.0.20261020"]
ONNXRUNTIME = ["onnxruntime>=1.17", *ONNX]
OPENVINO = ["openvino>=2025.0", *ONNX]
TENSORRT = ["tensorrt-rtx-cu12>=1.7; platform_machine == 'x86_64'", "cuda-python>=12", *ONNX]
# On the board only; Rockchip's toolkit for hosts lives in an environment of its own: edgeyolo doctor --install rknn.
RKNN = ["rknn-toolkit-lite2>=2.3.2; platform_machine == 'aarch64' and python_version < '3.13'"]
REPORT = ["matplotlib>=3.8", "jinja2>=3.1"]
SEARCH = ["optuna>=4.3"]
TRACK = ["scipy>=1.10"]
TENSORBOARD = ["tensorboard>=2.12"]
REMOTE = ["fsspec>=2024.2"]
# The page, metrics and MQTT: plain Python, 400 KB together.
LIVE = ["h11>=0.14", "prometheus-client>=0.20", "paho-mqtt>=2.0"]
SUPERVISION = ["supervision>=0.30"]  # the first that does not bring another OpenCV along
TRAIN = [
    "torch>=2.8",
    "nvidia-modelopt>=0.47",
    "huggingface_hub>=0.24",  # modelopt imports it without declaring it
    "safetensors>=0.4",
    "scipy>=1.10",
    "onnxslim>=0.1.40",
    "pnnx>=20261020",
    "pycocotools>=2.0.8",
    *ONNXRUNTIME,
    *NCNN,
    *REPORT,
]
# Tests, lint and types.
CHECKS = ["pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6.100", "ruff>=0.6", "mypy>=1.11"]

setup(
    name="edgeyolo",
    version=VERSION,
    description="From a labelled data set to an INT8 detector on a board, measured on what ships",
    long_description=(HERE / "README.md").read_text(encoding="utf-8") if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*find_packages(include=["edgeyolo", "edgeyolo.*"]), "edgeyolo._targets", "edgeyolo._calib"],
    package_dir={"edgeyolo": "edgeyolo", "edgeyolo._targets": "targets", "edgeyolo._calib": "calib"},
    package_data={
        "edgeyolo": ["py.typed"],
        "edgeyolo.live": ["page.html"],
        "edgeyolo.report": ["*.j2", "*.js"],
        "edgeyolo.backends.ncnn": ["costs/*.toml"],
        "edgeyolo.models": ["sizes.json"],
        "edgeyolo.latency": ["boards/*.toml", "networks.json"],
        "edgeyolo._targets": ["*.toml"],
        "edgeyolo._calib": ["*.toml"],
    },
    install_requires=[
        "numpy>=1.24.2",
        "opencv-python-headless>=4.8",
        "msgspec>=0.18.6",
        "packaging>=23",
        "pyyaml>=6",
        "tomli>=2; python_version < '3.11'",
        "typer>=0.19",
        "rich>=13",
    ],
    extras_require={
        "train": TRAIN,
        "ncnn": NCNN,
        "onnxruntime": ONNXRUNTIME,
        "openvino": OPENVINO,
        "tensorrt": TENSORRT,
        "rknn": RKNN,
        "evaluate": ["pycocotools>=2.0.8"],
        "report": REPORT,
        "search": SEARCH,
        "track": TRACK,
        "tensorboard": TENSORBOARD,
        "remote": REMOTE,
        "supervision": SUPERVISION,
        "live": LIVE,
        "dev": [*TRAIN, *OPENVINO, *TENSORRT, *SEARCH, *TENSORBOARD, *REMOTE, *SUPERVISION, *LIVE, *CHECKS],
    },
    entry_points={"console_scripts": ["edgeyolo=edgeyolo.cli.app:main"]},
)
