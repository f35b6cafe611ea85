#include "tensor.h"

#include <algorithm>

namespace pocket {

int Tensor::pattern_bits() const {
    int64_t choices = 1;
    for (int i = 0; i < keep; ++i) choices = choices * (group - i) / (i + 1);
    int found = 0;
    while ((int64_t(1) << found) < choices) ++found;
    return found;
}

void Tensor::codes(int index, uint8_t *tile) const {
    std::memset(tile, zero(), size_t(fours()) * lanes * 4);
    int n = channels(index);
    auto put = [&](int i, int c, uint32_t code) {
        tile[(i / 4 * lanes + c) * 4 + i % 4] = uint8_t(code);
    };
    for (int c = 0; c < n; ++c) {
        if (!keep)
            for (int i = 0; i < fan_in; ++i) put(i, c, value(index, i, c));
        for (int g = 0; g < groups(); ++g) {
            const uint8_t *kept = places.data() + size_t(pattern(index, g, c)) * keep;
            for (int k = 0; k < keep; ++k)
                put(g * group + kept[k], c, value(index, g * keep + k, c));
        }
    }
}

void Tensor::row(int index, float *into) const {
    int panel_index = index / lanes, c = index % lanes;
    std::fill(into, into + fan_in, 0.0f);
    if (!keep)
        for (int i = 0; i < fan_in; ++i)
            into[i] = weight(panel_index, c, i, value(panel_index, i, c));
    for (int g = 0; g < groups(); ++g) {
        const uint8_t *kept = places.data() + size_t(pattern(panel_index, g, c)) * keep;
        for (int k = 0; k < keep; ++k) {
            int i = g * group + kept[k];
            if (i < fan_in)
                into[i] = weight(panel_index, c, i, value(panel_index, g * keep + k, c));
        }
    }
}

}  // namespace pocket
