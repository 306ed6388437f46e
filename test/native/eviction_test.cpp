// Eviction over the CPU device: which scenes go, who is told, and that whoever waits for room is served or told.
#include <algorithm>
#include <deque>

#include "check.h"
#include "tiny_engine.h"

namespace drivlm::test {
namespace {

constexpr int64_t kPage = 64;

// What a caller does: sees a scene, asks about it, sees it again when it was evicted, as lib/scene-cache.ts does; `idle` steps pass
// between being told of something and answering it.
class Caller {
 public:
  Caller(Engine& engine, Random& random, int64_t most_idle)
      : engine_(engine), random_(random), most_idle_(most_idle), seed_(below(4)), tiles_(1 + below(60)) {
    seen_ = see(engine_, tiles_, static_cast<unsigned>(seed_));
  }

  bool ended() const { return questions_left_ == 0; }
  int64_t answered = 0, told = 0, seen_again = 0;

  void step() {
    if (ended()) return;
    if (idle_ > 0) {
      --idle_;
      return;
    }
    if (seen_) return after_seeing();
    if (question_) return after_asking(*question_);
    if (scores_) return after_asking(*scores_);
  }

  void cancel() {
    if (seen_) seen_->control->cancel = true;
    if (question_) question_->control->cancel = true;
    if (scores_) scores_->control->cancel = true;
  }

 private:
  int64_t below(int64_t n) { return static_cast<int64_t>(random_() % static_cast<unsigned>(n)); }
  void wait() { idle_ = below(most_idle_ + 1); }

  void after_seeing() {
    if (!seen_->ended()) return;
    const auto seen = std::move(seen_);
    if (seen->failed) {
      CHECK(seen->code == Code::out_of_memory || seen->code == Code::aborted);
      ++told;
      if (scene_ == 0) questions_left_ = 0;
      return next_question();
    }
    if (scene_ != 0) ++seen_again;
    scene_ = seen->result.scene;
    wait();
    ask_it();
  }

  template <class Result>
  void after_asking(const Outcome<Result>& asked) {
    if (!asked.ended()) return;
    if (asked.claim > 0) {
      claim_ = asked.claim;
      question_.reset();
      scores_.reset();
      wait();
      seen_ = see(engine_, tiles_, static_cast<unsigned>(seed_), scene_);
      return;
    }
    if (asked.failed) CHECK(asked.code == Code::out_of_memory || asked.code == Code::aborted);
    ++(asked.done ? answered : told);
    claim_ = 0;
    if constexpr (std::is_same_v<Result, GenerateResult>) {
      if (asked.result.scene != 0) engine_.release(asked.result.scene);
    }
    next_question();
  }

  void next_question() {
    if (claim_ > 0) engine_.withdraw(scene_, claim_);
    claim_ = 0;
    question_.reset();
    scores_.reset();
    if (questions_left_ > 0) --questions_left_;
    if (ended()) {
      engine_.release(scene_);
    } else {
      wait();
      kind_ = below(4);
      ask_it();
    }
  }

  void ask_it() {
    if (kind_ == 0) {
      scores_ = score(engine_, scene_, {{1, 2, 3}, std::vector<int32_t>(40, 5), {4}}, claim_);
    } else {
      question_ = ask(engine_, scene_, 1 + 20 * kind_, kind_ == 1, {11, 12, 13}, claim_);
    }
  }

