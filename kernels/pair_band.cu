// The distances that may be the k-th or the (k + 1)-th smallest, themselves; Primitives.order_statistics.
//
// approximate, counts, coarse, fine, next, fraction   as pair_bracket takes and leaves them
// points (P, D, stride) float64
// below (P,) int32                 how many distances are certainly smaller; zeroed before
// found (P,) int32                 how many candidates there are; zeroed before
// candidates (P, capacity) uint64  keys of the distances that are not certain, in any order, as far as there is room
// bands (P, 2) float32             the Band of the approximate distances that are not certain
//
// The histograms say between which floats the two lie; Band widens that by the error of the approximate distances.
//
// Launch: grid (slices, P), blocks of 256.
#include "common.cuh"

// Every thread must call it.
__device__ Band bracket(
    const unsigned *coarse, const unsigned *fine, unsigned next, int count, double fraction, int *sums, Error error) {
    int low_rank = pair_rank(count, fraction), high_rank = min(low_rank + 1, count * (count - 1) / 2 - 1);
    const int low = find_bin(coarse, COARSE_BINS, low_rank, sums);
    const int high = find_bin(coarse, COARSE_BINS, high_rank, sums);
    unsigned from = low == 0 ? 0 : coarse_edge(low);
    unsigned to = low == COARSE_BINS - 1 ? 0x7f800000 : coarse_edge(low + 1);
    if (low > 0 && low < COARSE_BINS - 1) {
        const unsigned edge = from;
        from = edge + ((unsigned)find_bin(fine, FINE_BINS, low_rank, sums) << 5);
        if (high == low) to = edge + (((unsigned)find_bin(fine, FINE_BINS, high_rank, sums) + 1) << 5);
    }
    if (high > low) to = ~next;
    return band_of(__uint_as_float(from), __uint_as_float(to), error);
}

extern "C" __global__ __launch_bounds__(256) void pair_band(
    const float *approximate, const int *counts, const unsigned *coarse, const unsigned *fine, const unsigned *next,
    const double *points, double fraction, int positions, int stride, int tiles, int capacity, int *below, int *found,
    Key *candidates, float *bands) {
    __shared__ int sums[10];
    __shared__ int smaller;
    const int p = blockIdx.y, count = counts[p];
    if (count < 2) return;
    if (threadIdx.x == 0) smaller = 0;
    const Band band = bracket(
        coarse + (size_t)p * COARSE_BINS, fine + (size_t)p * FINE_BINS, next[p], count, fraction, sums,
        error_of(positions));
    if (blockIdx.x == 0 && threadIdx.x == 0) bands[2 * p] = band.low, bands[2 * p + 1] = band.high;
    points += (size_t)p * positions * stride;
    candidates += (size_t)p * capacity;
    const int side = (count + TILE - 1) / TILE, size = side * (side + 1) / 2 * TILE * TILE / 4;
    const float4 *source = (const float4 *)(approximate + (size_t)p * tiles * TILE * TILE);
    int mine = 0;
    auto visit = [&](float distance, int i) {
        mine += distance < band.low;  // false of NO_PAIR, a NaN
        if (!(distance >= band.low && distance <= band.high)) return;
        const int place = atomicAdd(found + p, 1);
        if (place < capacity) candidates[place] = exact_key(points, positions, stride, i);
    };
    for (int i = blockIdx.x * 256 + threadIdx.x; i < size; i += gridDim.x * 256) {
        const float4 four = source[i];
        visit(four.x, 4 * i), visit(four.y, 4 * i + 1), visit(four.z, 4 * i + 2), visit(four.w, 4 * i + 3);
    }
    if (mine > 0) atomicAdd(&smaller, mine);
    __syncthreads();
    if (threadIdx.x == 0 && smaller > 0) atomicAdd(below + p, smaller);
}
