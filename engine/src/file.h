// A `.pocket` file, or a language model's: its arrays and its metadata, checked against its digest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "json.h"

namespace pocket {

// Why something was refused: the first reason stays. Code that goes on after it does no harm.
class Why {
  public:
    explicit Why(char *line, size_t size) : line_(line), size_(size) { line_[0] = 0; }
    // Of printf there are %s, of a name that a file may have made up its first %.80s, and %d.
    bool refuse(const char *format, ...) __attribute__((format(printf, 2, 3)));
    bool refused() const { return line_[0] != 0; }

  private:
    char *line_;
    size_t size_;
};

struct Array {
    int width = 1;           // bytes of a number
    const char *type = "";   // as NumPy writes it: |u1, <u2, <f2 or <f4
    std::vector<int64_t> shape;
    const uint8_t *data = nullptr;
    size_t bytes = 0;
};

// Which format is read, and what helps against another one.
struct Kind {
    const char *format, *remedy;
};

class File {
  public:
    ~File();
    File() = default;
    File(const File &) = delete;
    // Maps the file, read-only.
    bool map(const char *path, Kind kind, Why &why);
    // Checks everything that does not take knowledge of models.
    bool read(const void *data, size_t size, Kind kind, Why &why);

    std::map<std::string, Array> arrays;  // by name, which is the digest's order
    std::map<std::string, std::string> metadata;
    size_t size = 0;

  private:
    bool entry(const std::string &name, const Json &row, std::string_view data, Why &why);
    bool without_gaps(size_t size, Why &why) const;
    std::string digest() const;

#if !defined(__wasm__)
    void *mapped_ = nullptr;
#endif
};

}  // namespace pocket