  Engine& engine_;
  Random& random_;
  int64_t most_idle_, seed_, tiles_, scene_ = 0, claim_ = 0, idle_ = 0, questions_left_ = 4, kind_ = 2;
  std::shared_ptr<Outcome<SceneResult>> seen_;
  std::shared_ptr<Outcome<GenerateResult>> question_;
  std::shared_ptr<Outcome<std::vector<std::vector<float>>>> scores_;
};

TEST(eviction_leaves_no_caller_waiting) {
  // What is random is the order of steps, which the plain build tries; the sanitizer watches the memory of fewer.
#if defined(__SANITIZE_ADDRESS__)
  constexpr unsigned kSeeds = 12;
#else
  constexpr unsigned kSeeds = 40;
#endif
  int64_t evicted = 0, seen_again = 0;
  for (unsigned seed = 1; seed <= kSeeds; ++seed) {
    Random random(seed);
    const auto below = [&](unsigned n) { return static_cast<int64_t>(random() % n); };
    const auto engine = tiny_engine((6 + below(12)) * kPage, 1 + below(5), false, 0, 1 + below(5), true);
    std::vector<Caller> callers;
    const int64_t count = 2 + below(7), idle = below(2) * below(6);
    const bool cancels = below(2) == 0;
    for (int64_t i = 0; i < count; ++i) callers.emplace_back(*engine, random, idle);
    const auto all_ended = [&] {
      return std::all_of(callers.begin(), callers.end(), [](const Caller& one) { return one.ended(); });
    };
    int64_t still = 0;  // steps without work by a caller or the engine
    for (int64_t i = 0; i < 20000 && !all_ended() && still < 50; ++i) {
      still = engine->step() ? 0 : still + 1;
      for (Caller& one : callers) {
        one.step();
        if (cancels && below(400) == 0) one.cancel();
      }
    }
    if (!all_ended()) std::fprintf(stderr, "seed %u: somebody waits for ever\n", seed);
    CHECK(all_ended());
    for (const Caller& one : callers) seen_again += one.seen_again;
    for (int64_t i = 0; i < 100 && engine->step(); ++i) continue;
    evicted += engine->stats().evicted;
    CHECK_EQ(engine->stats().pages_used, int64_t{0});
    CHECK_EQ(engine->stats().scenes, int64_t{0});
    CHECK_EQ(engine->stats().running + engine->stats().waiting, int64_t{0});
  }
  CHECK(evicted > 2 * kSeeds && seen_again > 2 * kSeeds);
}

TEST(a_scene_that_waits_to_begin_holds_no_page_of_another) {
  // Six pages. A scene of 161 tokens takes three; one of 241 that begins with the same tiles would share two of them.
  const auto engine = tiny_engine(6 * kPage, 4, false, 0, 8, true);
  const auto first = see(*engine, 40, 1);
  steps_until(*engine, *first);
  const auto other = see(*engine, 2, 2);
  steps_until(*engine, *other);
  const auto running = ask(*engine, other->result.scene, 60);  // two pages: of its own, and a copy
  engine->step();
  const auto waits = see(*engine, 60, 1);
  engine->step();
  CHECK(!running->ended());
  CHECK_EQ(engine->stats().evicted, int64_t{1});  // the first scene went for it, and all its pages came back
  CHECK_EQ(engine->stats().pages_used, int64_t{3});
  steps_until(*engine, *waits);
  CHECK(waits->done && running->done);
}

TEST(the_idle_scene_that_was_not_asked_about_longest_goes) {
  const auto engine = tiny_engine(64 * kPage, 4, false, 0, 2, true);
  const auto first = see(*engine, 2, 1);
  steps_until(*engine, *first);
  const auto second = see(*engine, 2, 2);
  steps_until(*engine, *second);
  const auto question = ask(*engine, first->result.scene, 2);
  steps_until(*engine, *question);
  const auto third = see(*engine, 2, 3);
  steps_until(*engine, *third);
  CHECK(third->done);
  CHECK_EQ(engine->stats().scenes, int64_t{2});
  CHECK(engine->take_evicted() == std::vector<int64_t>{second->result.scene});
  CHECK(engine->take_evicted().empty());
  // Neither a scene that is being asked about nor a dialogue goes.
  const auto dialogue = ask(*engine, first->result.scene, 2, true);
  steps_until(*engine, *dialogue);
  CHECK(dialogue->done);
  CHECK(engine->take_evicted() == std::vector<int64_t>{third->result.scene});
  const auto long_answer = ask(*engine, first->result.scene, 40);
  engine->step();
  const auto waits = see(*engine, 2, 4);
  for (int i = 0; i < 10; ++i) engine->step();
  CHECK(!waits->ended() && !long_answer->ended());
  steps_until(*engine, *waits);
  CHECK(waits->done && long_answer->done);
  CHECK(engine->take_evicted() == std::vector<int64_t>{first->result.scene});
}

TEST(a_question_whose_scene_was_evicted_is_told_and_comes_back_in_its_turn) {
  const auto engine = tiny_engine(64 * kPage, 4, false, 0, 1, true);
  const auto first = see(*engine, 2, 1);
  steps_until(*engine, *first);
  const auto plain = ask(*engine, first->result.scene, 6);
  steps_until(*engine, *plain);
  const auto second = see(*engine, 2, 2);
  steps_until(*engine, *second);
  const auto bounced = ask(*engine, first->result.scene, 6);
  CHECK(bounced->claim > 0 && !bounced->done && !bounced->failed);
  const auto again = see(*engine, 2, 1, first->result.scene);
  steps_until(*engine, *again);
  CHECK_EQ(again->result.scene, first->result.scene);
  // A scene that comes meanwhile does not take the place of one that is seen again for somebody.
  const auto third = see(*engine, 2, 3);
  for (int i = 0; i < 20; ++i) engine->step();
  CHECK(!third->ended());
  const auto answered = ask(*engine, first->result.scene, 6, false, {11, 12, 13}, bounced->claim);
  steps_until(*engine, *answered);
  CHECK(answered->done && answered->result.ids == plain->result.ids);
  steps_until(*engine, *third);
  CHECK(third->done);
  CHECK_EQ(engine->stats().reseen, int64_t{1});
  // Who is told and does not come back holds nobody up.
  const auto left = ask(*engine, first->result.scene, 6);
  const auto once_more = see(*engine, 2, 1, first->result.scene);
  steps_until(*engine, *once_more);
  const auto fourth = see(*engine, 2, 4);
  for (int i = 0; i < 20; ++i) engine->step();
  CHECK(!fourth->ended());
  engine->withdraw(first->result.scene, left->claim);
  steps_until(*engine, *fourth);
  CHECK(fourth->done);
}

TEST(dialogues_count_among_the_scenes_and_go_on_in_their_place) {
  const auto engine = tiny_engine(64 * kPage, 4, false, 0, 2, false);
  const auto scene = see(*engine, 2, 1);
  steps_until(*engine, *scene);
  const auto turn = ask(*engine, scene->result.scene, 2, true);
  steps_until(*engine, *turn);
  CHECK(turn->done);
  const auto none = see(*engine, 2, 2);
  steps_until(*engine, *none);
  CHECK(none->failed && none->code == Code::out_of_memory && none->message.find("maxScenes") != std::string::npos);
  const auto next = ask(*engine, turn->result.scene, 2, true);
  steps_until(*engine, *next);
  CHECK(next->done);
  engine->release(turn->result.scene);
  // A fork that goes its own way needs a place of its own.
  engine->hold(next->result.scene);
  const auto fork = ask(*engine, next->result.scene, 2, true);
  steps_until(*engine, *fork);
  CHECK(fork->failed && fork->code == Code::out_of_memory);
  engine->release(next->result.scene);
  const auto alone = ask(*engine, next->result.scene, 2, true);
  steps_until(*engine, *alone);
  CHECK(alone->done);
  // Held by another from within the turn on, both count.
  engine->hold(next->result.scene);
  engine->release(next->result.scene);
  engine->release(scene->result.scene);
  const auto full = see(*engine, 2, 2);
  steps_until(*engine, *full);
  CHECK(full->failed);
  engine->release(next->result.scene);
  const auto seen = see(*engine, 2, 2);
  steps_until(*engine, *seen);
  CHECK(seen->done);
}

TEST(a_dialogue_that_is_left_while_it_waits_needs_a_place_all_the_same) {
  const auto engine = tiny_engine(64 * kPage, 1, false, 0, 2, false);
  const auto first = see(*engine, 2, 1), second = see(*engine, 2, 2);
  steps_until(*engine, *second);
  const auto running = ask(*engine, first->result.scene, 30);
  engine->step();
  const auto left = ask(*engine, first->result.scene, 30, true);
  left->control->finish = true;
  engine->step();
  CHECK(left->failed && left->code == Code::out_of_memory);
  engine->release(second->result.scene);
  const auto again = ask(*engine, first->result.scene, 30, true);
  again->control->finish = true;
  engine->step();
  CHECK(again->done && again->result.finish == Finish::cancelled && again->result.scene != 0);
  CHECK(!running->ended());
  CHECK_EQ(engine->stats().scenes, int64_t{2});
}

TEST(what_cannot_fit_is_told_so_with_and_without_eviction) {
  for (const bool evict : {false, true}) {
    const auto engine = tiny_engine(4 * kPage, 4, false, 0, 8, evict);
    const auto scene = see(*engine, 20, 1);
    steps_until(*engine, *scene);
    std::vector<std::shared_ptr<Outcome<GenerateResult>>> asked;
    for (int i = 0; i < 3; ++i) asked.push_back(ask(*engine, scene->result.scene, 300));
    const auto large = see(*engine, 100, 2);
    for (const auto& one : asked) {
      steps_until(*engine, *one);
      CHECK(one->failed && one->code == Code::out_of_memory);
    }
    steps_until(*engine, *large);
    CHECK(large->failed && large->code == Code::out_of_memory);
    CHECK_EQ(engine->stats().waiting, int64_t{0});
  }
}

}  // namespace
}  // namespace drivlm::test
