// What stands for each channel's gradient, before clusters share it; cluster_filter.filter_gradients.
//
// gradients (Q, C, h, w) INPUT, labels (P, C) int64; rows (h, h), columns (w, w) float64 from filter_matrix
// filtered (Q, C, h, w) float64   R^T G S; with own = 0 the gradient itself where dominant, 0 where noise; 0 where dead
//
// The mean of filtered gradients is the filtered mean, so the clusters' means can wait: cluster_gradients.
//
// Launch: grid (ceil(C / group), Q), blocks of 256, `group` channels each. group h w <= 4096.
#include "common.cuh"

#ifndef INPUT
#define INPUT float  // or double
#endif

extern "C" __global__ __launch_bounds__(256) void filter_gradients(
    const INPUT *gradients, const long long *labels, const double *rows, const double *columns, int channels, int height,
    int width, int per_problem, int own, int group, double *filtered) {
    __shared__ double across[4096];  // filtered along the rows
    const int q = blockIdx.y, first = blockIdx.x * group, positions = height * width;
    const int size = min(group, channels - first) * positions;
    labels += (size_t)(q / per_problem) * channels + first;
    gradients += ((size_t)q * channels + first) * positions;
    filtered += ((size_t)q * channels + first) * positions;
    for (int i = threadIdx.x; i < size; i += 256) {
        const int start = i / width * width, x = i - start;
        double sum = 0;
#pragma unroll 7
        for (int k = 0; k < width; ++k) sum += widen(gradients[start + k]) * columns[k * width + x];
        across[i] = sum;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < size; i += 256) {
        const int channel = i / positions, d = i - channel * positions, y = d / width, x = d - y * width;
        const long long label = labels[channel];
        double sum = 0;
#pragma unroll 7
        for (int k = 0; k < height; ++k) sum += across[channel * positions + k * width + x] * rows[k * height + y];
        const bool kept = own ? label != DEAD : label >= DOMINANT && label != NOISE;
        filtered[i] = !kept ? 0.0 : !own && label == DOMINANT ? widen(gradients[i]) : sum;
    }
}
