// A recogniser as its file's plan writes it out: every map with the tensors that it reads.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "file.h"
#include "tensor.h"

namespace pocket {

// A linear map: y = scale * (W x) + bias, with W one tensor, or two multiplied by in turn, either
// read transposed. Also a table (rows are looked up) or a kernel (channels by taps).
struct Map {
    int out = 0, fan_in = 0;
    const Tensor *weight = nullptr, *factor = nullptr;
    bool transposed = false;
    std::vector<float> scale, bias;  // padded with zeros; empty where there is none
};

struct Norm {
    std::vector<float> weight, bias;  // padded with zeros
};

struct Chunk {
    int size, left;  // encoder frames
};

// For each mode and channel, padded: λ, by which a mode goes on, and 2 C (λ - 1)/A, by which it is
// read; for each channel how much of the input goes through.
struct StateSpace {
    std::vector<float> real, imaginary, read_real, read_imaginary, skip;
};

// ½ feed-forward, a mixer of frames (attention, or state spaces), convolution, ½ feed-forward, norm.
struct Block {
    struct FeedForward {
        Norm norm;
        Map up, down;
    } ffn1, ffn2;
    Norm mixer_norm, convolution_norm, inner_norm, norm;
    Map query, key, value, out;  // of attention
    StateSpace space;
    Map gate;  // of state spaces, which have `value` and `out` too
    Map conv_value, conv_gate, conv_out;
    std::vector<float> depthwise, depthwise_bias;  // [tap][width], padded
};

constexpr Kind packed{"pocketscribe-packed-2", "export the model --to packed"};

struct Model {
    File file;
    int vocabulary = 0, mels = 0, low = 0, high = 0, tail = 0;
    int width = 0, layers = 0, heads = 0, head_width = 0, kernel = 0;
    int modes = 0;  // of state spaces; 0 where attention mixes frames
    int inner = 0;  // the widest inside of a feed-forward
    int channels = 0;                                             // between the subsampling's two
    int predicted = 0, joined = 0;                                // widths; 0 with a CTC head
    bool transducer = true;
    std::vector<Chunk> chunks;
    std::vector<int32_t> chunk_sizes;
    std::vector<std::string> units;

    std::vector<float> mean, inverse_std;  // padded
    Map conv1, conv2;
    Norm subsampled;
    std::vector<Block> blocks;
    Map ctc;
    Map embedding, join_encoder, join_predictor, join_out;
    std::vector<float> mix;  // [tap][predicted], padded

    int mixed() const { return heads * head_width; }  // width of what a mixer mixes
    int head() const { return transducer ? joined : vocabulary; }  // width of what a search takes

    // Fills everything from `file`, which has been read.
    bool build(Why &why);

    std::map<std::string, Tensor> tensors;
    size_t unpacked = 0;
};

}  // namespace pocket
