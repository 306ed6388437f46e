#include "addon/trainer_thread.h"

#include <new>
#include <system_error>
#include <utility>

#include "addon/engine_thread.h"

namespace drivlm {

TrainerThread::TrainerThread(std::function<std::unique_ptr<Trainer>()> make, std::function<void()> on_made,
                             std::function<void(const Error&)> on_failed) {
  thread_ = std::thread(&TrainerThread::run, this, std::move(make), std::move(on_made), std::move(on_failed));
}

TrainerThread::~TrainerThread() {
  stop();
  join();
}

bool TrainerThread::post(std::function<void(Trainer&)> work) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_ || ended_) return false;
    posted_.push_back(std::move(work));
  }
  wake_.notify_one();
  return true;
}

void TrainerThread::stop(std::function<void()> on_stopped) {
  bool call_now = false;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    call_now = ended_;
    if (!call_now && on_stopped) on_stopped_.push_back(std::move(on_stopped));
  }
  wake_.notify_one();
  if (call_now && on_stopped) on_stopped();
}

void TrainerThread::join() {
  if (thread_.joinable()) thread_.join();
}

void TrainerThread::run(std::function<std::unique_ptr<Trainer>()> make, std::function<void()> on_made,
                        std::function<void(const Error&)> on_failed) {
  try {
    const std::unique_ptr<Trainer> trainer = make();
    make = nullptr;
    on_made();
    serve(*trainer);
  } catch (const Error& error) {
    on_failed(error);
  } catch (const std::bad_alloc&) {
    on_failed(
        Error(Code::out_of_memory, "The memory for training could not be reserved; this process has too little left."));
  } catch (const std::system_error& error) {
    on_failed(no_thread(error));
  } catch (const std::exception& error) {
    on_failed(Error(Code::internal, text("Training could not be prepared: %s", error.what())));
  }
  std::vector<std::function<void()>> on_stopped;
  {
    std::lock_guard lock(mutex_);
    posted_.clear();
    on_stopped.swap(on_stopped_);
    ended_ = true;
  }
  for (auto& one : on_stopped) one();
}

void TrainerThread::serve(Trainer& trainer) {
  for (;;) {
    std::vector<std::function<void(Trainer&)>> work;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stopping_ || !posted_.empty(); });
      if (posted_.empty()) return;
      work.swap(posted_);
    }
    for (auto& one : work) one(trainer);
  }
}

}  // namespace drivlm
