// What stands for each channel's gradient, before clusters share it; cluster_filter._filtered.
//
// gradients (Q, C, h, w) INPUT, labels (P, C) int32; rows (h, h), columns (w, w) float64 from filter_matrix
// filtered (Q, C, h, w) float64   R^T G S; with own = 0 the gradient itself where dominant, 0 where noise; 0 where dead
//
// The mean of filtered gradients is the filtered mean, so the clusters' means can wait: cluster_gradients.
//
// Launch: grid (C, Q), blocks of 128. h w <= 4096.
#include "common.cuh"

#ifndef INPUT
#define INPUT float  // or double
#endif

extern "C" __global__ __launch_bounds__(128) void filter_gradients(
    const INPUT *gradients, const int *labels, const double *rows, const double *columns, int height, int width,
    int per_problem, int own, double *filtered) {
    __shared__ double across[4096];  // filtered along the rows
    const int q = blockIdx.y, c = blockIdx.x, channels = gridDim.x, positions = height * width;
    const int label = labels[(size_t)(q / per_problem) * channels + c];
    gradients += ((size_t)q * channels + c) * positions;
    filtered += ((size_t)q * channels + c) * positions;
    const bool kept = own ? label != DEAD : label >= DOMINANT && label != NOISE;
    if (!kept || (!own && label == DOMINANT)) {
        for (int d = threadIdx.x; d < positions; d += 128) filtered[d] = kept ? widen(gradients[d]) : 0.0;
        return;
    }
    for (int d = threadIdx.x; d < positions; d += 128) {
        const int y = d / width, x = d % width;
        double sum = 0;
        for (int i = 0; i < width; ++i) sum += widen(gradients[y * width + i]) * columns[i * width + x];
        across[d] = sum;
    }
    __syncthreads();
    for (int d = threadIdx.x; d < positions; d += 128) {
        const int y = d / width, x = d % width;
        double sum = 0;
        for (int i = 0; i < height; ++i) sum += across[i * width + x] * rows[i * height + y];
        filtered[d] = sum;
    }
}
