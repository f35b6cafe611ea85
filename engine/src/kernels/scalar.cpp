// No instruction beyond the compiler's baseline: what all others must equal.
#include "kernels.h"
#include "lanes.h"

#define POCKET_ROWS 4

namespace pocket {
namespace {

// acc[r] += sum over fours of code * integer, for each of 16 channels. `small`: codes are below 16.
template <int R>
void dots(const uint8_t *tile, int fours, const int8_t *q, int stride, I16 *acc, bool) {
    for (int r = 0; r < R; ++r)
        for (int f = 0; f < fours; ++f) {
            const uint8_t *w = tile + f * 64;
            const int8_t *a = q + size_t(r) * stride + f * 4;
            int32_t total[16];
            for (int c = 0; c < 16; ++c)
                total[c] = w[4 * c] * a[0] + w[4 * c + 1] * a[1] + w[4 * c + 2] * a[2] +
                           w[4 * c + 3] * a[3];
            acc[r] += load<I16>(total);
        }
}

// Of each channel a byte of two codes and, in 3 bits, which two places of four they have.
void expand_2of4(const uint8_t *values, const uint8_t *patterns, int groups, uint8_t *tile) {
    static const uint8_t places[8][2] = {{0, 1}, {0, 2}, {0, 3}, {1, 2}, {1, 3}, {2, 3}};
    for (int g = 0; g < groups; ++g, values += 16, patterns += 6, tile += 64) {
        std::memset(tile, 7, 64);
        for (int c = 0; c < 16; ++c) {
            const uint8_t *three = patterns + c / 8 * 3;
            uint32_t word = three[0] | uint32_t(three[1]) << 8 | uint32_t(three[2]) << 16;
            const uint8_t *kept = places[word >> c % 8 * 3 & 7];
            tile[4 * c + kept[0]] = values[c] & 15;
            tile[4 * c + kept[1]] = values[c] >> 4;
        }
    }
}

}  // namespace
}  // namespace pocket

#include "kernels.inl"

namespace pocket {
const Kernels scalar_kernels = table("scalar");
}
