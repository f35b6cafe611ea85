// The C header's functions: arguments checked, nothing thrown, nothing kept beside what was made.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "engine.h"

#ifdef __wasm__
// What the C++ library calls where a promise to it is broken, before it traps: its own brings printf
// along, a tenth of the module.
#include <__verbose_abort>
_LIBCPP_BEGIN_NAMESPACE_STD
[[noreturn]] void __libcpp_verbose_abort(const char *, ...) noexcept { __builtin_trap(); }
_LIBCPP_END_NAMESPACE_STD
#endif

struct pocket_model {
    pocket::Model model;
};

struct pocket_lm {
    pocket::Ngram ngram;
};

struct pocket_engine {
    pocket::Engine engine;
};

namespace {

using namespace pocket;

const Kernels *kernels(const char *name) {
    const Kernels *const *one = kernels_here();
    while (*one && name && std::strcmp(name, (*one)->name)) ++one;
    return *one;
}

// What `make` gives. All that it may throw is that memory has run out (in browsers, whose modules are
// built without exceptions, that traps); streams, once made, allocate nothing.
template <typename Make>
auto made_by(char *line, Make make) {
    Why why(line, POCKET_WHY);
#if defined(__cpp_exceptions)
    try {
        return make(why).release();
    } catch (...) {
        why.refuse("no memory");
        return decltype(make(why).release())();
    }
#else
    return make(why).release();
#endif
}

std::unique_ptr<pocket_model> built(auto &&read, Why &why) {
    auto made = std::make_unique<pocket_model>();
    read(made->model.file);
    if (why.refused() || !made->model.build(why)) made.reset();
    return made;
}

#if !defined(POCKET_GREEDY)
std::unique_ptr<pocket_lm> fitted(auto &&read, const Model &model, Why &why) {
    auto made = std::make_unique<pocket_lm>();
    read(made->ngram.file);
    if (why.refused() || !made->ngram.build(model.units, why)) made.reset();
    return made;
}

// Whether every number of the options is one, and fits the model.
bool guides(const pocket_options &wanted, const Model &m, Why &why) {
    bool finite = std::isfinite(wanted.lm_scale) && std::isfinite(wanted.label_bonus) &&
                  std::isfinite(wanted.hotword_score);
    if (!finite) return why.refuse("lm_scale, label_bonus or hotword_score is no number");
    if (wanted.lm && !wanted.lm->ngram.fits(m.units))
        return why.refuse("the language model is for a recogniser of other units");
    if (wanted.hotword_units > 0 && !wanted.hotwords)
        return why.refuse("hotword_units = %d, and hotwords is NULL", int(wanted.hotword_units));
    for (int i = 0; i < wanted.hotword_units; ++i) {
        int unit = wanted.hotwords[i];
        if (unit && (unit <= unknown || unit >= m.vocabulary))
            return why.refuse("hotwords: %d is no unit of this model", unit);
        if (unit && i + 1 == wanted.hotword_units)
            return why.refuse("hotwords: the last phrase has no 0 after it");
    }
    return true;
}
#endif

std::unique_ptr<pocket_engine> made_as(const pocket_options &wanted, const Model &m, Why &why) {
    const Chunk *chunk = nullptr;
    for (const Chunk &one : m.chunks)
        if (!chunk && (!wanted.chunk || wanted.chunk == one.size)) chunk = &one;
    const Kernels *chosen = kernels(wanted.kernels);
    int streams = wanted.streams ? wanted.streams : 1;
    if (!chunk) return why.refuse("no chunks of %d frames in this model", int(wanted.chunk)), nullptr;
    if (!chosen) return why.refuse("no kernels '%.40s' here", wanted.kernels), nullptr;
    if (streams < 1 || streams > 1 << 16)
        return why.refuse("streams = %d: give 1 to 65536", streams), nullptr;
    int beam = std::max(1, int(wanted.beam));
    if (wanted.beam < 0 || beam > most_hypotheses)
        return why.refuse("beam = %d: give 1 to %d", int(wanted.beam), most_hypotheses), nullptr;
    if (beam > 1 && !beams) return why.refuse("built to search greedily: beam = 1"), nullptr;
    if (beam == 1 && (wanted.lm || wanted.hotword_units > 0))
        return why.refuse("beam = 1: what guides a search needs a beam; give 16"), nullptr;
    if (beam > 1 && !m.transducer)
        return why.refuse("beam search needs a transducer; this model has a CTC head"), nullptr;
    Search search{beam, nullptr, wanted.lm_scale, wanted.label_bonus,
                  wanted.hotwords, std::max(0, int(wanted.hotword_units)), wanted.hotword_score};
#if !defined(POCKET_GREEDY)
    if (!guides(wanted, m, why)) return nullptr;
    if (wanted.lm) search.lm = &wanted.lm->ngram;
#endif
    std::unique_ptr<pocket_engine> made(
        new pocket_engine{Engine(m, *chosen, *chunk, streams, search, wanted.float16 != 0)});
    if (made->engine.allocate(streams)) return made;
    return why.refuse("no memory for %d streams", streams), nullptr;
}

Stream *opened(pocket_engine *engine, int stream) {
    auto &streams = engine->engine.streams;
    bool there = stream >= 0 && size_t(stream) < streams.size() && streams[size_t(stream)].open;
    return there ? &streams[size_t(stream)] : nullptr;
}

}  // namespace

