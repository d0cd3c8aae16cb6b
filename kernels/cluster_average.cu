// A number of each channel, averaged over its cluster; cluster_filter.filter_gradients, .noise_floor.
//
// values, others (Q, C) float64, labels (P, C) int64
// averages (Q, C) float64   mean of `values` over the channels of a label, where that is >= `lowest`; else `others`
//
// A warp adds a cluster up, each lane every 32nd channel in order, and writes it to all its members: the same bytes for
// all of them, and on every run.
//
// Launch: grid (ceil(C / 256), Q), blocks of 256; the warps of a map take its clusters in turn.
#include "common.cuh"

extern "C" __global__ __launch_bounds__(256) void cluster_average(
    const double *values, const double *others, const long long *labels, int channels, int per_problem, int lowest,
    double *averages) {
    const int q = blockIdx.y, lane = threadIdx.x % 32, own = blockIdx.x * 256 + threadIdx.x;
    const size_t map = (size_t)q * channels;
    values += map, others += map, averages += map;
    labels += (size_t)(q / per_problem) * channels;
    if (own < channels && labels[own] < lowest) averages[own] = others[own];
    int highest = lowest - 1;
#pragma unroll 8
    for (int c = lane; c < channels; c += 32) highest = max(highest, (int)labels[c]);
    for (int step = 16; step > 0; step /= 2) highest = max(highest, __shfl_xor_sync(~0u, highest, step));
    for (int cluster = lowest + blockIdx.x * 8 + threadIdx.x / 32; cluster <= highest; cluster += gridDim.x * 8) {
        double sum = 0;
        int members = 0;
#pragma unroll 8
        for (int c = lane; c < channels; c += 32)
            if (labels[c] == cluster) {
                sum += values[c];
                ++members;
            }
        for (int step = 16; step > 0; step /= 2) {
            sum += __shfl_xor_sync(~0u, sum, step);
            members += __shfl_xor_sync(~0u, members, step);
        }
        for (int c = lane; c < channels; c += 32)
            if (labels[c] == cluster) averages[c] = sum / members;
    }
}
