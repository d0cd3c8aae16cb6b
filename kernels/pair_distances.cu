// Approximate distances of all pairs, each once, and their first histogram; Primitives.pdist.
//
// scaled (P, D, stride) float32, counts (P,) int32
// approximate (P, tiles, 32, 32) float32   tile (I, J), I <= J, of rows 32 I + i and columns 32 J + j; NO_PAIR unless
//                                          row < column < count; tiles beyond the count are not written
// coarse (P, COARSE_BINS) uint32           how many distances are in each coarse_bin; zeroed before; or null
//
// d = sqrt(sum_k (x_k - y_k)^2) in float32; see Error in common.cuh.
//
// Launch: grid (s (s + 1) / 2, P), s = stride / 64; blocks of 256, 64 x 64 pairs each, 4 x 4 a thread.
#include "common.cuh"

#ifndef DEPTH
#define DEPTH 7  // positions staged at once: 7 x 7 and 14 x 14 maps are whole multiples
#endif

extern "C" __global__ __launch_bounds__(256) void pair_distances(
    const float *scaled, const int *counts, int positions, int stride, int tiles, float *approximate,
    unsigned *coarse) {
    __shared__ __align__(16) float left[DEPTH][64], right[DEPTH][64];
    __shared__ unsigned bins[COARSE_BINS];
    const int p = blockIdx.y, count = counts[p];
    const int column = tile_column(blockIdx.x), row = blockIdx.x - tile_index(0, column);
    if (column * 64 >= count) return;
    scaled += (size_t)p * positions * stride;
    for (int i = threadIdx.x; i < COARSE_BINS; i += 256) bins[i] = 0;

    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    float sum[4][4] = {};
    for (int start = 0; start < positions; start += DEPTH) {
        __syncthreads();
        for (int i = threadIdx.x; i < DEPTH * 64; i += 256) {
            const int k = i / 64, n = i % 64;
            const float *at = scaled + (size_t)(start + k) * stride;
            const bool there = start + k < positions;  // beyond, 0 - 0 adds nothing
            left[k][n] = there && row * 64 + n < count ? at[row * 64 + n] : 0;
            right[k][n] = there && column * 64 + n < count ? at[column * 64 + n] : 0;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH; ++k) {
            const float4 rows = *(const float4 *)&left[k][4 * ty], columns = *(const float4 *)&right[k][4 * tx];
            const float x[4] = {rows.x, rows.y, rows.z, rows.w}, y[4] = {columns.x, columns.y, columns.z, columns.w};
            for (int i = 0; i < 4; ++i)
                for (int j = 0; j < 4; ++j) {
                    const float difference = x[i] - y[j];
                    sum[i][j] = fmaf(difference, difference, sum[i][j]);
                }
        }
    }
    const int c = column * 64 + 4 * tx;
    for (int i = 0; i < 4; ++i) {
        const int r = row * 64 + 4 * ty + i;
        if (r / TILE > c / TILE || c / TILE * TILE >= count) continue;
        float found[4];
        for (int j = 0; j < 4; ++j) {
            const bool pair = r < c + j && c + j < count;
            found[j] = pair ? sqrtf(sum[i][j]) : __uint_as_float(NO_PAIR);
            if (pair && coarse != nullptr) atomicAdd(bins + coarse_bin(found[j]), 1u);
        }
        const size_t tile = (size_t)p * tiles + tile_index(r / TILE, c / TILE);
        *(float4 *)&approximate[(tile * TILE + r % TILE) * TILE + c % TILE] = {found[0], found[1], found[2], found[3]};
    }
    if (coarse == nullptr) return;
    __syncthreads();
    for (int i = threadIdx.x; i < COARSE_BINS; i += 256)
        if (bins[i] != 0) atomicAdd(coarse + (size_t)p * COARSE_BINS + i, bins[i]);
}