pocket_model *pocket_open(const char *path, char *line) {
    return made_by(line, [&](Why &why) {
        return built([&](File &file) { file.map(path, packed, why); }, why);
    });
}

pocket_model *pocket_open_memory(const void *data, size_t size, char *line) {
    return made_by(line, [&](Why &why) {
        return built([&](File &file) { file.read(data, size, packed, why); }, why);
    });
}

void pocket_close(pocket_model *model) { delete model; }

#if !defined(POCKET_GREEDY)
pocket_lm *pocket_lm_open(const pocket_model *model, const char *path, char *line) {
    return made_by(line, [&](Why &why) {
        return fitted([&](File &file) { file.map(path, language_model, why); }, model->model, why);
    });
}

pocket_lm *pocket_lm_open_memory(const pocket_model *model, const void *data, size_t size,
                                 char *line) {
    return made_by(line, [&](Why &why) {
        return fitted([&](File &file) { file.read(data, size, language_model, why); }, model->model,
                      why);
    });
}

void pocket_lm_close(pocket_lm *lm) { delete lm; }
#endif

pocket_info pocket_describe(const pocket_model *model) {
    const Model &m = model->model;
    auto text = [&](const char *key) {
        auto found = m.file.metadata.find(key);
        return found == m.file.metadata.end() ? "" : found->second.c_str();
    };
    return {m.vocabulary, 16000, 40, int32_t(m.chunks.size()), m.chunk_sizes.data(),
            m.transducer ? "transducer" : "ctc", text("card"), text("units")};
}

const char *pocket_unit(const pocket_model *model, int32_t unit) {
    const auto &units = model->model.units;
    return unit >= 0 && size_t(unit) < units.size() ? units[size_t(unit)].c_str() : nullptr;
}

pocket_engine *pocket_engine_new(const pocket_model *model, const pocket_options *options,
                                 char *line) {
    pocket_options wanted = options ? *options : pocket_options{};
    return made_by(line, [&](Why &why) { return made_as(wanted, model->model, why); });
}

void pocket_engine_free(pocket_engine *engine) { delete engine; }

int pocket_stream_new(pocket_engine *engine) { return engine->engine.open_stream(); }

int pocket_stream_reset(pocket_engine *engine, int stream) {
    Stream *found = opened(engine, stream);
    if (!found) return POCKET_NO_STREAM;
    engine->engine.reset(*found);
    return POCKET_OK;
}

int pocket_stream_free(pocket_engine *engine, int stream) {
    Stream *found = opened(engine, stream);
    if (!found) return POCKET_NO_STREAM;
    found->open = false;
    return POCKET_OK;
}

int pocket_accept(pocket_engine *engine, int stream, const float *samples, int count) {
    Stream *found = opened(engine, stream);
    if (!found) return POCKET_NO_STREAM;
    if (found->finished) return POCKET_FINISHED;
    return engine->engine.accept(*found, samples, count);
}

int pocket_finish(pocket_engine *engine, int stream) {
    Stream *found = opened(engine, stream);
    if (!found) return POCKET_NO_STREAM;
    if (found->finished) return POCKET_FINISHED;
    engine->engine.finish(*found);
    return POCKET_OK;
}

int pocket_step(pocket_engine *engine) { return engine->engine.step(); }

int pocket_take(pocket_engine *engine, int stream, pocket_result *result) {
    Stream *found = opened(engine, stream);
    if (!found) return POCKET_NO_STREAM;
    engine->engine.forget(*found);
    found->taken = true;
    *result = {found->tokens, found->count, found->frames, found->silence,
               engine->engine.done(*found), found->settled};
    return POCKET_OK;
}

pocket_stats pocket_engine_stats(const pocket_engine *engine) { return engine->engine.stats(); }

const char *pocket_kernels(void) {
    static const std::string names = [] {
        std::string found;
        for (auto one = kernels_here(); *one; ++one)
            found += (found.empty() ? "" : " ") + std::string((*one)->name);
        return found;
    }();
    return names.c_str();
}
