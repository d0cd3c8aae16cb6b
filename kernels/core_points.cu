// Which points have min_samples within eps, themselves included; scikit-learn's DBSCAN.
//
// near (P, stride, stride / 32) uint32, counts (P,) int32
// core    (P, stride / 32) uint32   a bit a point; words beyond the count are not written
// parents (P, stride) int32         each point its own, for find_root
// hub     (P,) int32                the core point with the most neighbours, degree * MOST_CHANNELS + point; zeroed before
//
// min_samples: `samples`, or where `share` > 0 that share of the points, at least 2; Config.min_samples_for.
//
// Launch: grid (stride / 32, P), blocks of 256, a warp for four of the block's 32 points.
#include "common.cuh"

extern "C" __global__ __launch_bounds__(256) void core_points(
    const unsigned *near, const int *counts, double share, int samples, int stride, unsigned *core, int *parents,
    int *hub) {
    __shared__ unsigned bits[8];
    __shared__ int best[8];
    const int p = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32, count = counts[p], words = stride / 32;
    if (blockIdx.x * 32 >= count) return;
    const int least = share > 0 ? max(2, (int)(share * count)) : samples;
    unsigned mine = 0;
    int most = 0;
    for (int i = warp * 4; i < warp * 4 + 4; ++i) {
        const int point = blockIdx.x * 32 + i;
        int degree = 0;
        if (point < count)
            for (int w = lane; w * 32 < count; w += 32)
                degree += __popc(near[((size_t)p * stride + point) * words + w]);
        for (int step = 16; step > 0; step /= 2) degree += __shfl_xor_sync(~0u, degree, step);
        const bool is = point < count && degree >= least;
        mine |= (unsigned)is << i;
        if (is) most = max(most, degree * MOST_CHANNELS + point);
        if (lane == 0) parents[(size_t)p * stride + point] = point;
    }
    if (lane == 0) bits[warp] = mine, best[warp] = most;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int w = 1; w < 8; ++w) mine |= bits[w], most = max(most, best[w]);
    core[(size_t)p * words + blockIdx.x] = mine;
    if (most > 0) atomicMax(hub + p, most);
}
