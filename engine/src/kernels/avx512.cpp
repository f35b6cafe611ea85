// AVX-512 with VNNI: one instruction multiplies 16 channels by four inputs.
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels.h"
#include "lanes.h"

#define POCKET_ROWS 16
#define POCKET_QUERIES 4

namespace pocket {
namespace {

template <int R>
POCKET_INLINE void dots(const uint8_t *tile, int fours, const int8_t *q, int stride, I16 *acc,
                        bool) {
    __m512i sums[R];
    for (int r = 0; r < R; ++r) sums[r] = load<__m512i>(&acc[r]);
    for (int f = 0; f < fours; ++f) {
        __m512i w = _mm512_loadu_si512(tile + f * 64);
        for (int r = 0; r < R; ++r)
            sums[r] = _mm512_dpbusd_epi32(
                sums[r], w, _mm512_set1_epi32(load<int32_t>(q + size_t(r) * stride + f * 4)));
    }
    for (int r = 0; r < R; ++r) acc[r] = load<I16>(&sums[r]);
}

// Each channel is one 32-bit lane: its two codes, spread to the places that its pattern names.
POCKET_INLINE void expand_group(const uint8_t *values, uint64_t patterns, uint8_t *tile) {
    // Bytes to take, of (first code, second code, 0, 7), by pattern; twice, for any fourth bit.
    const __m512i spread = _mm512_broadcast_i64x4(
        _mm256_setr_epi32(0x03030100, 0x03010300, 0x01030300, 0x03010003, 0x01030003, 0x01000303,
                          0x03030303, 0x03030303));
    const __m512i own = _mm512_set4_epi32(0x0C0C0C0C, 0x08080808, 0x04040404, 0);
    // Eight channels' patterns are three bytes; each channel finds its own lowest.
    const __m512i three = _mm512_inserti64x4(_mm512_set1_epi32(int(0x80020100)),
                                             _mm256_set1_epi32(int(0x80050403)), 1);
    const __m512i shift = _mm512_broadcast_i64x4(_mm256_setr_epi32(0, 3, 6, 9, 12, 15, 18, 21));
    const __m512i low = _mm512_set1_epi32(0x0F0F), seven = _mm512_set1_epi32(0x07000000);
    __m512i pairs = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)values));
    pairs = _mm512_or_si512(pairs, _mm512_slli_epi32(pairs, 4));
    pairs = _mm512_or_si512(_mm512_and_si512(pairs, low), seven);
    __m512i kept = _mm512_shuffle_epi8(_mm512_set1_epi64(int64_t(patterns)), three);
    kept = _mm512_permutexvar_epi32(_mm512_srlv_epi32(kept, shift), spread);
    _mm512_storeu_si512(tile, _mm512_shuffle_epi8(pairs, _mm512_or_si512(kept, own)));
}

void expand_2of4(const uint8_t *values, const uint8_t *patterns, int groups, uint8_t *tile) {
    for (; groups > 1; --groups, values += 16, patterns += 6, tile += 64)
        expand_group(values, load<uint64_t>(patterns), tile);
    uint64_t last = 0;  // what follows it may lie beyond the file
    std::memcpy(&last, patterns, 6);
    expand_group(values, last, tile);
}

}  // namespace
}  // namespace pocket

#include "kernels.inl"

namespace pocket {
const Kernels avx512_kernels = table("avx512vnni");
}
#endif
