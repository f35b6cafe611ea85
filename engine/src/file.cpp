#include "file.h"

#include <algorithm>
#include <cstdarg>
#include <cstring>

#include "heap_sort.h"
#include "sha256.h"

#if !defined(__wasm__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace pocket {
namespace {

constexpr uint64_t largest_header = 4 << 20;  // bytes, as models/saved.py has it

// How a header and NumPy name a type, and the bytes of a number.
constexpr struct {
    const char *written, *type;
    int width;
} types[] = {{"U8", "|u1", 1}, {"U16", "<u2", 2}, {"F16", "<f2", 2}, {"F32", "<f4", 4}};

// Characters, not bytes: what Python calls a string's length.
size_t characters(const std::string &text) {
    return size_t(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

}  // namespace

// Not vsnprintf: it would be a fifth of a WebAssembly module.
bool Why::refuse(const char *format, ...) {
    if (refused()) return false;
    size_t at = 0;
    auto put = [&](char c) {
        if (at + 1 < size_) line_[at++] = c;
    };
    va_list values;
    va_start(values, format);
    for (const char *from = format; *from; ++from) {
        if (*from != '%') {
            put(*from);
            continue;
        }
        size_t most = size_;
        if (*++from == '.')
            for (most = 0, ++from; *from >= '0' && *from <= '9'; ++from)
                most = most * 10 + size_t(*from - '0');
        if (*from == 's') {
            const char *text = va_arg(values, const char *);
            for (size_t i = 0; i < most && text[i]; ++i) put(text[i] == '\n' ? ' ' : text[i]);
        } else {
            for (char c : std::to_string(va_arg(values, int))) put(c);
        }
    }
    va_end(values);
    line_[at] = 0;
    return false;
}

File::~File() {
#if !defined(__wasm__)
    if (mapped_) munmap(mapped_, size);
#endif
}

bool File::map(const char *path, [[maybe_unused]] Kind kind, Why &why) {
#if defined(__wasm__)
    return why.refuse("%s: no files here; open it from memory", path);
#else
    int file = open(path, O_RDONLY | O_CLOEXEC);
    struct stat about;
    if (file < 0 || fstat(file, &about) || !S_ISREG(about.st_mode) || !about.st_size) {
        if (file >= 0) close(file);
        return why.refuse("no readable model file there");
    }
    size = size_t(about.st_size);
    void *mapped = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (mapped == MAP_FAILED) return why.refuse("the file cannot be mapped into memory");
    mapped_ = mapped;
    return read(mapped, size, kind, why);
#endif
}

bool File::read(const void *start, size_t bytes, Kind kind, Why &why) {
    size = bytes;
    std::string_view all(static_cast<const char *>(start), bytes);
    uint64_t length = 0;
    if (bytes < 8) return why.refuse("not a model file: it is too short");
    for (int i = 7; i >= 0; --i) length = length << 8 | uint8_t(all[size_t(i)]);
    if (length > largest_header || length > bytes - 8)
        return why.refuse("not a whole model file: its header is too large");
    Json header;
    if (!parse(all.substr(8, length), header) || header.kind != Json::object)
        return why.refuse("not a model file: its header is damaged");
    for (const auto &[name, value] : header["__metadata__"].members) metadata[name] = value.text;
    if (metadata["format"] != kind.format)
        return why.refuse("format '%.40s'; this engine reads '%s': %s", metadata["format"].c_str(),
                          kind.format, kind.remedy);
    std::string_view data = all.substr(8 + length);
    for (const auto &[name, row] : header.members)
        if (name != "__metadata__" && !entry(name, row, data, why)) return false;
    if (!without_gaps(data.size(), why)) return false;
#if !defined(POCKET_FUZZ)  // which alters files beyond it
    if (metadata["digest"] != digest())
        return why.refuse("altered since it was written (digest); get or export it again");
#endif
    return true;
}

bool File::entry(const std::string &name, const Json &row, std::string_view data, Why &why) {
    Array array;
    for (const auto &[written, type, width] : types)
        if (row["dtype"].text == written) array.type = type, array.width = width;
    if (!*array.type) return why.refuse("%.80s: an unknown type", name.c_str());
    uint64_t count = uint64_t(array.width);
    for (const Json &side : row["shape"].items) {
        array.shape.push_back(side.whole(0, 1 << 30));
        count *= uint64_t(std::max<int64_t>(array.shape.back(), 0));
        if (array.shape.back() < 0 || count > data.size())
            return why.refuse("%.80s: a shape that the file cannot hold", name.c_str());
    }
    const auto &span = row["data_offsets"].items;
    int64_t most = int64_t(data.size());
    int64_t first = span.size() == 2 ? span[0].whole(0, most) : -1;
    int64_t end = span.size() == 2 ? span[1].whole(0, most) : -1;
    if (first < 0 || end < first || uint64_t(end - first) != count)
        return why.refuse("%.80s: lies outside of the file", name.c_str());
    array.data = reinterpret_cast<const uint8_t *>(data.data()) + first;
    array.bytes = count;
    arrays[name] = std::move(array);
    return true;
}

bool File::without_gaps(size_t bytes, Why &why) const {
    std::vector<const Array *> placed;
    for (const auto &[name, array] : arrays) placed.push_back(&array);
    heap_sort(placed, [](auto a, auto b) {
        return a->data != b->data ? a->data < b->data : a->bytes < b->bytes;
    });
    size_t sum = 0;
    for (size_t i = 0; i < placed.size(); ++i) {
        sum += placed[i]->bytes;
        if (i && placed[i - 1]->data + placed[i - 1]->bytes != placed[i]->data)
            return why.refuse("its arrays overlap, or leave gaps");
    }
    return sum == bytes || why.refuse("not a whole model file: arrays are cut off or left over");
}

std::string File::digest() const {
    Sha256 hash;
    for (const auto &[name, array] : arrays) {
        std::string line = name + " " + array.type + " (";
        for (size_t i = 0; i < array.shape.size(); ++i)
            line += (i ? ", " : "") + std::to_string(array.shape[i]);
        hash.update(line + (array.shape.size() == 1 ? ",)\n" : ")\n"));
        hash.update(array.data, array.bytes);
    }
    for (const auto &[key, value] : metadata)
        if (key != "digest")
            hash.update(key + " " + std::to_string(characters(value)) + "\n" + value + "\n");
    return hash.hex();
}

}  // namespace pocket
