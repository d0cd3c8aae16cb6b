// eps, and who is near whom as a bit each; cluster_filter._eps, scikit-learn's DBSCAN.
//
// distances (P, tiles, 32, 32) float64 as pair_distances leaves them, counts (P,) int32
// states (P, PASSES, 6), next (P,) uint64   from pair_statistics, with percentile / 100 as `fraction`; or null, and
// order  (P, 2) float64                     the two middle ones of neighbor_distances
// near (P, stride, stride / 32) uint32      bit j of word J in row i: distance(i, 32 J + j) <= eps, each to itself too;
//                                           rows and words beyond the count are not written
// eps  (P,) float64                         at least 1e-5
//
// Launch: grid (ceil(tiles / 4), P), blocks of 128: a warp reads a tile once for the words of its rows, by ballot, and
// those of its columns, a bit at a time.
#include "common.cuh"

__device__ double radius(const Key *state, Key next, const double *order, int count, double fraction) {
    if (count < 2) return 1e-5;
    double eps;
    if (state == nullptr) {
        eps = count % 2 ? order[0] : (order[0] + order[1]) / 2;
    } else {
        const double last = (double)((Key)count * (count - 1) - 1), rank = fraction * last, whole = floor(rank);
        const double low = __longlong_as_double(state[0]);
        eps = low;
        if (fmod(whole, 2.0) != 0 && whole != last) {
            const double high = state[5] != 0 ? low : __longlong_as_double(next);
            eps = low + (high - low) * (rank - whole);
        }
    }
    return fmax(eps, 1e-5);
}

extern "C" __global__ __launch_bounds__(128) void near_pairs(
    const double *distances, const int *counts, const Key *states, const Key *next, const double *order,
    double fraction, int stride, int tiles, unsigned *near, double *eps) {
    const int p = blockIdx.y, lane = threadIdx.x % 32, count = counts[p], index = blockIdx.x * 4 + threadIdx.x / 32;
    const Key *state = states == nullptr ? nullptr : states + ((size_t)p * PASSES + PASSES - 1) * 6;
    const double reach = radius(state, state == nullptr ? 0 : next[p], order + 2 * p, count, fraction);
    if (index == 0 && lane == 0) eps[p] = reach;
    const int column = tile_column(index), row = index - tile_index(0, column), words = stride / 32;
    if (column * TILE >= count) return;
    const double *tile = distances + ((size_t)p * tiles + index) * TILE * TILE;
    unsigned own = 0, other = 0;
    for (int i = 0; i < TILE; ++i) {
        const bool is = tile[i * TILE + lane] <= reach;  // false of PAD, a NaN
        const unsigned ballot = __ballot_sync(~0u, is);
        if (i == lane) own = ballot;
        other |= (unsigned)is << i;
    }
    near += (size_t)p * stride * words;
    if (row == column) {
        near[(size_t)(row * TILE + lane) * words + row] = own | other | 1u << lane;
    } else {
        near[(size_t)(row * TILE + lane) * words + column] = own;
        near[(size_t)(column * TILE + lane) * words + row] = other;
    }
}
