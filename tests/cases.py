"""Activations, gradients and configurations on which two engines are compared."""

import numpy as np

from cfcam_gpu import Config

from .pairwise import pairwise

#: Every option in every setting, one at a time, and some together.
CONFIGS = {
    "default": Config(),
    "paper": Config.paper(),
    "high dead threshold": Config(dead_threshold=0.3),
    "contribution": Config(importance="contribution"),
    "all dominant": Config(dominant_percentile=0),
    "hardly any dominant": Config(dominant_percentile=100),
    "unit norm": Config(distance="unit_norm"),
    "unit norm with dead channels": Config(distance="unit_norm", dead_threshold=None),
    "neighbor median": Config(eps_rule="neighbor_median"),
    "far neighbor": Config(eps_rule="neighbor_median", eps_neighbor=40),
    "smallest eps": Config(eps_percentile=0),
    "largest eps": Config(eps_percentile=100),
    "odd eps": Config(eps_percentile=61.8),
    "all noise": Config(eps_percentile=0, min_samples=1000),
    "no noise": Config(min_samples=1),
    "beyond 32 bits": Config(min_samples=10**12),
    "a fifth": Config(min_samples=0.2),
    "no filter": Config(sigma=0),
    "filter of one tap": Config(sigma=0.1, boundary="zero"),
    "wide filter": Config(sigma=5.0),
    "zero boundary": Config(sigma=1.7, boundary="zero"),
    "elementwise": Config(combine="elementwise"),
    "most of them": Config(
        dead_threshold=1e-3,
        importance="contribution",
        distance="unit_norm",
        eps_rule="neighbor_median",
        min_samples=3,
        boundary="zero",
        combine="elementwise",
    ),
}


#: The settings of each option in :data:`COMBINATIONS`. The first is the usual one: it fills what no pair asks for.
OPTIONS = {
    "eps": [
        {"eps_rule": "pair_percentile", "eps_percentile": 25.0},
        {"eps_rule": "pair_percentile", "eps_percentile": 61.8},
        {"eps_rule": "pair_percentile", "eps_percentile": 0},
        {"eps_rule": "pair_percentile", "eps_percentile": 100},
        {"eps_rule": "neighbor_median", "eps_neighbor": 3},
        {"eps_rule": "neighbor_median", "eps_neighbor": 16},
    ],
    "min_samples": [{"min_samples": value} for value in (0.05, 3, 0.2, 1, 10**12)],
    "filter": [
        {"sigma": 1.0, "boundary": "reflect"},
        {"sigma": 1.7, "boundary": "zero"},
        {"sigma": 5.0, "boundary": "reflect"},
        {"sigma": 0.1, "boundary": "zero"},
        {"sigma": 0, "boundary": "reflect"},
    ],
    "combine": [
        {"combine": "pooled", "weighting": "linear"},
        {"combine": "pooled", "weighting": "softmax"},
        {"combine": "elementwise", "weighting": "linear"},
        {"combine": "positive", "weighting": "linear"},
        {"combine": "positive", "weighting": "linear", "noise_floor": 1.0},
    ],
    "dead_threshold": [{"dead_threshold": value} for value in (0.0, None, 1e-3, 0.3)],
    "dominant_percentile": [{"dominant_percentile": value} for value in (75.0, 100, 0)],
    "distance": [{"distance": value} for value in ("euclidean", "unit_norm")],
    "importance": [{"importance": value} for value in ("activation", "contribution")],
    "gradient": [{"gradient": value} for value in ("cluster_mean", "own")],
}


def _relu(rng, shape):
    return np.maximum(rng.normal(size=shape), 0)


def _dead(rng, shape):
    return _relu(rng, shape) * (rng.random(shape[0]) > 0.6)[:, None, None]


def _tied(rng, shape):
    """Few distinct values: many distances are equal, and exact in any order of summing."""
    return rng.integers(0, 3, size=shape) / 4


def _same(rng, shape):
    return np.ones(shape) + 1e-3 * rng.random(shape)


def _grouped(rng, shape):
    """Six groups far from each other, and channels between them."""
    centres = 20 * rng.random((6, *shape[1:]))
    spread = np.where(rng.random(shape[0]) < 0.8, 0.1, 10.0)[:, None, None]
    return centres[rng.integers(0, 6, shape[0])] + spread * rng.random(shape)


CASES = {
    "a layer": (_relu, (96, 7, 7)),
    "odd shape": (_relu, (37, 5, 3)),
    "one row": (_relu, (41, 1, 9)),
    "one position": (_relu, (64, 1, 1)),
    "dead channels": (_dead, (80, 4, 4)),
    "ties": (_tied, (60, 2, 3)),
    "one cluster": (_same, (50, 3, 3)),
    "groups": (_grouped, (120, 4, 6)),
    "one channel": (_relu, (1, 3, 3)),
    "two channels": (_relu, (2, 3, 3)),
    "three channels": (_relu, (3, 2, 2)),
    "five channels": (_relu, (5, 2, 2)),
    "all dead": (lambda rng, shape: np.zeros(shape), (20, 3, 3)),
}


def draw(name):
    """Activations and gradients of the case, (C, h, w) float32; the same ones at each call."""
    make, shape = CASES[name]
    rng = np.random.default_rng(sorted(CASES).index(name))
    return make(rng, shape).astype(np.float32), rng.normal(size=shape).astype(np.float32)


def _go(row):
    """With no filter, nothing tells what is noise."""
    return row.get("filter", {}).get("sigma") != 0 or "noise_floor" not in row.get("combine", {})


def _covering():
    """Every setting of :data:`OPTIONS` with every case, and with every other setting; and each of :data:`CONFIGS`."""
    found = {f"groups, {name}": ("groups", config) for name, config in CONFIGS.items()}
    for row in pairwise(case=list(CASES), **OPTIONS, go=_go):
        case, options = row.pop("case"), {name: value for part in row.values() for name, value in part.items()}
        changed = [f"{name}={value}" for name, value in options.items() if value != getattr(Config(), name)]
        found[", ".join([case, *changed])] = case, Config(**options)
    return found


#: What stands for the product of all cases with all options: (case, configuration) by what differs from the default.
COMBINATIONS = _covering()
