// From a plan and arrays to a model. Every number is checked before it is used.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "model.h"
#include "numbers.h"
#include "pieces.h"

namespace pocket {
namespace {

constexpr int widest = 1 << 16;
// Numbers that a stream remembers: recogniser.py's 2^24, with a chunk itself, which is no longer than
// what lies before it, if anything does.
constexpr int64_t largest_state = 1 << 25;

class Builder {
  public:
    Builder(Model &model, const Json &plan, Why &why) : model_(model), plan_(plan), why_(why) {}

    bool build() {
        if (!sizes() || !tensors()) return false;
        auto &m = model_;
        m.mean = vector("mean", m.mels);
        m.inverse_std = vector("inverse_std", m.mels);
        m.channels = out_of("subsampling.conv1");
        m.conv1 = map("subsampling.conv1", 3 * m.mels, m.channels);
        m.conv2 = map("subsampling.conv2", 3 * m.channels, m.width);
        m.subsampled = norm("subsampling.norm");
        for (int i = 0; i < m.layers && !why_.refused(); ++i)
            m.blocks.push_back(block("encoder.blocks." + std::to_string(i)));
        head();
        return !why_.refused();
    }

  private:
    int whole(const Json &value, const char *what, int least, int most) {
        int64_t found = value.whole(least, most);
        if (found < least) why_.refuse("its plan is damaged: %s", what);
        return int(std::max<int64_t>(found, least));
    }

    bool sizes() {
        auto &m = model_;
        const Json &features = plan_["features"], &encoder = plan_["encoder"];
        const char *const fixed[] = {"rate", "window", "hop", "fft"};
        const int wanted[] = {16000, 400, 160, 512};
        for (int i = 0; i < 4; ++i)
            if (features[fixed[i]].whole(1, widest) != wanted[i])
                return why_.refuse("features with another %s than this engine computes", fixed[i]);
        m.mels = whole(features["mels"], "features.mels", 1, 256);
        m.low = whole(features["low"], "features.low", 0, 7999);
        m.high = whole(features["high"], "features.high", m.low + 1, 8000);
        m.tail = whole(plan_["tail"], "tail", 0, 1000);
        if (plan_["subsampling"].whole(1, 100) != 4) return why_.refuse("another subsampling than 4");
        bool spaces = encoder["family"].text == "mhssm";
        if (!spaces && encoder["family"].text != "conformer")
            return why_.refuse("encoder family '%.40s': this engine runs conformer and mhssm",
                               encoder["family"].text.c_str());
        m.width = whole(encoder["width"], "encoder.width", 2, 4096);
        m.layers = whole(encoder["layers"], "encoder.layers", 1, 256);
        m.heads = whole(encoder["heads"], "encoder.heads", 1, 256);
        m.kernel = whole(encoder["kernel"], "encoder.kernel", 2, 256);
        m.head_width = whole(encoder["head_width"], "encoder.head_width", 1, 4096);
        if (spaces) m.modes = whole(encoder["modes"], "encoder.modes", 1, 256);
        if (!spaces && m.head_width % 2) return why_.refuse("its plan is damaged: encoder.head_width");
        m.transducer = plan_["head"].text == "transducer";
        if (!m.transducer && plan_["head"].text != "ctc")
            return why_.refuse("its plan is damaged: head");
        for (const Json &row : plan_["chunks"].items) {
            if (row.items.size() != 2) return why_.refuse("its plan is damaged: chunks");
            Chunk chunk{whole(row.items[0], "chunks", 1, 1024), whole(row.items[1], "chunks", 0, 4096)};
            if (chunk.left % chunk.size) return why_.refuse("its plan is damaged: chunks");
            int64_t mixed = int64_t(m.mixed()) * 2 * (spaces ? m.modes : chunk.left + chunk.size);
            int64_t state = m.layers * (mixed + int64_t(m.width) * m.kernel);
            if (state > largest_state) return why_.refuse("a stream of it would be too large");
            m.chunks.push_back(chunk);
            m.chunk_sizes.push_back(chunk.size);
        }
        if (m.chunks.empty()) return why_.refuse("it hears with full context: it cannot stream");
        return !why_.refused();
    }

