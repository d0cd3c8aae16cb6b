"""Gradients filtered, and multiplied by activations, pooled or position by position; compiled by numba.

As `weighing` does it by torch's operators.
"""

from __future__ import annotations

import math

import numpy as np

from ..core.cluster_filter import DEAD, DOMINANT, NOISE
from .compiled_radius import compile_

#: Channels that are filtered side by side, their numbers beside each other in memory.
_LANES = 64


@compile_
def smooth_products(activations, gradients, labels, rows, columns, inside, left, positive, floor, map_, weights):
    """Steps 3 to 5 of channels that keep their own gradient, multiplied position by position; one target.

    Parameters
    ----------
    activations, gradients : (C, h w) float64
    labels : (C,) int64
    rows, columns : (h, h) and (w, w) float64
        The filter along each axis, symmetric.
    inside : (h, w) float64
        A map of ones, smoothed.
    left : float
        What white noise leaves in the smoothed map over what it leaves in the residual.
    positive : bool
        Multiply what is positive above the noise floor alone.
    floor : float
        How many standard deviations of the noise that is.
    map_ : (h w,) float64
        Where the map goes, without its ReLU.
    weights : (C,) float64
        Where the weights go.
    """
    height, width = inside.shape
    channels, positions = gradients.shape
    blocks = (channels + _LANES - 1) // _LANES
    filtered = np.empty((blocks, positions, _LANES))
    variance = np.zeros(blocks * _LANES)
    own, half = np.zeros((positions, _LANES)), np.empty((positions, _LANES))
    around = inside.reshape(positions)
    total = np.empty(_LANES)
    for block in range(blocks):
        first = block * _LANES
        lanes = min(_LANES, channels - first)
        for p in range(positions):
            given = own[p]
            for lane in range(lanes):
                given[lane] = gradients[first + lane, p]
        for y in range(height):
            row = own[y * width : (y + 1) * width]
            for x in range(width):
                _combine(row, columns[x], half[x * height + y])
        smooth = filtered[block]
        for x in range(width):
            column = half[x * height : (x + 1) * height]
            for y in range(height):
                _combine(column, rows[y], smooth[y * width + x])
        if floor > 0:
            total[:] = 0.0
            for p in range(positions):
                given, into, share = own[p], smooth[p], 1 / around[p]
                for lane in range(_LANES):
                    residual = given[lane] - into[lane] * share
                    total[lane] += residual * residual
            for lane in range(_LANES):
                variance[first + lane] = total[lane] / positions * left
    if floor > 0:
        _average(variance, labels)
    map_[:] = 0.0
    for c in range(channels):
        weights[c] = 0.0
        if labels[c] == DEAD:
            continue
        smooth = filtered[c // _LANES]
        lane = c % _LANES
        least = floor * math.sqrt(variance[c])
        sum_ = 0.0
        for p in range(positions):
            value = smooth[p, lane] - least
            if positive and value < 0:
                value = 0.0
            sum_ += value
            map_[p] += value * activations[c, p]
        weights[c] = sum_ / positions


@compile_
def _combine(given, taps, into):
    """The sum of `given` (n, lanes) times `taps` (n,), by threes: what is added to is fetched less often."""
    count = len(taps)
    if count % 3 == 0:
        for lane in range(_LANES):
            into[lane] = 0.0
    elif count % 3 == 1:
        only = given[0]
        for lane in range(_LANES):
            into[lane] = taps[0] * only[lane]
    else:
        one, two = given[0], given[1]
        for lane in range(_LANES):
            into[lane] = taps[0] * one[lane] + taps[1] * two[lane]
    for k in range(count % 3, count, 3):
        one, two, three = given[k], given[k + 1], given[k + 2]
        for lane in range(_LANES):
            into[lane] += taps[k] * one[lane] + taps[k + 1] * two[lane] + taps[k + 2] * three[lane]


@compile_
def _average(values, labels):
    """Give the channels of each cluster their mean, and those of the noise, a group like a cluster, theirs."""
    groups = max(labels.max() + 2, 1)
    sums, members = np.zeros(groups), np.zeros(groups)
    for c in range(len(labels)):
        if labels[c] >= NOISE:
            sums[labels[c] + 1] += values[c]
            members[labels[c] + 1] += 1
    for c in range(len(labels)):
        if labels[c] >= NOISE:
            values[c] = sums[labels[c] + 1] / members[labels[c] + 1]


@compile_
def pooled_products(activations, gradients, labels, profile, own, softmax, map_, weights):
    """Steps 3 to 5 of weights that are spatial means; one target.

    Parameters
    ----------
    activations, gradients : (C, P) float64
    labels : (C,) int64
    profile : (P,) float64
        What each position counts for in the mean of a smoothed map.
    own : bool
        Channels keep their own gradient; else that of their cluster, and dominant ones theirs, which is not smoothed.
    softmax : bool
    map_ : (P,) float64
        Where the map goes, without its ReLU.
    weights : (C,) float64
        Where the weights go.
    """
    channels, positions = gradients.shape
    for c in range(channels):
        row = gradients[c]
        total = 0.0
        if not own and labels[c] == DOMINANT:
            for p in range(positions):
                total += row[p]
            total /= positions
        else:
            for p in range(positions):
                total += row[p] * profile[p]
        weights[c] = total
    if own:
        for c in range(channels):
            weights[c] = 0.0 if labels[c] == DEAD else weights[c]
    else:
        _average(weights, labels)
        for c in range(channels):
            weights[c] = weights[c] if labels[c] >= 0 or labels[c] == DOMINANT else 0.0
    if softmax:
        _softmax(weights, labels)
    map_[:] = 0.0
    for c in range(channels):
        weight, row = weights[c], activations[c]
        if weight != 0:
            for p in range(positions):
                map_[p] += weight * row[p]


@compile_
def _softmax(weights, labels):
    """Of the dominant and the clustered channels; 0 of the others, and of all where there is none."""
    largest, total = -np.inf, 0.0
    for c in range(len(labels)):
        if (labels[c] >= 0 or labels[c] == DOMINANT) and weights[c] > largest:
            largest = weights[c]
    for c in range(len(labels)):
        valid = labels[c] >= 0 or labels[c] == DOMINANT
        weights[c] = math.exp(weights[c] - largest) if valid else 0.0
        total += weights[c]
    for c in range(len(labels)):
        weights[c] /= max(total, 1.0)
