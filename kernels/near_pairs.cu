// eps, and who is near whom as a bit each; cluster_filter._eps, scikit-learn's DBSCAN.
//
// approximate (P, tiles, 32, 32) float32 as pair_distances leaves them, counts (P,) int32, bound (P,) float64
// points (P, D, stride) float64
// order  (P, 2) float64   of all distances, for the percentile / 100 that `fraction` is; or, where that is negative,
//                         the two middle ones of neighbor_distances
// near (P, stride, stride / 32) uint32   bit j of word J in row i: distance(i, 32 J + j) <= eps, each to itself too;
//                                        rows and words beyond the count are not written
// eps  (P,) float64                      at least 1e-5
//
// A distance is taken itself where the approximate one is too close to eps to tell.
//
// Launch: grid (ceil(tiles / 4), P), blocks of 128: a warp reads a tile once for the words of its rows, by ballot, and
// those of its columns, a bit at a time.
#include "common.cuh"

__device__ double radius(const double *order, int count, double fraction) {
    if (count < 2) return 1e-5;
    double eps = order[0];
    if (fraction < 0) {
        if (count % 2 == 0) eps = (order[0] + order[1]) / 2;
    } else {
        const double last = (double)((long long)count * (count - 1) - 1), rank = fraction * last, whole = floor(rank);
        if (fmod(whole, 2.0) != 0 && whole != last) eps = order[0] + (order[1] - order[0]) * (rank - whole);
    }
    return fmax(eps, 1e-5);
}

extern "C" __global__ __launch_bounds__(128, 8) void near_pairs(
    const float *approximate, const int *counts, const double *bound, const double *points, const double *order,
    double fraction, int positions, int stride, int tiles, unsigned *near, double *eps) {
    const int p = blockIdx.y, lane = threadIdx.x % 32, count = counts[p], index = blockIdx.x * 4 + threadIdx.x / 32;
    const double reach = radius(order + 2 * p, count, fraction);
    if (index == 0 && lane == 0) eps[p] = reach;
    const int column = tile_column(index), row = index - tile_index(0, column), words = stride / 32;
    if (column * TILE >= count) return;
    const float *tile = approximate + ((size_t)p * tiles + index) * TILE * TILE;
    points += (size_t)p * positions * stride;
    const Error error = error_of(positions);
    const double scaled = reach * scale_of(bound[p]);
    const float surely = (float)(scaled * (1 - error.slope) - error.offset);
    const float perhaps = (float)(scaled * (1 + error.slope) + error.offset);
    unsigned own = 0, other = 0, doubt = 0;  // other: the lane's column, a bit a row; own: its row
#pragma unroll
    for (int i = 0; i < TILE; ++i) {
        const float distance = tile[i * TILE + lane];  // what is no pair is a NaN, of which nothing holds
        other |= (unsigned)(distance <= surely) << i;
        doubt |= (unsigned)(distance > surely && distance <= perhaps) << i;
    }
    for (; doubt != 0; doubt &= doubt - 1) {
        const int i = __ffs(doubt) - 1;
        const double distance =
            exact_distance(points, positions, stride, row * TILE + i, column * TILE + lane);
        other |= (unsigned)(distance <= reach) << i;
    }
#pragma unroll
    for (int i = 0; i < TILE; ++i) {
        const unsigned ballot = __ballot_sync(~0u, other >> i & 1);
        if (i == lane) own = ballot;
    }
    near += (size_t)p * stride * words;
    if (row == column) {
        near[(size_t)(row * TILE + lane) * words + row] = own | other | 1u << lane;
    } else {
        near[(size_t)(row * TILE + lane) * words + column] = own;
        near[(size_t)(column * TILE + lane) * words + row] = other;
    }
}
