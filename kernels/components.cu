// Links core points that are near each other; scikit-learn's DBSCAN.
//
// near (P, stride, stride / 32), core (P, stride / 32) uint32, counts (P,) int32
// parents (P, stride) int32   each its own before; afterwards find_root gives the lowest point of the component
//
// A root is only ever linked to a lower point, so that the order of the threads decides how the links run, but not
// where they end.
//
// Launch: grid (stride / 8, P), blocks of 256, a warp a point.
#include "common.cuh"

__device__ void unite(int *parents, int a, int b) {
    a = find_root(parents, a);
    b = find_root(parents, b);
    while (a != b) {
        const int low = min(a, b), high = max(a, b), old = atomicMin(parents + high, low);
        if (old == high) return;
        a = low;  // somebody else has linked `high` meanwhile: to `old`, which belongs to it all
        b = old;
    }
}

extern "C" __global__ __launch_bounds__(256) void components(
    const unsigned *near, const unsigned *core, const int *counts, int stride, int *parents) {
    const int p = blockIdx.y, lane = threadIdx.x % 32, point = blockIdx.x * 8 + threadIdx.x / 32, words = stride / 32;
    if (point >= counts[p]) return;
    core += (size_t)p * words;
    parents += (size_t)p * stride;
    if ((core[point / 32] >> point % 32 & 1) == 0) return;
    for (int w = lane; w <= point / 32; w += 32) {  // each pair once: neighbours below the point
        unsigned bits = near[((size_t)p * stride + point) * words + w] & core[w];
        if (w == point / 32) bits &= (1u << point % 32) - 1;
        for (; bits != 0; bits &= bits - 1) unite(parents, point, w * 32 + __ffs(bits) - 1);
    }
}
