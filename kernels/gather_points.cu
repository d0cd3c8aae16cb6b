// The channels to be clustered as points, position by position; cluster_filter.cluster_channels.
//
// activations (B, C, D) INPUT, norms (B, C) float64, members (P, stride) int32, counts (P,) int32
// bound (P,) float64              no two points are further apart
// points (P, D, stride) float64   A[member], over its norm if unit_norm and the norm is not 0
// scaled (P, D, stride) float32   points, times the scale of the bound
//
// Launch: grid (stride / 32 ceil(D / 32), P), blocks of (32, 8): a tile each, transposed through shared memory.
#include "common.cuh"

#ifndef INPUT
#define INPUT float  // or double
#endif

extern "C" __global__ __launch_bounds__(256, 4) void gather_points(
    const INPUT *activations, const double *norms, const int *members, const int *counts, const double *bound,
    int channels, int positions, int per_image, int unit_norm, int stride, double *points, float *scaled) {
    __shared__ double staged[32][33];
    const int across = stride / 32, first = blockIdx.x % across * 32, start = blockIdx.x / across * 32;
    const int p = blockIdx.y, b = p / per_image, count = counts[p];
    if (first >= count) return;
    const double scale = scale_of(bound[p]);
    for (int i = threadIdx.y; i < 32; i += 8) {
        const int d = start + threadIdx.x;
        if (first + i >= count || d >= positions) continue;
        const size_t c = (size_t)b * channels + members[(size_t)p * stride + first + i];
        const double norm = unit_norm && norms[c] > 0 ? norms[c] : 1.0;
        staged[i][threadIdx.x] = widen(activations[c * positions + d]) / norm;
    }
    __syncthreads();
    for (int i = threadIdx.y; i < 32; i += 8) {
        if (start + i >= positions || first + threadIdx.x >= count) continue;
        const size_t at = ((size_t)p * positions + start + i) * stride + first + threadIdx.x;
        points[at] = staged[threadIdx.x][i];
        scaled[at] = (float)(staged[threadIdx.x][i] * scale);
    }
}
