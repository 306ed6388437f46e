// One thread a trainer: it makes the trainer, does its work in call order, and frees it. Nothing here knows JavaScript.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "addon/owned_thread.h"
#include "train/trainer.h"

namespace drivlm {

class TrainerThread final : public OwnedThread {
 public:
  // Starts the thread. `on_made` or `on_failed` is called on it once; after `on_failed` the thread ends. Throws std::system_error.
  TrainerThread(std::function<std::unique_ptr<Trainer>()> make, std::function<void()> on_made,
                std::function<void(const Error&)> on_failed);
  ~TrainerThread() override;

  TrainerThread(const TrainerThread&) = delete;
  TrainerThread& operator=(const TrainerThread&) = delete;

  // Runs `work` on the thread, in call order. False after stop(): `work` is not run. `work` may throw nothing.
  bool post(std::function<void(Trainer&)> work);

  // What was posted before is still done: a caller waits for each of its calls, so that is one pack at most.
  void stop(std::function<void()> on_stopped = nullptr) override;
  void join() override;
  bool ended() const override { return ended_; }

 private:
  void run(std::function<std::unique_ptr<Trainer>()> make, std::function<void()> on_made,
           std::function<void(const Error&)> on_failed);
  void serve(Trainer& trainer);

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::function<void(Trainer&)>> posted_;
  std::vector<std::function<void()>> on_stopped_;
  bool stopping_ = false;
  std::atomic<bool> ended_{false};
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace drivlm
