// The text of a recogniser's units, out of the sentencepiece model that a file brings.
#pragma once

#include <string>
#include <vector>

namespace pocket {

/// The pieces of a sentencepiece model in base64, in their order; false where it is damaged.
bool read_pieces(const std::string &base64, std::vector<std::string> &pieces);

}  // namespace pocket
