// One thread a model: it loads the engine, runs it, and frees it. Nothing here knows JavaScript.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "addon/owned_thread.h"
#include "serve/engine.h"

namespace drivlm {

// What to say when the system refuses a thread.
Error no_thread(const std::system_error& error);

class EngineThread : public OwnedThread {
 public:
  using Load = std::function<std::unique_ptr<Engine>(const std::atomic<bool>& cancel)>;

  // Starts the thread. `on_loaded` or `on_failed` is called on it once; after `on_failed` the thread ends.
  EngineThread(Load load, std::function<void(const Engine&)> on_loaded, std::function<void(const Error&)> on_failed);
  ~EngineThread() override;

  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;

  // Runs `work` on the thread, in call order. After stop(), work is still run, and what it submitted fails with DISPOSED.
  // False when the thread has ended: `work` is not run.
  bool post(std::function<void(Engine&)> work);

  // A job that stop() cancels; forgotten when nobody else holds it.
  void watch(const std::shared_ptr<JobControl>& control);

  // Gives up a load that is still going on.
  void cancel_load() { cancel_load_ = true; }

  // Cancels the load and all jobs and makes the thread end after at most one layer's work. `on_stopped` is called once everything is
  // freed: on the thread, or at once if it has ended. Any thread, any number of times.
  void stop(std::function<void()> on_stopped = nullptr) override;

  // True from the first stop() on: failures are then of the disposal's making.
  bool stopping() const { return stopping_; }

  void join() override;
  bool ended() const override { return ended_; }

  // Throws DISPOSED after stop().
  EngineStats stats() const;

  // None after stop().
  std::vector<int64_t> take_evicted();

 private:
  void run(Load load, std::function<void(const Engine&)> on_loaded, std::function<void(const Error&)> on_failed);
  void serve();
  void end();

  std::atomic<bool> cancel_load_{false}, stopping_{false}, ended_{false};

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::function<void(Engine&)>> posted_;
  std::vector<std::function<void()>> on_stopped_;
  std::vector<std::weak_ptr<JobControl>> watched_;
  bool closed_ = false;  // no more work is taken

  mutable std::mutex engine_mutex_;  // held while the engine is read from elsewhere, or taken away
  std::unique_ptr<Engine> engine_;

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace drivlm
