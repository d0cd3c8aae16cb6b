#!/usr/bin/env bash
# The DBSCAN and the brute-force nearest neighbours of the Extension for Scikit-learn (scikit-learn-intelex) measure
# distances of float32 points in float32, as x² - 2xy + y². Far from zero that is the difference of large numbers: of
# points at 60000, distances are wrong by tens, and four groups of points come out as one.
#
# Guess before it was run: DBSCAN as it is; the neighbours were tried after it.
#
# Expected: the clusters and distances of scikit-learn, whose estimators these replace by `patch_sklearn()`, "with
# equivalent mathematical accuracy" (https://pypi.org/project/scikit-learn-intelex/); neighbours are at most eps away
# (https://scikit-learn.org/stable/modules/generated/sklearn.cluster.DBSCAN.html). float32 has steps of 0.004 at 60000.
#
# Seen: with eps 4, groups that are 40 apart are one cluster, and most of the distances to the five nearest points are
# 0, where only that to the point itself is. Nothing warns. In float64 all is right, and so is scikit-learn in float32,
# also with algorithm="brute", where it once had the same fault (scikit-learn/scikit-learn#13604).
#
# It hurts whoever groups cells, peaks or marked pixels of whole slides and aerial images by their coordinates, which
# networks give in float32, or does so with embeddings that have a common offset, and speeds it up by the one line.
#
# cfcam_gpu decides in float64 what is too close to call in float32 (cfcam_gpu/engines/pairs.py), and gives
# scikit-learn's DBSCAN the graph, not the points.
set -euo pipefail
export OMP_NUM_THREADS=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip -qq --disable-pip-version-check "$@"; }
pip install numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 scikit-learn-intelex==2026.2.0

cd "$folder"
venv/bin/python - <<'PYTHON'
import sys
import warnings
from importlib.metadata import version

import numpy as np
from sklearn.cluster import DBSCAN
from sklearn.neighbors import NearestNeighbors
from sklearnex.cluster import DBSCAN as FastDBSCAN
from sklearnex.neighbors import NearestNeighbors as FastNearestNeighbors

print("scikit-learn-intelex", version("scikit-learn-intelex"), "scikit-learn", version("scikit-learn"))
random = np.random.default_rng(0)
groups = [random.normal((40 * group, 0), 2, (100, 2)) for group in range(4)]
points = np.concatenate([*groups, random.uniform(-200, 300, (50, 2))])


def clusters(estimator, points):
    """How many clusters there are, and how many points are in none."""
    labels = estimator(eps=4, min_samples=5).fit(points).labels_
    return int(labels.max()) + 1, int((labels < 0).sum())


def distances(estimator, points):
    """Of each point to its five nearest ones, itself included."""
    return estimator(n_neighbors=5, algorithm="brute").fit(points).kneighbors(points)[0]


seen = {}
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    for away in (0, 60000):
        moved = (points + away).astype(np.float32)
        plain, fast = clusters(DBSCAN, moved), clusters(FastDBSCAN, moved)
        double = clusters(FastDBSCAN, moved.astype(np.float64))
        near, fast_near = distances(NearestNeighbors, moved), distances(FastNearestNeighbors, moved)
        off, zeros = float(np.abs(fast_near - near).max()), float((fast_near == 0).mean())
        exact = np.sort(np.linalg.norm(moved[:, None].astype(float) - moved, axis=-1), axis=1)[:, :5]
        slack = float(np.abs(near - exact).max())
        seen[away] = plain, double, fast, off, slack, zeros
        print(f"at {away}: expected (clusters, points in none) {plain}, as scikit-learn;")
        print(f"          seen {fast}, in float64 {double}")
        print(f"          expected scikit-learn's distances, right to {slack:.1g}; seen off by up to {off:.2g},")
        print(f"          and {zeros:.0%} of them 0, of scikit-learn's {(near == 0).mean():.0%}")
print("warnings:", len(told))
as_described = (
    not told
    and seen[0][0] == seen[0][1] == seen[0][2] == (4, 50)
    and seen[60000][0] == seen[60000][1] == (4, 50)
    and seen[60000][2][0] < 3
    and seen[60000][3] > 5
    and seen[60000][5] > 0.5
    and max(seen[0][4], seen[60000][4]) < 0.1
)
sys.exit(None if as_described else "this has changed")
PYTHON
