// One pass of the radix selection of the k-th and (k + 1)-th smallest distance; Primitives.order_statistics.
//
// distances  (P, tiles, 32, 32) float64, counts (P,) int32, bound (P,) float64   as for pair_distances
// histogram  (P, PASSES, BINS) uint32   pass 0: coarse; pass i: of the digit that pass i - 1 looked at; zeroed before
// candidates (P, capacity) uint64       keys of the coarse bins that hold the two, if they all fit
// found      (P,) int32                 how many those are; zeroed before
// next       (P,) uint64                after the last pass the smallest key beyond the k-th; PAD before
// state      (P, PASSES, 6) uint64      see State; after the last pass `prefix` is the k-th key
//
// k = int(percentile / 100 (n (n - 1) - 1)) / 2, see cluster_filter._eps. Each block finds in the histogram of the pass
// before the bin that holds rank k, which is the key's next digit, then counts the digit after it. The first pass reads
// all distances and gathers the candidates, the others read those; where many distances tie, and the candidates don't
// fit, they read all again. A pass after the key is complete does nothing; the last one looks for the next larger key.
//
// Launch: PASSES times, pass 0 to PASSES - 1, grid (slices, P), blocks of 256.
#include "common.cuh"

struct State {
    Key prefix;     // the key's known bits
    Key shift;      // how many more there are
    Key rank;       // of the k-th among the distances that have these bits, or among all from `low` on
    Key low, high;  // keys of the candidates: low <= key < high
    Key tied;       // complete, and the (k + 1)-th is the same
};

// The bin of the rank-th of what `bins` counts, and the rank within it. Every thread must call it.
__device__ int find_bin(const unsigned *bins, int size, Key &rank) {
    __shared__ Key sums[256], left;
    __shared__ int bin;
    const int each = size / 256, first = threadIdx.x * each;
    Key sum = 0;
    for (int i = 0; i < each; ++i) sum += bins[first + i];
    __syncthreads();
    sums[threadIdx.x] = sum;
    if (threadIdx.x == 0) bin = size - 1, left = 0;  // not found among NaN alone
    __syncthreads();
    for (int step = 1; step < 256; step *= 2) {
        const Key before = threadIdx.x >= step ? sums[threadIdx.x - step] : 0;
        __syncthreads();
        sums[threadIdx.x] += before;
        __syncthreads();
    }
    Key before = sums[threadIdx.x] - sum;
    if (before <= rank && rank < before + sum) {
        int i = first;
        for (; rank - before >= bins[i]; ++i) before += bins[i];
        bin = i;
        left = rank - before;
    }
    __syncthreads();
    rank = left;
    return bin;
}

__device__ State begin(const unsigned *bins, int count, double fraction, int base) {
    const Key pairs = (Key)count * (count - 1) / 2;
    Key rank = (Key)(fraction * (double)(2 * pairs - 1)) / 2, next = min(rank + 1, pairs - 1);
    const int bin = find_bin(bins, COARSE_BINS, rank), last = find_bin(bins, COARSE_BINS, next);
    State state = {0, 63, rank, 0, PAD, 0};
    if (bin == 0) state.shift = 0;
    if (bin > 0) state.low = bin == 1 ? 1 : (Key)(base + bin) << COARSE_SHIFT;
    if (last < COARSE_BINS - 1) state.high = last == 0 ? 1 : (Key)(base + last + 1) << COARSE_SHIFT;
    if (bin > 1 && bin < COARSE_BINS - 1) state.prefix = base + bin, state.shift = COARSE_SHIFT;
    state.tied = bin == 0 && rank + 1 < bins[0];
    return state;
}

__device__ void extend(State &state, const unsigned *bins) {
    if (state.shift == 0) return;
    const int digit = min((int)state.shift, DIGIT), bin = find_bin(bins, BINS, state.rank);
    state.prefix = state.prefix << digit | bin;
    state.shift -= digit;
    state.tied = state.shift == 0 && state.rank + 1 < bins[bin];
}

extern "C" __global__ __launch_bounds__(256) void pair_statistics(
    const double *distances, const int *counts, const double *bound, double fraction, int pass, int tiles, int capacity,
    unsigned *histogram, Key *candidates, int *found, Key *next, State *states) {
    __shared__ unsigned bins[BINS];
    const int p = blockIdx.y, count = counts[p];
    if (count < 2) return;
    histogram += (size_t)p * PASSES * BINS;
    candidates += (size_t)p * capacity;
    states += (size_t)p * PASSES;
    const int base = (int)(key_of(bound[p]) >> COARSE_SHIFT) - (COARSE_BINS - 2);
    State state = pass == 0 ? begin(histogram, count, fraction, base) : states[pass - 1];
    if (pass > 0) extend(state, histogram + (size_t)pass * BINS);
    if (blockIdx.x == 0 && threadIdx.x == 0) states[pass] = state;
    const bool last = pass == PASSES - 1;
    if (pass > 0 && (last ? state.tied != 0 : state.shift == 0)) return;

    for (int i = threadIdx.x; i < BINS; i += 256) bins[i] = 0;
    __syncthreads();
    const int digit = min((int)state.shift, DIGIT), rest = (int)state.shift - digit;
    const bool gathered = pass > 0 && found[p] <= capacity;
    const int above = (count + TILE - 1) / TILE, size = gathered ? found[p] : above * (above + 1) / 2 * TILE * TILE;
    const Key *source = gathered ? candidates : (const Key *)distances + (size_t)p * tiles * TILE * TILE;
    Key smallest = PAD;
    int previous = -1;
    unsigned run = 0;  // of equal bins, so that ties don't wait for each other
    for (int i = blockIdx.x * 256 + threadIdx.x; i < size; i += gridDim.x * 256) {
        const Key raw = source[i], key = raw & ~(1ull << 63);
        if (raw == PAD || key < state.low || key >= state.high) continue;
        if (pass == 0) {
            const int place = atomicAdd(found + p, 1);
            if (place < capacity) candidates[place] = key;
        }
        if (last && key > state.prefix) smallest = min(smallest, key);
        if (state.shift == 0 || key >> state.shift != state.prefix) continue;
        const int bin = (int)(key >> rest) & (BINS - 1) & ((1 << digit) - 1);
        if (bin != previous && run > 0) atomicAdd(bins + previous, run), run = 0;
        previous = bin;
        ++run;
    }
    if (run > 0) atomicAdd(bins + previous, run);
    if (last && smallest != PAD) atomicMin(next + p, smallest);
    __syncthreads();
    if (last || state.shift == 0) return;
    for (int i = threadIdx.x; i < BINS; i += 256)
        if (bins[i] != 0) atomicAdd(histogram + (size_t)(pass + 1) * BINS + i, bins[i]);
}
