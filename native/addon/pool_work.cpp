#include "addon/pool_work.h"

#include <algorithm>
#include <atomic>
#include <new>
#include <string>
#include <thread>
#include <utility>

namespace drivlm {
namespace {

// Positions of a sample: enough that another frame differs in one of them. Each costs a miss of the cache on the JS thread.
constexpr size_t kSamples = 32;

void expect(Napi::Env env, napi_status status) {
  if (status != napi_ok) throw Napi::Error::New(env);
}

struct Group;

// One work of libuv: takes parts until none is left.
struct Worker {
  Group* group = nullptr;
  napi_async_work work = nullptr;
};

// The parts of one promise; freed by the last worker to complete.
struct Group {
  PoolWork work;
  std::vector<std::unique_ptr<Error>> errors;  // [parts]
  std::atomic<size_t> next{0};                 // part
  std::vector<Worker> workers;
  size_t left = 0;  // workers; the JS thread's
  napi_deferred deferred = nullptr;
};

// On the JS thread or on the pool: whatever body throws, as an error.
template <class Body>
std::unique_ptr<Error> attempt(const Body& body) {
  try {
    body();
    return nullptr;
  } catch (const Error& error) {
    return std::make_unique<Error>(error);
  } catch (const std::bad_alloc&) {
    return std::make_unique<Error>(Code::out_of_memory, "There is not enough memory for this picture.");
  } catch (const std::exception& error) {
    return std::make_unique<Error>(Code::internal, error.what());
  }
}

void execute(napi_env, void* data) {
  Group& group = *static_cast<Worker*>(data)->group;
  for (;;) {
    const size_t part = group.next.fetch_add(1, std::memory_order_relaxed);
    if (part >= group.work.parts.size()) return;
    group.errors[part] = attempt(group.work.parts[part]);
    group.work.parts[part] = nullptr;  // what the part holds is freed on this thread, not on the JS thread
  }
}

// As in settler.cpp: C calls only, nothing thrown, since the environment may be going.
void settle(napi_env env, Group& group) {
  // If the caller's memory is gone, say so: the parts' errors are its consequences.
  std::unique_ptr<Error> error = attempt([&] {
    for (const auto& one : group.work.borrowed) one->check();
  });
  for (auto& one : group.errors) {
    if (!error) error = std::move(one);
  }
  MakeValue make;
  if (!error) error = attempt([&] { make = group.work.finish(); });
  napi_handle_scope scope;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return;
  napi_value value = make ? make(env) : nullptr;
  if (value != nullptr) {
    napi_resolve_deferred(env, group.deferred, value);
  } else {
    if (!error) error = std::make_unique<Error>(Code::internal, "The result could not be handed to JavaScript.");
    napi_value thrown = make_error(env, error->code, error->what());
    if (thrown != nullptr) napi_reject_deferred(env, group.deferred, thrown);
  }
  napi_close_handle_scope(env, scope);
}

void complete(napi_env env, napi_status, void* data) {
  auto* worker = static_cast<Worker*>(data);
  Group* group = worker->group;
  napi_delete_async_work(env, worker->work);
  if (--group->left > 0) return;
  const std::unique_ptr<Group> last(group);
  settle(env, *group);
}

// A work costs the JS thread a tenth of a millisecond, so there are no more of them than can run at once.
size_t worker_count(size_t parts) {
  constexpr size_t kPoolThreads = 4;  // libuv's, unless UV_THREADPOOL_SIZE says otherwise
  return std::clamp<size_t>(std::min<size_t>(parts, std::thread::hardware_concurrency()), 1, kPoolThreads);
}

}  // namespace

BorrowedBytes::BorrowedBytes(Napi::Env env, napi_value array, std::string name) : env_(env), name_(std::move(name)) {
  void* data = nullptr;
  expect(env, napi_get_typedarray_info(env, array, nullptr, &size_, &data, nullptr, nullptr));
  data_ = static_cast<const uint8_t*>(data);
  expect(env, napi_create_reference(env, array, 1, &array_));
}

BorrowedBytes::~BorrowedBytes() {
  if (array_ != nullptr) napi_delete_reference(env_, array_);
}

void BorrowedBytes::check() const {
  napi_handle_scope scope;
  if (napi_open_handle_scope(env_, &scope) != napi_ok) throw Error(Code::internal, "The environment is going.");
  napi_value array = nullptr;
  void* data = nullptr;
  size_t size = 0;
  const bool there = napi_get_reference_value(env_, array_, &array) == napi_ok && array != nullptr &&
                     napi_get_typedarray_info(env_, array, nullptr, &size, &data, nullptr, nullptr) == napi_ok &&
                     data == data_ && size == size_;
  napi_close_handle_scope(env_, scope);
  constexpr const char* kAdvice = "leave the buffer alone until the promise settles, or give a copy";
  if (!there) {
    throw Error(Code::bad_view,
                text("%s: the buffer of its pixels was transferred or resized before they were read; %s.",
                     name_.c_str(), kAdvice));
  }
  if (sample_ != 0 && sample() != sample_) {
    throw Error(Code::bad_view, text("%s: its pixels were changed before they were read; %s.", name_.c_str(), kAdvice));
  }
}

// Never 0.
uint64_t BorrowedBytes::sample() const {
  uint64_t sum = 1;
  for (size_t i = 0; i < kSamples; ++i) {
    // Spread evenly, but along no row or column: the golden ratio's multiples.
    const auto at = static_cast<size_t>((static_cast<unsigned __int128>(i * 0x9e3779b97f4a7c15) * size_) >> 64);
    sum = (sum ^ data_[at]) * 0x100000001b3;
  }
  return sum | 1;
}

Napi::Promise run_in_pool(Napi::Env env, const char* name, PoolWork work) {
  auto group = std::make_unique<Group>();
  group->work = std::move(work);
  group->errors.resize(group->work.parts.size());
  for (auto& error : group->errors) error = std::make_unique<Error>(Code::internal, "The work was not run.");
  group->workers.resize(worker_count(group->work.parts.size()));
  napi_value promise;
  expect(env, napi_create_promise(env, &group->deferred, &promise));
  const Napi::String resource = Napi::String::New(env, name);
  // If some cannot be queued, the others do all parts.
  for (Worker& worker : group->workers) {
    worker.group = group.get();
    if (napi_create_async_work(env, nullptr, resource, execute, complete, &worker, &worker.work) != napi_ok) continue;
    if (napi_queue_async_work(env, worker.work) == napi_ok) {
      ++group->left;
    } else {
      napi_delete_async_work(env, worker.work);
    }
  }
  if (group->left == 0) expect(env, napi_generic_failure);
  group.release();
  return {env, promise};
}

}  // namespace drivlm
