// What several kernels share. The loader puts this text in the place of the #include line.
#pragma once

typedef unsigned long long Key;

#define NOISE (-1)
#define DOMINANT (-2)
#define DEAD (-3)

#define TILE 32            // distances lie in tiles of TILE x TILE, those of rows I <= columns J
#define COARSE_BINS 1024   // first histogram of distances: 64 bins an octave below 2, the ends for what lies beyond
#define FINE_BINS 4096     // second one, within a bin of the first
#define MOST_CHANNELS 4096 // and with them points
#define PAD (~0ull)        // a key beyond those of all numbers
#define NO_PAIR (~0u)      // bits of a float NaN, in place of what is no pair

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

// Approximate distances are float32, of points scaled to distances below 2, and in the sums of pair_distances. They
// differ from the true ones, times the scale, by `slope` of those plus `offset` at most:
//   offset  2^-24 (|x| + |y|) <= 2^-23 from the points' rounding; what is subnormal, and flushed, adds less than 2^-50
//   slope   D + 2 roundings of the squares' sum, half of that in its root, and the root's own: (D + 4) 2^-25
// Twice as much is allowed for, which covers the rounding of the thresholds, too.
struct Error {
    double slope, offset;
};

__device__ inline Error error_of(int positions) { return {(positions + 4) * 0x1p-24, 0x1p-22}; }

// The power of two that takes a bound on the distances to [1, 2).
__device__ inline double scale_of(double bound) {
    const Key exponent = min(max(key_of(bound) >> 52, (Key)1), (Key)2045);
    return bound > 0 ? __longlong_as_double((2046 - exponent) << 52) : 1.0;
}

// The distance itself, of points (D, stride), added up position by position, not contracted: SciPy's to the last bit.
__device__ inline double exact_distance(const double *points, int positions, int stride, int i, int j) {
    double sum = 0;
#pragma unroll 7
    for (int d = 0; d < positions; ++d) {
        const double difference = points[(size_t)d * stride + i] - points[(size_t)d * stride + j];
        sum += difference * difference;
    }
    return sqrt(sum);
}

// Bins of an approximate distance, by the leading bits of the float; a NaN is in the last.
__device__ inline int coarse_bin(float distance) {
    const int steps = (int)(__float_as_uint(distance) >> 17 & 0x3fff) - (0x40000000 >> 17) + COARSE_BINS - 1;
    return min(max(steps, 0), COARSE_BINS - 1);
}

// Bits of the smallest float of a bin beyond the first.
__device__ inline unsigned coarse_edge(int bin) {
    return (unsigned)(bin - (COARSE_BINS - 1) + (0x40000000 >> 17)) << 17;
}

__device__ inline int fine_bin(float distance) { return (int)(__float_as_uint(distance) >> 5 & (FINE_BINS - 1)); }

// The sum of the values of the warp's lanes up to this one. Every lane must call it.
__device__ inline int sum_upto(int value) {
    for (int step = 1; step < 32; step *= 2) {
        const int lower = __shfl_up_sync(~0u, value, step);
        if ((int)threadIdx.x % 32 >= step) value += lower;
    }
    return value;
}

// The bin of the rank-th of what `bins` counts, and the rank within it. All 256 threads of the block must call it, with
// room for ten numbers.
__device__ inline int find_bin(const unsigned *bins, int size, int &rank, int *sums) {
    const int each = size / 256, first = threadIdx.x * each, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int sum = 0;
#pragma unroll 4
    for (int i = 0; i < each; ++i) sum += bins[first + i];
    const int upto = sum_upto(sum);
    __syncthreads();
    if (lane == 31) sums[warp] = upto;
    if (threadIdx.x == 0) sums[8] = size - 1, sums[9] = 0;  // where NaN leave nothing to find
    __syncthreads();
    int before = upto - sum;
    for (int w = 0; w < warp; ++w) before += sums[w];
    if (before <= rank && rank < before + sum) {
        int i = first;
        for (; rank - before >= (int)bins[i]; ++i) before += bins[i];
        sums[8] = i;
        sums[9] = rank - before;
    }
    __syncthreads();
    rank = sums[9];
    return sums[8];
}

// What select needs in shared memory.
struct Selection {
    unsigned bins[256];
    Key low[32], high[32];
    int bin, rank, count;
};

