// scikit-learn's labels: clusters numbered by their lowest core point, a border point in the lowest cluster in reach.
//
// near (P, stride, stride / 32), core (P, stride / 32) uint32, counts (P,) int32, parents (P, stride) int32
// members (P, stride) int32   the channel that each point is
// labels (P, C) int64         of the members: >= 0 a cluster, -1 noise
//
// A cluster's number is how many roots are lower than its own.
//
// Launch: grid (stride / 8, P), blocks of 256, a warp a point. stride <= 4096.
#include "common.cuh"

extern "C" __global__ __launch_bounds__(256) void cluster_labels(
    const unsigned *near, const unsigned *core, const int *counts, const int *members, int stride, int channels,
    int *parents, long long *labels) {
    __shared__ unsigned roots[MOST_CHANNELS / 32];  // a bit a point
    const int p = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32, count = counts[p], words = stride / 32;
    const int point = blockIdx.x * 8 + warp;
    if (blockIdx.x * 8 >= count) return;
    core += (size_t)p * words;
    parents += (size_t)p * stride;
    for (int w = warp; w * 32 < count; w += 8) {
        const int candidate = w * 32 + lane;
        const bool root = candidate < count && (core[w] >> lane & 1) && __ldcv(parents + candidate) == candidate;
        const unsigned ballot = __ballot_sync(~0u, root);
        if (lane == 0) roots[w] = ballot;
    }
    __syncthreads();
    if (point >= count) return;
    int root = stride;
    if (core[point / 32] >> point % 32 & 1) {
        root = find_root(parents, point);
    } else {
        near += ((size_t)p * stride + point) * words;
        for (int w = lane; w * 32 < count; w += 32)
            for (unsigned bits = near[w] & core[w]; bits != 0; bits &= bits - 1)
                root = min(root, find_root(parents, w * 32 + __ffs(bits) - 1));
        for (int step = 16; step > 0; step /= 2) root = min(root, __shfl_xor_sync(~0u, root, step));
    }
    int number = 0;
    if (root < stride)
        for (int w = lane; w <= root / 32; w += 32)
            number += __popc(w < root / 32 ? roots[w] : roots[w] & ((1u << root % 32) - 1));
    for (int step = 16; step > 0; step /= 2) number += __shfl_xor_sync(~0u, number, step);
    const int channel = members[(size_t)p * stride + point];
    if (lane == 0) labels[(size_t)p * channels + channel] = root < stride ? number : NOISE;
}
