// An engine: streams, and the working memory to take them through the network together.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "../include/pocket.h"
#include "features.h"
#include "hotwords.h"
#include "kernels/kernels.h"
#include "model.h"
#include "ngram.h"

namespace pocket {

constexpr int blank = 0, unknown = 1;  // sherpa-onnx reads the unknown label as blank, so we do
constexpr int most_hypotheses = 64;    // of a beam
constexpr int most_unsettled = 256;    // labels that the hypotheses of a beam may differ in

// One run of memory, handed out in pieces; asked for once, when all pieces are known.
class Arena {
  public:
    ~Arena() { std::free(start_); }
    // Called twice for each piece: to add up what is needed, then, after `reserve`, to place it.
    template <typename T>
    void place(T *&piece, uint64_t count) {
        if (base_) piece = reinterpret_cast<T *>(base_ + size_t(used_));
        used_ += (count * sizeof(T) + 63) / 64 * 64;
    }
    bool reserve() {
        if (used_ > SIZE_MAX / 2) return false;  // in 64 bits, where an address may have 32
        bytes_ = size_t(used_);
        start_ = std::calloc(1, bytes_ + 64);
        if (start_) base_ = static_cast<char *>(start_) + (64 - size_t(start_) % 64) % 64;
        used_ = 0;
        return start_;
    }
    size_t bytes() const { return bytes_; }

  private:
    void *start_ = nullptr;
    char *base_ = nullptr;
    uint64_t used_ = 0;
    size_t bytes_ = 0;
};

// What builds for browsers leave out, to be small: beam search, and what guides it.
#if defined(POCKET_GREEDY)
constexpr bool beams = false;
#else
constexpr bool beams = true;
#endif

// How streams are searched, as pocket_options has it.
struct Search {
    int beam;  // 1: greedily
    const Ngram *lm;
    float lm_scale, label_bonus;
    const int32_t *hotwords;  // read while an engine is made
    int hotword_units;
    float hotword_score;
};

// The last labels (-1 is nothing), and the predictor's part after them, [joined].
struct Prefix {
    int labels[2];
    float *prediction;
};

// A text that beam search holds possible.
struct Hypothesis {
    double score;  // natural log of its probability, all ways to say it together
    int length;    // labels in all
    int frame;     // of the last one; -1 before the first
    Prefix prefix;
    int count;
    pocket_token *tokens;  // those that are not settled
    Ngram::Context context;  // of the language model
    int hotword;             // where it stands in the hotwords
    float *bonus;            // what these make each next label worth, [vocabulary]
};

struct Candidate {
    double score;
    int row, label;  // of which hypothesis, by what
    float log_probability;
};

// Numbers that a stream remembers, in one of two ways: the other is null.
struct Past {
    float *floats = nullptr;
    uint16_t *halves = nullptr;  // float16

    const void *from(size_t at) const {
        return floats ? static_cast<const void *>(floats + at) : halves + at;
    }
    void put(size_t at, float value) {
        floats ? void(floats[at] = value) : void(halves[at] = narrowed(value));
    }
    void put(size_t at, const float *values, size_t count) {
        if (floats)
            std::copy(values, values + count, floats + at);
        else
            for (size_t i = 0; i < count; ++i) halves[at + i] = narrowed(values[i]);
    }
    void get(size_t at, float *values, size_t count) const {
        if (floats)
            std::copy(floats + at, floats + at + count, values);
        else
            for (size_t i = 0; i < count; ++i) values[i] = widened(halves[at + i]);
    }
};

struct Stream {
    bool open, finished, taken;
    int held;         // samples in `audio`
    int64_t samples;  // accepted
    int64_t chunks;   // decoded
    int64_t last_chunk;  // how many there will be, once finished
    int frames, silence, count, settled;  // as pocket_result has them
    int last;                             // label of the last frame, for CTC
    Prefix prefix;                        // of greedy search
    std::vector<Hypothesis> beam, next;   // in a frame, and what comes of it
    int hypotheses;

