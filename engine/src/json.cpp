#include "json.h"

#include <algorithm>
#include <cmath>

#include "heap_sort.h"

namespace pocket {
namespace {

constexpr int deepest = 16;

class Parser {
  public:
    explicit Parser(std::string_view text) : at_(text.data()), end_(text.data() + text.size()) {}

    bool whole(Json &into) {
        if (!value(into, 0)) return false;
        space();
        return at_ == end_;
    }

  private:
    bool value(Json &into, int depth) {
        space();
        if (at_ == end_ || depth > deepest) return false;
        switch (*at_) {
            case '{': return object(into, depth);
            case '[': return array(into, depth);
            case '"': into.kind = Json::string; return string(into.text);
            case 't': into.kind = Json::boolean; into.value = 1; return word("true");
            case 'f': into.kind = Json::boolean; return word("false");
            case 'n': return word("null");
            default: return number(into);
        }
    }

    bool object(Json &into, int depth) {
        into.kind = Json::object;
        ++at_;
        if (next('}')) return true;
        do {
            space();
            into.members.emplace_back();
            auto &[name, member] = into.members.back();
            if (at_ == end_ || *at_ != '"' || !string(name) || !next(':')) return false;
            if (!value(member, depth + 1)) return false;
        } while (next(','));
        if (!next('}')) return false;
        heap_sort(into.members, [](const auto &a, const auto &b) { return a.first < b.first; });
        return std::adjacent_find(into.members.begin(), into.members.end(),
                                  [](const auto &a, const auto &b) {
                                      return a.first == b.first;
                                  }) == into.members.end();
    }

    bool array(Json &into, int depth) {
        into.kind = Json::array;
        ++at_;
        if (next(']')) return true;
        do {
            into.items.emplace_back();
            if (!value(into.items.back(), depth + 1)) return false;
        } while (next(','));
        return next(']');
    }

    bool string(std::string &into) {
        for (++at_; at_ != end_ && *at_ != '"'; ++at_) {
            if (*at_ != '\\') {
                into += *at_;
                continue;
            }
            if (++at_ == end_) return false;
            switch (*at_) {
                case 'n': into += '\n'; break;
                case 't': into += '\t'; break;
                case 'r': into += '\r'; break;
                case 'b': into += '\b'; break;
                case 'f': into += '\f'; break;
                case '"': case '\\': case '/': into += *at_; break;
                case 'u': if (!escaped(into)) return false; break;
                default: return false;
            }
        }
        if (at_ == end_) return false;
        ++at_;
        return true;
    }

    // After \u: a code point, which may be a pair of surrogates. Leaves at_ on its last character.
    bool escaped(std::string &into) {
        uint32_t code, low;
        if (!four(code)) return false;
        if (code >= 0xD800 && code < 0xDC00) {
            if (end_ - at_ < 3 || at_[1] != '\\' || at_[2] != 'u') return false;
            at_ += 2;
            if (!four(low) || low < 0xDC00 || low >= 0xE000) return false;
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        }
        if (code < 0x80) {
            into += char(code);
        } else if (code < 0x800) {
            into += {char(0xC0 | code >> 6), char(0x80 | (code & 63))};
        } else if (code < 0x10000) {
            into += {char(0xE0 | code >> 12), char(0x80 | (code >> 6 & 63)),
                     char(0x80 | (code & 63))};
        } else {
            into += {char(0xF0 | code >> 18), char(0x80 | (code >> 12 & 63)),
                     char(0x80 | (code >> 6 & 63)), char(0x80 | (code & 63))};
        }
        return true;
    }

    bool four(uint32_t &code) {
        code = 0;
        if (end_ - at_ < 5) return false;
        for (int i = 0; i < 4; ++i) {
            char c = *++at_;
            int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
            if (digit < 0) return false;
            code = code << 4 | uint32_t(digit);
        }
        return true;
    }

    // Whole numbers below 2^53 as they are; of others only that they are none.
    bool number(Json &into) {
        into.kind = Json::number;
        const char *start = at_;
        bool negative = *at_ == '-';
        if (negative) ++at_;
        for (; at_ != end_ && *at_ >= '0' && *at_ <= '9'; ++at_)
            into.value = into.value * 10 + (*at_ - '0');
        if (negative) into.value = -into.value;
        bool whole = at_ - start < 16;
        while (at_ != end_ && std::string_view("+-.eE0123456789").find(*at_) != std::string_view::npos) {
            whole = false;
            ++at_;
        }
        if (!whole) into.value = 0.5;
        return at_ != start;
    }

    bool word(std::string_view wanted) {
        if (std::string_view(at_, size_t(end_ - at_)).substr(0, wanted.size()) != wanted)
            return false;
        at_ += wanted.size();
        return true;
    }

    bool next(char wanted) {
        space();
        if (at_ == end_ || *at_ != wanted) return false;
        ++at_;
        return true;
    }

    void space() {
        while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\t' || *at_ == '\r')) ++at_;
    }

    const char *at_, *end_;
};

}  // namespace

const Json &Json::operator[](std::string_view name) const {
    static const Json nothing;
    auto found = std::lower_bound(members.begin(), members.end(), name,
                                  [](const auto &member, auto key) { return member.first < key; });
    return found != members.end() && found->first == name ? found->second : nothing;
}

int64_t Json::whole(int64_t least, int64_t most) const {
    bool fits = kind == number && value >= double(least) && value <= double(most) &&
                value == std::floor(value);
    return fits ? int64_t(value) : least - 1;
}

bool parse(std::string_view text, Json &into) { return Parser(text).whole(into); }

}  // namespace pocket
