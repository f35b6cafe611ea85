// Greedy searches: the likeliest label or blank in every frame, at most one label a frame.
#include <algorithm>

#include "engine.h"

namespace pocket {
namespace {

constexpr int blank = 0, unknown = 1;  // sherpa-onnx reads the unknown label as blank, so we do
constexpr int ahead = 4;               // frames that are joined with one prediction at once

}  // namespace

void Engine::emit(Stream &s, int label, int frame, const float *logits) {
    float score;
    kernels_.largest(logits, model_.vocabulary, &score);
    s.tokens[s.count++] = {label, s.frames + frame, score};
}

void Engine::greedy(Stream **several, int count) {
    const Model &m = model_;
    Rows head = rows(head_, m.joined), joined = rows(joined_, m.joined);
    Rows logits = rows(logits_, m.vocabulary);
    int at[128], end[128];
    Stream *changed[128];
    for (int i = 0; i < count; ++i) {
        at[i] = 0;
        if (several[i]->taken) several[i]->count = 0;
        several[i]->taken = false;
    }
    for (;;) {
        int row = 0, changes = 0;
        for (int i = 0; i < count; ++i) {
            end[i] = std::min(at[i] + ahead, size_);
            for (int f = at[i]; f < end[i]; ++f)
                kernels_.tanh_sum(head[i * size_ + f], several[i]->prediction, m.joined,
                                  joined[row++]);
        }
        if (!row) return;
        linear(m.join_out, joined, row, logits);
        row = 0;
        for (int i = 0; i < count; ++i) {
            Stream &s = *several[i];
            int first = row - at[i];
            row += end[i] - at[i];
            while (at[i] < end[i]) {
                const float *own = logits[first + at[i]];
                int label = kernels_.largest(own, m.vocabulary, nullptr), frame = at[i]++;
                ++s.silence;
                if (label == blank || label == unknown) continue;
                emit(s, label, frame, own);
                s.silence = 0;
                s.context[0] = s.context[1];
                s.context[1] = label;
                changed[changes++] = &s;
                break;
            }
        }
        if (changes) predict(changed, changes);
    }
}

void Engine::predict(Stream **several, int count) {
    const Model &m = model_;
    int width = padded(m.predicted);
    Rows mixed = rows(embedded_, m.predicted), projected = rows(predicted_, m.joined);
    float *label = embedded_ + size_t(most_) * size_t(width);
    for (int i = 0; i < count; ++i) {
        float *into = mixed[i];
        std::fill(into, into + width, 0.0f);
        for (int k = 0; k < 2; ++k) {
            if (several[i]->context[k] < 0) continue;
            m.embedding.weight->row(several[i]->context[k], label);
            for (int j = 0; j < m.predicted; ++j)
                into[j] += label[j] * m.mix[size_t(k) * size_t(width) + size_t(j)];
        }
        for (int j = 0; j < m.predicted; ++j) into[j] = std::max(into[j], 0.0f);
    }
    linear(m.join_predictor, mixed, count, projected);
    for (int i = 0; i < count; ++i)
        std::copy(projected[i], projected[i] + projected.stride, several[i]->prediction);
}

void Engine::ctc(Stream **several, int count) {
    Rows logits = rows(head_, model_.vocabulary);
    for (int i = 0; i < count; ++i) {
        Stream &s = *several[i];
        if (s.taken) s.count = 0;
        s.taken = false;
        for (int f = 0; f < size_; ++f) {
            const float *own = logits[i * size_ + f];
            int label = kernels_.largest(own, model_.vocabulary, nullptr);
            ++s.silence;
            if (label != blank && label != unknown && label != s.last) {
                emit(s, label, f, own);
                s.silence = 0;
            }
            s.last = label;
        }
    }
}

}  // namespace pocket
