// Euclidean distances of all pairs, each once, and their first histogram; Primitives.pdist.
//
// points    (P, D, stride) float64, counts (P,) int32, bound (P,) float64
// distances (P, tiles, 32, 32) float64   tile (I, J), I <= J, of rows 32 I + i and columns 32 J + j; PAD unless row <
//                                        column < count; tiles beyond the count are not written
// histogram (P, PASSES, BINS) uint32     of coarse_bin, in the first COARSE_BINS of pass 0; zeroed before; or null
//
// d = sqrt(sum_k (x_k - y_k)^2), summed in the order of the positions without contraction: SciPy's to the last bit.
//
// Launch: grid (s (s + 1) / 2, P), s = stride / 64; blocks of 256, 64 x 64 pairs each, 4 x 4 a thread.
#include "common.cuh"

#ifndef DEPTH
#define DEPTH 7  // positions staged at once: 7 x 7 and 14 x 14 maps are whole multiples
#endif

// 0 for distance 0, the ends for what lies beyond, else 64 bins an octave below the bound.
__device__ int coarse_bin(Key key, int base) {
    if (key == 0) return 0;
    return min(max((int)(key >> COARSE_SHIFT) - base, 1), COARSE_BINS - 1);
}

extern "C" __global__ __launch_bounds__(256) void pair_distances(
    const double *points, const int *counts, const double *bound, int positions, int stride, int tiles,
    double *distances, unsigned *histogram) {
    __shared__ double left[DEPTH][64], right[DEPTH][64];
    __shared__ unsigned bins[COARSE_BINS];
    const int p = blockIdx.y, count = counts[p];
    const int column = tile_column(blockIdx.x), row = blockIdx.x - tile_index(0, column);
    if (column * 64 >= count) return;
    points += (size_t)p * positions * stride;
    for (int i = threadIdx.x; i < COARSE_BINS; i += 256) bins[i] = 0;

    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    double sum[4][4] = {};
    for (int start = 0; start < positions; start += DEPTH) {
        __syncthreads();
        for (int i = threadIdx.x; i < DEPTH * 64; i += 256) {
            const int k = i / 64, n = i % 64;
            const double *at = points + (size_t)(start + k) * stride;
            const bool there = start + k < positions;  // beyond, 0 - 0 adds nothing
            left[k][n] = there && row * 64 + n < count ? at[row * 64 + n] : 0;
            right[k][n] = there && column * 64 + n < count ? at[column * 64 + n] : 0;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH; ++k) {
            double x[4], y[4];
            for (int i = 0; i < 4; ++i) x[i] = left[k][ty + 16 * i];
            for (int j = 0; j < 4; ++j) y[j] = right[k][tx + 16 * j];
            for (int i = 0; i < 4; ++i)
                for (int j = 0; j < 4; ++j) {
                    const double difference = x[i] - y[j];
                    sum[i][j] += difference * difference;
                }
        }
    }
    const int base = (int)(key_of(bound[p]) >> COARSE_SHIFT) - (COARSE_BINS - 2);
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) {
            const int r = row * 64 + ty + 16 * i, c = column * 64 + tx + 16 * j;
            if (r / TILE > c / TILE || c / TILE * TILE >= count) continue;
            const bool pair = r < c && c < count;
            const double distance = pair ? sqrt(sum[i][j]) : __longlong_as_double(PAD);
            const size_t tile = (size_t)p * tiles + tile_index(r / TILE, c / TILE);
            distances[(tile * TILE + r % TILE) * TILE + c % TILE] = distance;
            if (pair && histogram != nullptr) atomicAdd(bins + coarse_bin(key_of(distance), base), 1u);
        }
    if (histogram == nullptr) return;
    __syncthreads();
    for (int i = threadIdx.x; i < COARSE_BINS; i += 256)
        if (bins[i] != 0) atomicAdd(histogram + (size_t)p * PASSES * BINS + i, bins[i]);
}
