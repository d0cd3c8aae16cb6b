"""CF-CAM derived again from the paper's equations, in plain loops, sharing no code with the library.

Slow on purpose: sorted lists, breadth-first search, explicit filter taps. Used as the reference of the tests.
"""

import itertools
import math
from collections import deque

import numpy as np


def percentile(values, q):
    """Linear interpolation between the two order statistics around rank q / 100 * (n - 1)."""
    ordered = sorted(float(v) for v in values)
    rank = q / 100 * (len(ordered) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def dbscan(distances, eps, min_samples):
    """Clusters numbered by their lowest core point; a border point joins the lowest-numbered cluster in reach."""
    n = len(distances)
    near = [[j for j, distance in enumerate(row) if distance <= eps] for row in distances]
    core = [len(row) >= min_samples for row in near]
    labels = [-1] * n
    cluster = 0
    for start in range(n):
        if not core[start] or labels[start] != -1:
            continue
        labels[start] = cluster
        queue = deque([start])
        while queue:
            for j in near[queue.popleft()]:
                if core[j] and labels[j] == -1:
                    labels[j] = cluster
                    queue.append(j)
        cluster += 1
    for i in range(n):
        if not core[i]:
            labels[i] = min((labels[j] for j in near[i] if core[j]), default=-1)
    return labels


def gaussian(field, sigma, boundary):
    """Separable Gaussian along each axis, taps out to round(4 sigma), one position at a time."""
    radius = int(4 * sigma + 0.5)
    taps = [math.exp(-0.5 * (t / sigma) ** 2) for t in range(-radius, radius + 1)]
    total = sum(taps)

    def along(line):
        out = []
        for p in range(len(line)):
            value = 0.0
            for t, tap in zip(range(-radius, radius + 1), taps):
                i = p + t
                if boundary == "reflect":  # d c b a | a b c d | d c b a
                    period = 2 * len(line)
                    i %= period
                    value += tap * line[i if i < len(line) else period - 1 - i]
                elif 0 <= i < len(line):
                    value += tap * line[i]
            out.append(value / total)
        return out

    for axis in range(field.ndim):
        field = np.apply_along_axis(along, axis, field)
    return field


def noise_floors(gradients, filtered, labels, config):
    """What white noise of the residual's size leaves behind the filter, from the filter's matrix row by row."""
    channels, *size = gradients.shape
    reach = int(4 * config.sigma + 0.5)
    tap = [math.exp(-0.5 * (t / config.sigma) ** 2) for t in range(-reach, reach + 1)]
    tap = [t / sum(tap) for t in tap]
    q = sum(math.prod(taps) ** 2 for taps in itertools.product(tap, repeat=len(size)))
    centre = math.prod(tap[reach] for _ in size)
    inside = gaussian(np.ones(size), config.sigma, config.boundary)
    left = []
    for k in range(channels):
        residual = gradients[k] - filtered[k] / inside
        left.append((residual**2).mean() * q / (1 - 2 * centre + q))
    floors = []
    for k in range(channels):
        alike = [left[j] for j in range(channels) if labels[j] == labels[k]] if labels[k] >= -1 else [left[k]]
        floors.append(config.noise_floor * math.sqrt(sum(alike) / len(alike)))
    return floors


def cf_cam(activations, gradients, config):
    """Labels, eps, weights and map of one image, volume or signal: (C, *spatial) float arrays."""
    activations = np.asarray(activations, dtype=np.float64)
    gradients = np.asarray(gradients, dtype=np.float64)
    channels, *size = activations.shape
    norm = [math.sqrt(sum(float(v) ** 2 for v in activations[k].ravel())) for k in range(channels)]

    labels = [-3] * channels
    alive = list(range(channels))
    if config.dead_threshold is not None:
        alive = [k for k in alive if norm[k] > config.dead_threshold * max(norm)]
    eps = 1e-5
    if alive:
        importance = {k: norm[k] for k in alive}
        if config.importance == "contribution":
            importance = {k: norm[k] * abs(gradients[k].mean()) for k in alive}
        threshold = percentile(importance.values(), config.dominant_percentile)
        rest = [k for k in alive if importance[k] < threshold]
        for k in alive:
            if importance[k] >= threshold:
                labels[k] = -2
        points = activations.reshape(channels, -1)[rest]
        if config.distance == "unit_norm":
            points = np.array([p / norm[k] if norm[k] > 0 else p for p, k in zip(points, rest)])
        n = len(rest)
        distances = [np.sqrt(((points - p) ** 2).sum(axis=1)).tolist() for p in points]
        if n >= 2:
            if config.eps_rule == "pair_percentile":
                pairs = [distance for i, row in enumerate(distances) for distance in row[:i] + row[i + 1 :]]
                eps = percentile(pairs, config.eps_percentile)
            else:
                eps = float(np.median([sorted(row)[min(config.eps_neighbor, n) - 1] for row in distances]))
        eps = max(eps, 1e-5)
        fraction = isinstance(config.min_samples, float)
        min_samples = max(2, int(config.min_samples * n)) if fraction else config.min_samples
        for k, label in zip(rest, dbscan(distances, eps, min_samples)):
            labels[k] = label

    filtered = np.zeros_like(gradients)
    if config.gradient == "own":
        for k in range(channels):
            if labels[k] != -3:
                filtered[k] = gaussian(gradients[k], config.sigma, config.boundary) if config.sigma else gradients[k]
    for k in range(channels):
        if labels[k] == -2 and config.gradient == "cluster_mean":
            filtered[k] = gradients[k]
    for cluster in sorted({label for label in labels if label >= 0} if config.gradient == "cluster_mean" else ()):
        members = [k for k in range(channels) if labels[k] == cluster]
        mean = sum(gradients[k] for k in members) / len(members)
        if config.sigma > 0:
            mean = gaussian(mean, config.sigma, config.boundary)
        for k in members:
            filtered[k] = mean

    if config.combine == "positive":
        floors = noise_floors(gradients, filtered, labels, config) if config.noise_floor else [0.0] * channels
        filtered = np.array([np.maximum(f - floor, 0) for f, floor in zip(filtered, floors)])

    weights = np.array([filtered[k].mean() for k in range(channels)])
    if config.weighting == "softmax":
        valid = [k for k in range(channels) if labels[k] == -2 or labels[k] >= 0]
        peak = max(weights[k] for k in valid)
        total = sum(math.exp(weights[k] - peak) for k in valid)
        weights = np.array([math.exp(weights[k] - peak) / total if k in valid else 0.0 for k in range(channels)])
    evidence = np.zeros(size)
    for k in range(channels):
        evidence += filtered[k] * activations[k] if config.combine != "pooled" else weights[k] * activations[k]
    return np.array(labels), eps, weights, np.maximum(evidence, 0)
