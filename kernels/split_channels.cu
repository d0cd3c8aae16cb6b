// Which channels are dead, which dominant, and which are to be clustered; cluster_filter.cluster_channels.
//
// importance (P, C), norms (B, C), pooled (Q, C) float64   from channel_statistics
// labels  (P, C) int64          -3 dead, -2 dominant, -1 to be clustered
// members (P, capacity) int32   the channels to be clustered, ascending
// counts  (P,) int32            how many
// bound   (P,) float64          no two of them are further apart
// finite  (P, 2) bool           whether the activations are, and the gradients, which their norms and means tell
//
// dead: norm <= dead_threshold * the largest; dead_threshold < 0: none is.
// dominant: importance >= percentile of the importance of those alive; `fraction` is percentile / 100.
// Channels beyond `capacity`, which only NaN can bring about, stay noise.
//
// Launch: grid P, blocks of 1024, four channels a thread one after the other: C <= 4096.
#include "common.cuh"

extern "C" __global__ __launch_bounds__(1024) void split_channels(
    const double *importance, const double *norms, const double *pooled, int channels, int per_image, int per_problem,
    double dead_threshold, double fraction, int capacity, int unit_norm, long long *labels, int *members, int *counts,
    double *bound, bool *finite) {
    __shared__ Key keys[4096];
    __shared__ Selection shared;
    __shared__ double maxima[32];
    __shared__ int sums[32];
    const int p = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    importance += (size_t)p * channels;
    norms += (size_t)(p / per_image) * channels;
    pooled += (size_t)p * per_problem * channels;
    const double floor_norm = dead_threshold < 0 ? -1 : dead_threshold * largest_norm(norms, channels, maxima);
    int alive = 0, infinite = 0, not_finite = 0;
    for (int c = threadIdx.x; c < channels; c += 1024) {
        const double norm = norms[c];
        keys[c] = norm > floor_norm ? key_of(importance[c]) : PAD;
        alive += norm > floor_norm;
        infinite += !isfinite(norm);
    }
    for (int i = threadIdx.x; i < per_problem * channels; i += 1024) not_finite += !isfinite(pooled[i]);
    alive = block_sum(alive, sums);
    infinite = block_sum(infinite, sums);
    not_finite = block_sum(not_finite, sums);
    const double rank = fraction * (alive - 1);
    Key low, high;
    select([&](int c) { return keys[c]; }, channels, (int)rank, shared, low, high);
    const double from = __longlong_as_double(low), to = __longlong_as_double(high);
    const double threshold = interpolate(from, to, rank - floor(rank));
    int before = 0;
    double largest = 0;
    for (int first = 0; first < channels; first += 1024) {
        const int c = first + threadIdx.x;
        const bool live = c < channels && norms[c] > floor_norm;
        const bool rest = live && !(importance[c] >= threshold);
        if (c < channels) labels[(size_t)p * channels + c] = rest ? NOISE : live ? DOMINANT : DEAD;
        if (rest) largest = fmax(largest, norms[c]);
        const unsigned ballot = __ballot_sync(~0u, rest);
        __syncthreads();
        if (lane == 0) sums[warp] = __popc(ballot);
        __syncthreads();
        int place = before + __popc(ballot & ((1u << lane) - 1));
        for (int w = 0; w < 32; ++w) {
            place += w < warp ? sums[w] : 0;
            before += sums[w];
        }
        if (rest && place < capacity) members[(size_t)p * capacity + place] = c;
    }
    largest = block_maximum(largest, maxima);
    if (threadIdx.x == 0) {
        counts[p] = min(before, capacity);
        bound[p] = unit_norm ? 2.0 : 2 * largest;
        finite[2 * p] = infinite == 0;
        finite[2 * p + 1] = not_finite == 0;
    }
}
