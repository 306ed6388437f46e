#include "addon/engine_thread.h"

#include <algorithm>
#include <new>
#include <system_error>
#include <utility>

namespace drivlm {

Error no_thread(const std::system_error& error) {
  return Error(
      Code::out_of_memory,
      text(
          "A thread could not be started (%s): this process, user or container has as many as it may. Load with fewer options.threads, "
          "end other processes, or raise the limit (ulimit -u, pids.max).",
          error.what()));
}

EngineThread::EngineThread(Load load, std::function<void(const Engine&)> on_loaded,
                           std::function<void(const Error&)> on_failed) {
  thread_ = std::thread(&EngineThread::run, this, std::move(load), std::move(on_loaded), std::move(on_failed));
}

EngineThread::~EngineThread() {
  stop();
  join();
}

bool EngineThread::post(std::function<void(Engine&)> work) {
  {
    std::lock_guard lock(mutex_);
    if (closed_) return false;
    posted_.push_back(std::move(work));
  }
  wake_.notify_one();
  return true;
}

void EngineThread::watch(const std::shared_ptr<JobControl>& control) {
  std::lock_guard lock(mutex_);
  std::erase_if(watched_, [](const auto& one) { return one.expired(); });
  watched_.push_back(control);
  if (stopping_) control->cancel = true;
}

void EngineThread::stop(std::function<void()> on_stopped) {
  bool call_now = false;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    cancel_load_ = true;
    for (const auto& one : watched_) {
      if (const auto control = one.lock()) control->cancel = true;
    }
    if (ended_) {
      call_now = true;
    } else if (on_stopped) {
      on_stopped_.push_back(std::move(on_stopped));
    }
  }
  wake_.notify_one();
  if (call_now && on_stopped) on_stopped();
}

void EngineThread::join() {
  if (thread_.joinable()) thread_.join();
}

EngineStats EngineThread::stats() const {
  std::lock_guard lock(engine_mutex_);
  if (stopping_ || !engine_) throw Error(Code::disposed, "The model was disposed; load it again to ask more.");
  return engine_->stats();
}

std::vector<int64_t> EngineThread::take_evicted() {
  std::lock_guard lock(engine_mutex_);
  return engine_ ? engine_->take_evicted() : std::vector<int64_t>();
}

void EngineThread::run(Load load, std::function<void(const Engine&)> on_loaded,
                       std::function<void(const Error&)> on_failed) {
  std::unique_ptr<Engine> engine;
  try {
    engine = load(cancel_load_);
    load = nullptr;  // the source's names and spans are needed no more
    {
      std::lock_guard lock(engine_mutex_);
      engine_ = std::move(engine);
    }
    on_loaded(*engine_);
    serve();
  } catch (const Error& error) {
    on_failed(error);
  } catch (const std::bad_alloc&) {
    on_failed(Error(Code::out_of_memory,
                    "The memory for the model could not be reserved; this process has too little left."));
  } catch (const std::system_error& error) {
    on_failed(no_thread(error));
  } catch (const std::exception& error) {
    on_failed(Error(Code::internal, text("Loading failed unexpectedly: %s", error.what())));
  }
  end();
}

void EngineThread::serve() {
  bool busy = false;
  std::vector<std::function<void(Engine&)>> work;
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return busy || stopping_ || !posted_.empty(); });
      work.swap(posted_);
      if (stopping_) closed_ = true;
    }
    for (auto& one : work) one(*engine_);
    work.clear();
    if (stopping_) {
      std::lock_guard lock(mutex_);
      if (closed_) break;  // else stop() came in between: take what was posted before it
      continue;
    }
    busy = engine_->step();
  }
  engine_->fail_all(Error(Code::disposed, "The model was disposed before this was done."));
}

// Frees everything, then tells those who wait for it.
void EngineThread::end() {
  std::unique_ptr<Engine> engine;
  {
    std::lock_guard lock(engine_mutex_);
    engine = std::move(engine_);
  }
  engine.reset();  // outside of the lock: freeing gigabytes takes a while, and stats() is called on the event loop
  std::vector<std::function<void()>> on_stopped;
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    posted_.clear();
    watched_.clear();
    on_stopped.swap(on_stopped_);
    ended_ = true;
  }
  for (auto& one : on_stopped) one();
}

}  // namespace drivlm
