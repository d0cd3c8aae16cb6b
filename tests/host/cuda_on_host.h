// Runs a kernel's unmodified source on the CPU: its blocks one after the other, the threads of a block together.
//
// Threads are fibers, which take turns where they wait for each other; with CUDA_ON_HOST_THREADS they are the system's
// threads, so that a sanitizer sees them. Fibers find a barrier that not all threads reach, threads would wait for ever.
// Shared memory is filled with ones before each block. Subnormal floats count as zero, as under CuPy's -ftz=true;
// subnormal doubles do, too, which on a GPU they don't.
#pragma once
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>
#ifdef __SSE__
#include <xmmintrin.h>
#endif
#ifdef CUDA_ON_HOST_THREADS
#include <barrier>
#include <memory>
#include <thread>
#else
#include <csetjmp>
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ static __attribute__((section("cuda_shared")))

using std::isfinite;
using std::max;
using std::min;

extern "C" char __start_cuda_shared[] __attribute__((weak)), __stop_cuda_shared[] __attribute__((weak));

namespace on_host {

struct Dim {
    unsigned x = 0, y = 0, z = 0;
};

struct Warp;

struct Thread {
    Dim index;
    int lane = 0;
    Warp *warp = nullptr;
};

inline Dim grid, block, size;

#ifdef CUDA_ON_HOST_THREADS

inline thread_local Thread *current;

using Barrier = std::barrier<>;
inline void wait(Barrier &barrier) { barrier.arrive_and_wait(); }
inline void interleave() { std::this_thread::yield(); }

#else

struct Barrier {
    explicit Barrier(int expected) : expected(expected) {}
    int expected, arrived = 0;
    unsigned generation = 0;
};

struct Fiber : Thread {
    Barrier *waiting = nullptr;
    unsigned generation = 0;
    bool begun = false, done = false;
    ucontext_t start;
    jmp_buf place;
};

inline Fiber *current;
inline jmp_buf scheduler;
inline void (*body)(void **);
inline void **arguments;

inline void wait(Barrier &barrier) {
    if (++barrier.arrived == barrier.expected) {
        barrier.arrived = 0;
        ++barrier.generation;
        return;
    }
    current->waiting = &barrier;
    current->generation = barrier.generation;
    if (_setjmp(current->place) == 0) _longjmp(scheduler, 1);
}

// Lets other threads in, one time in four: before each atomic operation, where a GPU may, too.
inline void interleave() {
    static unsigned state = 1;
    state = state * 1664525u + 1013904223u;
    if (state >> 30 == 0 && _setjmp(current->place) == 0) _longjmp(scheduler, 1);
}

inline void fiber_main() {
    body(arguments);
    current->done = true;
    _longjmp(scheduler, 1);
}

inline void resume(Fiber &fiber) {
    current = &fiber;
    if (_setjmp(scheduler) != 0) return;
    if (fiber.begun) _longjmp(fiber.place, 1);
    fiber.begun = true;
    setcontext(&fiber.start);
}

#endif

struct Warp {
    Warp() : barrier(32) {}
    Barrier barrier;
    unsigned long long slots[32];
};

inline Barrier *block_barrier;

template <typename T>
T exchange(T value, int from) {
    static_assert(sizeof(T) <= 8);
    Warp &warp = *current->warp;
    std::memcpy(&warp.slots[current->lane], &value, sizeof(T));
    wait(warp.barrier);
    std::memcpy(&value, &warp.slots[from], sizeof(T));
    wait(warp.barrier);
    return value;
}

inline void flush_subnormals() {
#ifdef __SSE__
    _mm_setcsr(_mm_getcsr() | 0x8040);
#endif
}

inline void place(Thread &thread, std::vector<Warp> &warps, unsigned n) {
    thread.index = {n % size.x, n / size.x, 0};
    thread.lane = n % 32;
    thread.warp = &warps[n / 32];
}

inline void poison() {
    if (__start_cuda_shared) std::memset(__start_cuda_shared, 0xff, __stop_cuda_shared - __start_cuda_shared);
}

// 0, or 1 if some threads of a block wait at a barrier that others have passed by.
inline int run(void (*kernel)(void **), const unsigned *shape, void **args) {
    grid = {shape[0], shape[1], 1}, size = {shape[2], shape[3], 1};
    const unsigned threads = size.x * size.y;
#ifdef __SSE__
    const unsigned before = _mm_getcsr();
#endif
    flush_subnormals();
    int failed = 0;
#ifdef CUDA_ON_HOST_THREADS
    Barrier barrier(threads), between(threads);
    block_barrier = &barrier;
    std::vector<Warp> warps(threads / 32);
    auto work = [&](unsigned n) {
        Thread self;
        current = &self;
        place(self, warps, n);
        flush_subnormals();
        for (unsigned b = 0; b < grid.x * grid.y; ++b) {
            if (n == 0) block = {b % grid.x, b / grid.x, 0}, poison();
            between.arrive_and_wait();
            kernel(args);
            between.arrive_and_wait();
        }
    };
    std::vector<std::jthread> all;
    for (unsigned n = 0; n < threads; ++n) all.emplace_back(work, n);
    all.clear();
#else
    constexpr std::size_t stack = 1 << 16;
    static std::vector<char> stacks;
    stacks.resize(std::max(stacks.size(), threads * stack));
    body = kernel, arguments = args;
    for (unsigned b = 0; b < grid.x * grid.y && !failed; ++b) {
        block = {b % grid.x, b / grid.x, 0};
        poison();
        Barrier barrier(threads);
        block_barrier = &barrier;
        std::vector<Warp> warps(threads / 32);
        std::vector<Fiber> fibers(threads);
        for (unsigned n = 0; n < threads; ++n) {
            Fiber &fiber = fibers[n];
            place(fiber, warps, n);
            getcontext(&fiber.start);
            fiber.start.uc_stack.ss_sp = stacks.data() + n * stack;
            fiber.start.uc_stack.ss_size = stack;
            fiber.start.uc_link = nullptr;
            makecontext(&fiber.start, fiber_main, 0);
        }
        bool progress = true, left = true;
        while (left && progress) {
            left = progress = false;
            for (Fiber &fiber : fibers) {
                if (fiber.done) continue;
                left = true;
                if (fiber.waiting && fiber.waiting->generation == fiber.generation) continue;
                fiber.waiting = nullptr;
                progress = true;
                resume(fiber);
            }
        }
        failed = left;
    }
#endif
#ifdef __SSE__
    _mm_setcsr(before);
#endif
    return failed;
}

template <typename... T, std::size_t... I>
void apply(void (*kernel)(T...), void **args, std::index_sequence<I...>) {
    kernel(*static_cast<T *>(args[I])...);
}

template <typename... T>
void call(void (*kernel)(T...), void **args) {
    apply(kernel, args, std::index_sequence_for<T...>());
}

}  // namespace on_host

