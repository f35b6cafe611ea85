// The little of JSON that headers hold: parsed whole, no deeper than they are, never trusted.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pocket {

struct Json {
    enum Kind { null, boolean, number, string, array, object };
    Kind kind = null;
    double value = 0;  // of a number, or 1 for true
    std::string text;
    std::vector<Json> items;
    std::vector<std::pair<std::string, Json>> members;

    // The member of that name, or a null.
    const Json &operator[](std::string_view name) const;
    // A whole number in [least, most], or `least - 1` where it is none.
    int64_t whole(int64_t least, int64_t most) const;
    bool is_true() const { return kind == boolean && value == 1; }
};

// False where `text` is not one JSON value, nests too deeply, or an object repeats a key.
bool parse(std::string_view text, Json &into);

}  // namespace pocket
