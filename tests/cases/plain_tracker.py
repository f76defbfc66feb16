"""ByteTrack and BoT-SORT as the papers read: one track after the other, plain matrices, every assignment tried."""

from __future__ import annotations

import functools

import numpy as np

F = np.eye(8) + np.eye(8, k=4)
H = np.eye(4, 8)


def aspect_noise(height: float, position: float, velocity: float) -> list[float]:
    positions = [position * height, position * height, 1e-2, position * height]
    return [*positions, velocity * height, velocity * height, 1e-5, velocity * height]


def size_noise(width: float, height: float, position: float, velocity: float) -> list[float]:
    return [position * width, position * height] * 2 + [velocity * width, velocity * height] * 2


class PlainFilter:
    """One box, by equations (3) to (7) of any book on Kalman filters."""

    def __init__(self, method: str) -> None:
        self.method = method

    def noise(self, z, factor_position=1.0, factor_velocity=1.0):
        position, velocity = factor_position / 20, factor_velocity / 160
        if self.method == "bytetrack":
            return np.diag(np.square(aspect_noise(z[3], position, velocity)))
        return np.diag(np.square(size_noise(z[2], z[3], position, velocity)))

    def measured(self, box):
        x1, y1, x2, y2 = box
        third = (x2 - x1) / (y2 - y1) if self.method == "bytetrack" else x2 - x1
        return np.array([(x1 + x2) / 2, (y1 + y2) / 2, third, y2 - y1])

    def box(self, x):
        width = x[2] * x[3] if self.method == "bytetrack" else x[2]
        return np.array([x[0] - width / 2, x[1] - x[3] / 2, x[0] + width / 2, x[1] + x[3] / 2])

    def begin(self, z):
        return np.concatenate([z, np.zeros(4)]), self.noise(z, 2, 10)

    def predict(self, x, p):
        return F @ x, F @ p @ F.T + self.noise(x)

    def update(self, x, p, z):
        r = self.noise(x)[:4, :4]
        if self.method == "bytetrack":
            r[2, 2] = 1e-1**2
        k = p @ H.T @ np.linalg.inv(H @ p @ H.T + r)
        return x + k @ (z - H @ x), (np.eye(8) - k @ H) @ p


def plain_iou(a, b, one):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + one)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + one)
    shared = width * height
    return shared / ((a[2] - a[0] + one) * (a[3] - a[1] + one) + (b[2] - b[0] + one) * (b[3] - b[1] + one) - shared)


def unit(vector):
    return vector / np.linalg.norm(vector)


def every_assignment(costs, limit):
    """The cheapest of all partial assignments, where a row and a column left alone cost half of `limit` each."""
    costs = np.asarray(costs, float)
    count = costs.shape[1]

    @functools.cache
    def best(row: int, taken: int) -> tuple[float, tuple[tuple[int, int], ...]]:
        if row == len(costs):
            return limit / 2 * (count - taken.bit_count()), ()
        cost, pairs = best(row + 1, taken)
        choices = [(cost + limit / 2, pairs)]
        for column in range(count):
            if not taken >> column & 1:
                cost, pairs = best(row + 1, taken | 1 << column)
                choices.append((cost + costs[row, column], ((row, column), *pairs)))
        return min(choices, key=lambda choice: choice[0])

    return best(0, 0)


