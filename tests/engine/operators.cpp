// The engine's kernels one by one, as plain C functions for tests; `k` is one of kernels_here().
#include <cstring>

#include "src/features.h"
#include "src/kernels/kernels.h"
#include "src/model.h"
#include "src/numbers.h"

using namespace pocket;

namespace {

const Kernels &chosen(int k) { return *kernels_here()[k]; }

}  // namespace

extern "C" {

// Fills in the names of the kernels that run here; returns how many there are.
int kernels(const char **names) {
    int count = 0;
    for (const Kernels *const *k = kernels_here(); *k; ++k) names[count++] = (*k)->name;
    return count;
}

void norm(int k, float *x, int stride, int rows, int width, const float *weight,
          const float *bias, float *y) {
    chosen(k).norm({x, stride}, rows, width, weight, bias, {y, stride});
}

void round_rows(int k, float *x, int stride, int rows, int width, int8_t *data, int wide,
                float *scale, int32_t *sum) {
    chosen(k).round({x, stride}, rows, width, {data, wide, scale, sum});
}

void widen(int k, int8_t *data, int wide, float *scale, int rows, int width, float *y, int stride) {
    chosen(k).widen({data, wide, scale, nullptr}, rows, width, {y, stride});
}

void silu(int k, float *x, int stride, int rows, int width) {
    chosen(k).silu({x, stride}, rows, width);
}

void gate(int k, float *value, float *gates, int stride, int rows, int width, float *y) {
    chosen(k).gate({value, stride}, {gates, stride}, rows, width, {y, stride});
}

void tanh_sum(int k, const float *a, const float *b, int width, float *y) {
    chosen(k).tanh_sum(a, b, width, y);
}

void depthwise(int k, float *x, int stride, int rows, int width, const float *kernel, int taps,
               const float *bias, float *y) {
    chosen(k).depthwise({x, stride}, rows, width, kernel, taps, bias, {y, stride});
}

int largest(int k, const float *row, int width, float *log_probability) {
    return chosen(k).largest(row, width, log_probability);
}

// Keys and values as floats, made narrow here where `float16` says so.
void attend(int k, int queries, int heads, int head_width, int slots, int valid, int first,
            const float *cos, const float *sin, float *query, int stride, int float16,
            const float *keys, int key_stride, const float *values, float *y) {
    size_t key_count = size_t(heads) * size_t(head_width) * size_t(key_stride);
    size_t value_count = size_t(slots) * size_t(stride) + lanes;
    std::vector<uint16_t> narrow;
    for (size_t i = 0; float16 && i < key_count; ++i) narrow.push_back(narrowed(keys[i]));
    for (size_t i = 0; float16 && i < value_count; ++i) narrow.push_back(narrowed(values[i]));
    std::vector<float> work(4 * size_t(2 * head_width + key_stride));
    const void *from = keys, *with = values;
    if (float16) from = narrow.data(), with = narrow.data() + key_count;
    chosen(k).attend({queries, heads, head_width, slots, valid, first, cos, sin, {query, stride},
                      bool(float16), from, key_stride, with, stride, work.data(), {y, stride}});
}

void scan(int k, int rows, int width, int modes, const float *real, const float *imaginary,
          const float *read_real, const float *read_imaginary, const float *skip, float *u,
          int stride, float *y, float *state) {
    chosen(k).scan({rows, width, modes, stride, real, imaginary, read_real, read_imaginary, skip,
                    {u, stride}, {y, stride}, state});
}

void features(int k, int mels, int low, int high, const float *samples, int frames, float *y,
              int stride) {
    Features made(mels, low, high);
    std::vector<float> work(feature_work);
    chosen(k).features(made.tables, samples, frames, work.data(), {y, stride});
}

// A model to multiply by the tensors of; null, and why, where it is refused.
Model *open_model(const char *path, char *line, size_t size) {
    Why why(line, size);
    Model *model = new Model;
    if (model->file.map(path, packed, why) && model->build(why)) return model;
    delete model;
    return nullptr;
}

void close_model(Model *model) { delete model; }

// y = scale * (W x) + bias, or y += by * that; x rounded first where W's format says so.
void product(int k, Model *model, const char *key, int transposed, float *x, int x_stride,
             int rows, const float *scale, const float *bias, float by, float *y, int y_stride) {
    const Tensor &t = model->tensors.at(key);
    int width = transposed ? t.out : t.fan_in, most = padded(std::max(t.out, t.fan_in), 64);
    std::vector<float> floats(size_t(most) * lanes), turned(size_t(lanes + rows) * size_t(most));
    std::vector<uint8_t> codes(size_t(t.fours()) * 4 * lanes);
    std::vector<int8_t> data(size_t(rows) * size_t(most));
    std::vector<float> scales(size_t(rows), 0.0f), wide(size_t(rows) * size_t(x_stride));
    std::vector<int32_t> sums(size_t(rows), 0);
    Integers integers{data.data(), most, scales.data(), sums.data()};
    Product p{&t, bool(transposed), {x, x_stride}, nullptr, rows, scale, bias, {y, y_stride}, by};
    if (t.activations) {
        chosen(k).round(p.x, rows, width, integers);
        if (t.integers() && !transposed) {
            p.integers = &integers;
        } else {
            p.x = {wide.data(), x_stride};
            chosen(k).widen(integers, rows, width, p.x);
        }
    }
    chosen(k).product(p, {codes.data(), floats.data(), turned.data()});
}

float widened_half(uint16_t half) { return widened(half); }
uint16_t narrowed_float(float value) { return narrowed(value); }
double number(int which, double x) {
    switch (which) {
        case 0: return exponential(x);
        case 1: return logarithm(x);
        case 2: return turn(x).cosine;
        default: return turn(x).sine;
    }
}
}
