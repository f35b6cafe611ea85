// An n-gram language model over text units, read from its file as it lies: lm/ngram.py.
#pragma once

#include <cstdint>
#include <vector>

#include "file.h"

namespace pocket {

constexpr int most_order = 16;

constexpr Kind language_model{"pocketscribe-lm-1", "make it again with pocketscribe lm"};

class Ngram {
  public:
    // The longest end of a text that something is known after: the labels of a node with children.
    struct Context {
        int count;
        int32_t labels[most_order - 1];
    };

    // Reads `file`, which is mapped or in memory, for a recogniser of these units.
    bool build(const std::vector<std::string> &units, Why &why);
    // Whether it was learnt for them.
    bool fits(const std::vector<std::string> &units) const;

    Context start() const;
    void add(Context &context, int label) const;
    // Of each next label, but for blank and the unknown one: log-probability, not yet normalised.
    void row(const Context &context, float *into) const;

    File file;

  private:
    // Nodes are numbered as the file has them: 0 is the empty context.
    static size_t number(const Array &array, size_t i) {
        const uint8_t *at = array.data + i * size_t(array.width);
        return array.width == 1 ? at[0] : size_t(at[0] | at[1] << 8);
    }
    size_t children(size_t node) const { return node < inner_ ? number(*children_, node) : 0; }
    int label(size_t node) const { return int(number(*labels_, node - 1)); }
    size_t first(size_t node) const;              // its first child
    size_t child(size_t node, int label) const;   // 0: there is none
    size_t find(const int32_t *labels, int count) const;  // the node of a context, or 0
    bool nodes(Why &why);
    bool siblings(size_t parent, size_t from, Why &why) const;
    bool levels(Why &why);

    const Array *children_ = nullptr, *labels_ = nullptr, *log_probs_ = nullptr, *backoffs_ = nullptr;
    size_t inner_ = 0, nodes_ = 0;  // nodes that may have children; all
    int vocabulary_ = 0;
    std::vector<uint32_t> firsts_;  // the first child of every 64th node
};

}  // namespace pocket
