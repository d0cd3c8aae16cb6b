// Approximate distances of all pairs, each once, and their first histogram; Primitives.pdist.
//
// scaled (P, D, stride) float32, counts (P,) int32
// approximate (P, tiles, 32, 32) float32   tile (I, J), I <= J, of rows 32 I + i and columns 32 J + j; NO_PAIR unless
//                                          row < column < count; tiles beyond the count are not written
// coarse (P, COARSE_BINS) uint32           how many distances are in each coarse_bin; zeroed before; or null
//
// d = sqrt(sum_k (x_k - y_k)^2) in float32; see Error in common.cuh.
//
// Launch: grid (s (s + 1) / 2, P), s = ceil(stride / SIDE); blocks of 256, SIDE x SIDE pairs each, EACH x EACH a thread.
// A larger square reads shared memory less often for each pair, a smaller one makes more blocks.
#include "common.cuh"

#ifndef EACH
#define EACH 8  // or 4
#endif
#define SIDE (16 * EACH)

#define DEPTH 7  // positions staged at once: 7 x 7 and 14 x 14 maps are whole multiples
#define ABREAST (256 / SIDE)                       // of them the block loads at once
#define LOADS ((DEPTH + ABREAST - 1) / ABREAST)    // one after the other

extern "C" __global__ __launch_bounds__(256, 2) void pair_distances(
    const float *scaled, const int *counts, int positions, int stride, int tiles, float *approximate,
    unsigned *coarse) {
    __shared__ __align__(16) float left[DEPTH][SIDE], right[DEPTH][SIDE];
    __shared__ unsigned bins[COARSE_BINS];
    const int p = blockIdx.y, count = counts[p];
    const int column = tile_column(blockIdx.x), row = blockIdx.x - tile_index(0, column);
    if (column * SIDE >= count) return;
    scaled += (size_t)p * positions * stride;
    for (int i = threadIdx.x; i < COARSE_BINS; i += 256) bins[i] = 0;

    // The next positions are on their way from memory while these are worked on.
    const int n = threadIdx.x % SIDE, abreast = threadIdx.x / SIDE;
    const bool left_there = row * SIDE + n < count, right_there = column * SIDE + n < count;
    scaled += n;
    float left_ahead[LOADS], right_ahead[LOADS];
    auto fetch = [&](int start) {
#pragma unroll
        for (int load = 0; load < LOADS; ++load) {
            const int k = load * ABREAST + abreast;
            const bool there = k < DEPTH && start + k < positions;  // beyond, 0 - 0 adds nothing
            const float *at = scaled + (start + k) * stride;
            left_ahead[load] = there && left_there ? at[row * SIDE] : 0;
            right_ahead[load] = there && right_there ? at[column * SIDE] : 0;
        }
    };
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    float sum[EACH][EACH] = {};
    fetch(0);
    for (int start = 0; start < positions; start += DEPTH) {
        __syncthreads();
#pragma unroll
        for (int load = 0; load < LOADS; ++load) {
            const int k = load * ABREAST + abreast;
            if (k < DEPTH) left[k][n] = left_ahead[load], right[k][n] = right_ahead[load];
        }
        __syncthreads();
        if (start + DEPTH < positions) fetch(start + DEPTH);
#pragma unroll
        for (int k = 0; k < DEPTH; ++k) {
            float x[EACH], y[EACH];
#pragma unroll
            for (int four = 0; four < EACH; four += 4) {
                const float4 rows = *(const float4 *)&left[k][16 * four + 4 * ty];
                const float4 columns = *(const float4 *)&right[k][16 * four + 4 * tx];
                x[four] = rows.x, x[four + 1] = rows.y, x[four + 2] = rows.z, x[four + 3] = rows.w;
                y[four] = columns.x, y[four + 1] = columns.y, y[four + 2] = columns.z, y[four + 3] = columns.w;
            }
#pragma unroll
            for (int i = 0; i < EACH; ++i)
#pragma unroll
                for (int j = 0; j < EACH; ++j) {
                    const float difference = x[i] - y[j];
                    sum[i][j] = fmaf(difference, difference, sum[i][j]);
                }
        }
    }
#pragma unroll
    for (int i = 0; i < EACH; ++i)
#pragma unroll
        for (int four = 0; four < EACH; four += 4) {
            const int r = row * SIDE + 16 * (i - i % 4) + 4 * ty + i % 4, c = column * SIDE + 16 * four + 4 * tx;
            if (r / TILE > c / TILE || c / TILE * TILE >= count) continue;
            float found[4];
            for (int j = 0; j < 4; ++j) {
                const bool pair = r < c + j && c + j < count;
                found[j] = pair ? sqrtf(sum[i][four + j]) : __uint_as_float(NO_PAIR);
                if (pair && coarse != nullptr) atomicAdd(bins + coarse_bin(found[j]), 1u);
            }
            float *tile = approximate + ((size_t)p * tiles + tile_index(r / TILE, c / TILE)) * TILE * TILE;
            *(float4 *)&tile[r % TILE * TILE + c % TILE] = {found[0], found[1], found[2], found[3]};
        }
    if (coarse == nullptr) return;
    __syncthreads();
    for (int i = threadIdx.x; i < COARSE_BINS; i += 256)
        if (bins[i] != 0) atomicAdd(coarse + (size_t)p * COARSE_BINS + i, bins[i]);
}
