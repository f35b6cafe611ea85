// What the network is computed with, once for each instruction set; all give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../tensor.h"

namespace pocket {

// Rows of a matrix: row r starts at data + r * stride. Widths are padded to 16 with zeros, which
// every kernel keeps.
struct Rows {
    float *data;
    int stride;
    float *operator[](int row) const { return data + size_t(row) * stride; }
};

// Rows as 8-bit integers: value = scale * integer, symmetric, one scale a row.
struct Integers {
    int8_t *data;
    int stride;    // a multiple of 64; zeros follow the row's own
    float *scale;  // of each row
    int32_t *sum;  // of each row's integers
};

// y = scale * (W x) + bias, or y += by * that.
struct Product {
    const Tensor *tensor;
    bool transposed;     // the tensor is read the other way round
    Rows x;              // floats, or where `integers` says so the rounded ones below
    const Integers *integers;
    int rows;
    const float *scale, *bias;  // of each output, padded; may be null
    Rows y;
    float by;  // 0: y is what comes out; otherwise what is added to
};

struct Scratch {
    uint8_t *codes;  // a tile of codes
    float *floats;   // the same as floats, [fan_in][16]
    float *turned;   // [16][fan_in], and behind it the sums of all rows
};

struct Attention {
    int queries, heads, head_width, slots, valid;  // slots: of the ring; valid: filled ones
    int first;                 // slot of the first query's own frame
    const float *cos, *sin;    // [position][head_width / 2] of positions 0 … 2 slots - 1
    Rows query;                // scaled, not rotated
    bool float16;              // which keys and values are; floats otherwise
    const void *keys;          // rotated by their slots, [head][head_width][stride]
    int key_stride;
    const void *values;        // [slot][value_stride]
    int value_stride;
    float *work;               // 4 x (2 x head_width + key_stride) numbers
    Rows out;
};

// y = skip u + Re(sum over modes of read * s), s = power * s + u; numbers of a mode lie `stride` apart.
struct Scan {
    int rows, width, modes, stride;
    const float *real, *imaginary, *read_real, *read_imaginary, *skip;
    Rows u, y;
    float *state;  // [mode][real, imaginary][stride]
};

struct FeatureTables {
    float window[400];
    float fft_cos[256], fft_sin[256];      // of angles 2 pi k / 512
    uint8_t reversed[256];
    int mels;
    const int *first, *count;              // of each filter's bins
    const float *weights;                  // all filters' weights, one after the other
};

struct Kernels {
    const char *name;
    // (x - mean) / deviation * weight + bias along each row.
    void (*norm)(Rows x, int rows, int width, const float *weight, const float *bias, Rows y);
    void (*round)(Rows x, int rows, int width, const Integers &into);
    // Back to floats: what a product of floats sees of 8-bit activations.
    void (*widen)(const Integers &x, int rows, int width, Rows into);
    void (*product)(const Product &, const Scratch &);
    void (*silu)(Rows x, int rows, int width);
    void (*gate)(Rows value, Rows gate, int rows, int width, Rows into);  // value * sigmoid(gate)
    void (*tanh_sum)(const float *a, const float *b, int width, float *into);
    // y[t] = bias + sum over taps k of kernel[k] * x[t + k].
    void (*depthwise)(Rows x, int rows, int width, const float *kernel, int taps,
                      const float *bias, Rows y);
    void (*attend)(const Attention &);
    void (*scan)(const Scan &);
    // The largest of a row, the first one of equals, and its log-probability.
    int (*largest)(const float *row, int width, float *log_probability);
    // Up to 16 frames of samples, each 160 after the one before -> [frame][mels].
    void (*features)(const FeatureTables &, const float *samples, int frames, float *work, Rows into);
};

constexpr int feature_work = (400 + 2 * 256 + 256) * lanes;  // floats

extern const Kernels scalar_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels, avx512_kernels;
#elif defined(__aarch64__)
extern const Kernels neon_kernels;
#elif defined(__wasm_simd128__)
extern const Kernels wasm_kernels;
#endif

// Those that this processor can run, best first; ends with a null.
const Kernels *const *kernels_here();

}  // namespace pocket
