// The engine's scheduling over the CPU device: who goes next, who gets pages, what is given back, what becomes of requests that are left.
#include <cmath>
#include <deque>

#include "check.h"
#include "serve/grammar.h"
#include "tiny_engine.h"

namespace drivlm::test {
namespace {

// One after the other, short questions by `askers` who ask again as soon as they are answered.
class Feed {
 public:
  Feed(Engine& engine, int64_t scene, int64_t askers) : engine_(engine), scene_(scene), asked_(askers) {
    for (auto& one : asked_) one = ask(engine_, scene_, 4);
  }
  void step() {
    engine_.step();
    for (auto& one : asked_) {
      if (!one->ended()) continue;
      CHECK(one->done);
      ++answered;
      one = ask(engine_, scene_, 4);
    }
  }
  int64_t answered = 0;

 private:
  Engine& engine_;
  int64_t scene_;
  std::vector<std::shared_ptr<Outcome<GenerateResult>>> asked_;
};

TEST(a_scene_is_seen_while_short_questions_go_on) {
  const auto engine = tiny_engine(8192, 16);
  const auto first = see(*engine, 2, 1);
  steps_until(*engine, *first);
  Feed feed(*engine, first->result.scene, 64);
  for (int i = 0; i < 20; ++i) feed.step();
  constexpr int64_t kTiles = 8;
  const auto second = see(*engine, kTiles, 2);
  // The units of a scene: start, a pass of the tower for at least one tile each, the prefill; four of others before each of them.
  const int64_t most = 5 * (1 + kTiles + 2);
  int64_t steps = 0;
  for (; steps < most && !second->ended(); ++steps) feed.step();
  CHECK(second->done);
  CHECK(feed.answered > 0);
}

TEST(choices_are_scored_while_short_questions_go_on) {
  const auto engine = tiny_engine(8192, 16);
  const auto first = see(*engine, 2, 1);
  steps_until(*engine, *first);
  Feed feed(*engine, first->result.scene, 64);
  for (int i = 0; i < 20; ++i) feed.step();
  const auto choices = score(*engine, first->result.scene, {{3, 4}, {5, 6, 7}});
  const auto second = see(*engine, 2, 2);  // and both at the same time
  int64_t steps = 0;
  for (; steps < 80 && !(choices->ended() && second->ended()); ++steps) feed.step();
  CHECK(choices->done);
  CHECK(second->done);
}

TEST(questions_go_on_while_scenes_are_seen_without_end) {
  const auto engine = tiny_engine(8192, 16);
  const auto first = see(*engine, 2, 1);
  steps_until(*engine, *first);
  std::deque<std::shared_ptr<Outcome<SceneResult>>> seen;
  for (unsigned i = 0; i < 6; ++i) seen.push_back(see(*engine, 4, i + 2));
  const auto question = ask(*engine, first->result.scene, 4);
  CHECK(steps_until(*engine, *question) <= 12);
  CHECK(question->done);
  CHECK(!seen.back()->ended());
}

TEST(freed_pages_go_to_a_scene_that_waits_before_younger_questions) {
  // 8 pages of 64 tokens: a question of 60 tokens takes one beside the scene's, which it copies.
  const auto engine = tiny_engine(8 * 64, 16);
  const auto first = see(*engine, 2, 1);
  steps_until(*engine, *first);
  Feed feed(*engine, first->result.scene, 32);
  for (int i = 0; i < 10; ++i) feed.step();
  CHECK_EQ(engine->stats().pages_used, int64_t{8});
  const auto second = see(*engine, 40, 2);  // 161 tokens: three pages
  int64_t steps = 0;
  for (; steps < 400 && !second->ended(); ++steps) feed.step();
  CHECK(second->done);
  for (int i = 0; i < 40; ++i) feed.step();
  CHECK(feed.answered > 40);
}

TEST(a_question_that_is_left_while_it_waits_is_not_prefilled) {
  const auto engine = tiny_engine(8192, 1);
  const auto first = see(*engine, 2, 1);
  steps_until(*engine, *first);
  const auto running = ask(*engine, first->result.scene, 50);
  for (int i = 0; i < 3; ++i) engine->step();
  const auto waiting = ask(*engine, first->result.scene, 50);
  engine->step();
  const int64_t before = engine->stats().prefill_tokens;
  waiting->control->finish = true;
  engine->step();
  CHECK(waiting->done);
  CHECK(waiting->result.finish == Finish::cancelled);
  CHECK_EQ(waiting->result.ids.size(), size_t{0});
  CHECK_EQ(waiting->result.prompt_tokens, int64_t{1 + 2 * kTileTokens + 3});
  steps_until(*engine, *running);
  CHECK_EQ(engine->stats().prefill_tokens, before);
}

TEST(a_dialogue_that_is_left_while_it_waits_goes_on_from_its_question) {
  const auto engine = tiny_engine(8192, 1);
  const auto first = see(*engine, 2, 1);
  steps_until(*engine, *first);
  const auto running = ask(*engine, first->result.scene, 20);
  engine->step();
  const auto left = ask(*engine, first->result.scene, 20, true, {11, 12, 13});
  left->control->finish = true;
  engine->step();
  CHECK(left->done);
  steps_until(*engine, *running);
  const auto next = ask(*engine, left->result.scene, 6, false, {21, 22});
  steps_until(*engine, *next);
  const auto whole = ask(*engine, first->result.scene, 6, false, {11, 12, 13, 21, 22});
  steps_until(*engine, *whole);
  CHECK(next->done && next->result.ids == whole->result.ids);
  engine->release(left->result.scene);
  engine->release(first->result.scene);
  CHECK_EQ(engine->stats().pages_used, int64_t{0});
}

TEST(damaged_weights_are_said_to_be) {
  const auto engine = tiny_engine(8192, 4, true);
  const auto first = see(*engine, 1, 1);
  steps_until(*engine, *first);
  const auto question = ask(*engine, first->result.scene, 4);
  steps_until(*engine, *question);
  CHECK(question->failed && question->code == Code::bad_weights);
  const auto choices = score(*engine, first->result.scene, {{3, 4}, {5}});
  steps_until(*engine, *choices);
  CHECK(choices->failed && choices->code == Code::bad_weights);
  engine->release(first->result.scene);
  CHECK_EQ(engine->stats().pages_used, int64_t{0});
}

TEST(choices_scored_together_score_as_each_alone) {
  const auto engine = tiny_engine(8192, 4);
  const auto scene = see(*engine, 1, 1);
  steps_until(*engine, *scene);
  Random random(5);
  std::vector<std::vector<int32_t>> all(300);  // more than a device's round trip may take
  for (auto& choice : all) {
    for (uint32_t n = 1 + random() % 4; n > 0; --n) choice.push_back(static_cast<int32_t>(random() % kVocab));
  }
  const auto together = score(*engine, scene->result.scene, all);
  steps_until(*engine, *together);
  CHECK(together->done);
  CHECK_EQ(together->result.size(), all.size());
  for (size_t i = 0; i < together->result.size(); i += 23) {
    const auto alone = score(*engine, scene->result.scene, {all[i]});
    steps_until(*engine, *alone);
    CHECK(alone->done && alone->result[0] == together->result[i]);
    CHECK_EQ(together->result[i].size(), all[i].size());
  }
}

TEST(drafts_do_not_change_an_answer_among_others) {
  const auto engine = tiny_engine(8192, 4);
  const auto scene = see(*engine, 1, 1);
  steps_until(*engine, *scene);
  const std::vector<int32_t> repeated = {11, 12, 13, 14, 11, 12, 13, 14, 11, 12};
  const auto answers = [&](int64_t speculate) {
    std::vector<std::shared_ptr<Outcome<GenerateResult>>> outcomes;
    for (int64_t i = 0; i < 3; ++i) {
      GenerateRequest request;
      request.scene = scene->result.scene;
      request.ids = repeated;
      request.ids.push_back(static_cast<int32_t>(20 + i));
      request.max_new_tokens = request.min_new_tokens = 40;
      request.vocab_limit = kVocab;
      request.want_logprobs = true;
      request.speculate = i == 1 ? 0 : speculate;
      outcomes.push_back(follow<GenerateRequest, GenerateResult>(request));
      engine->submit(std::move(request));
    }
    for (const auto& one : outcomes) steps_until(*engine, *one);
    return outcomes;
  };
  const auto plain = answers(0), drafted = answers(6);
  CHECK(drafted[0]->result.drafted > 0);
  for (size_t i = 0; i < plain.size(); ++i) {
    CHECK(plain[i]->done && drafted[i]->done && plain[i]->result.ids == drafted[i]->result.ids);
    CHECK(plain[i]->result.logprobs == drafted[i]->result.logprobs);
  }
}

TEST(an_answer_does_not_depend_on_what_else_goes_on) {
  const auto engine = tiny_engine(8192, 8);
  const auto first = see(*engine, 3, 1);
  steps_until(*engine, *first);
  const auto alone = ask(*engine, first->result.scene, 24);
  steps_until(*engine, *alone);
  Feed feed(*engine, first->result.scene, 20);
  const auto second = see(*engine, 6, 2);
  const auto among = ask(*engine, first->result.scene, 24);
  for (int i = 0; i < 400 && !among->ended(); ++i) feed.step();
  CHECK(among->done && among->result.ids == alone->result.ids);
  CHECK(second->done);
}

TEST(a_scene_takes_over_what_a_living_one_or_the_vision_cache_has) {
  const auto engine = tiny_engine(8192, 4, false, 1 << 20);
  const auto first = see(*engine, 20, 1);
  steps_until(*engine, *first);
  CHECK_EQ(first->result.cached_tiles + first->result.shared_tokens, int64_t{0});
  const int64_t pages = engine->stats().pages_used;
  const auto same = see(*engine, 20, 1);
  steps_until(*engine, *same);
  CHECK_EQ(same->result.shared_tokens, same->result.tokens);
  CHECK_EQ(engine->stats().pages_used, pages);
  // The same beginning: its tokens are shared, and its tiles are not needed again.
  const auto longer = see(*engine, 30, 1);
  steps_until(*engine, *longer);
  CHECK_EQ(longer->result.shared_tokens, 1 + 20 * kTileTokens);
  CHECK_EQ(longer->result.cached_tiles, int64_t{0});
  for (const auto& one : {first, same, longer}) engine->release(one->result.scene);
  CHECK_EQ(engine->stats().pages_used, int64_t{0});
  const int64_t encoded = engine->stats().tiles_encoded;
  CHECK_EQ(encoded, int64_t{30});
  const auto again = see(*engine, 30, 1);
  steps_until(*engine, *again);
  CHECK_EQ(again->result.shared_tokens, int64_t{0});
  CHECK_EQ(again->result.cached_tiles, int64_t{30});
  CHECK_EQ(engine->stats().tiles_encoded, encoded);
}

TEST(an_answer_follows_its_automaton_among_others) {
  const auto engine = tiny_engine(8192, 4);
  // Every token is one letter; answers are b, then any number of c, then d.
  std::vector<uint8_t> letters;
  std::vector<uint32_t> offsets = {0};
  for (int64_t id = 0; id < kVocab; ++id) {
    letters.push_back(static_cast<uint8_t>('a' + id % 26));
    offsets.push_back(static_cast<uint32_t>(letters.size()));
  }
  engine->set_vocabulary(std::make_shared<const Vocabulary>(letters, offsets));
  auto automaton = std::make_shared<Automaton>();
  automaton->transitions.assign(3 * 256, -1);
  automaton->transitions['b'] = 1;
  automaton->transitions[256 + 'c'] = 1;
  automaton->transitions[256 + 'd'] = 2;
  automaton->accepting = {0, 0, 1};
  const auto scene = see(*engine, 2, 1);
  steps_until(*engine, *scene);
  Feed feed(*engine, scene->result.scene, 6);
  for (int32_t first = 0; first < 8; ++first) {
    GenerateRequest request;
    request.scene = scene->result.scene;
    request.ids = {first, 12, 13};
    request.max_new_tokens = 12;
    request.vocab_limit = kVocab;
    request.automaton = automaton;
    const auto outcome = follow<GenerateRequest, GenerateResult>(request);
    engine->submit(std::move(request));
    for (int i = 0; i < 400 && !outcome->ended(); ++i) feed.step();
    CHECK(outcome->done);
    std::string text;
    for (int32_t id : outcome->result.ids) text += static_cast<char>('a' + id % 26);
    const bool whole = text.size() >= 2 && text.back() == 'd';
    CHECK(whole == (outcome->result.finish == Finish::stop));
    CHECK_EQ(text.substr(1, text.size() - 1 - whole), std::string(text.size() - 1 - whole, 'c'));
    CHECK(text[0] == 'b');
  }
}

// Requests of all kinds, cancelled, left and released at random moments: every one ends exactly once, and every page comes back.
TEST(random_requests_give_every_page_back) {
  for (unsigned seed = 1; seed <= 12; ++seed) {
    Random random(seed);
    const auto below = [&](unsigned n) { return static_cast<int64_t>(random() % n); };
    const auto engine = tiny_engine((6 + below(20)) * 64, 1 + below(6));
    std::vector<std::shared_ptr<Outcome<SceneResult>>> scenes;
    std::vector<std::shared_ptr<Outcome<GenerateResult>>> questions;
    std::vector<std::shared_ptr<Outcome<std::vector<std::vector<float>>>>> scores;
    const auto some_scene = [&]() -> int64_t {
      if (scenes.empty()) return 0;
      return scenes[below(scenes.size())]->result.scene;
    };
    for (int action = 0; action < 150; ++action) {
      switch (below(8)) {
        case 0: scenes.push_back(see(*engine, 1 + below(20), static_cast<unsigned>(below(4)))); break;
        case 1:
        case 2: questions.push_back(ask(*engine, some_scene(), 1 + below(70), below(3) == 0)); break;
        case 3: scores.push_back(score(*engine, some_scene(), {{1, 2, 3}, {4}, {5, 6}})); break;
        case 4: engine->release(some_scene()); break;
        case 5:
          if (!questions.empty())
            (below(2) ? questions[below(questions.size())]->control->finish
                      : questions[below(questions.size())]->control->cancel) = true;
          break;
        case 6:
          if (!scenes.empty() && below(2)) scenes[below(scenes.size())]->control->cancel = true;
          if (!scores.empty() && below(3) == 0) scores[below(scores.size())]->control->cancel = true;
          break;
        default: break;
      }
      for (int64_t i = below(6); i > 0; --i) engine->step();
    }
    for (int i = 0; i < 20000 && engine->step(); ++i) continue;
    for (const auto& one : scenes) CHECK(one->ended() && one->done != one->failed);
    for (const auto& one : questions) CHECK(one->ended() && one->done != one->failed);
    for (const auto& one : scores) CHECK(one->ended() && one->done != one->failed);
    for (const auto& one : scenes) engine->release(one->result.scene);
    for (const auto& one : questions) engine->release(one->result.scene);
    CHECK_EQ(engine->stats().pages_used, int64_t{0});
    CHECK_EQ(engine->stats().scenes, int64_t{0});
  }
}

}  // namespace
}  // namespace drivlm::test