#define threadIdx (on_host::current->index)
#define blockIdx on_host::block
#define blockDim on_host::size
#define gridDim on_host::grid

struct float4 {
    float x, y, z, w;
};

inline void __syncwarp() { on_host::wait(on_host::current->warp->barrier); }
inline void __syncthreads() { on_host::wait(*on_host::block_barrier); }

template <typename T>
T __shfl_xor_sync(unsigned, T value, int lanes) {
    return on_host::exchange(value, on_host::current->lane ^ lanes);
}

template <typename T>
T __shfl_up_sync(unsigned, T value, int lanes) {
    const int lane = on_host::current->lane;
    return on_host::exchange(value, lane < lanes ? lane : lane - lanes);
}

inline unsigned __ballot_sync(unsigned, bool value) {
    on_host::Warp &warp = *on_host::current->warp;
    warp.slots[on_host::current->lane] = value;
    on_host::wait(warp.barrier);
    unsigned bits = 0;
    for (int i = 0; i < 32; ++i) bits |= unsigned(warp.slots[i]) << i;
    on_host::wait(warp.barrier);
    return bits;
}

template <typename T>
T atomicAdd(T *at, T value) {
    on_host::interleave();
    return std::atomic_ref<T>(*at).fetch_add(value, std::memory_order_relaxed);
}

template <typename T>
T atomicMin(T *at, T value) {
    on_host::interleave();
    std::atomic_ref<T> place(*at);
    T old = place.load(std::memory_order_relaxed);
    while (value < old && !place.compare_exchange_weak(old, value, std::memory_order_relaxed)) {
    }
    return old;
}

template <typename T>
T atomicMax(T *at, T value) {
    on_host::interleave();
    std::atomic_ref<T> place(*at);
    T old = place.load(std::memory_order_relaxed);
    while (value > old && !place.compare_exchange_weak(old, value, std::memory_order_relaxed)) {
    }
    return old;
}

template <typename T>
T __ldcv(const T *at) {
    on_host::interleave();
    return std::atomic_ref<T>(*const_cast<T *>(at)).load(std::memory_order_relaxed);
}

template <typename To, typename From>
To on_host_bits(From value) {
    To bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return bits;
}

inline unsigned __float_as_uint(float x) { return on_host_bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return on_host_bits<float>(x); }
inline long long __double_as_longlong(double x) { return on_host_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return on_host_bits<double>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll((unsigned long long)x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