// The rank-th and the next of the keys key_at(0) to key_at(size - 1), by radix; the last one twice at its end. PAD takes
// no part. Every thread of the block must call it; it begins and ends with a barrier.
template <typename KeyAt>
__device__ void select(KeyAt key_at, int size, int rank, Selection &shared, Key &low, Key &high) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    Key smallest = PAD, largest = 0;
    for (int i = threadIdx.x; i < size; i += blockDim.x) {
        const Key key = key_at(i);
        if (key == PAD) continue;
        smallest = min(smallest, key);
        largest = max(largest, key);
    }
    for (int step = 16; step > 0; step /= 2) {
        smallest = min(smallest, __shfl_xor_sync(~0u, smallest, step));
        largest = max(largest, __shfl_xor_sync(~0u, largest, step));
    }
    __syncthreads();
    if (lane == 0) shared.low[warp] = smallest, shared.high[warp] = largest;
    __syncthreads();
    for (int w = 0; w < warps; ++w) {
        smallest = min(smallest, shared.low[w]);
        largest = max(largest, shared.high[w]);
    }
    __syncthreads();
    if (smallest >= largest) {  // all are equal, or there is none
        low = high = smallest;
        return;
    }
    // The digits that all keys share are passed over.
    int from = 64 - __clzll((long long)(smallest ^ largest)), count = size;
    Key prefix = from < 64 ? smallest >> from : 0;
    while (from > 0 && count > 1) {
        const int width = min(from, 8), shift = from - width;
        if (threadIdx.x < 256) shared.bins[threadIdx.x] = 0;
        __syncthreads();
        unsigned run = 0;  // of equal digits, so that ties don't wait for each other
        int previous = 0;
        for (int i = threadIdx.x; i < size; i += blockDim.x) {
            const Key key = key_at(i);
            if (key == PAD || (from < 64 && key >> from != prefix)) continue;
            const int digit = (int)(key >> shift) & ((1 << width) - 1);
            if (digit != previous && run > 0) atomicAdd(shared.bins + previous, run), run = 0;
            previous = digit;
            ++run;
        }
        if (run > 0) atomicAdd(shared.bins + previous, run);
        __syncthreads();
        if (warp == 0) {
            int sum = 0;
            for (int i = 0; i < 8; ++i) sum += shared.bins[8 * lane + i];
            const int upto = sum_upto(sum);
            int before = upto - sum;
            if (before <= rank && rank < upto) {
                int i = 8 * lane;
                for (; rank - before >= (int)shared.bins[i]; ++i) before += shared.bins[i];
                shared.bin = i;
                shared.rank = rank - before;
                shared.count = shared.bins[i];
            }
        }
        __syncthreads();
        prefix = prefix << width | shared.bin;
        rank = shared.rank;
        count = shared.count;
        from = shift;
    }
    // One key has the prefix, or several equal ones; the next is one of those, or the smallest beyond.
    Key mine = PAD, next = PAD;
    for (int i = threadIdx.x; i < size; i += blockDim.x) {
        const Key key = key_at(i);
        if (key == PAD) continue;
        if (key >> from == prefix) mine = key;
        if (key >> from > prefix) next = min(next, key);
    }
    for (int step = 16; step > 0; step /= 2) {
        mine = min(mine, __shfl_xor_sync(~0u, mine, step));
        next = min(next, __shfl_xor_sync(~0u, next, step));
    }
    if (lane == 0) shared.low[warp] = mine, shared.high[warp] = next;
    __syncthreads();
    for (int w = 0; w < warps; ++w) {
        mine = min(mine, shared.low[w]);
        next = min(next, shared.high[w]);
    }
    low = mine;
    high = rank + 1 < count || next == PAD ? mine : next;
    __syncthreads();
}

// The k of Primitives.order_statistics that cluster_filter._eps asks for.
__device__ inline int pair_rank(int count, double fraction) {
    const long long pairs = (long long)count * (count - 1) / 2;
    return (int)((long long)(fraction * (double)(2 * pairs - 1)) / 2);
}

// Approximate distances between which an order statistic of the true ones lies, where that of the approximate ones is
// between `low` and `high`; what is below is smaller, what is above larger.
struct Band {
    float low, high;
};

__device__ inline Band band_of(float low, float high, Error error) {
    return {(float)((low * (1 - error.slope) - 2 * error.offset) / (1 + error.slope)),
            (float)((high * (1 + error.slope) + 2 * error.offset) / (1 - error.slope))};
}

// Tiles are numbered column by column, so that those of the first n points come first, whatever comes after.
__device__ inline int tile_index(int row, int column) { return column * (column + 1) / 2 + row; }

__device__ inline int tile_column(int index) {
    return (int)((sqrt(8.0 * index + 1.0) - 1.0) / 2.0);  // exact: see PAIR_DISTANCE in engines/rapids.py
}

// The key of the distance itself of the pair whose approximate one is the index-th of its problem.
__device__ inline Key exact_key(const double *points, int positions, int stride, int index) {
    const int tile = index / (TILE * TILE), column = tile_column(tile), row = tile - tile_index(0, column);
    const int a = row * TILE + index / TILE % TILE, b = column * TILE + index % TILE;
    return key_of(exact_distance(points, positions, stride, a, b));
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

// The sum of the block's values. Every thread must call it; `shared` holds a value for each warp.
__device__ inline int block_sum(int value, int *shared) {
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
    __syncthreads();
    value = 0;
    for (int warp = 0; warp < (int)blockDim.x / 32; ++warp) value += shared[warp];
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

__device__ inline void unite(int *parents, int a, int b) {
    a = find_root(parents, a);
    b = find_root(parents, b);
    while (a != b) {
        const int low = min(a, b), high = max(a, b), old = atomicMin(parents + high, low);
        if (old == high) return;
        a = low;  // somebody else has linked `high` meanwhile: to `old`, which belongs to it all
        b = old;
    }
}