    bool tensors() {
        for (const auto &[key, row] : plan_["tensors"].members) {
            Tensor t;
            const auto &formats = plan_["formats"].items;
            if (row.items.size() != 3) return why_.refuse("its plan is damaged: tensors");
            t.out = whole(row.items[0], "a tensor's shape", 1, widest);
            t.fan_in = whole(row.items[1], "a tensor's shape", 1, widest);
            int number = whole(row.items[2], "a tensor's format", 0, int(formats.size()) - 1);
            if (why_.refused() || !format(formats[size_t(number)], t)) return false;
            auto found = model_.file.arrays.find(key + ".packed");
            if (found == model_.file.arrays.end())
                return why_.refuse("misses %.80s.packed", key.c_str());
            if (found->second.width != 1 || found->second.bytes != t.bytes())
                return why_.refuse("%.80s.packed has another size than its plan says", key.c_str());
            if (!contents(key, found->second, t)) return false;
            model_.tensors[key] = std::move(t);
        }
        return true;
    }

    bool format(const Json &written, Tensor &t) {
        t.bits = whole(written["bits"], "formats.bits", 2, 16);
        if (t.bits != 2 && t.bits != 4 && t.bits != 8 && t.bits != 16)
            return why_.refuse("its plan is damaged: formats.bits");
        t.symmetric = written["symmetric"].is_true();
        t.block = whole(written["block"], "formats.block", 0, widest);
        if (!t.block || t.bits == 16 || t.block > t.fan_in) t.block = t.fan_in;
        t.activations = whole(written["activations"], "formats.activations", 0, 8);
        if (t.activations && t.activations != 8)
            return why_.refuse("its plan is damaged: formats.activations");
        const auto &kept = written["keep"].items;
        if (kept.size() != 2) return why_.refuse("its plan is damaged: formats.keep");
        t.keep = whole(kept[0], "formats.keep", 0, 15);
        t.group = whole(kept[1], "formats.keep", t.keep ? t.keep + 1 : 0, t.keep ? 16 : 0);
        return !why_.refused();
    }

    // Scales as floats, patterns checked, a last partial panel unpacked.
    bool contents(const std::string &key, const Array &array, Tensor &t) {
        t.panels = array.data + size_t(t.scale_bytes());
        if (t.bits < 16) {
            t.scale = scales(key, array.data, t);
            if (!t.symmetric) t.low = scales(key, array.data + size_t(t.scale_bytes() / 2), t);
        }
        if (t.keep) {
            t.places = choices(t.keep, t.group);
            uint32_t count = uint32_t(t.places.size() / size_t(t.keep));
            if (count != 1u << t.pattern_bits()) {
                for (int p = 0; p < t.panel_count(); ++p)
                    for (int g = 0; g < t.groups(); ++g)
                        for (int c = 0; c < t.channels(p); ++c)
                            if (t.pattern(p, g, c) >= count)
                                return why_.refuse("%.80s: a pattern that is none", key.c_str());
            }
        }
        if (t.bits == 16) {
            for (int p = 0; p < t.panel_count(); ++p)
                for (int c = 0; c < t.channels(p); ++c)
                    for (int k = 0; k < t.numbers(); ++k)
                        if ((t.value(p, k, c) & 0x7C00) == 0x7C00)
                            return why_.refuse("%.80s holds what is no number", key.c_str());
        } else if (t.out % lanes) {
            t.last.resize(size_t(t.fours()) * lanes * 4);
            t.codes(t.panel_count() - 1, t.last.data());
        }
        model_.unpacked += 4 * (t.scale.size() + t.low.size()) + t.places.size() + t.last.size();
        return !why_.refused();
    }

    std::vector<float> scales(const std::string &key, const uint8_t *halves, const Tensor &t) {
        std::vector<float> found(size_t(t.panel_count()) * t.blocks() * lanes);
        for (int o = 0; o < t.out; ++o)
            for (int b = 0; b < t.blocks(); ++b)
                found[(size_t(o / lanes) * t.blocks() + b) * lanes + o % lanes] =
                    half(halves + 2 * (size_t(o) * t.blocks() + b), key);
        return found;
    }

    float half(const uint8_t *at, const std::string &key) {
        uint16_t bits = uint16_t(at[0] | at[1] << 8);
        if ((bits & 0x7C00) == 0x7C00) why_.refuse("%.80s holds what is no number", key.c_str());
        return widened(bits);
    }

