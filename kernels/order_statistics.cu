// The k-th and (k + 1)-th smallest of each problem's values, k = floor(fraction (n - 1)); Primitives.order_statistics.
//
// values (P, stride) float64 >= 0   n of a problem's values take part: those of channels alive, or the first counts[p]
// norms  (B, stride) float64        alive is norm > dead_threshold * largest norm; null: all are
// counts (P,) int32                 null: all `size`
// order  (P, 2) float64             the last one twice at its end
// alive  (P,) int32                 n
//
// By counting: a value's rank is how many are smaller, or equal and before it. n^2 comparisons, no pass depends on
// another, and exactly one thread has rank k.
//
// Launch: grid (ceil(size / 256), P), blocks of 256.
#include "common.cuh"

extern "C" __global__ __launch_bounds__(256) void order_statistics(
    const double *values, const double *norms, const int *counts, int size, int stride, int per_image,
    double dead_threshold, double fraction, double *order, int *alive) {
    __shared__ double maxima[8];
    __shared__ Key keys[256];
    const int p = blockIdx.y, own = blockIdx.x * 256 + threadIdx.x;
    const int count = counts == nullptr ? size : counts[p];
    values += (size_t)p * stride;
    double floor_norm = 0;
    if (norms != nullptr) {
        norms += (size_t)(p / per_image) * stride;
        floor_norm = dead_threshold * largest_norm(norms, size, maxima);
    }
    auto key_at = [=](int i) {
        return i < count && (norms == nullptr || norms[i] > floor_norm) ? key_of(values[i]) : PAD;
    };
    const Key mine = own < size ? key_at(own) : PAD;
    int rank = 0, n = 0;
    for (int first = 0; first < count; first += 256) {
        __syncthreads();
        keys[threadIdx.x] = first + threadIdx.x < size ? key_at(first + threadIdx.x) : PAD;
        __syncthreads();
        for (int i = 0; i < 256; ++i) {
            const Key key = keys[i];
            n += key != PAD;
            rank += key < mine || (key == mine && first + i < own);
        }
    }
    if (own == 0) alive[p] = n;
    if (mine == PAD) return;
    const int low = (int)(fraction * (n - 1));
    if (rank == low) order[2 * p] = __longlong_as_double(mine);
    if (rank == min(low + 1, n - 1)) order[2 * p + 1] = __longlong_as_double(mine);
}
