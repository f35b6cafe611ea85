// A stored tensor as it lies in the file (docs/pocket.md): panels of 16 output channels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace pocket {

constexpr int lanes = 16;  // channels of a panel, and of every vector

constexpr int padded(int count, int to = lanes) { return (count + to - 1) / to * to; }

// Widens a float16; exact.
inline float widened(uint16_t half) {
    uint32_t bits = uint32_t(half & 0x7FFF) << 13;
    float value;
    std::memcpy(&value, &bits, 4);
    value *= 0x1p112f;  // the exponents' biases differ by 112; subnormals come out right too
    return half & 0x8000 ? -value : value;
}

// The nearest float16, halves to even; the largest where there is none.
inline uint16_t narrowed(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    uint32_t sign = bits >> 16 & 0x8000;
    bits &= 0x7FFFFFFF;
    if (bits >= 0x477FF000) return uint16_t(sign | 0x7BFF);
    if (bits < 0x38800000) {  // subnormal: in steps of 2^-24, which are those of floats from a half on
        float size;
        std::memcpy(&size, &bits, 4);
        size += 0.5f;
        std::memcpy(&bits, &size, 4);
        return uint16_t(sign | (bits - 0x3F000000));
    }
    bits += 0xFFF + (bits >> 13 & 1);
    return uint16_t(sign | (bits - 0x38000000) >> 13);
}

struct Tensor {
    int out = 0, fan_in = 0;
    int bits = 16;           // 16: float16
    bool symmetric = true;
    int block = 0;           // weights of fan-in that share a scale; fan_in where all do
    int keep = 0, group = 0; // N:M; 0 where nothing is pruned
    int activations = 0;     // bits of what it is multiplied by; 0: floats
    const uint8_t *panels = nullptr;
    std::vector<float> scale, low;     // [panel][block][16]; zeros in channels that are not there
    std::vector<uint8_t> places;       // [choice][keep]: kept places of each pattern
    std::vector<uint8_t> last;         // codes of a last, partial panel: a tile of its own

    // Numbers of a row, numbers of a unit, patterns of a row.
    int numbers() const { return keep ? groups() * keep : fan_in; }
    int unit() const { return keep ? keep : 4; }
    int groups() const { return keep ? (fan_in + group - 1) / group : 0; }
    int pattern_bits() const;
    int blocks() const { return (fan_in + block - 1) / block; }
    int panel_count() const { return (out + lanes - 1) / lanes; }
    int channels(int panel) const { return panel * lanes + lanes <= out ? lanes : out % lanes; }
    // What the integer zero is written as.
    int zero() const { return symmetric ? (1 << (bits - 1)) - 1 : 0; }
    // Whether integers can be multiplied by integers, and scaled afterwards.
    bool integers() const {
        return activations && bits < 16 && (!keep || symmetric) &&
               (block == fan_in || block % 4 == 0);
    }
    // Fours of fan-in in a tile of codes, [four][16][4], which groups may reach beyond.
    int fours() const { return (keep ? padded(groups() * group, 4) : padded(fan_in, 4)) / 4; }

    // In 64 bits wherever it runs: what a plan says is compared with the file before it is believed.
    uint64_t value_bytes(int channels) const {
        return (uint64_t(channels) * numbers() * bits + 7) / 8;
    }
    uint64_t panel_bytes(int channels) const {
        return value_bytes(channels) + (uint64_t(channels) * groups() * pattern_bits() + 7) / 8;
    }
    const uint8_t *panel(int index) const {
        return panels + size_t(index * panel_bytes(lanes));
    }
    uint64_t scale_bytes() const {
        return bits == 16 ? 0 : uint64_t(2) * out * blocks() * (symmetric ? 1 : 2);
    }
    uint64_t bytes() const {
        uint64_t whole = out / lanes * panel_bytes(lanes);
        return scale_bytes() + whole + (out % lanes ? panel_bytes(out % lanes) : 0);
    }

    // A panel's scales and lows, [block][16]; the latter null where it is symmetric.
    const float *scales(int panel) const {
        return scale.data() + size_t(panel) * blocks() * lanes;
    }
    const float *lows(int panel) const {
        return symmetric ? nullptr : low.data() + size_t(panel) * blocks() * lanes;
    }

    // A number of `width` bits (at most 16) of a run that starts at a byte.
    static uint32_t number(const uint8_t *run, size_t index, int width) {
        size_t bit = index * size_t(width), first = bit / 8, end = (bit + size_t(width) + 7) / 8;
        uint32_t word = 0;
        for (size_t i = end; i-- > first;) word = word << 8 | run[i];
        return word >> bit % 8 & ((1u << width) - 1);
    }
    // Where number k of channel c's row lies in its panel.
    size_t place(int k, int c, int channels) const {
        int whole = numbers() / unit() * unit();
        if (k >= whole) return size_t(whole) * channels + size_t(c) * (numbers() - whole) + (k - whole);
        return (size_t(k / unit()) * channels + c) * unit() + k % unit();
    }
    uint32_t value(int panel_index, int k, int c) const {
        return number(panel(panel_index), place(k, c, channels(panel_index)), bits);
    }
    uint32_t pattern(int panel_index, int g, int c) const {
        int n = channels(panel_index);
        const uint8_t *patterns = panel(panel_index) + size_t(value_bytes(n));
        return number(patterns, size_t(g) * n + c, pattern_bits());
    }
    // A weight of a panel whose integer (or float16) is `number`, at place i of fan-in.
    float weight(int panel_index, int c, int i, uint32_t number) const {
        if (bits == 16) return widened(uint16_t(number));
        size_t at = (size_t(panel_index) * blocks() + i / block) * lanes + c;
        float value = float(int(number) - zero()) * scale[at];
        return symmetric ? value : value + low[at];
    }

    // The codes of a panel in the order of a tile, [four][16][4]; what is left out is zero's code.
    void codes(int panel_index, uint8_t *tile) const;
    // One row as floats.
    void row(int index, float *into) const;
};

}  // namespace pocket
