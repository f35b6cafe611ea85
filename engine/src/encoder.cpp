// The network: features, subsampling, and a Conformer that goes on from where each stream was.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine.h"

namespace pocket {

void Engine::features(Stream &s, Rows into) {
    int frames = 4 * size_, wanted = (frames - 1) * hop + window;
    if (!s.chunks)
        for (int i = 0; i < before; ++i)
            s.audio[before - 1 - i] = before + i < s.held ? s.audio[before + i] : 0.0f;
    if (s.held < wanted) {  // the silence after the end
        std::fill(s.audio + s.held, s.audio + wanted, 0.0f);
        s.held = wanted;
    }
    for (int f = 0; f < frames; f += lanes)
        kernels_.features(features_.tables, s.audio + f * hop, std::min(lanes, frames - f),
                          feature_work_, {into[f], into.stride});
    int used = std::min(frames * hop, s.held);
    std::memmove(s.audio, s.audio + used, size_t(s.held - used) * sizeof(float));
    s.held -= used;
    for (int f = 0; f < frames; ++f)
        for (int m = 0; m < model_.mels; ++m)
            into[f][m] = (into[f][m] - model_.mean[size_t(m)]) * model_.inverse_std[size_t(m)];
}

namespace {

// Frames 2t, 2t + 1, 2t + 2 side by side, of one stream.
void stack(Rows x, int width, int count, Rows into) {
    for (int t = 0; t < count; ++t) {
        for (int k = 0; k < 3; ++k)
            std::memcpy(into[t] + k * width, x[2 * t + k], size_t(width) * sizeof(float));
        std::fill(into[t] + 3 * width, into[t] + padded(3 * width), 0.0f);
    }
}

}  // namespace

// From samples to the encoder's input: two convolutions of kernel 3 and stride 2, as linear maps.
void Engine::hear(Stream **several, int count) {
    const Model &m = model_;
    int frames = 4 * size_ + 3, half = 2 * size_ + 1;
    Rows heard = rows(heard_, m.mels), middle = rows(middle_, m.channels);
    Rows first = rows(stacked_, 3 * m.mels), second = rows(stacked_, 3 * m.channels);
    size_t three = 3 * size_t(heard.stride);
    for (int i = 0; i < count; ++i) {
        Rows own = {heard[i * frames], heard.stride};
        std::copy(several[i]->past, several[i]->past + three, own[0]);
        features(*several[i], {own[3], own.stride});
        std::copy(own[frames - 3], own[frames - 3] + three, several[i]->past);
        stack(own, m.mels, half, {first[i * half], first.stride});
    }
    linear(m.conv1, first, count * half, middle);
    kernels_.silu(middle, count * half, m.channels);
    for (int i = 0; i < count; ++i)
        stack({middle[i * half], middle.stride}, m.channels, size_,
              {second[i * size_], second.stride});
    Rows x = rows(x_, m.width);
    linear(m.conv2, second, count * size_, x);
    norm(x, count * size_, m.subsampled, x);
}

void Engine::norm(Rows x, int count, const Norm &n, Rows y) {
    kernels_.norm(x, count, model_.width, n.weight.data(), n.bias.data(), y);
}

void Engine::feed_forward(const Block::FeedForward &f, int count) {
    Rows x = rows(x_, model_.width), n = rows(n_, model_.width), h = rows(h_, f.up.out);
    norm(x, count * size_, f.norm, n);
    linear(f.up, n, count * size_, h);
    kernels_.silu(h, count * size_, f.up.out);
    linear(f.down, h, count * size_, x, 0.5f);
}

void Engine::attend(const Block &block, int layer, Stream **several, int count) {
    const Model &m = model_;
    Rows x = rows(x_, m.width), n = rows(n_, m.width), q = rows(q_, m.mixed());
    Rows k = rows(k_, m.mixed()), v = rows(v_, m.mixed()), y = rows(n_, m.mixed());
    norm(x, count * size_, block.mixer_norm, n);
    linear(block.query, n, count * size_, q);
    linear(block.key, n, count * size_, k, 0, true);
    linear(block.value, n, count * size_, v, 0, true);
    int head_width = m.head_width, half = head_width / 2;
    float scale = 1.0f / std::sqrt(float(head_width));
    for (int i = 0; i < count; ++i) {
        Stream &s = *several[i];
        int first = int(s.chunks % (slots_ / size_)) * size_;
        size_t keys = size_t(layer) * size_t(m.mixed()) * size_t(key_stride_);
        size_t values = size_t(layer) * size_t(slots_) * size_t(v.stride);
        for (int f = 0; f < size_; ++f) {
            int row = i * size_ + f, slot = first + f;
            for (int e = 0; e < m.mixed(); ++e) q[row][e] *= scale;
            const float *cos = &cos_[size_t(slot) * size_t(half)];
            const float *sin = &sin_[size_t(slot) * size_t(half)];
            for (int h = 0; h < m.heads; ++h) {
                const float *key = k[row] + h * head_width;
                size_t into = keys + size_t(h * head_width) * size_t(key_stride_) + size_t(slot);
                for (int e = 0; e < half; ++e) {
                    s.keys.put(into + size_t(e) * size_t(key_stride_),
                               key[e] * cos[e] - key[e + half] * sin[e]);
                    s.keys.put(into + size_t(e + half) * size_t(key_stride_),
                               key[e + half] * cos[e] + key[e] * sin[e]);
                }
            }
            s.values.put(values + size_t(slot) * size_t(v.stride), v[row], size_t(v.stride));
        }
        int64_t filled = std::min<int64_t>((s.chunks + 1) * size_, slots_);
        kernels_.attend({size_, m.heads, head_width, slots_, int(filled), first, cos_.data(),
                         sin_.data(), {q[i * size_], q.stride}, float16_, s.keys.from(keys), key_stride_,
                         s.values.from(values), v.stride,
                         attention_work_, {y[i * size_], y.stride}});
        for (int row = i * size_; row < (i + 1) * size_; ++row)  // where the norm was wider
            std::fill(y[row] + m.mixed(), y[row] + y.stride, 0.0f);
    }
    linear(block.out, y, count * size_, x, 1);
}

void Engine::scan(const Block &block, int layer, Stream **several, int count) {
    const Model &m = model_;
    int width = m.mixed(), stride = padded(width);
    Rows x = rows(x_, m.width), n = rows(n_, m.width), u = rows(q_, width), gate = rows(k_, width);
    Rows y = rows(v_, width);
    norm(x, count * size_, block.mixer_norm, n);
    linear(block.value, n, count * size_, u);
    linear(block.gate, n, count * size_, gate, 0, true);
    const StateSpace &s = block.space;
    for (int i = 0; i < count; ++i)
        kernels_.scan({size_, width, m.modes, stride, s.real.data(), s.imaginary.data(),
                       s.read_real.data(), s.read_imaginary.data(), s.skip.data(),
                       {u[i * size_], u.stride}, {y[i * size_], y.stride},
                       several[i]->modes + size_t(layer) * size_t(m.modes) * 2 * size_t(stride)});
    kernels_.silu(gate, count * size_, width);
    for (int i = 0; i < count * size_; ++i)
        for (int e = 0; e < width; ++e) y[i][e] *= gate[i][e];
    linear(block.out, y, count * size_, x, 1);
}

void Engine::convolve(const Block &block, int layer, Stream **several, int count) {
    const Model &m = model_;
    Rows x = rows(x_, m.width), n = rows(n_, m.width), value = rows(q_, m.width);
    Rows gate = rows(k_, m.width), y = rows(v_, m.width), seen = rows(seen_, m.width);
    norm(x, count * size_, block.convolution_norm, n);
    linear(block.conv_value, n, count * size_, value);
    linear(block.conv_gate, n, count * size_, gate, 0, true);
    size_t past = size_t(m.kernel - 1) * size_t(seen.stride);
    for (int i = 0; i < count; ++i) {
        Past &own = several[i]->frames_past;
        own.get(size_t(layer) * past, seen[0], past);
        kernels_.gate({value[i * size_], value.stride}, {gate[i * size_], gate.stride}, size_,
                      m.width, {seen[m.kernel - 1], seen.stride});
        kernels_.depthwise(seen, size_, m.width, block.depthwise.data(), m.kernel,
                           block.depthwise_bias.data(), {y[i * size_], y.stride});
        own.put(size_t(layer) * past, seen[size_], past);
    }
    norm(y, count * size_, block.inner_norm, y);
    kernels_.silu(y, count * size_, m.width);
    linear(block.conv_out, y, count * size_, x, 1);
}

void Engine::linear(const Map &map, Rows x, int count, Rows y, float by, bool same) {
    const float *scale = map.scale.empty() ? nullptr : map.scale.data();
    const float *bias = map.bias.empty() ? nullptr : map.bias.data();
    const Tensor *first = map.factor, *second = map.weight;
    if (!first) return multiply(*second, map.transposed, x, count, scale, bias, y, by, same);
    if (map.transposed) std::swap(first, second);
    Rows between = rows(ranked_, first->out);
    if (map.transposed) between.stride = padded(first->fan_in);
    multiply(*first, map.transposed, x, count, nullptr, nullptr, between, 0, same);
    multiply(*second, map.transposed, between, count, scale, bias, y, by, false);
}

void Engine::multiply(const Tensor &t, bool transposed, Rows x, int count, const float *scale,
                      const float *bias, Rows y, float by, bool same) {
    int width = transposed ? t.out : t.fan_in;
    Product p = {&t, transposed, x, nullptr, count, scale, bias, y, by};
    if (!same) rounded_ = nullptr;
    if (t.activations) {
        if (rounded_ != x.data) kernels_.round(x, count, width, integers_);
        rounded_ = x.data;
        if (t.integers() && !transposed) {
            p.integers = &integers_;
        } else {
            p.x = rows(widened_, width);
            kernels_.widen(integers_, count, width, p.x);
        }
    }
    kernels_.product(p, scratch_);
}

}  // namespace pocket
