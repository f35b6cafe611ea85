/* hear MODEL.pocket SAMPLES.f32 [KERNELS]: what is said in raw 32-bit floats at 16 kHz.
 *
 * All of a program that listens; on an Arm board read the samples from its microphone instead. */
#include <stdio.h>
#include <stdlib.h>

#include "../include/pocket.h"

static void print_new(const pocket_model *model, pocket_engine *engine, int stream) {
    pocket_result said;
    pocket_take(engine, stream, &said);
    for (int i = 0; i < said.count; ++i) {
        const unsigned char *text = (const unsigned char *)pocket_unit(model, said.tokens[i].unit);
        for (; *text; ++text) {
            if (text[0] == 0xE2 && text[1] == 0x96 && text[2] == 0x81) { /* U+2581: a new word */
                putchar(' ');
                text += 2;
            } else {
                putchar(*text);
            }
        }
    }
    fflush(stdout);
}

int main(int count, char **argument) {
    char why[POCKET_WHY];
    if (count < 3) return fprintf(stderr, "hear MODEL.pocket SAMPLES.f32 [KERNELS]\n"), 2;
    pocket_model *model = pocket_open(argument[1], why);
    if (!model) return fprintf(stderr, "%s: %s\n", argument[1], why), 2;
    pocket_options options = {.kernels = count > 3 ? argument[3] : NULL};
    pocket_engine *engine = pocket_engine_new(model, &options, why);
    if (!engine) return fprintf(stderr, "%s\n", why), 2;
    FILE *file = fopen(argument[2], "rb");
    if (!file) return fprintf(stderr, "%s: no such file\n", argument[2]), 2;

    int stream = pocket_stream_new(engine);
    float samples[1600];
    for (size_t read; (read = fread(samples, sizeof *samples, 1600, file)) > 0;)
        for (size_t taken = 0; taken < read;) {
            int accepted = pocket_accept(engine, stream, samples + taken, (int)(read - taken));
            if (accepted < 0) return fprintf(stderr, "the samples are no numbers\n"), 2;
            taken += (size_t)accepted;
            while (pocket_step(engine) > 0) print_new(model, engine, stream);
        }
    pocket_finish(engine, stream);
    while (pocket_step(engine) > 0) print_new(model, engine, stream);
    pocket_stats stats = pocket_engine_stats(engine);
    printf("\n");
    fprintf(stderr, "%s %016llx\n", stats.kernels, (unsigned long long)stats.hash);
    fclose(file);
    pocket_engine_free(engine);
    pocket_close(model);
    return 0;
}
