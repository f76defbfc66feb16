"""Kalman filters of boxes that keep their velocity, for many tracks at once.

A state is a measurement z (4,) and its change per frame: x = (z, dz), (8,). Positions are those of centres.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from edgeyolo.spec.tracks import Float64

POSITION, VELOCITY = 1 / 20, 1 / 160  # standard deviations, as parts of a box's size


class BoxState(Protocol):
    """What the four measured numbers are, and how sure one is of them."""

    falling: tuple[int, ...]  # velocities that a lost track does not keep

    def measure(self, boxes_xyxy: Float64) -> Float64:
        """(M, 4) left, top, right, bottom -> (M, 4) measurements."""

    def boxes(self, states: Float64) -> Float64:
        """(M, 8) -> (M, 4) left, top, right, bottom."""

    def first_deviations(self, measured: Float64) -> Float64:
        """(M, 4) -> (M, 8) of a track that has just begun."""

    def step_deviations(self, states: Float64) -> Float64:
        """(M, 8) -> (M, 8) that a frame adds."""

    def measured_deviations(self, states: Float64) -> Float64:
        """(M, 8) -> (M, 4) of a detection."""


class AspectState:
    """Centre, aspect (width over height) and height; everything but the aspect is as sure as the height is small.

    Source: arXiv 1703.07402, section 2.1, which arXiv 2110.06864 takes over.
    """

    falling: tuple[int, ...] = (7,)

    def measure(self, boxes_xyxy: Float64) -> Float64:
        """See `BoxState`."""
        measured = _centred(boxes_xyxy)
        measured[:, 2] /= measured[:, 3]
        return measured

    def boxes(self, states: Float64) -> Float64:
        """See `BoxState`."""
        size_wh = states[:, 2:4].copy()
        size_wh[:, 0] *= size_wh[:, 1]
        return _cornered(states[:, :2], size_wh)

    def first_deviations(self, measured: Float64) -> Float64:
        """See `BoxState`."""
        return self._deviations(measured[:, 3], 2 * POSITION, 10 * VELOCITY)

    def step_deviations(self, states: Float64) -> Float64:
        """See `BoxState`."""
        return self._deviations(states[:, 3], POSITION, VELOCITY)

    def measured_deviations(self, states: Float64) -> Float64:
        """See `BoxState`."""
        deviations = np.repeat(POSITION * states[:, 3:4], 4, axis=1)
        deviations[:, 2] = 1e-1
        return deviations

    def _deviations(self, heights: Float64, position: float, velocity: float) -> Float64:
        deviations = np.repeat(heights[:, None], 8, axis=1)
        deviations[:, :4] *= position
        deviations[:, 4:] *= velocity
        deviations[:, 2], deviations[:, 6] = 1e-2, 1e-5
        return deviations


class SizeState:
    """Centre, width and height; what is along an axis is as sure as the box is small along it.

    Source: arXiv 2206.14651, equations 1 to 8.
    """

    falling: tuple[int, ...] = (6, 7)

    def measure(self, boxes_xyxy: Float64) -> Float64:
        """See `BoxState`."""
        return _centred(boxes_xyxy)

    def boxes(self, states: Float64) -> Float64:
        """See `BoxState`."""
        return _cornered(states[:, :2], states[:, 2:4])

    def first_deviations(self, measured: Float64) -> Float64:
        """See `BoxState`."""
        return self._deviations(measured[:, 2:4], 2 * POSITION, 10 * VELOCITY)

    def step_deviations(self, states: Float64) -> Float64:
        """See `BoxState`."""
        return self._deviations(states[:, 2:4], POSITION, VELOCITY)

    def measured_deviations(self, states: Float64) -> Float64:
        """See `BoxState`."""
        return POSITION * np.tile(states[:, 2:4], 2)

    def _deviations(self, size_wh: Float64, position: float, velocity: float) -> Float64:
        deviations = np.tile(size_wh, 4)
        deviations[:, :4] *= position
        deviations[:, 4:] *= velocity
        return deviations


def begin(state: BoxState, measured: Float64) -> tuple[Float64, Float64]:
    """(M, 4) -> states (M, 8) that rest, and their covariances (M, 8, 8)."""
    states = np.concatenate([measured, np.zeros_like(measured)], axis=1)
    return states, _squared_diagonals(state.first_deviations(measured))


def predict(state: BoxState, states: Float64, covariances: Float64) -> tuple[Float64, Float64]:
    """One frame on: x <- F x, P <- F P F' + Q, where F adds the velocity to the position."""
    noise = _squared_diagonals(state.step_deviations(states))
    states, covariances = states.copy(), covariances.copy()
    states[:, :4] += states[:, 4:]
    covariances[:, :4] += covariances[:, 4:]
    covariances[:, :, :4] += covariances[:, :, 4:]
    return states, covariances + noise


def update(state: BoxState, states: Float64, covariances: Float64, measured: Float64) -> tuple[Float64, Float64]:
    """States and covariances after a measurement (M, 4) of each: x <- x + K (z - H x), P <- P - K S K'.

    S = H P H' + R, K = P H' S^-1, where H takes the position out of a state.
    """
    spread = covariances[:, :4, :4] + _squared_diagonals(state.measured_deviations(states))
    crossed = covariances[:, :4]  # (M, 4, 8), H P
    gains = np.linalg.solve(spread, crossed)  # K', for S is symmetric
    states = states + np.einsum("mi,mij->mj", measured - states[:, :4], gains)
    return states, covariances - np.swapaxes(gains, 1, 2) @ crossed


def move(states: Float64, covariances: Float64, warp: Float64) -> tuple[Float64, Float64]:
    """After a movement of the camera, (2, 3) [R | t] from the last frame to this one.

    Every pair of the state is turned and scaled by R, the centre is shifted by t.

    Source: arXiv 2206.14651, equations 9 to 12.
    """
    turn = np.kron(np.eye(4), warp[:, :2])
    states = states @ turn.T
    states[:, :2] += warp[:, 2]
    return states, turn @ covariances @ turn.T


def _centred(boxes_xyxy: Float64) -> Float64:
    size_wh = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    return np.concatenate([boxes_xyxy[:, :2] + size_wh / 2, size_wh], axis=1)


def _cornered(centre_xy: Float64, size_wh: Float64) -> Float64:
    lower = centre_xy - size_wh / 2
    return np.concatenate([lower, lower + size_wh], axis=1)


def _squared_diagonals(deviations: Float64) -> Float64:
    """(M, N) -> (M, N, N)."""
    count, size = deviations.shape
    matrices = np.zeros((count, size, size))
    matrices.reshape(count, size * size)[:, :: size + 1] = deviations**2
    return matrices
