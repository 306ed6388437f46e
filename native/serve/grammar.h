// Constrained decoding: which tokens keep an answer inside a byte automaton, whatever the vocabulary's pieces look like.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "serve/engine.h"

namespace drivlm {

// The bytes of every token, as a trie.
class Vocabulary {
 public:
  // offsets [tokens + 1] into bytes; throws BAD_ARGUMENT unless they are in order and in range.
  Vocabulary(std::vector<uint8_t> bytes, std::vector<uint32_t> offsets);

  int64_t size() const { return static_cast<int64_t>(offsets_.size()) - 1; }
  const uint8_t* bytes(int32_t token) const { return bytes_.data() + offsets_[token]; }
  int64_t length(int32_t token) const { return offsets_[token + 1] - offsets_[token]; }

  struct Node {
    std::vector<std::pair<uint8_t, int32_t>> children;  // byte -> node
    std::vector<int32_t> tokens;                        // that end here
  };
  const std::vector<Node>& nodes() const { return nodes_; }

 private:
  std::vector<uint8_t> bytes_;
  std::vector<uint32_t> offsets_;
  std::vector<Node> nodes_;
};

// Throws BAD_ARGUMENT unless every transition leads to a state and some state accepts.
void check_automaton(const Automaton& automaton);

// Where one answer stands in its automaton.
class Constraint {
 public:
  Constraint(std::shared_ptr<const Automaton> automaton, std::shared_ptr<const Vocabulary> vocabulary);

  // Bit set [ceil(vocab / 32)] of the tokens that may come next; `stop_ids` only in an accepting state.
  const uint32_t* allowed(const std::vector<int32_t>& stop_ids, int64_t vocab);

  // The answer is complete and cannot go on.
  bool finished() const;

  // Moves on by one token; false if it leaves the automaton.
  bool advance(int32_t token);

  // Tokens of the bytes that must come next: longest pieces first, the last piece left open because a longer token may cover
  // it together with what follows. Does not move.
  std::vector<int32_t> forced() const;

 private:
  int32_t next(int32_t state, uint8_t byte) const { return automaton_->transitions[state * 256 + byte]; }
  void walk(int32_t node, int32_t state, std::vector<uint32_t>& mask) const;

  std::shared_ptr<const Automaton> automaton_;
  std::shared_ptr<const Vocabulary> vocabulary_;
  std::unordered_map<int32_t, std::vector<uint32_t>> masks_;  // by state
  int32_t state_ = 0;
};

}  // namespace drivlm
