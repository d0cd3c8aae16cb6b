// The Gaussian filter of maps (d, h, w) as a matrix for each axis, borders folded in, for any radius.
//
// taps  t_k = exp(-(k / sigma)^2 / 2) / sum, |k| <= int(4 sigma + 0.5); sigma = 0: one tap
// planes  (d, d) float64      P[z'][z]: how much of position z' goes into the filtered position z
// rows    (h, h) float64      R[y'][y]
// columns (w, w) float64      S[x'][x]
// profile (d, h, w) float64   how much of position (z, y, x) is in the sum over the filtered map
// inside  (d, h, w) float64   the filtered map of ones: below 1 only at a zero border
// boundary 0 reflect (d c b a | a b c d | d c b a), 1 zero
// axes    of the maps: an image has no planes (d = 1), a signal no rows either, and nothing is filtered along those
//
// d, h, w <= 256; sigma <= 64
//
// Launch: 1 block.
#include "common.cuh"

// The taps that fall on position `from` of a line, or on its images beyond the borders, where the middle one is at `to`.
__device__ double taps_on(const double *taps, int radius, int from, int to, int size, int boundary) {
    const int first = from - to + radius, period = 2 * size;
    if (boundary == 1) return first >= 0 && first <= 2 * radius ? taps[first] : 0.0;
    double sum = 0;
    for (int side = 0; side < 2; ++side) {  // the line as it is, and turned over
        const int start = side == 0 ? first : period - 1 - from - to + radius;
        for (int i = (start % period + period) % period; i <= 2 * radius; i += period) sum += taps[i];
    }
    return sum;
}

// Of position `at`: how much of it is in all filtered positions, and how much of all is in the filtered one.
__device__ void sums_of(const double *matrix, int size, int at, double &out, double &in) {
    out = in = 0;
    for (int i = 0; i < size; ++i) {
        out += matrix[at * size + i];
        in += matrix[i * size + at];
    }
}

extern "C" __global__ __launch_bounds__(1024) void filter_matrix(
    int depth, int height, int width, int axes, double sigma, int boundary, double *planes, double *rows, double *columns,
    double *profile, double *inside) {
    __shared__ double taps[2 * 256 + 1];
    __shared__ double total;
    const int radius = (int)(4 * sigma + 0.5);
    for (int i = threadIdx.x; i <= 2 * radius; i += blockDim.x) {
        const double k = radius > 0 ? (i - radius) / sigma : 0.0;
        taps[i] = exp(-0.5 * k * k);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        total = 0;
        for (int i = 0; i <= 2 * radius; ++i) total += taps[i];
    }
    __syncthreads();
    auto fill = [&](double *matrix, int size, bool filtered) {
        for (int entry = threadIdx.x; entry < size * size; entry += blockDim.x) {
            const double sum = taps_on(taps, radius, entry / size, entry % size, size, boundary);
            matrix[entry] = filtered ? sum / total : 1.0;
        }
    };
    fill(planes, depth, axes > 2);
    fill(rows, height, axes > 1);
    fill(columns, width, true);
    __syncthreads();
    for (int at = threadIdx.x; at < depth * height * width; at += blockDim.x) {
        double out_z, out_y, out_x, in_z, in_y, in_x;
        sums_of(planes, depth, at / (height * width), out_z, in_z);
        sums_of(rows, height, at / width % height, out_y, in_y);
        sums_of(columns, width, at % width, out_x, in_x);
        profile[at] = out_z * out_y * out_x;
        inside[at] = in_z * in_y * in_x;
    }
}
