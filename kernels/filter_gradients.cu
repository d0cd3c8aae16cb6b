// What stands for each channel's gradient, before clusters share it; cluster_filter.filter_gradients.
//
// gradients (Q, C, d, h, w) INPUT, labels (P, C) int64; planes (d, d), rows (h, h), columns (w, w) float64 from
// filter_matrix
// filtered (Q, C, d, h, w) float64   G times the three matrices, an axis each; with own = 0 the gradient itself where
//                                    dominant, 0 where noise; 0 where dead
//
// The mean of filtered gradients is the filtered mean, so the clusters' means can wait: cluster_gradients.
//
// Launch: grid (ceil(C / group), Q), blocks of 256, `group` channels each. group d h w <= 4096.
#include "common.cuh"

#ifndef INPUT
#define INPUT float  // or double
#endif

// sum_k values[k step] matrix[k][to]: a line of a map, filtered at `to`.
template <typename Number>
__device__ double along(const Number *values, int step, const double *matrix, int size, int to) {
    double sum = 0;
#pragma unroll 7
    for (int k = 0; k < size; ++k) sum += widen(values[k * step]) * matrix[k * size + to];
    return sum;
}

extern "C" __global__ __launch_bounds__(256) void filter_gradients(
    const INPUT *gradients, const long long *labels, const double *planes, const double *rows, const double *columns,
    int channels, int depth, int height, int width, int per_problem, int own, int group, double *filtered) {
    __shared__ double partly[4096];  // filtered along the axes before
    const int q = blockIdx.y, first = blockIdx.x * group, plane = height * width, positions = depth * plane;
    const int size = min(group, channels - first) * positions;
    labels += (size_t)(q / per_problem) * channels + first;
    gradients += ((size_t)q * channels + first) * positions;
    filtered += ((size_t)q * channels + first) * positions;
    for (int i = threadIdx.x; i < size; i += 256) {
        const int x = i % width;
        partly[i] = along(gradients + i - x, 1, columns, width, x);
    }
    __syncthreads();
    auto put = [&](int i, double sum) {
        const long long label = labels[i / positions];
        const bool kept = own ? label != DEAD : label >= DOMINANT && label != NOISE;
        filtered[i] = !kept ? 0.0 : !own && label == DOMINANT ? widen(gradients[i]) : sum;
    };
    for (int i = threadIdx.x; i < size; i += 256) {
        const int y = i / width % height;
        const double sum = along(partly + i - y * width, width, rows, height, y);
        if (depth == 1)
            put(i, sum * planes[0]);
        else
            filtered[i] = sum;  // shared memory has no room for both
    }
    if (depth == 1) return;
    __syncthreads();
    for (int i = threadIdx.x; i < size; i += 256) partly[i] = filtered[i];
    __syncthreads();
    for (int i = threadIdx.x; i < size; i += 256) {
        const int z = i / plane % depth;
        put(i, along(partly + i - z * plane, plane, planes, depth, z));
    }
}