    // Kept places of each choice, in lexicographic order.
    static std::vector<uint8_t> choices(int keep, int group) {
        std::vector<uint8_t> found, now;
        for (int i = 0; i < keep; ++i) now.push_back(uint8_t(i));
        for (;;) {
            found.insert(found.end(), now.begin(), now.end());
            int i = keep - 1;
            while (i >= 0 && now[size_t(i)] == group - keep + i) --i;
            if (i < 0) return found;
            ++now[size_t(i)];
            for (int j = i + 1; j < keep; ++j) now[size_t(j)] = uint8_t(now[size_t(j - 1)] + 1);
        }
    }

    const Json &row(const std::string &name) {
        const Json &found = plan_["maps"][name];
        if (found.kind != Json::object) why_.refuse("its plan misses %.80s", name.c_str());
        return found;
    }

    int out_of(const std::string &name) {
        const auto &shape = row(name)["shape"].items;
        return whole(shape.empty() ? Json() : shape[0], name.c_str(), 1, widest);
    }

    const Tensor *tensor(const std::string &key, const std::string &name) {
        auto found = model_.tensors.find(key);
        if (found != model_.tensors.end()) return &found->second;
        why_.refuse("%.80s: its plan names a tensor that there is not", name.c_str());
        return nullptr;
    }

    Map map(const std::string &name, int fan_in, int out) {
        Map map;
        const Json &plan = row(name);
        map.out = out;
        map.fan_in = fan_in;
        map.transposed = plan["transposed"].is_true();
        map.weight = tensor(plan["weight"].text, name);
        if (plan["factor"].kind == Json::string) map.factor = tensor(plan["factor"].text, name);
        if (why_.refused()) return map;
        int rows = map.weight->out, columns = (map.factor ? map.factor : map.weight)->fan_in;
        bool chained = !map.factor || map.weight->fan_in == map.factor->out;
        if (map.transposed) std::swap(rows, columns);
        if (rows != out || columns != fan_in || !chained)
            why_.refuse("%.80s: its tensors have another shape than it", name.c_str());
        if (plan["scale"].is_true()) map.scale = vector(name + ".scale", out);
        if (plan["bias"].is_true()) map.bias = vector(name + ".bias", out);
        return map;
    }

    // An array of float16, or of float32 where those need it.
    std::vector<float> vector(const std::string &name, int count, int width = 2) {
        std::vector<float> found(size_t(padded(count)));
        auto array = model_.file.arrays.find(name);
        if (array == model_.file.arrays.end() || array->second.type[1] != 'f' ||
            array->second.width != width ||
            array->second.bytes != size_t(count) * size_t(width)) {
            why_.refuse("misses %.80s, or has it in another size", name.c_str());
            return found;
        }
        const uint8_t *data = array->second.data;
        if (width == 4) std::memcpy(found.data(), data, array->second.bytes);
        for (int i = 0; i < count; ++i) {
            if (width == 2) found[size_t(i)] = half(data + 2 * i, name);
            if (!std::isfinite(found[size_t(i)]))
                why_.refuse("%.80s holds what is no number", name.c_str());
        }
        model_.unpacked += 4 * found.size();
        return found;
    }

    Norm norm(const std::string &name) {
        return {vector(name + ".weight", model_.width), vector(name + ".bias", model_.width)};
    }

    // A kernel of `taps` a channel as [tap][channel].
    std::vector<float> kernel(const std::string &name, int channels, int taps) {
        Map found = map(name, taps, channels);
        std::vector<float> turned(size_t(taps) * padded(channels)), row(size_t(taps), 0.0f);
        if (why_.refused()) return turned;
        if (found.factor || found.transposed || !found.scale.empty()) {
            why_.refuse("%.80s: a kernel is one plain tensor", name.c_str());
            return turned;
        }
        for (int c = 0; c < channels; ++c) {
            found.weight->row(c, row.data());
            for (int k = 0; k < taps; ++k)
                turned[size_t(k) * padded(channels) + c] = row[size_t(k)];
        }
        model_.unpacked += 4 * turned.size();
        return turned;
    }

