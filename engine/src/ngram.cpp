#include "ngram.h"

#include <algorithm>
#include <utility>

#include "sha256.h"

namespace pocket {
namespace {

constexpr float step = 1.0f / 16, highest_backoff = 4;
constexpr int sentence = 0, first_label = 2;  // a sentence's start; blank and unknown are no text
constexpr size_t stride = 64;                 // nodes between those whose first child is kept

std::string digest(const std::vector<std::string> &units) {
    Sha256 hash;
    for (size_t i = 0; i < units.size(); ++i) hash.update((i ? "\n" : "") + units[i]);
    return hash.hex();
}

}  // namespace

bool Ngram::fits(const std::vector<std::string> &units) const {
    auto found = file.metadata.find("units");
    return found != file.metadata.end() && found->second == digest(units);
}

bool Ngram::build(const std::vector<std::string> &units, Why &why) {
    if (!fits(units))
        return why.refuse("learnt for a recogniser of other units; make one for this model");
    vocabulary_ = int(units.size());
    const char *wide = vocabulary_ <= 256 ? "|u1" : "<u2";
    auto array = [&](const char *name, const std::string &type) {
        auto found = file.arrays.find(name);
        bool good = found != file.arrays.end() && found->second.type == type &&
                    found->second.shape.size() == 1;
        return good ? &found->second : nullptr;
    };
    children_ = array("children", wide);
    labels_ = array("labels", wide);
    log_probs_ = array("log_probs", "|u1");
    backoffs_ = array("backoffs", "|u1");
    if (!children_ || !labels_ || !log_probs_ || !backoffs_ || file.arrays.size() != 4)
        return why.refuse("no readable language model: other arrays than it should have");
    return nodes(why) && levels(why);
}

// That the nodes are a trie: every number that `row` and `add` will go by.
bool Ngram::nodes(Why &why) {
    inner_ = size_t(children_->shape[0]);
    nodes_ = size_t(labels_->shape[0]) + 1;
    if (log_probs_->bytes != nodes_ - 1 || backoffs_->bytes != inner_)
        return why.refuse("no readable language model: its arrays differ in length");
    if (nodes_ > 1u << 31) return why.refuse("no readable language model: it is too large");
    size_t next = 1;
    for (size_t node = 0; node < inner_; ++node) {
        if (node % stride == 0) firsts_.push_back(uint32_t(next));
        size_t count = children(node);
        if (count > nodes_ - next)
            return why.refuse("no readable language model: its nodes do not add up");
        if (count && next <= node)
            return why.refuse("no readable language model: its nodes do not hang together");
        next += count;
    }
    if (inner_ > nodes_ || next != nodes_)
        return why.refuse("no readable language model: its nodes do not add up");
    if (!inner_) return why.refuse("no readable language model: it does not know every unit");
    for (size_t node = 0, from = 1; node < inner_; from += children(node++))
        if (!siblings(node, from, why)) return false;
    return true;
}

bool Ngram::siblings(size_t parent, size_t from, Why &why) const {
    size_t count = children(parent);
    if (!parent && count != size_t(vocabulary_ - 1))
        return why.refuse("no readable language model: it does not know every unit");
    for (size_t i = 0; i < count; ++i) {
        int own = label(from + i);
        if (!parent && own != (i ? int(i) + 1 : sentence))
            return why.refuse("no readable language model: it does not know every unit");
        if (parent && own < first_label)
            return why.refuse("no readable language model: it predicts what is no text");
        if (own >= vocabulary_ || (i && own <= label(from + i - 1)))
            return why.refuse("no readable language model: its nodes are out of order");
    }
    return true;
}

// That its order is small, and that it knows every context's shorter one.
bool Ngram::levels(Why &why) {
    int order = 0;
    for (size_t from = 1, end = first(1); from != end; ++order) {
        if (order == most_order)
            return why.refuse("no readable language model: its order is above %d", most_order);
        from = std::exchange(end, first(end));
    }
    std::vector<uint32_t> link(nodes_);  // each node's context without its first label
    for (size_t node = 1, own = first(1); node < inner_; ++node)
        for (size_t end = own + children(node); own != end; ++own) {
            link[own] = uint32_t(child(link[node], label(own)));
            if (!link[own]) return why.refuse("no readable language model: it lacks a shorter context");
        }
    return true;
}

size_t Ngram::first(size_t node) const {
    if (node >= inner_) return nodes_;
    size_t at = firsts_[node / stride];
    for (size_t i = node / stride * stride; i < node; ++i) at += number(*children_, i);
    return at;
}

size_t Ngram::child(size_t node, int wanted) const {
    size_t count = children(node), low = count ? first(node) : 0, end = low + count;
    for (size_t high = end; low < high;) {
        size_t middle = (low + high) / 2;
        if (label(middle) < wanted)
            low = middle + 1;
        else
            high = middle;
    }
    return low < end && label(low) == wanted ? low : 0;
}

size_t Ngram::find(const int32_t *labels, int count) const {
    size_t node = child(0, labels[0]);
    for (int i = 1; i < count && node; ++i) node = child(node, labels[i]);
    return node;
}

Ngram::Context Ngram::start() const {
    Context context{};
    add(context, sentence);
    return context;
}

void Ngram::add(Context &c, int label) const {
    auto shorten = [&] {
        std::copy(c.labels + 1, c.labels + c.count, c.labels);
        --c.count;
    };
    if (c.count == most_order - 1) shorten();
    c.labels[c.count++] = label;
    for (size_t node; c.count; shorten())
        if ((node = find(c.labels, c.count)) && children(node)) break;
}

void Ngram::row(const Context &c, float *into) const {
    for (int count = 0; count <= c.count; ++count) {
        size_t node = count ? find(c.labels + c.count - count, count) : 0;
        size_t from = first(node), several = children(node);
        if (count && several) {
            float backoff = highest_backoff - step * float(backoffs_->data[node]);
            for (int i = first_label; i < vocabulary_; ++i) into[i] += backoff;
        }
        for (size_t own = from; own != from + several; ++own)
            into[label(own)] = -step * float(log_probs_->data[own - 1]);
    }
}

}  // namespace pocket
