/* Pocketscribe's engine: streaming speech recognition straight from a `.pocket` file.
 *
 *     char why[POCKET_WHY];
 *     pocket_model *model = pocket_open("model.pocket", why);
 *     pocket_engine *engine = pocket_engine_new(model, NULL, why);
 *     int stream = pocket_stream_new(engine);
 *     while (more audio) {
 *         taken = pocket_accept(engine, stream, samples, count);   // until all are taken
 *         while (pocket_step(engine) > 0) {}
 *         pocket_take(engine, stream, &result);                    // what was said since
 *     }
 *
 * A model is a read-only mapping of its file: any number of engines, on any threads, share one. An
 * engine belongs to one thread at a time, has no locks and allocates nothing once it exists. N cores
 * are N engines. Streams are numbers within their engine; all that are ready go through the network
 * together, and what each hears does not depend on the others, nor on the processor, to the bit.
 *
 * Functions that give a pointer give NULL where they fail, and the reason in `why` (one line, always
 * NUL-terminated); those that give an int give a negative POCKET_… code. Nothing exits or throws, not
 * where memory runs out either (but in browsers, where that traps).
 */
#ifndef POCKET_H
#define POCKET_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define POCKET_API __declspec(dllexport)
#else
#define POCKET_API __attribute__((visibility("default")))
#endif

#define POCKET_WHY 256 /* bytes of a reason, with its ending zero */

enum {
    POCKET_OK = 0,
    POCKET_NO_STREAM = -1,  /* no such stream, or no free one */
    POCKET_FINISHED = -2,   /* the stream's audio has ended; only a reset goes on from there */
    POCKET_NOT_FINITE = -3, /* a sample is no number; none was taken */
};

typedef struct pocket_model pocket_model;
typedef struct pocket_lm pocket_lm;
typedef struct pocket_engine pocket_engine;

/* What a model is. Strings belong to the model. */
typedef struct {
    int32_t vocabulary;         /* units that it writes; 0 is blank, 1 unknown: neither is emitted */
    int32_t sample_rate;        /* 16000 */
    int32_t frame_milliseconds; /* of an encoder frame: 40 */
    int32_t chunks;             /* how many chunk sizes it was trained for */
    const int32_t *chunk_sizes; /* in encoder frames; the first is the model's own choice */
    const char *head;           /* "transducer" or "ctc" */
    const char *card;           /* JSON: what it was trained on, and how well it does */
    const char *units;          /* base64 of a sentencepiece model */
} pocket_info;

/* How an engine is to be; zeros are the defaults. (What guides a beam is worth nothing at a scale or
 * score of 0.) */
typedef struct {
    int32_t chunk;        /* encoder frames heard at once, one of chunk_sizes; 0: the first */
    int32_t streams;      /* the most at a time; 0: 1 */
    const char *kernels;  /* one of pocket_kernels(); NULL: the best that runs here */
    int32_t beam;         /* hypotheses that a transducer's stream keeps, up to 64; 0, 1: greedy */
    const pocket_lm *lm;  /* that a beam follows; NULL: none */
    float lm_scale;       /* what its log-probabilities are multiplied by, such as 0.4 */
    float label_bonus;    /* with it, added for each label, such as 0.4: it would rather have few */
    const int32_t *hotwords; /* units of phrases that a beam prefers, a 0 after each; copied */
    int32_t hotword_units;   /* how many numbers that is, zeros counted; 0: none */
    float hotword_score;     /* what each unit of such a phrase is worth, in nats, such as 1.5 */
    int32_t float16;         /* 1: streams remember frames in float16, in little more than half the
                              * memory, and are no longer equal to float32 to the last bits */
} pocket_options;

/* A label that was emitted. */
typedef struct {
    int32_t unit;
    int32_t frame; /* encoder frame of the utterance, from 0 */
    float score;   /* natural log of its probability there */
} pocket_token;

