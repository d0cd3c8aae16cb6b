// A channel's weight where the map is a sum of products: the mean of what multiplies it; cluster_filter.weigh.
//
// filtered (Q, C, D) float64; variance (Q, C) float64, averaged over the clusters, or null: no noise floor
// weights (Q, C) float32   mean_d F; with positive mean_d ReLU(F - noise_floor sqrt(variance))
//
// Launch: grid (ceil(C / 8), Q), blocks of 256, a warp a channel.
#include "common.cuh"

extern "C" __global__ __launch_bounds__(256) void filtered_weights(
    const double *filtered, const double *variance, int channels, int positions, int positive, double noise_floor,
    float *weights) {
    const int c = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (c >= channels) return;
    const size_t channel = (size_t)blockIdx.y * channels + c;
    const double floor = variance == nullptr ? 0.0 : noise_floor * sqrt(variance[channel]);
    double sum = 0;
    for (int d = lane; d < positions; d += 32) {
        const double value = filtered[channel * positions + d];
        sum += positive ? fmax(value - floor, 0.0) : value;
    }
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    if (lane == 0) weights[channel] = narrow(sum / positions);
}
