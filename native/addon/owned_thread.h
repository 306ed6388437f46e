// A thread that belongs to an environment, which stops and joins it when it goes.
#pragma once

#include <functional>

namespace drivlm {

class OwnedThread {
 public:
  virtual ~OwnedThread() = default;

  // Makes the thread end soon. `on_stopped` is called once everything is freed: on the thread, or at once if it has ended. Any thread, any
  // number of times.
  virtual void stop(std::function<void()> on_stopped = nullptr) = 0;

  // Waits for the end.
  virtual void join() = 0;

  // The thread has ended, so join() does not wait.
  virtual bool ended() const = 0;
};

}  // namespace drivlm
