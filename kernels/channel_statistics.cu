// Norms of the activations and means of the gradients, one read of each; cluster_filter.cluster_channels, .weigh.
//
// activations (B, C, D) INPUT, gradients (Q, C, D) INPUT, Q = B T    profile (D,) float64, from filter_matrix
// norms      (B, C) float64   sqrt(sum_d A_d^2)
// pooled     (Q, C) float64   mean_d G_d
// smoothed   (Q, C) float64   mean_d profile_d G_d: the spatial mean of the filtered gradient
// importance (Q, C) float64   norm |pooled|; null where the importance is the norm
//
// Norm or mean are not finite where a value of the channel's is not finite in float32.
//
// Sums of A^2 and G are taken in numpy's order (pairwise, eight running sums, leaves of at most 128), so that equal
// channels and near ties rank as they do there: eight lanes a channel, one running sum each.
//
// Launch: grid (ceil(C / 32), Q), blocks of 256.
#include "common.cuh"

#ifndef INPUT
#define INPUT float  // or double
#endif

// A double beyond float32's range counts as infinite.
__device__ inline double within(float x) { return widen(x); }

__device__ inline double within(double x) { return fabs(x) <= 3.4028234663852886e38 ? x : x * 0x1p1023; }

template <typename Term>
__device__ double leaf_sum(Term term, int start, int n, int lane) {
    if (n < 8) {
        double sum = 0;
        for (int i = 0; i < n; ++i) sum += term(start + i);
        return sum;
    }
    const int whole = n - n % 8;
    double sum = term(start + lane);
    for (int i = 8; i < whole; i += 8) sum += term(start + i + lane);
    for (int step = 1; step < 8; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
    for (int i = whole; i < n; ++i) sum += term(start + i);
    return sum;
}

// What a thread keeps of the halves above the one that it adds up. n <= 4096 is halved at most six times.
struct Halves {
    double left[6][256];  // sum of the left half
    int right[6][256];    // length of the right half, 0 once it is being added up
};

template <typename Term>
__device__ double pairwise_sum(Term term, int n, int lane, Halves &halves) {
    const int t = threadIdx.x;
    int depth = 0, start = 0;
    for (;;) {
        while (n > 128) {
            const int half = n / 2 - n / 2 % 8;
            halves.right[depth++][t] = n - half;
            n = half;
        }
        double sum = leaf_sum(term, start, n, lane);
        start += n;
        while (depth > 0 && halves.right[depth - 1][t] == 0) sum = halves.left[--depth][t] + sum;
        if (depth == 0) return sum;
        halves.left[depth - 1][t] = sum;
        n = halves.right[depth - 1][t];
        halves.right[depth - 1][t] = 0;
    }
}

extern "C" __global__ __launch_bounds__(256, 4) void channel_statistics(
    const INPUT *activations, const INPUT *gradients, const double *profile, int channels, int positions, int targets,
    double *norms, double *pooled, double *smoothed, double *importance) {
    __shared__ Halves halves;
    const int q = blockIdx.y, b = q / targets, lane = threadIdx.x % 8;
    const int channel = blockIdx.x * 32 + threadIdx.x / 8;
    const int c = min(channel, channels - 1);  // all lanes take part in the shuffles
    const INPUT *a = activations + ((size_t)b * channels + c) * positions;
    const INPUT *g = gradients + ((size_t)q * channels + c) * positions;

    const double mean = pairwise_sum([=](int d) { return within(g[d]); }, positions, lane, halves) / positions;
    double filtered = 0;
    for (int d = lane; d < positions; d += 8) filtered += profile[d] * widen(g[d]);
    for (int step = 1; step < 8; step *= 2) filtered += __shfl_xor_sync(~0u, filtered, step);
    const bool writes = lane == 0 && channel < channels;
    if (writes) {
        pooled[(size_t)q * channels + c] = mean;
        smoothed[(size_t)q * channels + c] = filtered / positions;
    }
    if (importance == nullptr && q % targets != 0) return;
    auto square = [=](int d) {
        const double value = within(a[d]);
        return value * value;
    };
    const double norm = sqrt(pairwise_sum(square, positions, lane, halves));
    if (writes && q % targets == 0) norms[(size_t)b * channels + c] = norm;
    if (writes && importance != nullptr) importance[(size_t)q * channels + c] = norm * fabs(mean);
}
