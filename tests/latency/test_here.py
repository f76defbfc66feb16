"""A time on this computer becomes one on the known computer by rulers, and rulers that disagree make it doubtful."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from edgeyolo.backends.engine import Ruler
from edgeyolo.latency import here as here_module
from edgeyolo.latency.here import Pace, convert, kind_of, time_here
from edgeyolo.latency.networks import load_known
from edgeyolo.runtime import race as race_module
from edgeyolo.spec.work import Convolution

LAYERS = {
    "pointwise": Convolution((1, 1), 1, 1, 64, 64, 400),
    "spatial": Convolution((3, 3), 1, 1, 64, 64, 400),
    "depthwise": Convolution((3, 3), 1, 64, 64, 64, 400),
    "pointwise int8": Convolution((1, 1), 1, 1, 64, 64, 400, is_int8=True),
    "spatial int8": Convolution((3, 3), 1, 1, 64, 64, 400, is_int8=True),
}
RULERS = {name: Ruler(lambda: None, (layer,)) for name, layer in LAYERS.items()}


def test_every_ruler_is_like_its_own_layers() -> None:
    assert {name: kind_of(layer) for name, layer in LAYERS.items()} == {name: name for name in LAYERS}
    assert set(LAYERS) == set(load_known().rulers)


def paces(**slower: float) -> dict[str, Pace]:
    """Of a computer that is so many times slower than the known one at a kind of layer."""
    return {
        name: Pace(LAYERS[name].products, ms, ms * slower.get(name.replace(" ", "_"), 1.0))
        for name, ms in load_known().rulers.items()
    }


def test_a_computer_that_is_slower_at_everything_is_slower_by_that() -> None:
    three_times = paces(**{name.replace(" ", "_"): 3.0 for name in LAYERS})
    known_ms, doubt = convert(30.0, list(LAYERS.values()), three_times)
    assert known_ms == pytest.approx(10.0) and doubt == pytest.approx(0.0)


def test_only_the_kinds_that_a_network_has_count() -> None:
    uneven = paces(spatial_int8=4.0)
    assert convert(30.0, [LAYERS["pointwise"], LAYERS["depthwise"]], uneven)[0] == pytest.approx(30.0)
    known_ms, doubt = convert(30.0, [LAYERS["spatial int8"]], uneven)
    assert known_ms == pytest.approx(30.0 / 4) and doubt > 0.3
    both, _ = convert(30.0, [LAYERS["spatial int8"], LAYERS["pointwise"]], uneven)
    assert 30.0 / 4 < both < 30.0


def test_it_is_the_undisturbed_time_and_says_when_it_was_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine rounds of ten take twice as long."""
    clock = [0.0]
    monkeypatch.setattr(race_module.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(here_module.time, "perf_counter", lambda: clock[0])

    def taking(ms: float, *, is_busy: bool) -> Callable[[], None]:
        calls = [0]

        def run() -> None:
            calls[0] += 1
            clock[0] += ms / 1e3 * (1 if calls[0] % 10 == 0 or not is_busy else 2)

        return run

    rulers = {
        name: Ruler(taking(10 * load_known().rulers[name], is_busy=False), (layer,)) for name, layer in LAYERS.items()
    }
    found = time_here(taking(20.0, is_busy=True), [LAYERS["spatial"]], rulers)
    assert (found.here_ms, found.known_ms) == (pytest.approx(20.0), pytest.approx(2.0))
    assert found.is_busy and found.doubt == pytest.approx(0.0, abs=1e-6)
    assert not time_here(taking(20.0, is_busy=False), [LAYERS["spatial"]], rulers).is_busy
    assert math.isclose(found.here_ms / found.known_ms, 10.0)
