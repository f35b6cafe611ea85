// No instruction beyond the compiler's baseline: what all others must equal.
#if !defined(__wasm__)
#include "kernels.h"
#include "lanes.h"
#include "plain.h"

#define POCKET_ROWS 4
#define POCKET_QUERIES 1

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

}  // namespace
}  // namespace pocket

#include "kernels.inl"

namespace pocket {
const Kernels scalar_kernels = table("scalar");
}
#endif
