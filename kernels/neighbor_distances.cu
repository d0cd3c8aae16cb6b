// Each point's distance to its k-th neighbour, itself the first, k = min(NEIGHBOR, count); cluster_filter._eps.
//
// approximate (P, tiles, 32, 32) float32 as pair_distances leaves them, counts (P,) int32
// points  (P, D, stride) float64
// nearest (P, stride) float64   of the first count points
//
// The NEIGHBOR - 1 smallest of a row stay in registers while its tiles pass; two points or more are assumed. They pass
// twice: approximate distances say within which Band the one wanted lies, and those in the band are taken themselves.
//
// Launch: grid (stride / 32, P), blocks of 256: lanes are rows, warps take tiles in turn, each through shared memory, where
// it is read along its rows or its columns.
#include "common.cuh"

#ifndef NEIGHBOR
#define NEIGHBOR 3
#endif
#define KEPT (NEIGHBOR - 1)

template <typename Real>
__device__ void keep(Real (&smallest)[KEPT], Real value) {
#pragma unroll
    for (int i = 0; i < KEPT; ++i)
        if (value < smallest[i]) {  // never true of NO_PAIR, a NaN
            const Real larger = smallest[i];
            smallest[i] = value;
            value = larger;
        }
}

// The KEPT smallest of each row, of all warps, to kept[0]. Every thread must call it; it begins and ends with a barrier.
template <typename Real>
__device__ void merge(Real (&smallest)[KEPT], double (*kept)[KEPT][32], int warp, int lane) {
    __syncthreads();
    for (int i = 0; i < KEPT; ++i) kept[warp][i][lane] = smallest[i];
    __syncthreads();
    if (warp == 0) {
        for (int w = 1; w < 8; ++w)
            for (int i = 0; i < KEPT; ++i) keep(smallest, (Real)kept[w][i][lane]);
        for (int i = 0; i < KEPT; ++i) kept[0][i][lane] = smallest[i];  // registers can't be indexed
    }
    __syncthreads();
}

// Calls `visit` with the distance and the index of every other point that this warp has of the lane's row.
template <typename Visit>
__device__ void visit_row(
    const float *tiles, int block, int count, int warp, int lane, float (&staged)[TILE][TILE + 1], Visit visit) {
    for (int other = warp; other * TILE < count; other += 8) {
        const float *at = tiles + (size_t)tile_index(min(block, other), max(block, other)) * TILE * TILE;
        __syncwarp();
#pragma unroll
        for (int i = 0; i < TILE; ++i) staged[i][lane] = at[i * TILE + lane];
        __syncwarp();
        for (int i = 0; i < TILE; ++i) {
            if (other >= block) visit(staged[lane][i], other * TILE + i);
            if (other <= block) visit(staged[i][lane], other * TILE + i);
        }
    }
}

extern "C" __global__ __launch_bounds__(256, 2) void neighbor_distances(
    const float *approximate, const int *counts, const double *points, int positions, int stride, int tiles,
    double *nearest) {
    // One memory for both, which are never needed together.
    __shared__ union {
        double kept[8][KEPT][32];
        float staged[8][TILE][TILE + 1];
    } shared;
    __shared__ int below[32];
    const int p = blockIdx.y, block = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int count = counts[p], row = block * TILE + lane, wanted = min(NEIGHBOR, count) - 2;
    if (block * TILE >= count || count < 2) return;
    approximate += (size_t)p * tiles * TILE * TILE;
    points += (size_t)p * positions * stride;

    float rough[KEPT];
    for (int i = 0; i < KEPT; ++i) rough[i] = __uint_as_float(0x7f800000);
    visit_row(approximate, block, count, warp, lane, shared.staged[warp], [&](float distance, int) { keep(rough, distance); });
    merge(rough, shared.kept, warp, lane);
    const float found = (float)shared.kept[0][wanted][lane];
    const Band band = band_of(found, found, error_of(positions));

    double exact[KEPT];
    for (int i = 0; i < KEPT; ++i) exact[i] = __longlong_as_double(0x7ff0000000000000);
    if (warp == 0) below[lane] = 0;
    __syncthreads();
    int smaller = 0;
    visit_row(approximate, block, count, warp, lane, shared.staged[warp], [&](float distance, int other) {
        smaller += distance < band.low;
        if (distance >= band.low && distance <= band.high)
            keep(exact, exact_distance(points, positions, stride, row, other));
    });
    if (smaller > 0) atomicAdd(below + lane, smaller);
    merge(exact, shared.kept, warp, lane);
    if (warp == 0 && row < count) nearest[(size_t)p * stride + row] = shared.kept[0][max(wanted - below[lane], 0)][lane];
}