    float *audio;   // from `before` samples before the next frame's hop on
    float *past;    // [3][mels]: normalised features before the chunk
    Past keys;      // [layer][mixed][key_stride]: a ring, rotated by their slots
    Past values;    // [layer][slot][mixed]
    float *modes;   // [layer][mode][real, imaginary][mixed]: of state spaces
    Past frames_past;  // [layer][kernel - 1][width]: what the convolutions saw last
    pocket_token *tokens;
};

class Engine {
  public:
    Engine(const Model &model, const Kernels &kernels, Chunk chunk, int streams,
           const Search &search, bool float16);
    bool allocate(int streams);

    int open_stream();
    void reset(Stream &stream);
    int accept(Stream &stream, const float *samples, int count);
    void finish(Stream &stream);
    int step();
    void forget(Stream &stream);  // settled labels that were taken
    pocket_stats stats() const;
    bool done(const Stream &s) const { return s.finished && s.chunks >= s.last_chunk; }

    std::vector<Stream> streams;

  private:
    void place(Stream &stream);
    void place(Past &past, size_t count);
    void forget(Past &past, size_t count) const;
    void place_work();
    size_t keys() const;    // numbers of a stream
    size_t modes() const;   // the same of state spaces
    size_t frames() const;  // what its convolutions saw last
    bool ready(const Stream &stream) const;
    Rows rows(float *data, int width) const { return {data, padded(width)}; }

    void tile(Stream **several, int count);
    void hear(Stream **several, int count);
    void features(Stream &stream, Rows into);
    void feed_forward(const Block::FeedForward &f, int count);
    void attend(const Block &block, int layer, Stream **several, int count);
    void scan(const Block &block, int layer, Stream **several, int count);
    void convolve(const Block &block, int layer, Stream **several, int count);
    void norm(Rows x, int count, const Norm &n, Rows y);
    // y = map(x), or y += by * map(x). `same`: x is what the map before this one took.
    void linear(const Map &map, Rows x, int count, Rows y, float by = 0, bool same = false);
    void multiply(const Tensor &t, bool transposed, Rows x, int count, const float *scale,
                  const float *bias, Rows y, float by, bool same);

    void greedy(Stream **several, int count);
    void ctc(Stream **several, int count);
    void emit(Stream &stream, int label, int frame, const float *logits);
    void predict(Prefix *const *several, int count);
    void beam(Stream **several, int count);
    void start(Stream &stream);  // with the empty hypothesis alone
    int candidates(const Stream &stream, Rows logits);
    void copy(const Hypothesis &from, Hypothesis &to) const;  // into memory of its own
    int extend(Stream &stream, int frame, int count, Prefix **changed);
    void settle(Stream &stream, bool last);
    double sum(double one, double other) const;  // of two probabilities, all as logarithms
    void guide(Hypothesis &h);   // weighs what may follow its labels
    double normalised(const Hypothesis &h) const;
    bool guided() const { return search_.lm || hotwords_; }
    size_t unsettled() const;

    const Model &model_;
    const Kernels &kernels_;
    const int size_, slots_, key_stride_;  // frames of a chunk and of the ring; of a key's row
    const Search search_;
    const bool float16_;                   // what streams remember of frames
    const int beam_;                       // hypotheses of a stream; 1: greedy search
    std::optional<Hotwords> hotwords_;
    int most_;                             // streams of a tile
    int capacity_;                         // samples of a stream's buffer
    Features features_;
    std::vector<float> cos_, sin_;         // [position][head_width / 2]
    std::vector<float> start_;             // the prediction before the first label
    std::vector<Stream *> waiting_;
    uint64_t hash_ = 0;
    Arena work_memory_, stream_memory_;

    Prefix **changed_;
    Candidate *candidates_;
    float *lm_row_;
    float *feature_work_, *heard_, *stacked_, *middle_;
    float *x_, *n_, *h_, *q_, *k_, *v_, *seen_, *attention_work_;
    float *head_, *joined_, *logits_, *embedded_, *predicted_;
    float *widened_, *ranked_;
    const float *rounded_ = nullptr;  // what `integers_` was made from
    Integers integers_;
    Scratch scratch_;
};

}  // namespace pocket
