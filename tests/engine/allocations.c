/* allocations MODEL.pocket SAMPLES.f32 BEAM: how often anything is allocated while streams are
 * opened, fed, stepped, taken, finished, reset and freed, once the engine exists. */
#include <stdio.h>
#include <stdlib.h>

#include "pocket.h"

/* These stand in for the C library's, for the engine too: a program's own come first. */
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
static long allocations;
void *malloc(size_t n) { return ++allocations, __libc_malloc(n); }
void *calloc(size_t n, size_t of) { return ++allocations, __libc_calloc(n, of); }
void *realloc(void *old, size_t n) { return ++allocations, __libc_realloc(old, n); }
void *aligned_alloc(size_t to, size_t n) { return ++allocations, __libc_memalign(to, n); }
int posix_memalign(void **made, size_t to, size_t n) {
    return ++allocations, (*made = __libc_memalign(to, n)) == NULL;
}

enum { STREAMS = 3, MOST = 1 << 20 };
static float samples[MOST];

/* Steps until no stream has a chunk left; the labels that were said. */
static long hear(pocket_engine *engine, const int streams[STREAMS]) {
    long said = 0;
    while (pocket_step(engine) > 0)
        for (int i = 0; i < STREAMS; ++i) {
            pocket_result result;
            pocket_take(engine, streams[i], &result);
            said += result.settled;
        }
    return said;
}

int main(int count, char **argument) {
    char why[POCKET_WHY];
    FILE *file = count > 3 ? fopen(argument[2], "rb") : NULL;
    if (!file) return fprintf(stderr, "allocations MODEL.pocket SAMPLES.f32 BEAM\n"), 2;
    size_t heard = fread(samples, sizeof *samples, MOST, file);
    fclose(file);
    pocket_model *model = pocket_open(argument[1], why);
    if (!model) return fprintf(stderr, "%s\n", why), 2;
    pocket_options options = {.streams = STREAMS, .beam = atoi(argument[3])};
    pocket_engine *engine = pocket_engine_new(model, &options, why);
    if (!engine) return fprintf(stderr, "%s\n", why), 2;

    long before = allocations, said = 0;
    for (int round = 0; round < 2; ++round) {
        int streams[STREAMS];
        for (int i = 0; i < STREAMS; ++i) streams[i] = pocket_stream_new(engine);
        pocket_stream_reset(engine, streams[0]);
        for (size_t at = 0; at < heard;) {
            int n = heard - at < 1600 ? (int)(heard - at) : 1600, taken = 0;
            for (int i = 0; i < STREAMS; ++i)
                taken = pocket_accept(engine, streams[i], samples + at, n);
            if (taken < 0) return fprintf(stderr, "refused\n"), 2;
            at += (size_t)taken;
            said += hear(engine, streams);
        }
        for (int i = 0; i < STREAMS; ++i) pocket_finish(engine, streams[i]);
        said += hear(engine, streams);
        for (int i = 0; i < STREAMS; ++i) pocket_stream_free(engine, streams[i]);
    }
    long after = allocations;
    printf("%ld before, %ld while streaming, %ld labels\n", before, after - before, said);
    return 0;
}
