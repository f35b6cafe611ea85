#include "pieces.h"

#include <cstdint>
#include <cstring>
#include <string_view>

namespace pocket {
namespace {

// The pieces of a sentencepiece model: field 1 of a protobuf, whose own field 1 is the text.
class Pieces {
  public:
    static bool read(const std::string &base64, std::vector<std::string> &pieces) {
        std::string bytes;
        if (!decode(base64, bytes)) return false;
        Pieces whole{bytes.data(), bytes.data() + bytes.size()};
        while (whole.at_ != whole.end_) {
            uint64_t field;
            std::string_view content;
            if (!whole.next(field, content)) return false;
            if (field != 1) continue;
            Pieces piece{content.data(), content.data() + content.size()};
            pieces.emplace_back();
            while (piece.at_ != piece.end_) {
                if (!piece.next(field, content)) return false;
                if (field == 1) pieces.back() = content;
            }
        }
        return true;
    }

  private:
    Pieces(const char *at, const char *end) : at_(at), end_(end) {}

    static bool decode(const std::string &text, std::string &bytes) {
        uint32_t word = 0;
        int held = 0;
        for (char c : text) {
            if (c == '=') break;
            const char *letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
            const char *found = c ? std::strchr(letters, c) : nullptr;
            if (!found) return false;
            word = word << 6 | uint32_t(found - letters);
            if ((held += 6) >= 8) bytes += char(word >> (held -= 8) & 255);
        }
        return true;
    }

    // The next field's number, and its bytes where it has a length.
    bool next(uint64_t &field, std::string_view &content) {
        uint64_t tag, size = 0;
        if (!varint(tag)) return false;
        field = tag >> 3;
        content = {};
        switch (tag & 7) {
            case 0: return varint(size);
            case 1: size = 8; break;
            case 2: if (!varint(size)) return false; break;
            case 5: size = 4; break;
            default: return false;
        }
        if (size > uint64_t(end_ - at_)) return false;
        content = {at_, size_t(size)};
        at_ += size;
        return true;
    }

    bool varint(uint64_t &value) {
        value = 0;
        for (int shift = 0; shift < 64 && at_ != end_; shift += 7) {
            uint8_t byte = uint8_t(*at_++);
            value |= uint64_t(byte & 127) << shift;
            if (byte < 128) return true;
        }
        return false;
    }

    const char *at_, *end_;
};

}  // namespace

bool read_pieces(const std::string &base64, std::vector<std::string> &pieces) {
    return Pieces::read(base64, pieces);
}

}  // namespace pocket
