// Codes of 2:4 put in a tile's order without special instructions.
#pragma once

#include <cstring>

#include "lanes.h"

namespace pocket {
namespace {

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
