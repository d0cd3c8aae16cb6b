// Links each core point to the lowest core point that is near it; scikit-learn's DBSCAN.
//
// near (P, stride, stride / 32), core (P, stride / 32) uint32, counts (P,) int32
// parents (P, stride) int32   each its own before; afterwards find_root gives a lower or the same point of the component
//
// Where points have many neighbours, that is nearly all there is to link: components.cu finds the rest.
//
// Launch: grid (stride / 8, P), blocks of 256, a warp a point.
#include "common.cuh"

extern "C" __global__ __launch_bounds__(256) void link_lowest(
    const unsigned *near, const unsigned *core, const int *counts, int stride, int *parents) {
    const int p = blockIdx.y, lane = threadIdx.x % 32, point = blockIdx.x * 8 + threadIdx.x / 32, words = stride / 32;
    if (point >= counts[p]) return;
    core += (size_t)p * words;
    if ((core[point / 32] >> point % 32 & 1) == 0) return;
    near += ((size_t)p * stride + point) * words;
    for (int first = 0; first * 32 <= point; first += 32) {
        const int w = first + lane;
        const unsigned bits = w * 32 <= point ? near[w] & core[w] : 0, ballot = __ballot_sync(~0u, bits != 0);
        if (ballot == 0) continue;
        if (lane == __ffs(ballot) - 1) unite(parents + (size_t)p * stride, point, w * 32 + __ffs(bits) - 1);
        return;
    }
}
