// Every kernel, to be compiled for one instruction set. Whoever includes this has defined
//
//     POCKET_ROWS                how many rows fit its registers as accumulators
//     POCKET_QUERIES             and how many queries of attention, with four vectors each
//     dots<R>(…)                 the product of a tile of codes by R rows of integers
//     expand_2of4(…)             4-bit codes of 2:4 in a tile's order
#include <algorithm>
#include <cmath>

namespace pocket {
namespace {

// ---- Tiles: a panel's numbers in the order of multiplication -----------------------------------

POCKET_INLINE B64 interleaved(B32 a, B32 b) {
    return __builtin_shufflevector(
        a, b, 0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8, 40, 9, 41, 10, 42, 11, 43,
        12, 44, 13, 45, 14, 46, 15, 47, 16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23,
        55, 24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63);
}

void expand_4(const uint8_t *from, int fours, uint8_t *tile) {
    for (int q = 0; q < fours; ++q, from += 32, tile += 64) {
        B32 pairs = load<B32>(from);
        store(tile, interleaved(pairs & 15, pairs >> 4));
    }
}

void expand_2(const uint8_t *from, int fours, uint8_t *tile) {
    for (int q = 0; q < fours; ++q, from += 16, tile += 64) {
        B16 x = load<B16>(from);
        B32 pairs = __builtin_shufflevector(x & 15, x >> 4, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5,
                                            21, 6, 22, 7, 23, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28,
                                            13, 29, 14, 30, 15, 31);
        store(tile, interleaved(pairs & 3, pairs >> 2));
    }
}

// The codes of a panel, [four][16][4]: in the file itself where they lie so, else in `scratch`.
const uint8_t *codes(const Tensor &t, int panel, uint8_t *scratch) {
    if (t.channels(panel) < lanes) return t.last.data();
    const uint8_t *from = t.panel(panel);
    bool whole = t.fan_in % 4 == 0;
    if (whole && !t.keep && t.bits == 8) return from;
    if (whole && !t.keep && t.bits == 4) {
        expand_4(from, t.fan_in / 4, scratch);
    } else if (whole && !t.keep && t.bits == 2) {
        expand_2(from, t.fan_in / 4, scratch);
    } else if (t.keep == 2 && t.group == 4 && t.bits == 4 && t.symmetric) {
        expand_2of4(from, from + size_t(t.value_bytes(lanes)), t.groups(), scratch);
    } else {
        t.codes(panel, scratch);
    }
    return scratch;
}

template <int J>
POCKET_INLINE F16 fourth(B64 four) {  // weight J of each channel
    B16 bytes = __builtin_shufflevector(four, four, J, J + 4, J + 8, J + 12, J + 16, J + 20, J + 24,
                                        J + 28, J + 32, J + 36, J + 40, J + 44, J + 48, J + 52,
                                        J + 56, J + 60);
    return floats(__builtin_convertvector(bytes, I16));
}

typedef uint16_t H64 __attribute__((vector_size(128)));

template <int J>
POCKET_INLINE F16 fourth(H64 four) {
    return wide(__builtin_shufflevector(four, four, J, J + 4, J + 8, J + 12, J + 16, J + 20, J + 24,
                                        J + 28, J + 32, J + 36, J + 40, J + 44, J + 48, J + 52,
                                        J + 56, J + 60));
}

// What is not dense and symmetric, weight by weight.
void sparse_floats(const Tensor &t, int panel, float *tile) {
    std::fill(tile, tile + size_t(t.fan_in) * lanes, 0.0f);
    for (int c = 0; c < t.channels(panel); ++c) {
        if (!t.keep)
            for (int i = 0; i < t.fan_in; ++i)
                tile[i * lanes + c] = t.weight(panel, c, i, t.value(panel, i, c));
        for (int g = 0; g < t.groups(); ++g) {
            const uint8_t *kept = t.places.data() + size_t(t.pattern(panel, g, c)) * t.keep;
            for (int k = 0; k < t.keep; ++k) {
                int i = g * t.group + kept[k];
                if (i < t.fan_in)
                    tile[i * lanes + c] =
                        t.weight(panel, c, i, t.value(panel, g * t.keep + k, c));
            }
        }
    }
}

// The weights of a panel as floats, [fan_in][16].
void floats_of(const Tensor &t, int panel, const Scratch &scratch) {
    float *tile = scratch.floats;
    bool full = t.channels(panel) == lanes;
    if (t.keep && (t.bits == 16 || !t.symmetric)) return sparse_floats(t, panel, tile);
    if (t.bits == 16) {
        if (!full || t.fan_in % 4) return sparse_floats(t, panel, tile);
        const uint8_t *from = t.panel(panel);
        for (int q = 0; q < t.fan_in / 4; ++q, from += 128, tile += 64) {
            H64 four = load<H64>(from);
            store(tile, fourth<0>(four));
            store(tile + 16, fourth<1>(four));
            store(tile + 32, fourth<2>(four));
            store(tile + 48, fourth<3>(four));
        }
        return;
    }
    const uint8_t *from = codes(t, panel, scratch.codes);
    const float *scale = t.scales(panel), *low = t.lows(panel);
    float zero = float(t.zero());
    for (int i = 0; i < t.fan_in; i += 4) {
        B64 four = load<B64>(from + i * lanes);
        F16 w[4] = {fourth<0>(four), fourth<1>(four), fourth<2>(four), fourth<3>(four)};
        for (int j = 0; j < 4 && i + j < t.fan_in; ++j) {
            int block = (i + j) / t.block * lanes;
            F16 value = (w[j] - zero) * load<F16>(scale + block);
            if (!t.symmetric) value = value + load<F16>(low + block);
            store(tile + (i + j) * lanes, value);
        }
    }
}

// ---- Products ----------------------------------------------------------------------------------

// What becomes of 16 finished outputs of a row.
POCKET_INLINE void finish(const Product &p, int row, int channel, F16 y) {
    if (p.scale) y = y * load<F16>(p.scale + channel);
    if (p.bias) y = y + load<F16>(p.bias + channel);
    float *into = p.y[row] + channel;
    if (p.by != 0) y = load<F16>(into) + y * p.by;
    store(into, y);
}

template <int R>
void integer_rows(const Product &p, const uint8_t *tile, int panel, int row) {
    const Tensor &t = *p.tensor;
    const Integers &x = *p.integers;
    const int8_t *q = x.data + size_t(row) * x.stride;
    const float *scale = t.scales(panel), *low = t.lows(panel);
    F16 y[R] = {};
    for (int b = 0; b < t.blocks(); ++b) {
        int first = b * t.block, width = std::min(t.block, t.fan_in - first);
        I16 acc[R];
        int32_t sums[R];
        for (int r = 0; r < R; ++r) {
            sums[r] = x.sum[row + r];
            if (t.blocks() > 1) {
                sums[r] = 0;
                for (int i = 0; i < width; ++i) sums[r] += q[size_t(r) * x.stride + first + i];
            }
            acc[r] = I16{} - t.zero() * sums[r];  // what the codes' offset will have added
        }
        dots<R>(tile + first * lanes, (width + 3) / 4, q + first, x.stride, acc, t.bits < 8);
        for (int r = 0; r < R; ++r) {
            y[r] = y[r] + floats(acc[r]) * load<F16>(scale + b * lanes);
            if (!t.symmetric) y[r] = y[r] + float(sums[r]) * load<F16>(low + b * lanes);
        }
    }
    for (int r = 0; r < R; ++r) finish(p, row + r, panel * lanes, y[r] * x.scale[row + r]);
}

template <int R>
void float_rows(const Product &p, const float *tile, int panel, int row) {
    F16 acc[R] = {};
    const float *x = p.x[row];
    size_t stride = size_t(p.x.stride);
    for (int i = 0; i < p.tensor->fan_in; ++i) {
        F16 w = load<F16>(tile + i * lanes);
        for (int r = 0; r < R; ++r) acc[r] = acc[r] + w * x[size_t(r) * stride + i];
    }
    for (int r = 0; r < R; ++r) finish(p, row + r, panel * lanes, acc[r]);
}

// W^T x: a panel's channels are sixteen inputs now, each of which adds to every output.
void transposed_rows(const Product &p, const Scratch &scratch) {
    const Tensor &t = *p.tensor;
    int width = padded(t.fan_in);
    // Sums gather behind the turned tile: what is added to must not see them one by one.
    float *turned = scratch.turned, *totals = turned + size_t(lanes) * width;
    std::fill(totals, totals + size_t(p.rows) * width, 0.0f);
    for (int panel = 0; panel < t.panel_count(); ++panel) {
        floats_of(t, panel, scratch);
        int channels = t.channels(panel);
        std::fill(turned, turned + size_t(lanes) * width, 0.0f);
        for (int i = 0; i < t.fan_in; ++i)
            for (int c = 0; c < channels; ++c)
                turned[c * width + i] = scratch.floats[i * lanes + c];
        for (int row = 0; row < p.rows; ++row) {
            const float *x = p.x[row] + panel * lanes;
            float *total = totals + size_t(row) * width;
            for (int i = 0; i < width; i += lanes) {
                F16 acc = load<F16>(total + i);
                for (int c = 0; c < channels; ++c)
                    acc = acc + load<F16>(turned + c * width + i) * x[c];
                store(total + i, acc);
            }
        }
    }
    for (int row = 0; row < p.rows; ++row)
        for (int i = 0; i < width; i += lanes)
            finish(p, row, i, load<F16>(totals + size_t(row) * width + i));
}

template <int R, typename F>
POCKET_INLINE void by_rows(int rows, F several) {
    int row = 0;
    for (; row + R <= rows; row += R) several.template operator()<R>(row);
    if constexpr (R > 1)
        if (row < rows)
            by_rows<R / 2>(rows - row,
                           [&]<int S>(int r) { several.template operator()<S>(row + r); });
}

void product(const Product &p, const Scratch &scratch) {
    const Tensor &t = *p.tensor;
    if (p.transposed) return transposed_rows(p, scratch);
    for (int panel = 0; panel < t.panel_count(); ++panel) {
        if (p.integers) {
            const uint8_t *tile = codes(t, panel, scratch.codes);
            by_rows<POCKET_ROWS>(p.rows, [&]<int R>(int row) { integer_rows<R>(p, tile, panel, row); });
        } else {
            floats_of(t, panel, scratch);
            by_rows<POCKET_ROWS>(p.rows, [&]<int R>(int row) {
                float_rows<R>(p, scratch.floats, panel, row);
            });
        }
    }
}

// ---- Rows --------------------------------------------------------------------------------------

void norm(Rows x, int rows, int width, const float *weight, const float *bias, Rows y) {
    for (int r = 0; r < rows; ++r) {
        const float *from = x[r];
        float *into = y[r];
        F16 total = {}, squares = {};
        for (int i = 0; i < width; i += lanes) total += load<F16>(from + i);
        float mean = sum(total) / float(width);
        for (int i = 0; i < width; i += lanes) {
            F16 d = load<F16>(from + i) - mean;
            if (i + lanes > width) d = only(width - i, d);
            squares = squares + d * d;
        }
        float scale = 1.0f / std::sqrt(sum(squares) / float(width) + 1e-5f);
        for (int i = 0; i < width; i += lanes)
            store(into + i, (load<F16>(from + i) - mean) * scale * load<F16>(weight + i) +
                                load<F16>(bias + i));
    }
}

void round_rows(Rows x, int rows, int width, const Integers &into) {
    typedef int8_t S16 __attribute__((vector_size(16)));
    for (int r = 0; r < rows; ++r) {
        const float *from = x[r];
        int8_t *q = into.data + size_t(r) * into.stride;
        F16 most = {};
        for (int i = 0; i < width; i += lanes) most = larger(magnitude(load<F16>(from + i)), most);
        float scale = largest_of(most) / 127.0f;
        if (!(scale >= 0x1p-126f)) scale = 0x1p-126f;
        I16 total = {};
        float inverse = 1.0f / scale;
        for (int i = 0; i < width; i += lanes) {
            S16 small = __builtin_convertvector(rounded_ints(load<F16>(from + i) * inverse), S16);
            total += __builtin_convertvector(small, I16);
            store(q + i, small);
        }
        std::memset(q + padded(width), 0, size_t(into.stride - padded(width)));
        into.scale[r] = scale;
        into.sum[r] = 0;
        for (int i = 0; i < lanes; ++i) into.sum[r] += total[i];
    }
}

void widen(const Integers &x, int rows, int width, Rows into) {
    for (int r = 0; r < rows; ++r)
        for (int i = 0; i < padded(width); ++i)
            into[r][i] = float(x.data[size_t(r) * x.stride + i]) * x.scale[r];
}

void silu(Rows x, int rows, int width) {
    for (int r = 0; r < rows; ++r)
        for (int i = 0; i < width; i += lanes) {
            F16 v = load<F16>(x[r] + i);
            store(x[r] + i, v / (1.0f + exponential(-v)));
        }
}

void gate(Rows value, Rows gates, int rows, int width, Rows into) {
    for (int r = 0; r < rows; ++r)
        for (int i = 0; i < width; i += lanes)
            store(into[r] + i, load<F16>(value[r] + i) * sigmoid(load<F16>(gates[r] + i)));
}

void tanh_sum(const float *a, const float *b, int width, float *into) {
    for (int i = 0; i < width; i += lanes)
        store(into + i, hyperbolic_tangent(load<F16>(a + i) + load<F16>(b + i)));
}

void depthwise(Rows x, int rows, int width, const float *kernel, int taps, const float *bias,
               Rows y) {
    int stride = padded(width);
    for (int i = 0; i < width; i += lanes)
        for (int t = 0; t < rows; ++t) {
            F16 acc = load<F16>(bias + i);
            for (int k = 0; k < taps; ++k)
                acc = acc + load<F16>(kernel + k * stride + i) * load<F16>(x[t + k] + i);
            store(y[t] + i, acc);
        }
}

int largest(const float *row, int width, float *log_probability) {
    int best = 0;
    for (int i = 1; i < width; ++i)
        if (row[i] > row[best]) best = i;
    if (log_probability) {
        F16 total = {};
        for (int i = 0; i < width; i += lanes) {
            F16 e = exponential(load<F16>(row + i) - row[best]);
            total = total + only(width - i, e);
        }
        *log_probability = -logarithm(all(sum(total)))[0];
    }
    return best;
}

// ---- Attention ---------------------------------------------------------------------------------

void turn(const float *x, const float *cos, const float *sin, int half, float *into) {
    for (int e = 0; e < half; ++e) {
        into[e] = x[e] * cos[e] - x[e + half] * sin[e];
        into[e + half] = x[e + half] * cos[e] + x[e] * sin[e];
    }
}

// Scores of Q queries, `apart` numbers from each other, against V x 16 slots from `at` on.
template <int Q, int V, typename N>
POCKET_INLINE void scores(const Attention &a, const N *keys, const float *query, int apart,
                          int at, F16 (*into)[4]) {
    F16 acc[Q][V] = {};
    for (int e = 0; e < a.head_width; ++e) {
        F16 key[V];
        for (int v = 0; v < V; ++v)
            key[v] = wide(keys + size_t(e) * a.key_stride + at + v * lanes);
        for (int q = 0; q < Q; ++q)
            for (int v = 0; v < V; ++v) acc[q][v] = acc[q][v] + key[v] * query[q * apart + e];
    }
    for (int q = 0; q < Q; ++q)
        for (int v = 0; v < V; ++v) into[q][v] = acc[q][v];
}

// Values of V x 16 channels from each `offset` on, weighed for Q queries.
template <int Q, int V, typename N>
POCKET_INLINE void weighed(const Attention &a, int head, const int *offset, const float *weight,
                           const float *by, int query) {
    const N *values = static_cast<const N *>(a.values) + head * a.head_width;
    F16 acc[Q][V] = {};
    for (int s = 0; s < a.valid; ++s)
        for (int v = 0; v < V; ++v) {
            F16 value = wide(values + size_t(s) * a.value_stride + offset[v]);
            for (int q = 0; q < Q; ++q)
                acc[q][v] = acc[q][v] + value * weight[size_t(q) * a.key_stride + s];
        }
    for (int q = 0; q < Q; ++q)
        for (int v = 0; v < V; ++v) {
            F16 y = acc[q][v] * by[q];
            float *into = a.out[query + q] + head * a.head_width + offset[v];
            std::memcpy(into, &y, size_t(std::min(lanes, a.head_width - offset[v])) * 4);
        }
}

// A ring of slots: what lies behind the chunk's own ones is older by a turn of the ring, so a query
// is rotated twice, once for either part; keys are rotated once, by their slots.
template <int Q, typename N>
void attend_rows(const Attention &a, int head, int query) {
    int half = a.head_width / 2, end = a.first + a.queries, vectors = padded(a.valid) / lanes;
    int apart = 2 * a.head_width;
    float *near = a.work, *far = near + a.head_width, *weight = near + Q * apart;
    const N *keys = static_cast<const N *>(a.keys) + size_t(head) * a.head_width * a.key_stride;
    F16 most[Q];
    for (int q = 0; q < Q; ++q) {
        const float *own = a.query[query + q] + head * a.head_width;
        size_t at = size_t(a.first + query + q) * half, older = at + size_t(a.slots) * half;
        turn(own, a.cos + at, a.sin + at, half, near + q * apart);
        turn(own, a.cos + older, a.sin + older, half, far + q * apart);
        most[q] = all(-3e38f);
    }
    for (int v = 0; v < vectors;) {
        int s = v * lanes, count = 1;
        F16 found[Q][4], other[Q][4];
        const float *one = s >= end ? far : near;
        if (s < end && s + lanes > end) {  // some of both
            scores<Q, 1>(a, keys, near, apart, s, found);
            scores<Q, 1>(a, keys, far, apart, s, other);
            for (int q = 0; q < Q; ++q)
                found[q][0] = choose(first_lanes(end - s), found[q][0], other[q][0]);
        } else if (v + 4 <= vectors && (s >= end || s + 4 * lanes <= end)) {
            scores<Q, 4>(a, keys, one, apart, s, found);
            count = 4;
        } else {
            scores<Q, 1>(a, keys, one, apart, s, found);
        }
        for (int k = 0; k < count; ++k, ++v)
            for (int q = 0; q < Q; ++q) {
                F16 seen = choose(first_lanes(a.valid - v * lanes), found[q][k], all(-3e38f));
                most[q] = larger(seen, most[q]);
                store(weight + size_t(q) * a.key_stride + v * lanes, seen);
            }
    }
    float by[Q];
    for (int q = 0; q < Q; ++q) {
        float top = largest_of(most[q]), *own = weight + size_t(q) * a.key_stride;
        F16 total = {};
        for (int v = 0; v < vectors; ++v) {
            F16 e = exponential(load<F16>(own + v * lanes) - top);
            total = total + e;
            store(own + v * lanes, e);
        }
        by[q] = 1.0f / sum(total);
    }
    // The last vector reaches back over the one before it rather than beyond the head.
    int count = padded(a.head_width) / lanes;
    for (int v = 0; v < count;) {
        int offset[3], several = count - v >= 3 ? 3 : 1;
        for (int k = 0; k < several; ++k)
            offset[k] = std::max(0, std::min((v + k) * lanes, a.head_width - lanes));
        if (several == 3)
            weighed<Q, 3, N>(a, head, offset, weight, by, query);
        else
            weighed<Q, 1, N>(a, head, offset, weight, by, query);
        v += several;
    }
}

void attend(const Attention &a) {
    for (int h = 0; h < a.heads; ++h)
        by_rows<POCKET_QUERIES>(a.queries, [&]<int Q>(int query) {
            if (a.float16)
                attend_rows<Q, uint16_t>(a, h, query);
            else
                attend_rows<Q, float>(a, h, query);
        });
}

// ---- State spaces ------------------------------------------------------------------------------

void scan(const Scan &a) {
    for (int i = 0; i < a.width; i += lanes) {
        F16 skip = load<F16>(a.skip + i);
        for (int t = 0; t < a.rows; ++t) store(a.y[t] + i, load<F16>(a.u[t] + i) * skip);
        for (int n = 0; n < a.modes; ++n) {
            size_t at = size_t(n) * a.stride + i;
            F16 real = load<F16>(a.real + at), imaginary = load<F16>(a.imaginary + at);
            F16 read = load<F16>(a.read_real + at), turned = load<F16>(a.read_imaginary + at);
            float *own = a.state + 2 * size_t(n) * a.stride + i;
            F16 x = load<F16>(own), y = load<F16>(own + a.stride);
            for (int t = 0; t < a.rows; ++t) {
                F16 next = real * x - imaginary * y + load<F16>(a.u[t] + i);
                y = real * y + imaginary * x;
                x = next;
                store(a.y[t] + i, load<F16>(a.y[t] + i) + (read * x - turned * y));
            }
            store(own, x);
            store(own + a.stride, y);
        }
    }
}

// ---- Features ----------------------------------------------------------------------------------

// Kaldi's: mean removed, pre-emphasis, Povey's window, power spectrum, triangles over mel, log.
// Sixteen frames at a time, one a lane.
void features(const FeatureTables &t, const float *samples, int frames, float *work, Rows into) {
    constexpr int window = 400, hop = 160, half = 256;
    float *x = work, *re = x + window * lanes, *im = re + half * lanes, *power = im + half * lanes;
    for (int f = 0; f < lanes; ++f)
        for (int i = 0; i < window; ++i)
            x[i * lanes + f] = f < frames ? samples[f * hop + i] : 0.0f;
    F16 mean = {};
    for (int i = 0; i < window; ++i) mean = mean + load<F16>(x + i * lanes);
    mean = mean / float(window);
    F16 before = load<F16>(x) - mean;
    for (int i = 0; i < window; ++i) {
        F16 now = load<F16>(x + i * lanes) - mean;
        store(x + i * lanes, (now - before * 0.97f) * t.window[i]);
        before = now;
    }
    // 512 real numbers as 256 complex ones, in bit-reversed order.
    for (int n = 0; n < half; ++n) {
        int from = 2 * t.reversed[n];
        F16 nothing = {};
        store(re + n * lanes, from < window ? load<F16>(x + from * lanes) : nothing);
        store(im + n * lanes, from + 1 < window ? load<F16>(x + (from + 1) * lanes) : nothing);
    }
    for (int size = 1; size < half; size *= 2)
        for (int k = 0; k < size; ++k) {
            float c = t.fft_cos[k * half / size], s = t.fft_sin[k * half / size];
            for (int n = k; n < half; n += 2 * size) {
                float *ar = re + n * lanes, *ai = im + n * lanes;
                float *br = ar + size * lanes, *bi = ai + size * lanes;
                F16 xr = load<F16>(br), xi = load<F16>(bi);
                F16 yr = xr * c + xi * s, yi = xi * c - xr * s;  // times e^(-i angle)
                F16 zr = load<F16>(ar), zi = load<F16>(ai);
                store(ar, zr + yr);
                store(ai, zi + yi);
                store(br, zr - yr);
                store(bi, zi - yi);
            }
        }
    for (int k = 0; k < half; ++k) {
        int mirror = (half - k) % half;
        F16 ar = load<F16>(re + k * lanes), ai = load<F16>(im + k * lanes);
        F16 br = load<F16>(re + mirror * lanes), bi = load<F16>(im + mirror * lanes);
        F16 even_r = (ar + br) * 0.5f, even_i = (ai - bi) * 0.5f;
        F16 odd_r = (ai + bi) * 0.5f, odd_i = (br - ar) * 0.5f;
        float c = t.fft_cos[k], s = t.fft_sin[k];
        F16 r = even_r + odd_r * c + odd_i * s, i = even_i + odd_i * c - odd_r * s;
        store(power + k * lanes, r * r + i * i);
    }
    const float *weight = t.weights;
    for (int m = 0; m < t.mels; ++m) {
        F16 energy = {};
        for (int k = t.first[m], end = k + t.count[m]; k < end; ++k)
            energy = energy + load<F16>(power + k * lanes) * *weight++;
        F16 level = logarithm(larger(energy, all(0x1p-23f)));
        for (int f = 0; f < frames; ++f) into[f][m] = level[f];
    }
}

constexpr Kernels table(const char *name) {
    return {name, norm, round_rows, widen, product, silu, gate, tanh_sum, depthwise, attend, scan,
            largest, features};
}

}  // namespace
}  // namespace pocket
