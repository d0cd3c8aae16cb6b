// A number of each channel, averaged over its cluster; cluster_filter._filtered, ._noise_floor.
//
// values, others (Q, C) float64, labels (P, C) int32
// averages (Q, C) float64   mean of `values` over the channels of a label, where that is >= `lowest`; else `others`
//
// Each thread adds its own cluster up, in the order of the channels: C^2 comparisons, the same bytes for all members.
//
// Launch: grid (ceil(C / 256), Q), blocks of 256.
#include "common.cuh"

extern "C" __global__ __launch_bounds__(256) void cluster_average(
    const double *values, const double *others, const int *labels, int channels, int per_problem, int lowest,
    double *averages) {
    __shared__ double value[256];
    __shared__ int label[256];
    const int q = blockIdx.y, c = blockIdx.x * 256 + threadIdx.x;
    values += (size_t)q * channels;
    labels += (size_t)(q / per_problem) * channels;
    const int own = c < channels ? labels[c] : DEAD;
    double sum = 0;
    int members = 0;
    for (int first = 0; first < channels; first += 256) {
        const int i = first + threadIdx.x;
        __syncthreads();
        value[threadIdx.x] = i < channels ? values[i] : 0;
        label[threadIdx.x] = i < channels ? labels[i] : DEAD;
        __syncthreads();
        if (own < lowest) continue;
        for (int j = 0; j < 256; ++j)
            if (label[j] == own) {
                sum += value[j];
                ++members;
            }
    }
    if (c >= channels) return;
    const size_t at = (size_t)q * channels + c;
    averages[at] = own >= lowest ? sum / members : others[at];
}