class PlainTracker:
    """Keeps a list of dictionaries, and the order in which the authors' lists are."""

    def __init__(
        self, method, *, high=0.6, low=0.1, new=0.7, match=0.8, buffer=30, one=0.0, fuse=True, look=None, proximity=0.5
    ):
        self.filter, self.method = PlainFilter(method), method
        self.high, self.low, self.new, self.match, self.buffer = high, low, new, match, buffer
        self.one, self.fuse, self.look, self.proximity = one, fuse, look, proximity
        self.frame, self.last_id = 0, 0
        self.tracked, self.lost, self.once_removed = [], [], set()

    def cost(self, track, box, score, fused, looks):
        near = plain_iou(self.filter.box(track["x"]), box, self.one)
        cost = 1 - near * (score if fused else 1)
        if not looks or self.look is None:
            return cost
        unlike = (1 - track["looks"] @ unit(self.look(box))) / 2
        return min(cost, unlike) if unlike <= 0.25 and 1 - near <= self.proximity else cost

    def pairs(self, tracks, found, limit, fused, looks=False):
        costs = [[self.cost(track, box, score, fused, looks) for box, score in found] for track in tracks]
        return every_assignment(costs, limit)[1] if tracks and found else ()

    def associate(self, tracks, found, limit, fused, looks=False):
        pairs = self.pairs(tracks, found, limit, fused, looks)
        for row, column in pairs:
            track, (box, score) = tracks[row], found[column]
            track["x"], track["p"] = self.filter.update(track["x"], track["p"], self.filter.measured(box))
            if looks and self.look is not None:
                track["looks"] = unit(0.9 * track["looks"] + 0.1 * unit(self.look(box)))
            track |= {"score": score, "seen": self.frame, "confirmed": True, "was": track["is"], "is": "tracked"}
        rows, columns = {row for row, _ in pairs}, {column for _, column in pairs}
        left = [t for row, t in enumerate(tracks) if row not in rows]
        return left, [f for column, f in enumerate(found) if column not in columns]

    def update(self, boxes, scores, warp=None):
        self.frame += 1
        found = list(zip(boxes, scores, strict=True))
        high = [f for f in found if f[1] > self.high]
        second = [f for f in found if self.low < f[1] < self.high]
        confirmed = [t for t in self.tracked if t["confirmed"]]
        unconfirmed = [t for t in self.tracked if not t["confirmed"]]
        pool = confirmed + self.lost
        for track in pool:
            if track["is"] != "tracked":
                track["x"][7 if self.method == "bytetrack" else slice(6, 8)] = 0
            track["x"], track["p"] = self.filter.predict(track["x"], track["p"])
        if warp is not None:
            turn = np.kron(np.eye(4), warp[:, :2])
            for track in self.tracked + self.lost:
                track["x"], track["p"] = turn @ track["x"], turn @ track["p"] @ turn.T
                track["x"][:2] += warp[:, 2]
        left, high = self.associate(pool, high, self.match, self.fuse, looks=True)
        refound = [t for t in self.lost if t["seen"] == self.frame]
        left, _ = self.associate([t for t in left if t["is"] == "tracked"], second, 0.5, False)
        doubtful, high = self.associate(unconfirmed, high, 0.7, self.fuse, looks=True)
        begun = []
        for box, score in high:
            if score >= self.new:
                self.last_id += 1
                x, p = self.filter.begin(self.filter.measured(box))
                new = {"id": self.last_id, "x": x, "p": p, "score": score, "is": "tracked", "start": self.frame}
                new |= {"looks": None if self.look is None else unit(self.look(box))}
                begun.append(new | {"seen": self.frame, "confirmed": self.frame == 1})
        for track in left:
            track["is"] = "lost"
        too_old = [t for t in self.lost if self.frame - t["seen"] > self.buffer]
        gone = [id(t) for t in left + doubtful]
        self.tracked = [t for t in self.tracked if id(t) not in gone] + begun + refound
        lost = [t for t in self.lost if t["seen"] != self.frame] + left
        self.lost = [t for t in lost if t["id"] not in self.once_removed]
        for track in too_old:
            track["is"] = "removed"
            self.once_removed.add(track["id"])
        self.remove_duplicates()
        return [t for t in self.tracked if t["confirmed"] or self.method == "botsort"]

    def remove_duplicates(self):
        dropped = set()
        for t in self.tracked:
            for other in self.lost:
                if 1 - plain_iou(self.filter.box(t["x"]), self.filter.box(other["x"]), self.one) < 0.15:
                    longer = t["seen"] - t["start"] > other["seen"] - other["start"]
                    dropped.add(other["id"] if longer else t["id"])
        self.tracked = [t for t in self.tracked if t["id"] not in dropped]
        self.lost = [t for t in self.lost if t["id"] not in dropped]
