// What a stranger's file may do: open it and, where it is not refused, listen with it.
//
// A file is a model, or a language model for the first transducer that was opened. Built with
// -DPOCKET_FUZZ, which leaves the digest unchecked, so that what lies behind it is reached. libFuzzer
// calls LLVMFuzzerTestOneInput; where there is none, main alters the files that it is given: open
// SECONDS FILE…
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "../include/pocket.h"

namespace {

void listen(const pocket_model *model, const pocket_options &options) {
    char why[POCKET_WHY];
    pocket_engine *engine = pocket_engine_new(model, &options, why);
    if (!engine) return;
    std::vector<float> samples(24000);
    for (size_t i = 0; i < samples.size(); ++i) samples[i] = float(i * 7919 % 200) / 100 - 1;
    int stream = pocket_stream_new(engine);
    pocket_result result;
    for (int taken = 0, all = int(samples.size()); taken < all;) {
        taken += pocket_accept(engine, stream, samples.data() + taken, all - taken);
        while (pocket_step(engine) > 0) pocket_take(engine, stream, &result);
    }
    pocket_finish(engine, stream);
    while (pocket_step(engine) > 0) {
        pocket_take(engine, stream, &result);
        for (int i = 0; i < result.count; ++i)
            if (!pocket_unit(model, result.tokens[i].unit)) std::abort();
    }
    pocket_engine_free(engine);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const pocket_model *transducer;
    static std::vector<uint8_t> kept;
    char why[POCKET_WHY];
    pocket_model *model = pocket_open_memory(data, size, why);
    if (!model && transducer) {
        pocket_lm *lm = pocket_lm_open_memory(transducer, data, size, why);
        if (lm) listen(transducer, {.streams = 2, .beam = 3, .lm = lm, .lm_scale = 1});
        if (lm) pocket_lm_close(lm);
    }
    if (!model) return 0;
    if (!transducer && pocket_describe(model).head == std::string("transducer")) {
        kept.assign(data, data + size);
        transducer = pocket_open_memory(kept.data(), size, why);
    }
    const std::string kernels = pocket_kernels();
    for (size_t at = 0; at < kernels.size();) {
        size_t end = std::min(kernels.find(' ', at), kernels.size());
        std::string name = kernels.substr(at, end - at);
        at = end + 1;
        listen(model, {.streams = 2, .kernels = name.c_str()});
    }
    const int32_t hotwords[] = {2, 3, 0, 3, 0};
    listen(model, {.beam = 3, .hotwords = hotwords, .hotword_units = 5, .hotword_score = 1});
    pocket_close(model);
    return 0;
}

#if !defined(POCKET_LIBFUZZER)
int main(int count, char **argument) {
    std::mt19937 random(1);
    std::vector<std::string> seeds;
    for (int i = 2; i < count; ++i) {
        std::ifstream file(argument[i], std::ios::binary);
        seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    }
    for (const std::string &seed : seeds)
        LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t *>(seed.data()), seed.size());
    const char *pieces[] = {"0", "1", "-1", "65535", "4096", "16", "null", "[]", "{}", "true"};
    auto until = std::chrono::steady_clock::now() + std::chrono::seconds(std::atoi(argument[1]));
    constexpr long LEAST = 20;
    long tried = 0;
    // However busy the machine is.
    for (; tried < LEAST || std::chrono::steady_clock::now() < until; ++tried) {
        std::string data = seeds[random() % seeds.size()];
        uint64_t header = 0;
        for (int i = 7; i >= 0; --i) header = header << 8 | uint8_t(data[size_t(i)]);
        for (uint32_t change = 0, changes = 1 + random() % 3; change < changes; ++change) {
            size_t at = random() % (random() % 2 ? std::min<size_t>(header, data.size()) : data.size());
            if (at < 8) continue;
            switch (random() % 5) {
                case 0: data[at] = char(random()); break;
                case 1: data[at] ^= char(1 << random() % 8); break;
                case 2: data.resize(at); break;
                default: {  // another piece of JSON in a number's place; the header's length stays
                    size_t digit = data.find_first_of("0123456789", at);
                    if (digit >= 8 + header) break;
                    size_t end = data.find_first_not_of("0123456789", digit);
                    std::string piece = pieces[random() % std::size(pieces)];
                    if (end == std::string::npos || piece.size() > end - digit) break;
                    piece.resize(end - digit, ' ');
                    data.replace(digit, end - digit, piece);
                }
            }
            if (data.size() < 16) break;
        }
        LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t *>(data.data()), data.size());
    }
    std::printf("%ld files\n", tried);
    return 0;
}
#endif
