#include "hotwords.h"

#include <algorithm>

namespace pocket {

Hotwords::Hotwords(const int32_t *units, int count, float score) : nodes_(1) {
    for (int i = 0, node = 0; i < count; ++i) {
        if (!units[i]) {
            nodes_[size_t(node)].ends = true;
            node = 0;
        } else if (int next = child(node, units[i]); next >= 0) {
            node = next;
        } else {
            next = int(nodes_.size());
            auto &children = nodes_[size_t(node)].children;
            std::pair<int, int> made(units[i], next);
            children.insert(std::lower_bound(children.begin(), children.end(), made), made);
            nodes_.emplace_back();
            node = next;
        }
    }
    std::vector<int> waiting{0};
    for (size_t i = 0; i < waiting.size(); ++i) {  // breadth first: links lead nearer the root
        int parent = waiting[i];
        const Node &from = nodes_[size_t(parent)];
        for (auto [label, number] : from.children) {
            Node &node = nodes_[size_t(number)];
            node.link = parent ? after(from.link, label) : 0;
            float due = from.credit + score;
            node.credit = node.ends ? 0 : due;
            node.earned = nodes_[size_t(node.link)].earned + (node.ends ? due : 0);
            waiting.push_back(number);
        }
    }
}

int Hotwords::child(int node, int label) const {
    const auto &children = nodes_[size_t(node)].children;
    auto found = std::lower_bound(children.begin(), children.end(), std::pair(label, 0));
    return found != children.end() && found->first == label ? found->second : -1;
}

int Hotwords::after(int state, int label) const {
    for (;; state = nodes_[size_t(state)].link) {
        int found = child(state, label);
        if (found >= 0 || !state) return std::max(found, 0);
    }
}

void Hotwords::row(int state, int vocabulary, float *into) const {
    float credit = nodes_[size_t(state)].credit;
    std::fill(into, into + vocabulary, -credit);
    for (int node = state;; node = nodes_[size_t(node)].link) {
        for (auto [label, number] : nodes_[size_t(node)].children) {
            const Node &to = nodes_[size_t(after(state, label))];
            into[label] = to.credit + to.earned - credit;
        }
        if (!node) return;
    }
}

}  // namespace pocket
