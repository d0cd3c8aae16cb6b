// Links core points that are near each other; scikit-learn's DBSCAN.
//
// near (P, stride, stride / 32), core (P, stride / 32) uint32, counts (P,), hub (P,) int32   as core_points leaves them
// parents (P, stride) int32   as link_lowest leaves them; afterwards find_root gives the lowest point of the component
//
// Most points are one component already. The points of the hub's component look at none of their neighbours: between
// two of them there is nothing to link, and all others look at all of theirs.
//
// A root is only ever linked to a lower point, so that the order of the threads decides how the links run, but not
// where they end.
//
// Launch: grid (stride / 8, P), blocks of 256, a warp a point.
#include "common.cuh"

extern "C" __global__ __launch_bounds__(256) void components(
    const unsigned *near, const unsigned *core, const int *counts, const int *hub, int stride, int *parents) {
    const int p = blockIdx.y, lane = threadIdx.x % 32, point = blockIdx.x * 8 + threadIdx.x / 32, words = stride / 32;
    const int count = counts[p];
    if (point >= count) return;
    core += (size_t)p * words;
    parents += (size_t)p * stride;
    if ((core[point / 32] >> point % 32 & 1) == 0) return;
    if (find_root(parents, point) == find_root(parents, hub[p] % MOST_CHANNELS)) return;
    near += ((size_t)p * stride + point) * words;
    for (int w = lane; w * 32 < count; w += 32)
        for (unsigned bits = near[w] & core[w]; bits != 0; bits &= bits - 1)
            unite(parents, point, w * 32 + __ffs(bits) - 1);
}
