// The k-th and (k + 1)-th smallest of each problem's values, k = floor(fraction (n - 1)); Primitives.order_statistics.
//
// values (P, stride) float64 >= 0   the first n of a problem's take part
// counts (P,) int32                 n
// order  (P, 2) float64             the last one twice at its end; nothing where n = 0
//
// Launch: grid P, blocks of 1024.
#include "common.cuh"

extern "C" __global__ __launch_bounds__(1024) void order_statistics(
    const double *values, const int *counts, int stride, double fraction, double *order) {
    __shared__ Selection shared;
    const int p = blockIdx.x, count = counts[p];
    if (count == 0) return;
    values += (size_t)p * stride;
    Key low, high;
    select([=](int i) { return key_of(values[i]); }, count, (int)(fraction * (count - 1)), shared, low, high);
    if (threadIdx.x != 0) return;
    order[2 * p] = __longlong_as_double(low);
    order[2 * p + 1] = __longlong_as_double(high);
}
