// Constrained decoding: masks and forced tokens over a small vocabulary, against every token tried byte by byte.

#include "serve/grammar.h"
#include "check.h"

namespace drivlm::test {
namespace {

std::shared_ptr<const Vocabulary> vocabulary(const std::vector<std::string>& tokens) {
  std::vector<uint8_t> bytes;
  std::vector<uint32_t> offsets = {0};
  for (const std::string& token : tokens) {
    bytes.insert(bytes.end(), token.begin(), token.end());
    offsets.push_back(static_cast<uint32_t>(bytes.size()));
  }
  return std::make_shared<const Vocabulary>(bytes, offsets);
}

// An automaton of one path a word, as a trie.
std::shared_ptr<const Automaton> words(const std::vector<std::string>& list) {
  auto automaton = std::make_shared<Automaton>();
  const auto add = [&] {
    automaton->transitions.insert(automaton->transitions.end(), 256, -1);
    automaton->accepting.push_back(0);
    return static_cast<int32_t>(automaton->accepting.size() - 1);
  };
  add();
  for (const std::string& word : list) {
    int32_t state = 0;
    for (unsigned char byte : word) {
      int32_t next = automaton->transitions[state * 256 + byte];
      if (next < 0) {
        next = add();
        automaton->transitions[state * 256 + byte] = next;
      }
      state = next;
    }
    automaton->accepting[state] = 1;
  }
  return automaton;
}

bool is_allowed(const uint32_t* mask, int32_t id) { return (mask[id / 32] >> (id % 32)) & 1; }

const std::vector<std::string> kTokens = {"",   "y", "ye", "yes",  "n",   "no", "o",
                                          "es", "s", "x",  "yesx", "not", "t",  "<end>"};
constexpr int32_t kEnd = 13;

TEST(grammar_allows_what_leads_on_and_the_end_where_it_accepts) {
  Constraint constraint(words({"yes", "no", "not"}), vocabulary(kTokens));
  const uint32_t* mask = constraint.allowed({kEnd}, static_cast<int64_t>(kTokens.size()));
  for (int32_t id : {1, 2, 3, 4, 5, 11}) CHECK(is_allowed(mask, id));
  for (int32_t id : {0, 6, 7, 8, 9, 10, 12, kEnd}) CHECK(!is_allowed(mask, id));
  CHECK(constraint.advance(5));
  CHECK(!constraint.finished());
  mask = constraint.allowed({kEnd}, static_cast<int64_t>(kTokens.size()));
  CHECK(is_allowed(mask, kEnd));
  CHECK(is_allowed(mask, 12));
  CHECK(!is_allowed(mask, 6));
  CHECK(constraint.advance(12));
  CHECK(constraint.finished());
}

TEST(grammar_refuses_a_token_that_leaves_it) {
  Constraint constraint(words({"yes"}), vocabulary(kTokens));
  CHECK(!constraint.advance(10));
  Constraint other(words({"yes"}), vocabulary(kTokens));
  CHECK(!other.advance(9));
}

TEST(grammar_forces_bytes_that_must_come) {
  Constraint constraint(words({"yesyesno"}), vocabulary(kTokens));
  std::string text;
  for (int round = 0; round < 20 && !constraint.finished(); ++round) {
    for (int32_t id : constraint.forced()) {
      text += kTokens[id];
      CHECK(constraint.advance(id));
    }
    if (constraint.finished()) break;
    const uint32_t* mask = constraint.allowed({kEnd}, static_cast<int64_t>(kTokens.size()));
    int32_t id = static_cast<int32_t>(kTokens.size()) - 1;
    while (id >= 0 && !is_allowed(mask, id)) --id;
    CHECK(id >= 0);
    if (id < 0) break;
    text += kTokens[id];
    CHECK(constraint.advance(id));
  }
  CHECK_EQ(text, std::string("yesyesno"));
}

TEST(grammar_refuses_automata_that_lead_nowhere) {
  Automaton none;
  CHECK_ERROR(Code::bad_argument, check_automaton(none));
  Automaton outside{std::vector<int32_t>(256, 1), {1}};
  CHECK_ERROR(Code::bad_argument, check_automaton(outside));
  Automaton never{std::vector<int32_t>(256, -1), {0}};
  CHECK_ERROR(Code::bad_argument, check_automaton(never));
  CHECK_ERROR(Code::bad_argument, Vocabulary({1, 2}, {0, 3}));
  CHECK_ERROR(Code::bad_argument, Vocabulary({1, 2}, {0, 2, 1}));
}

// Masks against the definition: a token is allowed when its bytes, one by one, stay inside.
TEST(grammar_masks_are_what_byte_by_byte_gives) {
  Random random(3);
  const auto word = [&](int most) {
    std::string text;
    for (int n = 1 + static_cast<int>(random() % most); n > 0; --n) text += static_cast<char>('a' + random() % 3);
    return text;
  };
  for (int round = 0; round < 60; ++round) {
    std::vector<std::string> tokens, list;
    for (int i = 0; i < 40; ++i) tokens.push_back(word(4));
    for (int i = 0; i < 6; ++i) list.push_back(word(7));
    const auto automaton = words(list);
    Constraint constraint(automaton, vocabulary(tokens));
    int32_t state = 0;
    for (int step = 0; step < 8; ++step) {
      const uint32_t* mask = constraint.allowed({}, static_cast<int64_t>(tokens.size()));
      std::vector<std::pair<int32_t, int32_t>> open;
      for (int32_t id = 0; id < static_cast<int32_t>(tokens.size()); ++id) {
        int32_t at = state;
        for (unsigned char byte : tokens[id]) at = at < 0 ? at : automaton->transitions[at * 256 + byte];
        CHECK_EQ(is_allowed(mask, id), at >= 0);
        if (at >= 0) open.push_back({id, at});
      }
      if (open.empty()) break;
      const auto [id, next] = open[random() % open.size()];
      CHECK(constraint.advance(id));
      state = next;
    }
  }
}

}  // namespace
}  // namespace drivlm::test
