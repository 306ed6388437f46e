// What one environment (the main thread or a worker) owns. Nothing mutable is global.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "addon/engine_thread.h"
#include "addon/napi_setup.h"
#include "packed/packed_file.h"

namespace drivlm {

// All on the environment's own thread.
class AddonData {
 public:
  explicit AddonData(Napi::Env env) {
    env.AddCleanupHook([](AddonData* data) { data->shut_down(); }, this);
  }

  Napi::FunctionReference model_class, trainer_class;

  // Threads are joined here, when they have ended or the environment goes; whoever uses one shares it.
  void adopt(std::shared_ptr<OwnedThread> thread) {
    reap();
    threads_.push_back(std::move(thread));
  }
  void reap() {
    std::erase_if(threads_, [](const auto& thread) {
      if (thread->ended()) thread->join();
      return thread->ended();
    });
  }

  std::map<int64_t, std::weak_ptr<EngineThread>> loads;  // by job number

  std::map<int64_t, std::shared_ptr<PackedFile>> caches;  // opened ahead of a load, by the number that openCache gave
  int64_t last_cache = 0;

 private:
  void shut_down() {
    for (const auto& thread : threads_) thread->stop();  // all of them at once, then wait
    for (const auto& thread : threads_) thread->join();
    threads_.clear();
    caches.clear();
  }

  std::vector<std::shared_ptr<OwnedThread>> threads_;
};

}  // namespace drivlm
