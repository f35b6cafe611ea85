// Greedy searches: the likeliest label or blank in every frame, at most one label a frame.
#include <algorithm>

#include "engine.h"

namespace pocket {
namespace {

constexpr int ahead = 4;               // frames that are joined with one prediction at once

}  // namespace

void Engine::emit(Stream &s, int label, int frame, const float *logits) {
    float score;
    kernels_.largest(logits, model_.vocabulary, &score);
    s.tokens[s.count++] = {label, s.frames + frame, score};
    s.settled = s.count;
}

void Engine::greedy(Stream **several, int count) {
    const Model &m = model_;
    Rows head = rows(head_, m.joined), joined = rows(joined_, m.joined);
    Rows logits = rows(logits_, m.vocabulary);
    int at[128], end[128];
    std::fill(at, at + count, 0);
    for (;;) {
        int row = 0, changes = 0;
        for (int i = 0; i < count; ++i) {
            end[i] = std::min(at[i] + ahead, size_);
            for (int f = at[i]; f < end[i]; ++f)
                kernels_.tanh_sum(head[i * size_ + f], several[i]->prefix.prediction,
                                  m.joined, joined[row++]);
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
                s.prefix.labels[0] = s.prefix.labels[1];
                s.prefix.labels[1] = label;
                changed_[changes++] = &s.prefix;
                break;
            }
        }
        if (changes) predict(changed_, changes);
    }
}

void Engine::predict(Prefix *const *several, int count) {
    const Model &m = model_;
    int width = padded(m.predicted);
    Rows mixed = rows(embedded_, m.predicted), projected = rows(predicted_, m.joined);
    float *label = embedded_ + size_t(most_ * beam_) * size_t(width);
    for (int i = 0; i < count; ++i) {
        float *into = mixed[i];
        std::fill(into, into + width, 0.0f);
        for (int k = 0; k < 2; ++k) {
            if (several[i]->labels[k] < 0) continue;
            m.embedding.weight->row(several[i]->labels[k], label);
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
