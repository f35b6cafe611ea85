// AVX2: pairs of products in 16 bits where codes are small, widened to 16 bits where they are not.
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels.h"
#include "lanes.h"

#define POCKET_ROWS 4
#define POCKET_QUERIES 2

namespace pocket {
namespace {

template <int R>
POCKET_INLINE void small_dots(const uint8_t *tile, int fours, const int8_t *q, int stride,
                              I16 *acc) {
    __m256i sums[R][2] = {};
    const __m256i ones = _mm256_set1_epi16(1);
    while (fours > 0) {
        int count = fours < 8 ? fours : 8;  // 8 pairs of 15 x 127 stay below 2^15
        __m256i pairs[R][2] = {};
        for (int f = 0; f < count; ++f) {
            __m256i w0 = _mm256_loadu_si256((const __m256i *)(tile + f * 64));
            __m256i w1 = _mm256_loadu_si256((const __m256i *)(tile + f * 64 + 32));
            for (int r = 0; r < R; ++r) {
                __m256i a = _mm256_set1_epi32(load<int32_t>(q + size_t(r) * stride + f * 4));
                pairs[r][0] = _mm256_add_epi16(pairs[r][0], _mm256_maddubs_epi16(w0, a));
                pairs[r][1] = _mm256_add_epi16(pairs[r][1], _mm256_maddubs_epi16(w1, a));
            }
        }
        for (int r = 0; r < R; ++r)
            for (int h = 0; h < 2; ++h)
                sums[r][h] = _mm256_add_epi32(sums[r][h], _mm256_madd_epi16(pairs[r][h], ones));
        tile += count * 64;
        q += count * 4;
        fours -= count;
    }
    for (int r = 0; r < R; ++r) acc[r] += load<I16>(sums[r]);
}

template <int R>
POCKET_INLINE void wide_dots(const uint8_t *tile, int fours, const int8_t *q, int stride,
                             I16 *acc) {
    for (int quarter = 0; quarter < 4; ++quarter) {  // four channels
        __m256i sums[R] = {};
        for (int f = 0; f < fours; ++f) {
            __m256i w = _mm256_cvtepu8_epi16(
                _mm_loadu_si128((const __m128i *)(tile + f * 64 + quarter * 16)));
            for (int r = 0; r < R; ++r) {
                __m128i a = _mm_set1_epi32(load<int32_t>(q + size_t(r) * stride + f * 4));
                sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(w, _mm256_cvtepi8_epi16(a)));
            }
        }
        for (int r = 0; r < R; ++r) {  // the two halves of each channel's four
            int32_t halves[8];
            store(halves, sums[r]);
            for (int c = 0; c < 4; ++c) acc[r][quarter * 4 + c] += halves[2 * c] + halves[2 * c + 1];
        }
    }
}

template <int R>
POCKET_INLINE void dots(const uint8_t *tile, int fours, const int8_t *q, int stride, I16 *acc,
                        bool small) {
    if (small)
        small_dots<R>(tile, fours, q, stride, acc);
    else
        wide_dots<R>(tile, fours, q, stride, acc);
}

// Each channel is one 32-bit lane, as in avx512.cpp; eight of them at a time.
POCKET_INLINE void expand_half(const uint8_t *values, int patterns, uint8_t *tile) {
    const __m256i spread = _mm256_setr_epi32(0x03030100, 0x03010300, 0x01030300, 0x03010003,
                                             0x01030003, 0x01000303, 0x03030303, 0x03030303);
    const __m256i own = _mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0C0C0C0C, 0, 0x04040404,
                                          0x08080808, 0x0C0C0C0C);
    const __m256i shift = _mm256_setr_epi32(0, 3, 6, 9, 12, 15, 18, 21);
    const __m256i low = _mm256_set1_epi32(0x0F0F), seven = _mm256_set1_epi32(0x07000000);
    __m256i pairs = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)values));
    pairs = _mm256_or_si256(pairs, _mm256_slli_epi32(pairs, 4));
    pairs = _mm256_or_si256(_mm256_and_si256(pairs, low), seven);
    __m256i kept = _mm256_srlv_epi32(_mm256_set1_epi32(patterns), shift);  // three bits count
    __m256i take = _mm256_or_si256(_mm256_permutevar8x32_epi32(spread, kept), own);
    _mm256_storeu_si256((__m256i *)tile, _mm256_shuffle_epi8(pairs, take));
}

void expand_2of4(const uint8_t *values, const uint8_t *patterns, int groups, uint8_t *tile) {
    for (int half = 2 * groups; half > 1; --half, values += 8, patterns += 3, tile += 32)
        expand_half(values, load<int>(patterns), tile);
    int last = 0;  // what follows it may lie beyond the file
    std::memcpy(&last, patterns, 3);
    expand_half(values, last, tile);
}

}  // namespace
}  // namespace pocket

#include "kernels.inl"

namespace pocket {
const Kernels avx2_kernels = table("avx2");
}
#endif
