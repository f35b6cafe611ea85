// Kaldi's filter bank for 16 kHz: tables for the kernel that computes it.
#pragma once

#include <vector>

#include "kernels/kernels.h"

namespace pocket {

constexpr int window = 400, hop = 160;  // samples
constexpr int before = 120;             // samples that the first frame reaches back, reflected

struct Features {
    Features(int mels, int low, int high);

    FeatureTables tables;

  private:
    std::vector<int> first_, count_;
    std::vector<float> weights_;
};

}  // namespace pocket
