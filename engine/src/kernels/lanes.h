// Sixteen lanes on any processor: the compiler's vectors, which it splits where registers are
// narrower. Each operation is one IEEE operation a lane in a fixed order, and nothing is fused (the
// build says so), so that every instruction set computes the same bits.
#pragma once

#include <cstdint>
#include <cstring>

namespace pocket {
namespace {

typedef float F16 __attribute__((vector_size(64)));
typedef int32_t I16 __attribute__((vector_size(64)));
typedef uint32_t U16 __attribute__((vector_size(64)));
typedef uint16_t H16 __attribute__((vector_size(32)));  // float16
typedef uint8_t B16 __attribute__((vector_size(16)));
typedef uint8_t B32 __attribute__((vector_size(32)));
typedef uint8_t B64 __attribute__((vector_size(64)));

#define POCKET_INLINE static inline __attribute__((always_inline))

template <typename V>
POCKET_INLINE V load(const void *from) {
    V v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
template <typename V>
POCKET_INLINE void store(void *to, V v) {
    std::memcpy(to, &v, sizeof v);
}
// As `widened` of tensor.h.
POCKET_INLINE F16 wide(H16 halves) {
    U16 bits = __builtin_convertvector(halves, U16);
    F16 size = __builtin_bit_cast(F16, (bits & 0x7FFF) << 13) * 0x1p112f;
    return __builtin_bit_cast(F16, __builtin_bit_cast(U16, size) | (bits & 0x8000) << 16);
}
POCKET_INLINE F16 wide(const float *from) { return load<F16>(from); }
POCKET_INLINE F16 wide(const uint16_t *from) { return wide(load<H16>(from)); }
POCKET_INLINE F16 all(float x) { return F16{} + x; }
POCKET_INLINE F16 floats(I16 x) { return __builtin_convertvector(x, F16); }
POCKET_INLINE F16 as_floats(I16 x) { return __builtin_bit_cast(F16, x); }
POCKET_INLINE I16 as_ints(F16 x) { return __builtin_bit_cast(I16, x); }
// Lane by lane; a mask's lanes are all ones or zeros.
POCKET_INLINE F16 choose(I16 mask, F16 yes, F16 no) { return mask ? yes : no; }
POCKET_INLINE F16 larger(F16 a, F16 b) { return a > b ? a : b; }
POCKET_INLINE F16 smaller(F16 a, F16 b) { return a < b ? a : b; }
POCKET_INLINE F16 magnitude(F16 x) { return as_floats(as_ints(x) & 0x7FFFFFFF); }

// The first `count` lanes.
POCKET_INLINE I16 first_lanes(int count) {
    const I16 index = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return index < count;
}
POCKET_INLINE F16 only(int count, F16 x) { return as_floats(as_ints(x) & first_lanes(count)); }

// Lanes 8 and 4 and 2 and 1 apart, in turn, so that the order is the same everywhere.
template <typename F>
POCKET_INLINE float folded(F16 x, F fold) {
    x = fold(x, __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    x = fold(x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
    x = fold(x, __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
    x = fold(x, __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
    return x[0];
}
POCKET_INLINE float sum(F16 x) {
    return folded(x, [](F16 a, F16 b) { return a + b; });
}
POCKET_INLINE float largest_of(F16 x) {
    return folded(x, [](F16 a, F16 b) { return larger(a, b); });
}

// To the nearest whole number, halves to even, for |x| < 2^22.
POCKET_INLINE F16 rounded(F16 x) { return (x + 12582912.0f) - 12582912.0f; }
POCKET_INLINE I16 rounded_ints(F16 x) { return as_ints(x + 12582912.0f) - 0x4B400000; }

// e^x within 2 ulp; 0 below -87, at most e^88.
POCKET_INLINE F16 exponential(F16 x) {
    I16 tiny = x < -87.0f;
    x = smaller(larger(x, all(-87.0f)), all(88.0f));
    F16 n = rounded(x * 1.44269504f);
    F16 r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // x - n ln 2, in two pieces
    F16 p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    I16 power = (rounded_ints(n) + 127) << 23;
    return as_floats(as_ints(p * as_floats(power)) & ~tiny);
}

// Natural logarithm of positive normal numbers, within 2 ulp.
POCKET_INLINE F16 logarithm(F16 x) {
    I16 bits = as_ints(x);
    I16 exponent = ((bits >> 23) & 255) - 126;
    F16 m = as_floats((bits & 0x007FFFFF) | 0x3F000000);  // in [1/2, 1)
    I16 small = m < 0.707106781f;
    exponent = exponent + small;  // true is -1
    m = m - 1.0f + as_floats(as_ints(m) & small);
    F16 z = m * m, e = floats(exponent);
    F16 p = all(7.0376836292e-2f);
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    F16 y = p * m * z + e * -2.12194440e-4f - z * 0.5f;
    return (m + y) + e * 0.693359375f;
}

POCKET_INLINE F16 sigmoid(F16 x) { return 1.0f / (1.0f + exponential(-x)); }

POCKET_INLINE F16 hyperbolic_tangent(F16 x) {
    F16 size = magnitude(x), z = x * x;
    F16 p = all(-5.70498872745e-3f);
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    F16 near = p * z * x + x;
    F16 far = 1.0f - 2.0f / (exponential(size + size) + 1.0f);
    far = choose(x < 0.0f, -far, far);
    return choose(size < 0.625f, near, far);
}

}  // namespace
}  // namespace pocket
