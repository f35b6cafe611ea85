#include "features.h"

#include "numbers.h"

namespace pocket {
namespace {

double mel(double hertz) { return 1127.0 * logarithm(1.0 + hertz / 700.0); }

}  // namespace

Features::Features(int mels, int low, int high) {
    for (int i = 0; i < window; ++i)  // Povey's
        tables.window[i] =
            float(power(0.5 - 0.5 * turn(2 * pi * i / (window - 1)).cosine, 0.85));
    for (int k = 0; k < 256; ++k) {
        Turn at = turn(2 * pi * k / 512);
        tables.fft_cos[k] = float(at.cosine);
        tables.fft_sin[k] = float(at.sine);
        int reversed = 0;
        for (int bit = 0; bit < 8; ++bit) reversed |= (k >> bit & 1) << (7 - bit);
        tables.reversed[k] = uint8_t(reversed);
    }
    // Triangles, each from the centre of the one before to the centre of the one after.
    double bottom = mel(low), step = (mel(high) - bottom) / (mels + 1);
    for (int m = 0; m < mels; ++m) {
        double left = bottom + m * step, centre = left + step, right = centre + step;
        first_.push_back(0);
        count_.push_back(0);
        for (int k = 0; k < 256; ++k) {
            double at = mel(k * 16000.0 / 512);
            if (at <= left || at >= right) continue;
            if (!count_.back()++) first_.back() = k;
            weights_.push_back(
                float(at <= centre ? (at - left) / step : (right - at) / step));
        }
    }
    tables.mels = mels;
    tables.first = first_.data();
    tables.count = count_.data();
    tables.weights = weights_.data();
}

}  // namespace pocket
