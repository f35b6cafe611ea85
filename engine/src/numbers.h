// Logarithms, powers and angles of doubles, to a few units in the last place, for tables made while
// a model is opened. The C library's are as good, but their own tables and their way with angles of
// any size are an eighth of a WebAssembly module; and these are the same on every machine.
#pragma once

#include <cmath>
#include <limits>

namespace pocket {

constexpr double pi = 3.14159265358979323846;

/// e to the x: nought below what a double holds, infinite above it, no number of none.
inline double exponential(double x) {
    if (x != x) return x;
    if (x > 709) return std::numeric_limits<double>::infinity();
    if (x < -708) return 0;
    double whole = std::floor(x * 1.4426950408889634 + 0.5);
    double rest = (x - whole * 0.693147180369123816490) - whole * 1.90821492927058770002e-10;
    double sum = 1;
    for (int n = 14; n > 0; --n) sum = 1 + sum * rest / n;
    return std::ldexp(sum, int(whole));
}

/// The natural logarithm of a finite x above nought.
inline double logarithm(double x) {
    int exponent;
    double part = std::frexp(x, &exponent);  // in [0.5, 1)
    if (part < 0.70710678118654752) part *= 2, --exponent;
    double s = (part - 1) / (part + 1), square = s * s, sum = 0;
    for (int n = 25; n > 0; n -= 2) sum = sum * square + 1.0 / n;
    return 2 * s * sum + exponent * 0.693147180559945309417;
}

/// x to the y, for a finite x above nought; 0 for x = 0.
inline double power(double x, double y) { return x > 0 ? exponential(y * logarithm(x)) : 0; }

struct Turn {
    double cosine, sine;
};

/// An angle's cosine and sine; of more than a million they are no numbers.
inline Turn turn(double angle) {
    if (!(std::fabs(angle) < 1e6)) {
        double none = std::numeric_limits<double>::quiet_NaN();
        return {none, none};
    }
    double quarters = std::floor(angle * (2 / pi) + 0.5);
    double rest = (angle - quarters * 1.57079632673412561417) - quarters * 6.07710050650619224932e-11;
    double square = rest * rest, cosine = 1, sine = 1;
    for (int n = 18; n > 0; n -= 2) {
        cosine = 1 - cosine * square / (n * (n - 1));
        sine = 1 - sine * square / (n * (n + 1));
    }
    sine *= rest;
    switch (int(quarters) & 3) {
        case 0: return {cosine, sine};
        case 1: return {-sine, cosine};
        case 2: return {-cosine, -sine};
        default: return {sine, -cosine};
    }
}

}  // namespace pocket
