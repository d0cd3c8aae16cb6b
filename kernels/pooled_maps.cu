// Weights, their softmax if so configured, and the map of the weighted sum; cluster_filter.weigh, combine = "pooled".
//
// activations (B, C, D) INPUT, labels (P, C) int64
// pooled (Q, C) float64    the channels' weights; those without a part count as 0: dead ones, without `own` noise
// weights (Q, C) float32   softmax: over dominant and clustered channels, 0 elsewhere
// maps (Q, D) float32      min(ReLU(sum_c w_c A_c), largest float)
//
// Launch: grid (ceil(D / 32), Q), blocks of 1024: lanes are positions, warps take channels in turn. C <= 4096.
#include "common.cuh"

#ifndef INPUT
#define INPUT float  // or double
#endif

extern "C" __global__ __launch_bounds__(1024) void pooled_maps(
    const INPUT *activations, const long long *labels, const double *pooled, int channels, int positions, int targets,
    int per_problem, int own, int softmax, float *weights, float *maps) {
    __shared__ double weight[MOST_CHANNELS];
    __shared__ double sums[32][32];
    const int q = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32, d = blockIdx.x * 32 + lane;
    labels += (size_t)(q / per_problem) * channels;
    double largest = -1.7976931348623157e308;
    for (int c = threadIdx.x; c < channels; c += 1024) {
        const bool valid = labels[c] == DOMINANT || labels[c] >= 0;
        weight[c] = valid || (own && !softmax && labels[c] != DEAD) ? pooled[(size_t)q * channels + c] : 0.0;
        if (valid) largest = fmax(largest, weight[c]);
    }
    if (softmax) {
        largest = block_maximum(largest, sums[0]);
        double sum = 0;
        for (int c = threadIdx.x; c < channels; c += 1024) {
            weight[c] = labels[c] == DOMINANT || labels[c] >= 0 ? exp(weight[c] - largest) : 0.0;
            sum += weight[c];
        }
        for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
        if (lane == 0) sums[1][warp] = sum;
        __syncthreads();
        double total = 0;
        for (int w = 0; w < 32; ++w) total += sums[1][w];
        if (total != 0)  // it is where no channel is valid
            for (int c = threadIdx.x; c < channels; c += 1024) weight[c] /= total;
    }
    __syncthreads();
    activations += (size_t)(q / targets) * channels * positions;
    double sum = 0;
    if (d < positions)
#pragma unroll 8
        for (int c = warp; c < channels; c += 32) sum += weight[c] * widen(activations[(size_t)c * positions + d]);
    if (blockIdx.x == 0)
        for (int c = threadIdx.x; c < channels; c += 1024) weights[(size_t)q * channels + c] = narrow(weight[c]);
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || d >= positions) return;
    for (int w = 1; w < 32; ++w) sum += sums[w][lane];
    maps[(size_t)q * positions + d] = narrow(fmin(fmax(sum, 0.0), 3.4028234663852886e38));
}
