// Modified beam search, at most one label a frame: decoding/beam.py, hypothesis for hypothesis.
#include <algorithm>
#include <limits>
#include <utility>

#include "engine.h"

namespace pocket {
namespace {

constexpr double none = -std::numeric_limits<double>::infinity();
constexpr float never = -1e4f;    // logarithm of next to nothing
constexpr int prefix_labels = 2;  // that a text's length is counted with, as beam.py does

bool identical(const pocket_token &a, const pocket_token &b) {
    return a.unit == b.unit && a.frame == b.frame && a.score == b.score;
}

// Whether `text` has the labels of `from` and then, if it is one, `label`.
bool same(const Hypothesis &text, const Hypothesis &from, int label) {
    int more = label > unknown;
    auto unit = [](const pocket_token &a, const pocket_token &b) { return a.unit == b.unit; };
    return text.count == from.count + more && (!more || text.tokens[from.count].unit == label) &&
           std::equal(from.tokens, from.tokens + from.count, text.tokens, unit);
}

}  // namespace

void Engine::start(Stream &s) {
    Hypothesis &h = s.beam[0];
    h.score = h.length = h.count = h.hotword = 0;
    h.frame = -1;
    h.prefix.labels[0] = -1;
    h.prefix.labels[1] = 0;
    std::copy(start_.begin(), start_.end(), h.prefix.prediction);
    if (search_.lm) h.context = search_.lm->start();
    if (guided()) guide(h);
    s.hypotheses = 1;
}

void Engine::guide(Hypothesis &h) {
    int vocabulary = model_.vocabulary;
    if (hotwords_)
        hotwords_->row(h.hotword, vocabulary, h.bonus);
    else
        std::fill(h.bonus, h.bonus + vocabulary, 0.0f);
    if (search_.lm) {
        search_.lm->row(h.context, lm_row_);
        lm_row_[blank] = lm_row_[unknown] = never;
        float top, largest = lm_row_[kernels_.largest(lm_row_, vocabulary, &top)];
        for (int i = 0; i < vocabulary; ++i)
            h.bonus[i] += search_.lm_scale * (lm_row_[i] - largest + top) + search_.label_bonus;
    }
    h.bonus[blank] = h.bonus[unknown] = 0;
}

// Its score a label, so that long texts are not at a disadvantage.
double Engine::normalised(const Hypothesis &h) const {
    float owed = hotwords_ ? hotwords_->owed(h.hotword) : 0;
    return (h.score - owed) / (h.length + prefix_labels);
}

void Engine::beam(Stream **several, int count) {
    const Model &m = model_;
    Rows head = rows(head_, m.joined), joined = rows(joined_, m.joined);
    Rows logits = rows(logits_, m.vocabulary);
    for (int f = 0; f < size_; ++f) {
        int row = 0, changes = 0;
        for (int i = 0; i < count; ++i)
            for (int h = 0; h < several[i]->hypotheses; ++h)
                kernels_.tanh_sum(head[i * size_ + f], several[i]->beam[size_t(h)].prefix.prediction,
                                  m.joined, joined[row++]);
        linear(m.join_out, joined, row, logits);
        row = 0;
        for (int i = 0; i < count; ++i) {
            int hypotheses = several[i]->hypotheses;
            int found = candidates(*several[i], {logits[row], logits.stride});
            changes += extend(*several[i], f, found, changed_ + changes);
            row += hypotheses;
        }
        if (changes) predict(changed_, changes);
    }
    for (int i = 0; i < count; ++i) {
        Stream &s = *several[i];
        settle(s, s.finished && s.chunks + 1 >= s.last_chunk);
    }
}

// The best continuations of all hypotheses, best first; of equals the first one.
int Engine::candidates(const Stream &s, Rows logits) {
    int found = 0;
    for (int row = 0; row < s.hypotheses; ++row) {
        const Hypothesis &from = s.beam[size_t(row)];
        const float *own = logits[row];
        float top, largest = own[kernels_.largest(own, model_.vocabulary, &top)];
        for (int label = 0; label < model_.vocabulary; ++label) {
            float log_probability = own[label] - largest + top;
            double score = from.score + double(log_probability);
            if (guided()) score += double(from.bonus[label]);
            if (!(score > (found < beam_ ? none : candidates_[found - 1].score))) continue;
            int at = found < beam_ ? found++ : found - 1;
            for (; at && score > candidates_[at - 1].score; --at)
                candidates_[at] = candidates_[at - 1];
            candidates_[at] = {score, row, label, log_probability};
        }
    }
    return found;
}

void Engine::copy(const Hypothesis &from, Hypothesis &to) const {
    Hypothesis own = std::exchange(to, from);
    to.prefix.prediction = own.prefix.prediction;
    to.tokens = own.tokens;
    to.bonus = own.bonus;
    std::copy(from.tokens, from.tokens + from.count, to.tokens);
    std::copy(from.prefix.prediction, from.prefix.prediction + start_.size(), own.prefix.prediction);
    if (guided()) std::copy(from.bonus, from.bonus + model_.vocabulary, to.bonus);
}

// The candidates as hypotheses, those of equal labels made one; returns how many prefixes changed.
int Engine::extend(Stream &s, int frame, int count, Prefix **changed) {
    if (!count) return 0;  // no logit is a number: the frame says nothing
    int kept = 0, changes = 0;
    for (int i = 0; i < count; ++i) {
        const Candidate &c = candidates_[i];
        const Hypothesis &from = s.beam[size_t(c.row)];
        auto end = s.next.begin() + kept;
        auto equal = std::find_if(s.next.begin(), end,
                                  [&](const Hypothesis &h) { return same(h, from, c.label); });
        if (equal != end) {  // the better one's times stay
            equal->score = sum(equal->score, c.score);
            continue;
        }
        Hypothesis &to = s.next[size_t(kept++)];
        copy(from, to);
        to.score = c.score;
        if (c.label <= unknown) continue;
        to.frame = s.frames + frame;
        to.tokens[to.count++] = {c.label, to.frame, c.log_probability};
        ++to.length;
        to.prefix.labels[0] = to.prefix.labels[1];
        to.prefix.labels[1] = c.label;
        changed[changes++] = &to.prefix;
        if (search_.lm) search_.lm->add(to.context, c.label);
        if (hotwords_) to.hotword = hotwords_->after(to.hotword, c.label);
        if (guided()) guide(to);
    }
    std::swap(s.beam, s.next);
    s.hypotheses = kept;
    return changes;
}

// What all hypotheses agree in is final; behind it the best one is shown.
void Engine::settle(Stream &s, bool last) {
    auto first = s.beam.begin(), end = first + s.hypotheses;
    auto best = std::max_element(first, end, [this](const Hypothesis &a, const Hypothesis &b) {
        return normalised(a) < normalised(b);
    });
    bool full = std::any_of(first, end, [](auto &h) { return h.count > most_unsettled; });
    if (last || full) {
        std::swap(*first, *best);
        best = first;
        end = first + 1;
        s.hypotheses = 1;
    }
    int common = best->count;
    for (auto h = first; h != end; ++h) {
        pocket_token *most = h->tokens + std::min(common, h->count);
        common = int(std::mismatch(h->tokens, most, best->tokens, identical).first - h->tokens);
    }
    s.count = s.settled + best->count;
    std::copy(best->tokens, best->tokens + best->count, s.tokens + s.settled);
    s.settled += common;
    s.silence = s.frames + size_ - 1 - best->frame;
    for (auto h = first; h != end; ++h) {
        std::copy(h->tokens + common, h->tokens + h->count, h->tokens);
        h->count -= common;
    }
}

double Engine::sum(double one, double other) const {
    // The smaller beside the larger, as a softmax of two: the same bits on every processor.
    float pair[lanes] = {}, top;
    pair[1] = float(std::min(one, other) - std::max(one, other));
    kernels_.largest(pair, 2, &top);
    return std::max(one, other) - double(top);
}

}  // namespace pocket