    Block block(const std::string &name) {
        Block b;
        int width = model_.width, mixed = model_.mixed();
        auto feed = [&](const std::string &which) -> Block::FeedForward {
            int inner = out_of(which + ".up");
            model_.inner = std::max(model_.inner, inner);
            return {norm(which + ".norm"), map(which + ".up", width, inner),
                    map(which + ".down", inner, width)};
        };
        b.ffn1 = feed(name + ".ffn1");
        std::string mixer = name + (model_.modes ? ".ssm" : ".attention");
        b.mixer_norm = norm(mixer + ".norm");
        b.value = map(mixer + ".value", width, mixed);
        b.out = map(mixer + ".out", mixed, width);
        if (model_.modes) {
            b.gate = map(mixer + ".gate", width, mixed);
            b.space = space(mixer + ".state_space.");
        } else {
            b.query = map(mixer + ".query", width, mixed);
            b.key = map(mixer + ".key", width, mixed);
        }
        std::string convolution = name + ".convolution.";
        b.convolution_norm = norm(convolution + "norm");
        b.conv_value = map(convolution + "value", width, width);
        b.conv_gate = map(convolution + "gate", width, width);
        b.depthwise = kernel(convolution + "depthwise", width, model_.kernel);
        b.depthwise_bias = vector(convolution + "depthwise.bias", width);
        b.inner_norm = norm(convolution + "inner_norm");
        b.conv_out = map(convolution + "out", width, width);
        b.ffn2 = feed(name + ".ffn2");
        b.norm = norm(name + ".norm");
        return b;
    }

    StateSpace space(const std::string &name) {
        const auto &m = model_;
        int mixed = m.mixed(), stride = padded(mixed);
        auto step = vector(name + "log_step", m.heads, 4);
        auto decay = vector(name + "log_decay", m.heads * m.modes, 4);
        auto read = vector(name + "read", 2 * mixed * m.modes);
        StateSpace s;
        s.skip = vector(name + "skip", mixed);
        for (auto *piece : {&s.real, &s.imaginary, &s.read_real, &s.read_imaginary})
            piece->resize(size_t(m.modes) * size_t(stride));
        for (int c = 0; c < mixed; ++c)
            for (int n = 0; n < m.modes; ++n) {
                size_t head = size_t(c / m.head_width), at = size_t(n * stride + c);
                // The state turns by exp(step a); what is read is 2 own (exp(step a) - 1) / a.
                double down = -exponential(double(decay[head * size_t(m.modes) + size_t(n)]));
                double round = n * pi, length = 0.01 * exponential(double(step[head]));
                double left = exponential(length * down);
                Turn by = turn(length * round);
                double real = left * by.cosine, imaginary = left * by.sine;
                const float *own = &read[2 * (size_t(c) * size_t(m.modes) + size_t(n))];
                double x = own[0] * (real - 1) - own[1] * imaginary;
                double y = own[0] * imaginary + own[1] * (real - 1);
                double scale = 2 / (down * down + round * round);
                s.real[at] = float(real);
                s.imaginary[at] = float(imaginary);
                s.read_real[at] = float(scale * (x * down + y * round));
                s.read_imaginary[at] = float(scale * (y * down - x * round));
                for (float made : {s.real[at], s.imaginary[at], s.read_real[at], s.read_imaginary[at]})
                    if (!std::isfinite(made))
                        why_.refuse("%.80s: a state space beyond all bounds", name.c_str());
            }
        model_.unpacked += 16 * s.real.size();
        return s;
    }

    void head() {
        auto &m = model_;
        m.vocabulary = out_of(m.transducer ? "joiner.out" : "ctc");
        if (!m.transducer) {
            m.ctc = map("ctc", m.width, m.vocabulary);
            return;
        }
        m.joined = out_of("joiner.encoder");
        m.predicted = out_of("predictor.mix");
        m.embedding = map("predictor.embedding", m.predicted, m.vocabulary);
        m.mix = kernel("predictor.mix", m.predicted, 2);
        m.join_encoder = map("joiner.encoder", m.width, m.joined);
        m.join_predictor = map("joiner.predictor", m.predicted, m.joined);
        m.join_out = map("joiner.out", m.joined, m.vocabulary);
        if (!why_.refused() && (m.embedding.factor || m.embedding.transposed))
            why_.refuse("predictor.embedding: a table is one plain tensor");
    }

    Model &model_;
    const Json &plan_;
    Why &why_;
};

}  // namespace

bool Model::build(Why &why) {
    Json plan;
    if (!parse(file.metadata["plan"], plan) || plan.kind != Json::object)
        return why.refuse("its plan is damaged");
    if (!Builder(*this, plan, why).build()) return false;
    if (!read_pieces(file.metadata["units"], units) || units.size() != size_t(vocabulary))
        return why.refuse("its text units are damaged, or not those of its model");
    for (const std::string &unit : units)
        if (unit.find('\0') != std::string::npos) return why.refuse("its text units are damaged");
    return true;
}

}  // namespace pocket
