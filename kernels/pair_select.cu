// The k-th and (k + 1)-th smallest distance, among the candidates; Primitives.order_statistics.
//
// counts, below, found (P,) int32, candidates (P, capacity) uint64, bands (P, 2) float32   as pair_band leaves them
// approximate (P, tiles, 32, 32) float32 as pair_distances leaves them, points (P, D, stride) float64
// order (P, 2) float64   the last one twice at its end
//
// Where there were more candidates than room for them, they are found again and again among all pairs: slow, but a
// decisive distance that so many pairs share is rare.
//
// Launch: grid P, blocks of 256.
#include "common.cuh"

extern "C" __global__ __launch_bounds__(256, 2) void pair_select(
    const float *approximate, const int *counts, const double *points, const int *below, const int *found,
    const Key *candidates, const float *bands, double fraction, int positions, int stride, int tiles, int capacity,
    double *order) {
    __shared__ Selection shared;
    const int p = blockIdx.x, count = counts[p];
    if (count < 2) return;
    const int rank = pair_rank(count, fraction) - below[p];
    Key low, high;
    if (found[p] <= capacity) {
        candidates += (size_t)p * capacity;
        select([=](int i) { return candidates[i]; }, found[p], rank, shared, low, high);
    } else {
        const int side = (count + TILE - 1) / TILE, size = side * (side + 1) / 2 * TILE * TILE;
        approximate += (size_t)p * tiles * TILE * TILE;
        points += (size_t)p * positions * stride;
        const float from = bands[2 * p], to = bands[2 * p + 1];
        auto key_at = [=](int i) {
            const float distance = approximate[i];
            return distance >= from && distance <= to ? exact_key(points, positions, stride, i) : PAD;
        };
        select(key_at, size, rank, shared, low, high);
    }
    if (threadIdx.x != 0) return;
    order[2 * p] = __longlong_as_double(low);
    order[2 * p + 1] = __longlong_as_double(high);
}
