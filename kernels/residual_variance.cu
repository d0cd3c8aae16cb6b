// Variance of the noise that the filter left in each channel; cluster_filter.noise_floor.
//
// gradients (Q, C, D) INPUT, filtered (Q, C, D) float64, inside (D,) float64 from filter_matrix
// variance (Q, C) float64   factor * mean_d (G - F / inside)^2
//
// Launch: grid (ceil(C / 8), Q), blocks of 256, a warp a channel.
#include "common.cuh"

#ifndef INPUT
#define INPUT float  // or double
#endif

extern "C" __global__ __launch_bounds__(256) void residual_variance(
    const INPUT *gradients, const double *filtered, const double *inside, int channels, int positions, double factor,
    double *variance) {
    const int c = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (c >= channels) return;
    const size_t channel = (size_t)blockIdx.y * channels + c;
    double sum = 0;
    for (int d = lane; d < positions; d += 32) {
        const size_t at = channel * positions + d;
        const double residual = widen(gradients[at]) - filtered[at] / inside[d];
        sum += residual * residual;
    }
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    if (lane == 0) variance[channel] = sum / positions * factor;
}
