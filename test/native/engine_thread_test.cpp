// The thread of a model while its engine goes: nobody who reads its counters waits for that.
#include "addon/engine_thread.h"

#include <chrono>
#include <future>

#include "check.h"

namespace drivlm::test {
namespace {

// An engine that takes as long to free as the test wants.
class SlowToFree : public Engine {
 public:
  SlowToFree(std::promise<void>& freeing, std::shared_future<void> may_end)
      : freeing_(freeing), may_end_(std::move(may_end)) {}
  ~SlowToFree() override {
    freeing_.set_value();
    may_end_.wait();
  }
  void submit(SceneRequest) override {}
  void submit(GenerateRequest) override {}
  void submit(ScoreRequest) override {}
  void set_vocabulary(std::shared_ptr<const Vocabulary>) override {}
  void hold(int64_t) override {}
  void release(int64_t) override {}
  void withdraw(int64_t, int64_t) override {}
  std::vector<int64_t> take_evicted() override { return {}; }
  bool step() override { return false; }
  void fail_all(const Error&) override {}
  EngineStats stats() const override {
    EngineStats stats;
    stats.scenes = 3;
    return stats;
  }
  MemoryPlan memory() const override { return {}; }
  const LoadReport& load_report() const override { return report_; }

 private:
  LoadReport report_;
  std::promise<void>& freeing_;
  std::shared_future<void> may_end_;
};

TEST(stats_do_not_wait_for_the_end_of_the_engine) {
  std::promise<void> loaded, freeing, may_end, stopped;
  EngineThread thread([&, free_at = may_end.get_future().share()](
                          const std::atomic<bool>&) { return std::make_unique<SlowToFree>(freeing, free_at); },
                      [&](const Engine&) { loaded.set_value(); }, [](const Error& error) { fail(error.what()); });
  loaded.get_future().wait();
  CHECK_EQ(thread.stats().scenes, int64_t{3});
  thread.stop([&] { stopped.set_value(); });
  freeing.get_future().wait();
  auto answer = std::async(std::launch::async, [&] { CHECK_ERROR(Code::disposed, thread.stats()); });
  CHECK(answer.wait_for(std::chrono::seconds(20)) == std::future_status::ready);  // at once, or only when it may end
  CHECK(!thread.ended());
  may_end.set_value();
  stopped.get_future().wait();
  CHECK_ERROR(Code::disposed, thread.stats());
}

}  // namespace
}  // namespace drivlm::test
