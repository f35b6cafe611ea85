// The C header's functions: arguments checked, nothing thrown, nothing kept beside what was made.
#include <algorithm>
#include <cstring>
#include <new>

#include "engine.h"

struct pocket_model {
    pocket::Model model;
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

pocket_model *built(pocket_model *made, Why &why) {
    if (!why.refused() && made->model.build(why)) return made;
    delete made;
    return nullptr;
}

Stream *opened(pocket_engine *engine, int stream) {
    auto &streams = engine->engine.streams;
    bool there = stream >= 0 && size_t(stream) < streams.size() && streams[size_t(stream)].open;
    return there ? &streams[size_t(stream)] : nullptr;
}

}  // namespace

pocket_model *pocket_open(const char *path, char *line) {
    Why why(line, POCKET_WHY);
    auto made = new (std::nothrow) pocket_model;
    if (!made) return why.refuse("no memory"), nullptr;
    made->model.file.map(path, why);
    return built(made, why);
}

pocket_model *pocket_open_memory(const void *data, size_t size, char *line) {
    Why why(line, POCKET_WHY);
    auto made = new (std::nothrow) pocket_model;
    if (!made) return why.refuse("no memory"), nullptr;
    made->model.file.read(data, size, why);
    return built(made, why);
}

void pocket_close(pocket_model *model) { delete model; }

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
    Why why(line, POCKET_WHY);
    pocket_options wanted = options ? *options : pocket_options{};
    const Model &m = model->model;
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
    if (beam > 1 && !m.transducer)
        return why.refuse("beam search needs a transducer; this model has a CTC head"), nullptr;
    auto made = new (std::nothrow) pocket_engine{Engine(m, *chosen, *chunk, streams, beam)};
    if (made && made->engine.allocate(streams)) return made;
    delete made;
    return why.refuse("no memory for %d streams", streams), nullptr;
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
