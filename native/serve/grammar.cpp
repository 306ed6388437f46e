#include "serve/grammar.h"

#include <algorithm>

namespace drivlm {

Vocabulary::Vocabulary(std::vector<uint8_t> bytes, std::vector<uint32_t> offsets)
    : bytes_(std::move(bytes)), offsets_(std::move(offsets)), nodes_(1) {
  if (offsets_.size() < 2 || offsets_.front() != 0 || offsets_.back() != bytes_.size() ||
      !std::is_sorted(offsets_.begin(), offsets_.end())) {
    throw Error(Code::bad_argument, "vocabulary: offsets must rise from 0 to the number of bytes.");
  }
  for (int32_t token = 0; token < size(); ++token) {
    if (length(token) == 0) continue;
    int32_t node = 0;
    for (int64_t i = 0; i < length(token); ++i) {
      const uint8_t byte = this->bytes(token)[i];
      auto& children = nodes_[node].children;
      const auto found =
          std::find_if(children.begin(), children.end(), [&](const auto& child) { return child.first == byte; });
      if (found != children.end()) {
        node = found->second;
      } else {
        const int32_t fresh = static_cast<int32_t>(nodes_.size());
        children.emplace_back(byte, fresh);  // `children` is in nodes_, which emplace_back moves
        nodes_.emplace_back();
        node = fresh;
      }
    }
    nodes_[node].tokens.push_back(token);
  }
}

void check_automaton(const Automaton& automaton) {
  const int64_t states = static_cast<int64_t>(automaton.accepting.size());
  if (states < 1 || static_cast<int64_t>(automaton.transitions.size()) != states * 256) {
    throw Error(Code::bad_argument, "automaton: expected 256 transitions for each of at least one state.");
  }
  for (int32_t to : automaton.transitions) {
    if (to < -1 || to >= states) throw Error(Code::bad_argument, "automaton: a transition leads to no state.");
  }
  if (std::none_of(automaton.accepting.begin(), automaton.accepting.end(), [](uint8_t a) { return a != 0; })) {
    throw Error(Code::bad_argument, "automaton: no state accepts.");
  }
}

Constraint::Constraint(std::shared_ptr<const Automaton> automaton, std::shared_ptr<const Vocabulary> vocabulary)
    : automaton_(std::move(automaton)), vocabulary_(std::move(vocabulary)) {}

void Constraint::walk(int32_t node, int32_t state, std::vector<uint32_t>& mask) const {
  for (int32_t token : vocabulary_->nodes()[node].tokens) mask[token / 32] |= uint32_t{1} << (token % 32);
  for (const auto& [byte, child] : vocabulary_->nodes()[node].children) {
    const int32_t to = next(state, byte);
    if (to >= 0) walk(child, to, mask);
  }
}

const uint32_t* Constraint::allowed(const std::vector<int32_t>& stop_ids, int64_t vocab) {
  auto [found, fresh] = masks_.try_emplace(state_);
  if (fresh) {
    found->second.resize((std::max(vocab, vocabulary_->size()) + 31) / 32);
    walk(0, state_, found->second);
    for (int32_t id : stop_ids) {
      const uint32_t bit = uint32_t{1} << (id % 32);
      found->second[id / 32] =
          automaton_->accepting[state_] ? found->second[id / 32] | bit : found->second[id / 32] & ~bit;
    }
  }
  return found->second.data();
}

bool Constraint::finished() const {
  if (!automaton_->accepting[state_]) return false;
  const int32_t* row = automaton_->transitions.data() + state_ * 256;
  return std::all_of(row, row + 256, [](int32_t to) { return to < 0; });
}

bool Constraint::advance(int32_t token) {
  if (token < 0 || token >= vocabulary_->size() || vocabulary_->length(token) == 0) return false;
  int32_t state = state_;
  for (int64_t i = 0; i < vocabulary_->length(token); ++i) {
    state = next(state, vocabulary_->bytes(token)[i]);
    if (state < 0) return false;
  }
  state_ = state;
  return true;
}

std::vector<int32_t> Constraint::forced() const {
  constexpr size_t kMost = 512;  // an automaton may have a cycle
  std::vector<uint8_t> path;
  int32_t state = state_;
  bool ends = false;
  while (path.size() < kMost && !automaton_->accepting[state]) {
    int32_t only = -1, count = 0;
    for (int byte = 0; byte < 256; ++byte) {
      if (next(state, byte) >= 0) {
        only = byte;
        ++count;
      }
    }
    if (count != 1) break;
    path.push_back(static_cast<uint8_t>(only));
    state = next(state, only);
  }
  // After a complete answer nothing can follow: its last piece is certain too.
  if (automaton_->accepting[state]) {
    const int32_t* row = automaton_->transitions.data() + state * 256;
    ends = std::all_of(row, row + 256, [](int32_t to) { return to < 0; });
  }

  std::vector<int32_t> tokens;
  for (size_t start = 0; start < path.size();) {
    int32_t node = 0, best = -1;
    size_t best_end = start;
    bool open = false;  // the path ended inside the trie: a longer piece may exist
    for (size_t i = start;; ++i) {
      if (i == path.size()) {
        open = !ends && !vocabulary_->nodes()[node].children.empty();
        break;
      }
      const auto& children = vocabulary_->nodes()[node].children;
      const auto found =
          std::find_if(children.begin(), children.end(), [&](const auto& child) { return child.first == path[i]; });
      if (found == children.end()) break;
      node = found->second;
      if (!vocabulary_->nodes()[node].tokens.empty()) {
        best = vocabulary_->nodes()[node].tokens.front();
        best_end = i + 1;
      }
    }
    if (best < 0 || open) break;
    tokens.push_back(best);
    start = best_end;
  }
  return tokens;
}

}  // namespace drivlm
