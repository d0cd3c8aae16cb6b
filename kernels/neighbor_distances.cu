// Each point's distance to its k-th neighbour, itself the first, k = min(NEIGHBOR, count); cluster_filter._eps.
//
// distances (P, tiles, 32, 32) float64 as pair_distances leaves them, counts (P,) int32
// nearest   (P, stride) float64   of the first count points
//
// The NEIGHBOR - 1 smallest of a row stay in registers while its tiles pass; two points or more are assumed.
//
// Launch: grid (stride / 32, P), blocks of 256: lanes are rows, warps take tiles in turn.
#include "common.cuh"

#ifndef NEIGHBOR
#define NEIGHBOR 3
#endif
#define KEPT (NEIGHBOR - 1)

__device__ void keep(double (&smallest)[KEPT], double value) {
#pragma unroll
    for (int i = 0; i < KEPT; ++i)
        if (value < smallest[i]) {  // never true of PAD, a NaN
            const double larger = smallest[i];
            smallest[i] = value;
            value = larger;
        }
}

extern "C" __global__ __launch_bounds__(256) void neighbor_distances(
    const double *distances, const int *counts, int stride, int tiles, double *nearest) {
    __shared__ double kept[8][KEPT][32];
    const int p = blockIdx.y, block = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int count = counts[p], row = block * TILE + lane;
    if (block * TILE >= count) return;
    double smallest[KEPT];
    for (int i = 0; i < KEPT; ++i) smallest[i] = __longlong_as_double(0x7ff0000000000000);
    for (int other = warp; other * TILE < count; other += 8) {
        const int tile = tile_index(min(block, other), max(block, other));
        const double *at = distances + ((size_t)p * tiles + tile) * TILE * TILE;
        for (int i = 0; i < TILE; ++i) {
            if (other >= block) keep(smallest, at[lane * TILE + i]);
            if (other <= block) keep(smallest, at[i * TILE + lane]);
        }
    }
    for (int i = 0; i < KEPT; ++i) kept[warp][i][lane] = smallest[i];
    __syncthreads();
    if (warp != 0 || row >= count) return;
    for (int w = 1; w < 8; ++w)
        for (int i = 0; i < KEPT; ++i) keep(smallest, kept[w][i][lane]);
    for (int i = 0; i < KEPT; ++i) kept[0][i][lane] = smallest[i];  // registers can't be indexed
    nearest[(size_t)p * stride + row] = kept[0][min(NEIGHBOR, count) - 2][lane];
}
