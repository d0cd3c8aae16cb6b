// Second histogram of approximate distances, in the bin of the first with the k-th; Primitives.order_statistics.
//
// approximate (P, tiles, 32, 32) float32, coarse (P, COARSE_BINS) uint32   as pair_distances leaves them
// counts (P,) int32
// fine (P, FINE_BINS) uint32   zeroed before; left empty for the coarse bins at the ends
// next (P,) uint32             complement of the bits of the smallest float in a higher bin, if the (k + 1)-th is there;
//                              zeroed before
//
// k = int(percentile / 100 (n (n - 1) - 1)) / 2, see cluster_filter._eps; `fraction` is percentile / 100.
//
// Launch: grid (slices, P), blocks of 256.
#include "common.cuh"

extern "C" __global__ __launch_bounds__(256) void pair_bracket(
    const float *approximate, const int *counts, const unsigned *coarse, double fraction, int tiles, unsigned *fine,
    unsigned *next) {
    __shared__ unsigned bins[FINE_BINS];
    __shared__ int sums[10];
    const int p = blockIdx.y, count = counts[p];
    if (count < 2) return;
    coarse += (size_t)p * COARSE_BINS;
    int low_rank = pair_rank(count, fraction), high_rank = min(low_rank + 1, count * (count - 1) / 2 - 1);
    const int low = find_bin(coarse, COARSE_BINS, low_rank, sums);
    const int high = find_bin(coarse, COARSE_BINS, high_rank, sums);
    const bool counted = low > 0 && low < COARSE_BINS - 1;
    if (!counted && low == high) return;
    for (int i = threadIdx.x; i < FINE_BINS; i += 256) bins[i] = 0;
    __syncthreads();

    const int side = (count + TILE - 1) / TILE, size = side * (side + 1) / 2 * TILE * TILE / 4;
    const float4 *source = (const float4 *)(approximate + (size_t)p * tiles * TILE * TILE);
    unsigned smallest = NO_PAIR, run = 0;  // a run of equal bins, so that ties don't wait for each other
    int previous = 0;
    auto visit = [&](float distance) {
        const unsigned bits = __float_as_uint(distance);
        if (bits == NO_PAIR) return;
        const int bin = coarse_bin(distance);
        if (bin > low && high > low) smallest = min(smallest, bits);
        if (bin != low || !counted) return;
        const int finer = fine_bin(distance);
        if (finer != previous && run > 0) atomicAdd(bins + previous, run), run = 0;
        previous = finer;
        ++run;
    };
    for (int i = blockIdx.x * 256 + threadIdx.x; i < size; i += gridDim.x * 256) {
        const float4 four = source[i];
        visit(four.x), visit(four.y), visit(four.z), visit(four.w);
    }
    if (run > 0) atomicAdd(bins + previous, run);
    if (smallest != NO_PAIR) atomicMax(next + p, ~smallest);
    __syncthreads();
    for (int i = threadIdx.x; i < FINE_BINS; i += 256)
        if (bins[i] != 0) atomicAdd(fine + (size_t)p * FINE_BINS + i, bins[i]);
}
