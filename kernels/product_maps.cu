// The map of filtered gradients times activations; cluster_filter.weigh, combine = "elementwise" or "positive".
//
// activations (B, C, D) INPUT, filtered (Q, C, D) float64
// variance (Q, C) float64   averaged over the clusters, or null: no noise floor
// maps (Q, D) float32       min(ReLU(sum_c F A), largest float); with positive ReLU(F - noise_floor sqrt(variance))
//                           for F
//
// Launch: grid (ceil(D / 32), Q), blocks of 1024: lanes are positions, warps take channels in turn.
#include "common.cuh"

#ifndef INPUT
#define INPUT float  // or double
#endif

extern "C" __global__ __launch_bounds__(1024) void product_maps(
    const INPUT *activations, const double *filtered, const double *variance, int channels, int positions, int targets,
    int positive, double noise_floor, float *maps) {
    __shared__ double sums[32][32];
    const int q = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32, d = blockIdx.x * 32 + lane;
    activations += (size_t)(q / targets) * channels * positions;
    filtered += (size_t)q * channels * positions;
    double sum = 0;
    if (d < positions)
#pragma unroll 2
        for (int c = warp; c < channels; c += 32) {
            const size_t at = (size_t)c * positions + d;
            const double floor = variance == nullptr ? 0.0 : noise_floor * sqrt(variance[(size_t)q * channels + c]);
            sum += (positive ? fmax(filtered[at] - floor, 0.0) : filtered[at]) * widen(activations[at]);
        }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || d >= positions) return;
    for (int w = 1; w < 32; ++w) sum += sums[w][lane];
    maps[(size_t)q * positions + d] = narrow(fmin(fmax(sum, 0.0), 3.4028234663852886e38));
}