/* What a stream has said since the last time, and where it stands. Greedy search takes nothing back:
 * all tokens are settled. A beam's best hypothesis may still change behind what all its hypotheses
 * agree in: the tokens from `settled` on are a guess, and the next result gives them again, perhaps
 * otherwise. So the text is all settled tokens of all results, and the guess of the last one. */
typedef struct {
    const pocket_token *tokens; /* valid until the engine's next call */
    int32_t count;
    int32_t frames;   /* encoder frames decoded so far */
    int32_t silence;  /* of these, frames since the last label: an endpoint is a matter of these two */
    int32_t finished; /* 1 once all audio of a finished stream is decoded; then all is settled */
    int32_t settled;  /* tokens, from the first on, that are final and will not be given again */
} pocket_result;

/* What an engine costs and has done. */
typedef struct {
    const char *kernels;    /* which ones it runs */
    size_t model_bytes;     /* of the file, mapped */
    size_t unpacked_bytes;  /* norms, biases and scales in float32, shared by all engines of a model */
    size_t engine_bytes;    /* working memory that does not grow with the streams */
    size_t stream_bytes;    /* of each stream */
    uint64_t hash;          /* of every encoder output since the engine was made: for tests */
} pocket_stats;

/* Opens a file, or one that lies in memory and stays there. The digest, every size and every number
 * are checked before anything is used, once: until it is closed nobody may write into it. (To put a
 * new file in its place, rename.) */
POCKET_API pocket_model *pocket_open(const char *path, char why[POCKET_WHY]);
POCKET_API pocket_model *pocket_open_memory(const void *data, size_t size, char why[POCKET_WHY]);
POCKET_API void pocket_close(pocket_model *model); /* after all its engines */

POCKET_API pocket_info pocket_describe(const pocket_model *model);
/* A unit's text, UTF-8; U+2581 in it starts a word. NULL: there is no such unit. */
POCKET_API const char *pocket_unit(const pocket_model *model, int32_t unit);

/* A language model's file (`pocketscribe lm`), mapped, for recognisers of the units that `model` has;
 * checked as a model is, and shared as one. */
POCKET_API pocket_lm *pocket_lm_open(const pocket_model *model, const char *path,
                                     char why[POCKET_WHY]);
POCKET_API pocket_lm *pocket_lm_open_memory(const pocket_model *model, const void *data, size_t size,
                                            char why[POCKET_WHY]);
POCKET_API void pocket_lm_close(pocket_lm *lm); /* after all engines that follow it */

/* `options` may be NULL. */
POCKET_API pocket_engine *pocket_engine_new(const pocket_model *model,
                                            const pocket_options *options, char why[POCKET_WHY]);
POCKET_API void pocket_engine_free(pocket_engine *engine);

/* A free stream, reset. */
POCKET_API int pocket_stream_new(pocket_engine *engine);
POCKET_API int pocket_stream_reset(pocket_engine *engine, int stream);
POCKET_API int pocket_stream_free(pocket_engine *engine, int stream);

/* Takes samples in [-1, 1] at 16 kHz; returns how many, which is fewer where the stream's buffer is
 * full: then call pocket_step, and again with the rest. */
POCKET_API int pocket_accept(pocket_engine *engine, int stream, const float *samples, int count);
/* No more audio comes. What is left, completed with silence, is decoded by pocket_step. */
POCKET_API int pocket_finish(pocket_engine *engine, int stream);
/* Decodes one chunk of every stream that has one; returns how many had. A stream waits where a
 * chunk more could bring labels that it has no room for: pocket_take makes room. */
POCKET_API int pocket_step(pocket_engine *engine);
POCKET_API int pocket_take(pocket_engine *engine, int stream, pocket_result *result);

POCKET_API pocket_stats pocket_engine_stats(const pocket_engine *engine);
/* Names of the kernels that run here, best first, separated by spaces. */
POCKET_API const char *pocket_kernels(void);

#ifdef __cplusplus
}
#endif
#endif
