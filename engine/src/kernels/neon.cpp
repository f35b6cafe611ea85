// NEON with its dot product.
#if defined(__aarch64__)
#include <arm_neon.h>

#include "kernels.h"
#include "lanes.h"
#include "plain.h"

#define POCKET_ROWS 4
#define POCKET_QUERIES 2

namespace pocket {
namespace {

// Both sides are signed here: codes of 8 bits are taken less 128, and that is put back by the sum
// of the row's integers.
template <int R>
POCKET_INLINE void dots(const uint8_t *tile, int fours, const int8_t *q, int stride, I16 *acc,
                        bool small) {
    int32x4_t sums[R][4] = {}, totals[R] = {};
    const uint8x16_t flip = vdupq_n_u8(small ? 0 : 128);
    const int8x16_t ones = vdupq_n_s8(1);
    for (int f = 0; f < fours; ++f) {
        int8x16_t w[4];
        for (int v = 0; v < 4; ++v)
            w[v] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(tile + f * 64 + v * 16), flip));
        for (int r = 0; r < R; ++r) {
            int8x16_t a = vreinterpretq_s8_s32(
                vdupq_n_s32(load<int32_t>(q + size_t(r) * stride + f * 4)));
            for (int v = 0; v < 4; ++v) sums[r][v] = vdotq_s32(sums[r][v], w[v], a);
            if (!small) totals[r] = vdotq_s32(totals[r], ones, a);
        }
    }
    for (int r = 0; r < R; ++r)
        acc[r] += load<I16>(sums[r]) + 128 * vgetq_lane_s32(totals[r], 0);
}

}  // namespace
}  // namespace pocket

#include "kernels.inl"

namespace pocket {
const Kernels neon_kernels = table("neon");
}
#endif
