#include "addon/pool_work.h"

#include <new>
#include <string>
#include <utility>

namespace drivlm {
namespace {

// Positions of a sample: enough that another frame differs in one of them, few enough to cost microseconds.
constexpr size_t kSamples = 128;

void expect(Napi::Env env, napi_status status) {
  if (status != napi_ok) throw Napi::Error::New(env);
}

struct Group;

struct Part {
  Group* group = nullptr;
  napi_async_work work = nullptr;
  std::function<void()> run;
  std::unique_ptr<Error> error = std::make_unique<Error>(Code::internal, "The work was not run.");
};

// The parts of one promise; freed by the last to complete. Its own fields are the JS thread's.
struct Group {
  PoolWork work;
  std::vector<Part> parts;
  size_t left = 0;
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
  auto* part = static_cast<Part*>(data);
  part->error = attempt(part->run);
}

// As in settler.cpp: C calls only, nothing thrown, since the environment may be going.
void settle(napi_env env, Group& group) {
  std::unique_ptr<Error> error;
  for (Part& part : group.parts) {
    if (!error) error = std::move(part.error);
  }
  MakeValue make;
  if (!error) {
    error = attempt([&] {
      for (const auto& one : group.work.borrowed) one->check();
      make = group.work.finish();
    });
  }
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
  auto* part = static_cast<Part*>(data);
  Group* group = part->group;
  napi_delete_async_work(env, part->work);
  part->run = nullptr;
  if (--group->left > 0) return;
  const std::unique_ptr<Group> last(group);
  settle(env, *group);
}

}  // namespace

BorrowedBytes::BorrowedBytes(Napi::Env env, napi_value array) : env_(env) {
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
  if (!there) {
    throw Error(Code::bad_view, "the buffer of its pixels was transferred or resized before they were read; leave it alone until the "
                                "promise settles, or give a copy");
  }
  if (sample_ != 0 && sample() != sample_) {
    throw Error(Code::bad_view, "its pixels were changed before they were read; leave the buffer alone until the promise settles, or give "
                                "a copy");
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
  group->parts.resize(group->work.parts.size());
  napi_value promise;
  expect(env, napi_create_promise(env, &group->deferred, &promise));
  size_t made = 0;
  napi_status status = napi_ok;
  for (Part& part : group->parts) {
    part.group = group.get();
    part.run = std::move(group->work.parts[made]);
    status = napi_create_async_work(env, nullptr, Napi::String::New(env, name), execute, complete, &part, &part.work);
    if (status != napi_ok) break;
    ++made;
  }
  // All or none of them are queued: libuv takes what is queued whatever happens.
  for (Part& part : group->parts) {
    if (status == napi_ok && napi_queue_async_work(env, part.work) == napi_ok) ++group->left;
  }
  if (group->left == 0) {
    for (Part& part : group->parts) {
      if (part.work != nullptr) napi_delete_async_work(env, part.work);
    }
    expect(env, napi_generic_failure);
  }
  group.release();
  return {env, promise};
}

}  // namespace drivlm
