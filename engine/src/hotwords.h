// Phrases that a beam prefers: an Aho-Corasick automaton over their units (decoding/hotwords.py).
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace pocket {

class Hotwords {
  public:
    // `units` are those of all phrases, a 0 after each; each unit of a phrase is worth `score`.
    Hotwords(const int32_t *units, int count, float score);

    int after(int state, int label) const;
    // What each next label is worth, but for blank and the unknown one.
    void row(int state, int vocabulary, float *into) const;
    // What was credited in advance, to be taken back where the text ends here.
    float owed(int state) const { return nodes_[size_t(state)].credit; }

  private:
    struct Node {
        std::vector<std::pair<int, int>> children;  // label, node; in order
        int link = 0;       // the longest proper end of its units that is a node too
        bool ends = false;  // a phrase
        float credit = 0;   // given since the last phrase that its units begin with
        float earned = 0;   // by the phrases that end here, less what one within them has earned
    };
    int child(int node, int label) const;  // -1: there is none

    std::vector<Node> nodes_;
};

}  // namespace pocket
