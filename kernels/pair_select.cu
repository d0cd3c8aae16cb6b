// The k-th and (k + 1)-th smallest distance, by radix among the candidates; Primitives.order_statistics.
//
// counts, below, found (P,) int32, candidates (P, capacity) uint64   as pair_band leaves them
// order (P, 2) float64   the last one twice at its end
//
// Launch: grid P, blocks of 256.
#include "common.cuh"

extern "C" __global__ __launch_bounds__(256) void pair_select(
    const int *counts, const int *below, const int *found, const Key *candidates, double fraction, int capacity,
    double *order) {
    __shared__ unsigned bins[256];
    __shared__ int sums[258];
    __shared__ Key larger;
    const int p = blockIdx.x, count = counts[p], size = found[p];
    if (count < 2) return;
    candidates += (size_t)p * capacity;
    int rank = pair_rank(count, fraction) - below[p], bin = 0;
    Key prefix = 0;
    if (threadIdx.x == 0) larger = PAD;
    for (int shift = 56; shift >= 0; shift -= 8) {
        __syncthreads();
        bins[threadIdx.x] = 0;
        __syncthreads();
        unsigned run = 0;  // of equal bins, so that ties don't wait for each other
        int previous = 0;
        for (int i = threadIdx.x; i < size; i += 256) {
            const Key key = candidates[i] >> shift;
            if (key >> 8 != prefix) continue;
            const int digit = (int)(key & 255);
            if (digit != previous && run > 0) atomicAdd(bins + previous, run), run = 0;
            previous = digit;
            ++run;
        }
        if (run > 0) atomicAdd(bins + previous, run);
        __syncthreads();
        bin = find_bin(bins, 256, rank, sums);
        prefix = prefix << 8 | bin;
    }
    const bool tied = rank + 1 < (int)bins[bin];
    Key next = PAD;
    for (int i = threadIdx.x; i < size; i += 256)
        if (candidates[i] > prefix) next = min(next, candidates[i]);
    if (next != PAD) atomicMin(&larger, next);
    __syncthreads();
    if (threadIdx.x != 0) return;
    order[2 * p] = __longlong_as_double(prefix);
    order[2 * p + 1] = __longlong_as_double(tied || larger == PAD ? prefix : larger);
}
