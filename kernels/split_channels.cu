// Which channels are dead, which dominant, and which are to be clustered; cluster_filter.cluster_channels.
//
// importance (P, C), norms (B, C), order (P, 2) float64, alive (P,) int32   from channel_statistics, order_statistics
// labels  (P, C) int32          -3 dead, -2 dominant, -1 to be clustered
// members (P, capacity) int32   the channels to be clustered, ascending
// counts  (P,) int32            how many
// bound   (P,) float64          no two of them are further apart
//
// dominant: importance >= percentile of the importance of those alive; dead_threshold < 0: none is dead.
// Channels beyond `capacity`, which only NaN can bring about, stay noise.
//
// Launch: grid P, blocks of 1024, four channels a thread one after the other: C <= 4096.
#include "common.cuh"

extern "C" __global__ __launch_bounds__(1024) void split_channels(
    const double *importance, const double *norms, const double *order, const int *alive, int channels, int per_image,
    double dead_threshold, double fraction, int capacity, int unit_norm, int *labels, int *members, int *counts,
    double *bound) {
    __shared__ double maxima[32];
    __shared__ int sums[32];
    const int p = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    importance += (size_t)p * channels;
    norms += (size_t)(p / per_image) * channels;
    const double floor_norm = dead_threshold < 0 ? -1 : dead_threshold * largest_norm(norms, channels, maxima);
    const double rank = fraction * (alive[p] - 1);
    const double threshold = interpolate(order[2 * p], order[2 * p + 1], rank - floor(rank));
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
    }
}
