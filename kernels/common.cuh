// What several kernels share. The loader puts this text in the place of the #include line.
#pragma once

typedef unsigned long long Key;

#define NOISE (-1)
#define DOMINANT (-2)
#define DEAD (-3)

#define TILE 32            // distances lie in tiles of TILE x TILE, those of rows I <= columns J
#define COARSE_BINS 1024   // first histogram of distances: 64 bins an octave, in steps of 2^COARSE_SHIFT of the key
#define COARSE_SHIFT 46
#define BINS 4096          // later ones: DIGIT bits of the key each
#define DIGIT 12
#define PASSES 7           // 63 bits of a key by DIGIT, and one to look for the next larger
#define PAD (~0ull)        // in place of what is no pair: no distance, which are never negative, has this key

// The input as a double. CuPy compiles with -ftz=true, under which a conversion takes subnormal floats for zero.
__device__ inline double widen(float x) {
    const unsigned bits = __float_as_uint(x), magnitude = bits & 0x7fffffffu;
    if (magnitude >= 0x00800000u) return (double)x;
    const double small = (double)(int)magnitude * 0x1p-149;
    return bits >> 31 ? -small : small;
}

__device__ inline double widen(double x) { return x; }

// The nearest float of a double within its range, subnormal ones too; see widen.
__device__ inline float narrow(double x) {
    const double magnitude = fabs(x);
    if (!(magnitude < 0x1p-126)) return (float)x;
    const unsigned bits = (unsigned)rint(magnitude * 0x1p149);
    return __uint_as_float(x < 0 ? bits | 0x80000000u : bits);
}

// Bits of a number >= 0: integers in the order of the numbers. A NaN of either sign comes last, but before PAD.
__device__ inline Key key_of(double x) { return (Key)__double_as_longlong(x) & ~(1ull << 63); }

// Tiles are numbered column by column, so that those of the first n points come first, whatever comes after.
__device__ inline int tile_index(int row, int column) { return column * (column + 1) / 2 + row; }

__device__ inline int tile_column(int index) {
    return (int)((sqrt(8.0 * index + 1.0) - 1.0) / 2.0);  // exact: see PAIR_DISTANCE in engines/rapids.py
}

// numpy.percentile's linear interpolation between its two order statistics.
__device__ inline double interpolate(double low, double high, double t) {
    const double difference = high - low;
    return t >= 0.5 ? high - difference * (1 - t) : low + difference * t;
}

// The largest of the block's values. Every thread must call it; `shared` holds a value for each warp.
__device__ inline double block_maximum(double value, double *shared) {
    for (int step = 16; step > 0; step /= 2) value = fmax(value, __shfl_xor_sync(~0u, value, step));
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
    __syncthreads();
    value = shared[0];
    for (int warp = 1; warp < (int)blockDim.x / 32; ++warp) value = fmax(value, shared[warp]);
    return value;
}

// The largest L2 norm among an image's channels, for the dead threshold.
__device__ inline double largest_norm(const double *norms, int channels, double *shared) {
    double largest = 0;
    for (int c = threadIdx.x; c < channels; c += blockDim.x) largest = fmax(largest, norms[c]);
    return block_maximum(largest, shared);
}

// DBSCAN's component: the lowest point that `point` is linked to. Another thread may link on meanwhile; atomicMin keeps
// every shortcut, written on the way, a link to an ancestor.
__device__ inline int find_root(int *parents, int point) {
    int parent = __ldcv(parents + point);
    while (parent != point) {
        const int above = __ldcv(parents + parent);
        if (above != parent) atomicMin(parents + point, above);
        point = parent;
        parent = above;
    }
    return point;
}
