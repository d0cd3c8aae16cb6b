// Filtered gradients, averaged over each cluster, in place; cluster_filter.filter_gradients.
//
// filtered (Q, C, D) float64, labels (P, C) int64
//
// The block of a cluster's lowest channel adds the cluster up, in the order of the channels, and writes to all of it.
//
// Launch: grid (C, Q), blocks of 128. C <= 4096.
#include "common.cuh"

extern "C" __global__ __launch_bounds__(128) void cluster_gradients(
    const long long *labels, int positions, int per_problem, double *filtered) {
    __shared__ int members[4096];
    __shared__ int count;
    const int q = blockIdx.y, c = blockIdx.x, channels = gridDim.x;
    labels += (size_t)(q / per_problem) * channels;
    filtered += (size_t)q * channels * positions;
    const long long own = labels[c];
    if (own < 0) return;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < c; i += 128)
        if (labels[i] == own) atomicAdd(&count, 1);
    __syncthreads();
    const bool lowest = count == 0;
    __syncthreads();  // all have read it before it is written again
    if (!lowest) return;
    if (threadIdx.x < 32) {
        int found = 0;
        for (int first = c; first < channels; first += 32) {
            const int i = first + threadIdx.x;
            const bool is = i < channels && labels[i] == own;
            const unsigned ballot = __ballot_sync(~0u, is);
            if (is) members[found + __popc(ballot & ((1u << threadIdx.x) - 1))] = i;
            found += __popc(ballot);
        }
        if (threadIdx.x == 0) count = found;
    }
    __syncthreads();
    for (int d = threadIdx.x; d < positions; d += 128) {
        double sum = 0;
        for (int i = 0; i < count; ++i) sum += filtered[(size_t)members[i] * positions + d];
        for (int i = 0; i < count; ++i) filtered[(size_t)members[i] * positions + d] = sum / count;
    }
}
