// WebAssembly's 128 bits; with relaxed SIMD, one instruction for what small codes are multiplied by.
#if defined(__wasm_simd128__)
#include <wasm_simd128.h>

#include "kernels.h"
#include "lanes.h"
#include "plain.h"

#define POCKET_ROWS 4
#define POCKET_QUERIES 2

namespace pocket {
namespace {

// Two channels at a time in 16 bits; each has two partial sums until the end.
template <int R>
POCKET_INLINE void wide_dots(const uint8_t *tile, int fours, const int8_t *q, int stride,
                             I16 *acc) {
    for (int pair = 0; pair < 8; pair += 2) {
        v128_t sums[R][2] = {};
        for (int f = 0; f < fours; ++f) {
            v128_t w = wasm_v128_load(tile + f * 64 + pair * 8);
            v128_t low = wasm_u16x8_extend_low_u8x16(w), high = wasm_u16x8_extend_high_u8x16(w);
            for (int r = 0; r < R; ++r) {
                v128_t a = wasm_i16x8_extend_low_i8x16(
                    wasm_v128_load32_splat(q + size_t(r) * stride + f * 4));
                sums[r][0] = wasm_i32x4_add(sums[r][0], wasm_i32x4_dot_i16x8(low, a));
                sums[r][1] = wasm_i32x4_add(sums[r][1], wasm_i32x4_dot_i16x8(high, a));
            }
        }
        for (int r = 0; r < R; ++r) {
            int32_t halves[8];
            std::memcpy(halves, sums[r], sizeof halves);
            for (int c = 0; c < 4; ++c) acc[r][pair * 2 + c] += halves[2 * c] + halves[2 * c + 1];
        }
    }
}

#if defined(__wasm_relaxed_simd__)
template <int R>
POCKET_INLINE void small_dots(const uint8_t *tile, int fours, const int8_t *q, int stride,
                              I16 *acc) {
    v128_t sums[R][4] = {};
    for (int f = 0; f < fours; ++f) {
        v128_t w[4];
        for (int v = 0; v < 4; ++v) w[v] = wasm_v128_load(tile + f * 64 + v * 16);
        for (int r = 0; r < R; ++r) {
            v128_t a = wasm_v128_load32_splat(q + size_t(r) * stride + f * 4);
            for (int v = 0; v < 4; ++v)
                sums[r][v] = wasm_i32x4_relaxed_dot_i8x16_i7x16_add(a, w[v], sums[r][v]);
        }
    }
    for (int r = 0; r < R; ++r) acc[r] += load<I16>(sums[r]);
}
#endif

template <int R>
POCKET_INLINE void dots(const uint8_t *tile, int fours, const int8_t *q, int stride, I16 *acc,
                        [[maybe_unused]] bool small) {
#if defined(__wasm_relaxed_simd__)
    if (small) return small_dots<R>(tile, fours, q, stride, acc);
#endif
    wide_dots<R>(tile, fours, q, stride, acc);
}

}  // namespace
}  // namespace pocket

#include "kernels.inl"

namespace pocket {
#if defined(__wasm_relaxed_simd__)
const Kernels wasm_kernels = table("wasm-relaxed");
#else
const Kernels wasm_kernels = table("wasm");
#endif
}
#endif
