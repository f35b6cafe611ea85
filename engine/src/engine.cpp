// Memory, streams, and which of them go through the network when.
#include "engine.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "numbers.h"

namespace pocket {
namespace {

constexpr int tile_rows = 128;     // rows that a tile of weights is multiplied by at once
constexpr int spare_samples = 3200;  // a stream's buffer beyond a chunk
constexpr int waiting_chunks = 4;  // whose labels nobody has taken

}  // namespace

Engine::Engine(const Model &model, const Kernels &kernels, Chunk chunk, int count,
               const Search &search, bool float16)
    : model_(model),
      kernels_(kernels),
      size_(chunk.size),
      slots_(chunk.left + chunk.size),
      key_stride_(padded(slots_)),
      search_(search),
      float16_(float16),
      beam_(search.beam),
      features_(model.mels, model.low, model.high) {
    most_ = std::max(1, std::min(count, tile_rows / size_));
    capacity_ = window + 4 * hop * size_ + spare_samples;
    if constexpr (beams)
        if (search.hotword_units)
            hotwords_.emplace(search.hotwords, search.hotword_units, search.hotword_score);
    int half = model.modes ? 0 : model.head_width / 2;
    for (int position = 0; position < 2 * slots_; ++position)
        for (int e = 0; e < half; ++e) {
            Turn at = turn(position * power(10000.0, -double(e) / half));
            cos_.push_back(float(at.cosine));
            sin_.push_back(float(at.sine));
        }
}

bool Engine::allocate(int count) {
    streams.resize(size_t(count));
    waiting_.resize(size_t(count));
    if constexpr (beams)
        for (Stream &stream : streams) {
            stream.beam.resize(beam_ > 1 ? size_t(beam_) : 0);
            stream.next.resize(stream.beam.size());
        }
    for (int pass = 0; pass < 2; ++pass) {
        place_work();
        for (Stream &stream : streams) place(stream);
        if (!pass && (!work_memory_.reserve() || !stream_memory_.reserve())) return false;
    }
    if (model_.transducer) {
        start_.assign(size_t(padded(model_.joined)), 0.0f);
        Prefix first{{-1, 0}, start_.data()}, *only = &first;
        predict(&only, 1);
    }
    return true;
}

void Engine::place(Stream &s) {
    const Model &m = model_;
    size_t layers = size_t(m.layers);
    Arena &memory = stream_memory_;
    memory.place(s.audio, size_t(capacity_));
    memory.place(s.past, size_t(3 * padded(m.mels)));
    if (m.modes) {
        memory.place(s.modes, modes());
    } else {
        place(s.keys, keys());
        // A head's last vector may reach beyond the last row.
        place(s.values, layers * size_t(slots_) * size_t(padded(m.mixed())) + lanes);
    }
    place(s.frames_past, frames());
    memory.place(s.tokens, size_t(waiting_chunks * size_) + unsettled());
    if (m.transducer) memory.place(s.prefix.prediction, size_t(padded(m.joined)));
    for (auto *several : {&s.beam, &s.next})
        for (size_t i = 0; beams && i < several->size(); ++i) {
            Hypothesis &h = (*several)[i];
            memory.place(h.prefix.prediction, size_t(padded(m.joined)));
            memory.place(h.tokens, unsettled() + size_t(size_));
            memory.place(h.bonus, guided() ? size_t(m.vocabulary) : 0);
        }
}

void Engine::place(Past &past, size_t count) {
    float16_ ? stream_memory_.place(past.halves, count) : stream_memory_.place(past.floats, count);
}

size_t Engine::unsettled() const { return beam_ > 1 ? size_t(most_unsettled) : 0; }

size_t Engine::keys() const {
    return size_t(model_.layers) * size_t(model_.mixed()) * size_t(key_stride_);
}

size_t Engine::modes() const {
    return size_t(model_.layers) * size_t(model_.modes) * 2 * size_t(padded(model_.mixed()));
}

size_t Engine::frames() const {
    return size_t(model_.layers) * size_t(model_.kernel - 1) * size_t(padded(model_.width));
}

void Engine::place_work() {
    const Model &m = model_;
    Arena &memory = work_memory_;
    // Sums and products in 64 bits, so that a hostile plan's do not look small where an address has 32.
    uint64_t several = uint64_t(most_), searched = several * uint64_t(beam_);
    uint64_t rows = std::max(several * uint64_t(size_), searched);
    uint64_t middle = std::max(several * uint64_t(2 * size_ + 1), searched);
    uint64_t width = uint64_t(padded(m.width));
    int widest = padded(3 * std::max(m.mels, m.channels)), codes = 0, floats = 0, rank = lanes;
    widest = std::max({widest, padded(m.inner), int(width), padded(m.joined), padded(m.predicted)});
    for (const auto &[key, t] : m.tensors) {
        codes = std::max(codes, t.fours() * 4);
        floats = std::max({floats, padded(t.fan_in), padded(t.out)});
        rank = std::max({rank, padded(t.out), padded(t.fan_in)});
        widest = std::max({widest, padded(t.fan_in), padded(t.out)});
    }
    memory.place(feature_work_, size_t(feature_work));
    memory.place(heard_, several * uint64_t(4 * size_ + 3) * uint64_t(padded(m.mels)));
    memory.place(stacked_, middle * size_t(padded(3 * std::max(m.mels, m.channels))));
    memory.place(middle_, middle * size_t(padded(m.channels)));
    uint64_t mixed = std::max(width, uint64_t(padded(m.mixed())));
    for (float **piece : {&x_, &n_, &q_, &k_, &v_}) memory.place(*piece, rows * mixed);
    memory.place(h_, rows * size_t(padded(m.inner)));
    memory.place(seen_, uint64_t(m.kernel - 1 + size_) * width);
    memory.place(attention_work_, 4 * uint64_t(2 * m.head_width + key_stride_));
    memory.place(head_, rows * size_t(padded(m.head())));
    memory.place(joined_, rows * size_t(padded(m.joined)));
    memory.place(logits_, rows * size_t(padded(m.vocabulary)));
    memory.place(embedded_, (searched + 1) * size_t(padded(m.predicted)));
    memory.place(predicted_, searched * size_t(padded(m.joined)));
    memory.place(changed_, searched);
    memory.place(candidates_, size_t(beam_));
    memory.place(lm_row_, guided() ? size_t(padded(m.vocabulary)) : 0);
    memory.place(widened_, middle * size_t(widest));
    memory.place(ranked_, middle * size_t(rank));
    integers_.stride = padded(widest, 64);
    memory.place(integers_.data, middle * size_t(integers_.stride));
    memory.place(integers_.scale, middle);
    memory.place(integers_.sum, middle);
    memory.place(scratch_.codes, size_t(codes) * lanes);
    memory.place(scratch_.floats, size_t(floats) * lanes);
    memory.place(scratch_.turned, (lanes + middle) * size_t(floats));
}

int Engine::open_stream() {
    for (size_t i = 0; i < streams.size(); ++i)
        if (!streams[i].open) {
            streams[i].open = true;
            reset(streams[i]);
            return int(i);
        }
    return POCKET_NO_STREAM;
}

void Engine::reset(Stream &s) {
    const Model &m = model_;
    s.finished = s.taken = false;
    s.held = before;  // reflected once there is something to reflect
    s.samples = s.chunks = s.last_chunk = 0;
    s.frames = s.silence = s.count = s.settled = s.last = 0;
    std::fill(s.past, s.past + 3 * padded(m.mels), 0.0f);
    forget(s.frames_past, frames());
    // Slots that are not filled yet get no weight; but what is there must be a number.
    if (m.modes)
        std::fill(s.modes, s.modes + modes(), 0.0f);
    else
        forget(s.keys, keys());
    if (m.transducer) {
        s.prefix.labels[0] = -1;
        s.prefix.labels[1] = 0;
        std::copy(start_.begin(), start_.end(), s.prefix.prediction);
    }
    if constexpr (beams)
        if (beam_ > 1) start(s);
}

void Engine::forget(Past &past, size_t count) const {
    if (float16_)
        std::fill(past.halves, past.halves + count, uint16_t(0));
    else
        std::fill(past.floats, past.floats + count, 0.0f);
}

int Engine::accept(Stream &s, const float *samples, int count) {
    count = std::max(0, std::min(count, capacity_ - s.held));
    for (int i = 0; i < count; ++i)
        if (!std::isfinite(samples[i])) return POCKET_NOT_FINITE;
    if (count) std::memcpy(s.audio + s.held, samples, size_t(count) * sizeof(float));
    s.held += count;
    s.samples += count;
    return count;
}

void Engine::forget(Stream &s) {
    if (!s.taken) return;
    std::copy(s.tokens + s.settled, s.tokens + s.count, s.tokens);
    s.count -= s.settled;
    s.settled = 0;
    s.taken = false;
}

void Engine::finish(Stream &s) {
    s.finished = true;
    // Silence follows, to a whole chunk; as decoding/streaming.py has it.
    int64_t all = s.samples + int64_t(model_.tail + 4 * size_) * hop;
    s.last_chunk = ((all + hop / 2) / hop - 1) / (4 * size_);
}

bool Engine::ready(const Stream &s) const {
    if (!s.open || (!s.taken && s.settled > (waiting_chunks - 1) * size_)) return false;
    // Strictly more than a chunk, as sherpa-onnx waits.
    return s.finished ? s.chunks < s.last_chunk : s.held >= window + 4 * hop * size_;
}

int Engine::step() {
    int count = 0;
    for (Stream &stream : streams)
        if (ready(stream)) waiting_[size_t(count++)] = &stream;
    for (int i = 0; i < count; i += most_) tile(&waiting_[size_t(i)], std::min(most_, count - i));
    return count;
}

void Engine::tile(Stream **several, int count) {
    hear(several, count);
    Rows x = rows(x_, model_.width);
    for (int layer = 0; layer < model_.layers; ++layer) {
        const Block &block = model_.blocks[size_t(layer)];
        feed_forward(block.ffn1, count);
        if (model_.modes)
            scan(block, layer, several, count);
        else
            attend(block, layer, several, count);
        convolve(block, layer, several, count);
        feed_forward(block.ffn2, count);
        norm(x, count * size_, block.norm, x);
    }
    Rows head = rows(head_, model_.head());
    linear(model_.transducer ? model_.join_encoder : model_.ctc, x, count * size_, head);
    for (int i = 0; i < count * size_; ++i) {
        // Summed over rows, so that it does not depend on which streams went together.
        uint64_t found = 0, frame = uint64_t(several[i / size_]->frames + i % size_);
        for (int j = 0; j < model_.head(); ++j) {
            uint32_t bits;
            std::memcpy(&bits, head[i] + j, 4);
            found += bits * (uint64_t(2 * j + 1) * 0x9E3779B97F4A7C15u);
        }
        hash_ += found ^ frame * 0xD1B54A32D192ED03u;
    }
    for (int i = 0; i < count; ++i) forget(*several[i]);
    if (!model_.transducer) {
        ctc(several, count);
    } else if (beam_ == 1) {
        greedy(several, count);
    } else {
        if constexpr (beams) beam(several, count);
    }
    for (int i = 0; i < count; ++i) {
        ++several[i]->chunks;
        several[i]->frames += size_;
    }
}

pocket_stats Engine::stats() const {
    size_t own = sizeof(Stream) + 2 * streams[0].beam.size() * sizeof(Hypothesis);
    return {kernels_.name, model_.file.size, model_.unpacked, work_memory_.bytes(),
            stream_memory_.bytes() / streams.size() + own, hash_};
}

}  // namespace pocket
