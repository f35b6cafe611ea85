// Which kernels the processor can run: asked of it here, where no special instruction is compiled in.
#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace pocket {

#if defined(__x86_64__)
namespace {

struct Processor {
    Processor() {
        unsigned a, b, c, d, saved = 0;
        if (__get_cpuid(1, &a, &b, &c, &d) && c & bit_OSXSAVE) {
            unsigned high;
            __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));  // registers that the system saves
        }
        if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
        avx2 = (saved & 6) == 6 && b & bit_AVX2;
        constexpr unsigned needed = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
        avx512vnni = avx2 && (saved & 0xE6) == 0xE6 && (b & needed) == needed && c & bit_AVX512VNNI;
    }
    bool avx2 = false, avx512vnni = false;
};

}  // namespace
#elif defined(__aarch64__)
namespace {

// Whether it has the dot product, as most 64-bit Arm cores since 2018 do (a Cortex-A72 does not).
bool dot_product() {
#if defined(__linux__)
    constexpr unsigned long dot = 1ul << 20;  // HWCAP_ASIMDDP
    return getauxval(AT_HWCAP) & dot;
#else
    return true;  // Apple's all do
#endif
}

}  // namespace
#endif

const Kernels *const *kernels_here() {
    static const Kernels *found[4] = {};
    static const bool once = [] {
        const Kernels **next = found;
#if defined(__x86_64__)
        const Processor here;
        if (here.avx512vnni) *next++ = &avx512_kernels;
        if (here.avx2) *next++ = &avx2_kernels;
#elif defined(__aarch64__)
        if (dot_product()) *next++ = &neon_kernels;
#elif defined(__wasm_simd128__)
        *next++ = &wasm_kernels;  // all there is in a small module
#endif
#if !defined(__wasm__)
        *next = &scalar_kernels;
#endif
        return true;
    }();
    (void)once;
    return found;
}

}  // namespace pocket
