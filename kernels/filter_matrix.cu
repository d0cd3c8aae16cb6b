// The Gaussian filter of maps (h, w) as two matrices: F = R^T G S, borders folded in, for any radius.
//
// taps  t_k = exp(-(k / sigma)^2 / 2) / sum, |k| <= int(4 sigma + 0.5); sigma = 0: one tap
// rows     (h, h) float64   R[y'][y]: how much of position y' goes into the filtered position y
// columns  (w, w) float64   S[x'][x]
// profile  (h, w) float64   how much of position (y, x) is in the sum over the filtered map
// inside   (h, w) float64   the filtered map of ones: below 1 only at a zero border
// boundary 0 reflect (d c b a | a b c d | d c b a), 1 zero; h, w <= 64; sigma <= 64
//
// Launch: 1 block of 256.
#include "common.cuh"

__device__ int fold(int position, int size, int boundary) {
    if (boundary == 1) return position >= 0 && position < size ? position : -1;
    const int period = 2 * size, place = ((position % period) + period) % period;
    return place < size ? place : period - 1 - place;
}

extern "C" __global__ __launch_bounds__(256) void filter_matrix(
    int height, int width, double sigma, int boundary, double *rows, double *columns, double *profile, double *inside) {
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
    for (int e = threadIdx.x; e < height * height + width * width; e += blockDim.x) {
        const bool across = e >= height * height;
        const int size = across ? width : height, entry = across ? e - height * height : e;
        const int from = entry / size, to = entry % size;
        double sum = 0;
        for (int i = 0; i <= 2 * radius; ++i)
            if (fold(to + i - radius, size, boundary) == from) sum += taps[i];
        (across ? columns : rows)[entry] = sum / total;
    }
    __syncthreads();
    for (int d = threadIdx.x; d < height * width; d += blockDim.x) {
        const int y = d / width, x = d % width;
        double out_y = 0, out_x = 0, in_y = 0, in_x = 0;
        for (int i = 0; i < height; ++i) {
            out_y += rows[y * height + i];
            in_y += rows[i * height + y];
        }
        for (int i = 0; i < width; ++i) {
            out_x += columns[x * width + i];
            in_x += columns[i * width + x];
        }
        profile[d] = out_y * out_x;
        inside[d] = in_y * in_x;
    }
}
