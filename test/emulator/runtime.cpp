// The part of the CUDA runtime that our host code uses, with its real prototypes: linked instead of libcudart.
//
// Stream work is queued and runs when somebody waits (Options::deferred), so that host code which forgets to wait, or reuses a
// pinned buffer too early, fails here as it may on a GPU. All streams share one queue: an order that CUDA allows.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <unordered_set>

#include "state.h"

namespace {
using Work = std::function<cudaError_t()>;
}

struct CUstream_st {
  std::shared_ptr<std::vector<Work>> capturing;
};
struct CUevent_st {
  std::chrono::steady_clock::time_point time;
  unsigned long long launches_ms = 0;  // Options::integrated
  bool recorded = false, done = false;
};
struct CUgraph_st {
  std::shared_ptr<std::vector<Work>> work;
};
struct CUgraphExec_st {
  std::shared_ptr<std::vector<Work>> work;
};

namespace {

using namespace emu;

struct Runtime {
  std::recursive_mutex mutex;
  std::deque<Work> queue;
  std::unique_ptr<Block> block;
  std::map<uintptr_t, size_t> pinned;
  std::unordered_map<const void*, size_t> shared_opt_in;
  std::unordered_set<const void*> loaded;  // kernels that were launched
  std::map<std::string, cudaError_t> planned_failures;
  cudaError_t sticky = cudaSuccess;
  unsigned long long launches_ms = 0;
  int device = 0;
};
Runtime& runtime() {
  static Runtime* instance = [] {
    auto number = [](const char* name, auto& into) {
      if (const char* value = std::getenv(name)) into = std::strtoul(value, nullptr, 10);
    };
    size_t mib = 0;
    number("EMULATOR_SEED", options.seed);
    number("EMULATOR_STRICT", options.strict);
    number("EMULATOR_DEVICES", options.devices);
    number("EMULATOR_SMS", options.multiprocessors);
    number("EMULATOR_CAPABILITY", options.capability);
    number("EMULATOR_DRIVER", options.driver);
    number("EMULATOR_FAIL_LAUNCH", options.fail_launch);
    number("EMULATOR_INTEGRATED", options.integrated);
    number("EMULATOR_MAPPED_COST", options.mapped_cost);
    number("EMULATOR_MEMORY_MIB", mib);
    if (mib) options.device_bytes = mib << 20;
    bool told = false;
    number("EMULATOR_STATS", told);
    if (told) {
      std::atexit([] {
        std::fprintf(stderr, "emulator: %llu allocations, %llu events, %llu mapped reads\n", stats.allocations,
                     stats.events, stats.mapped_reads);
      });
    }
    install_fault_handler();
    return new Runtime;  // never destroyed
  }();
  return *instance;
}
thread_local cudaError_t last_error = cudaSuccess;

cudaError_t result(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

// Entered by every call: holds the lock, and knows whether the call is to fail.
struct ApiCall {
  Runtime& r = runtime();
  std::lock_guard<std::recursive_mutex> lock{r.mutex};
  cudaError_t failure = cudaSuccess;

  explicit ApiCall(const char* function) {
    if (options.devices == 0) failure = cudaErrorNoDevice;
    if (r.sticky != cudaSuccess) failure = r.sticky;
    if (const auto planned = r.planned_failures.find(function); planned != r.planned_failures.end()) {
      failure = planned->second;
      r.planned_failures.erase(planned);
    }
  }

  cudaError_t drain() {
    while (!r.queue.empty()) {
      const Work work = std::move(r.queue.front());
      r.queue.pop_front();
      const cudaError_t error = r.sticky != cudaSuccess ? r.sticky : work();
      if (error != cudaSuccess) {
        r.sticky = error;
        r.queue.clear();
      }
    }
    return r.sticky;
  }

  cudaError_t enqueue(cudaStream_t stream, Work work) {
    if (failure != cudaSuccess) return failure;
    if (stream && stream->capturing) {
      stream->capturing->push_back(std::move(work));
      return cudaSuccess;
    }
    r.queue.push_back(std::move(work));
    return options.deferred ? cudaSuccess : drain();
  }
};

bool is_pinned(Runtime& r, const void* p) {
  auto after = r.pinned.upper_bound(uintptr_t(p));
  if (after == r.pinned.begin()) return false;
  --after;
  return uintptr_t(p) < after->first + after->second;
}

cudaError_t copy(void* to, const void* from, size_t bytes) {
  for (const void* p : {static_cast<const void*>(to), from}) {
    if (is_device(uintptr_t(p)) && !device_range_ok(uintptr_t(p), bytes)) {
      report("copy out of bounds", nullptr, {}, "%zu bytes at %p, %zu left", bytes, p, device_range_left(p));
      return cudaErrorInvalidValue;
    }
  }
  std::memmove(to, from, bytes);
  mark_written_by_host(to, bytes);
  return cudaSuccess;
}

}  // namespace

namespace emu {

void revive() {
  Runtime& r = runtime();
  r.sticky = cudaSuccess;
  r.queue.clear();
  last_error = cudaSuccess;
}

void fail_next(const char* function, cudaError_t error) { runtime().planned_failures[function] = error; }

cudaError_t enqueue_launch(void (*run)(const void*), std::shared_ptr<const void> arguments, const void* kernel,
                           dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream) {
  ApiCall call("cudaLaunchKernel");
  if (call.failure != cudaSuccess) return result(call.failure);
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  if (threads == 0 || threads > kMaxThreads || !grid.x || !grid.y || !grid.z || grid.x > 0x7fffffff || grid.y > 65535 ||
      grid.z > 65535) {
    report("bad launch", nullptr, {}, "grid %u %u %u, block %u %u %u", grid.x, grid.y, grid.z, block.x, block.y,
           block.z);
    return result(cudaErrorInvalidConfiguration);
  }
  const auto opted = call.r.shared_opt_in.find(kernel);
  const bool opt_in = opted != call.r.shared_opt_in.end();
  const size_t limit = opt_in ? opted->second : 48 << 10;
  if (shared_bytes > limit) {
    report("bad launch", nullptr, {}, "%zu bytes of dynamic shared memory, %zu allowed", shared_bytes, limit);
    return result(cudaErrorInvalidValue);
  }
  // The driver loads a kernel when it is first launched, which it may not do while a stream is captured.
  if (stream && stream->capturing && !call.r.loaded.count(kernel)) {
    report("kernel loaded inside a capture", nullptr, {}, "its first launch was recorded");
    return result(cudaErrorStreamCaptureUnsupported);
  }
  call.r.loaded.insert(kernel);
  return result(call.enqueue(stream, [=, arguments = std::move(arguments)]() -> cudaError_t {
    std::unique_ptr<Block>& state = runtime().block;
    if (!state) state = std::make_unique<Block>();
    state->run = run, state->call = arguments.get();
    state->grid = grid, state->dimensions = block;
    state->threads = int(threads), state->warp_count = int((threads + 31) / 32);
    state->dynamic_bytes = shared_bytes;
    state->shared_allowed = opt_in ? options.shared_limit : 48 << 10;
    const size_t reports_before = reports().size();
    const unsigned long long mapped_before = stats.mapped_reads;
    state->run_grid();
    runtime().launches_ms += 1 + (stats.mapped_reads > mapped_before ? options.mapped_cost : 0);
    if (stats.launches == options.fail_launch) return cudaErrorLaunchFailure;
    if (options.strict && reports().size() > reports_before) return cudaErrorLaunchFailure;
    return state->aborted ? cudaErrorLaunchFailure : cudaSuccess;
  }));
}

}  // namespace emu

extern "C" {

// ---- devices ----

cudaError_t cudaGetDeviceCount(int* count) {
  ApiCall call("cudaGetDeviceCount");
  *count = call.failure == cudaSuccess ? options.devices : 0;
  return result(call.failure);
}
cudaError_t cudaSetDevice(int device) {
  ApiCall call("cudaSetDevice");
  if (call.failure != cudaSuccess) return result(call.failure);
  if (device < 0 || device >= options.devices) return result(cudaErrorInvalidDevice);
  call.r.device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  ApiCall call("cudaGetDevice");
  *device = call.r.device;
  return result(call.failure);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  ApiCall call("cudaGetDeviceProperties");
  if (call.failure != cudaSuccess) return result(call.failure);
  if (device < 0 || device >= options.devices) return result(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "emulated CUDA device %d", device);
  properties->major = options.capability / 10, properties->minor = options.capability % 10;
  properties->multiProcessorCount = options.multiprocessors;
  properties->totalGlobalMem = options.device_bytes;
  properties->sharedMemPerBlock = 48 << 10;
  properties->sharedMemPerBlockOptin = options.shared_limit;
  properties->sharedMemPerMultiprocessor = options.shared_limit + 1024;
  properties->warpSize = 32;
  properties->integrated = options.integrated;
  properties->l2CacheSize = 4 << 20;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp p;
  if (cudaError_t error = cudaGetDeviceProperties(&p, device)) return error;
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = int(p.sharedMemPerBlockOptin); break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = int(p.sharedMemPerMultiprocessor); break;
    case cudaDevAttrIntegrated: *value = p.integrated; break;
    default: return result(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { return runtime(), *version = options.driver, cudaSuccess; }
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  ApiCall call("cudaFuncSetAttribute");
  if (call.failure != cudaSuccess) return result(call.failure);
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || size_t(value) > options.shared_limit) {
    return result(cudaErrorInvalidValue);
  }
  call.r.shared_opt_in[kernel] = size_t(value);
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  ApiCall call("cudaDeviceSynchronize");
  return result(call.failure != cudaSuccess ? call.failure : call.drain());
}

// ---- errors ----

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = runtime().sticky;
  return error;
}
cudaError_t cudaPeekAtLastError() { return last_error; }
const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
    default: return "cudaError";
  }
}
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorLaunchFailure: return "unspecified launch failure";
    default: return "an emulated error";
  }
}

// ---- memory ----

cudaError_t cudaMalloc(void** p, size_t bytes) {
  ApiCall call("cudaMalloc");
  if (call.failure != cudaSuccess) return result(call.failure);
  *p = device_allocate(bytes);
  stats.allocations += *p != nullptr;
  return result(*p ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaFree(void* p) {
  ApiCall call("cudaFree");
  if (!p) return cudaSuccess;
  call.drain();  // cudaFree waits for the device
  return result(device_free(p) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaMallocHost(void** p, size_t bytes) {
  ApiCall call("cudaMallocHost");
  if (call.failure != cudaSuccess) return result(call.failure);
  *p = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (!*p) return result(cudaErrorMemoryAllocation);
  call.r.pinned[uintptr_t(*p)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* p) {
  ApiCall call("cudaFreeHost");
  if (!p) return cudaSuccess;
  call.drain();
  if (!call.r.pinned.erase(uintptr_t(p))) return result(cudaErrorInvalidValue);
  std::free(p);
  return cudaSuccess;
}
cudaError_t cudaHostRegister(void* p, size_t bytes, unsigned) {
  ApiCall call("cudaHostRegister");
  if (call.failure != cudaSuccess) return result(call.failure);
  if (!options.integrated || bytes == 0) return result(cudaErrorInvalidValue);
  call.r.pinned[uintptr_t(p)] = bytes;
  map_host(p, bytes);
  return cudaSuccess;
}
cudaError_t cudaHostUnregister(void* p) {
  ApiCall call("cudaHostUnregister");
  call.drain();
  if (!call.r.pinned.erase(uintptr_t(p))) return result(cudaErrorInvalidValue);
  map_host(p, 0);
  return cudaSuccess;
}
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
  ApiCall call("cudaHostGetDevicePointer");
  *device = host;
  return result(call.failure);
}
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  ApiCall call("cudaMemGetInfo");
  *total_bytes = options.device_bytes;
  *free_bytes = options.device_bytes - device_bytes_in_use();
  return result(call.failure);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  ApiCall call("cudaMemcpyAsync");
  if (bytes == 0) return result(call.failure);
  const bool pageable = !is_device(uintptr_t(from)) && !is_pinned(call.r, from);
  if (pageable && !(stream && stream->capturing)) {  // the driver takes its own copy before the call returns
    auto staged =
        std::make_shared<std::vector<char>>(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
    return result(call.enqueue(stream, [=] { return copy(to, staged->data(), bytes); }));
  }
  return result(call.enqueue(stream, [=] { return copy(to, from, bytes); }));
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  ApiCall call("cudaMemcpy");
  if (call.failure != cudaSuccess) return result(call.failure);
  if (cudaError_t error = call.drain()) return result(error);
  return result(bytes ? copy(to, from, bytes) : cudaSuccess);
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind, cudaStream_t stream) {
  ApiCall call("cudaMemcpy2DAsync");
  return result(call.enqueue(stream, [=] {
    for (size_t row = 0; row < height; ++row) {
      const cudaError_t error =
          copy(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch, width);
      if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
  }));
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  ApiCall call("cudaMemsetAsync");
  return result(call.enqueue(stream, [=] {
    if (!device_range_ok(uintptr_t(to), bytes)) return cudaErrorInvalidValue;
    std::memset(to, value, bytes);
    mark_written_by_host(to, bytes);
    return cudaSuccess;
  }));
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  const cudaError_t error = cudaMemsetAsync(to, value, bytes, nullptr);
  return error != cudaSuccess ? error : cudaDeviceSynchronize();
}

// ---- streams and events ----

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  ApiCall call("cudaStreamCreateWithFlags");
  if (call.failure == cudaSuccess) *stream = new CUstream_st;
  return result(call.failure);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  ApiCall call("cudaStreamDestroy");
  call.drain();
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  ApiCall call("cudaStreamSynchronize");
  if (stream && stream->capturing) return result(cudaErrorStreamCaptureUnsupported);
  return result(call.failure != cudaSuccess ? call.failure : call.drain());
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  ApiCall call("cudaEventCreateWithFlags");
  if (call.failure == cudaSuccess) *event = new CUevent_st;
  return result(call.failure);
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  ApiCall call("cudaEventDestroy");
  call.drain();
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  ApiCall call("cudaEventRecord");
  event->recorded = true, event->done = false;
  ++stats.events;
  return result(call.enqueue(stream, [=] {
    event->time = std::chrono::steady_clock::now();
    event->launches_ms = runtime().launches_ms;
    event->done = true;
    return cudaSuccess;
  }));
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaDeviceSynchronize(); }
cudaError_t cudaEventQuery(cudaEvent_t event) {
  ApiCall call("cudaEventQuery");
  if (call.failure == cudaSuccess && !event->done) call.drain();
  return result(call.failure);
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
  if (!start->recorded || !end->recorded) return result(cudaErrorInvalidResourceHandle);
  if (!start->done || !end->done) return result(cudaErrorNotReady);
  *ms = options.integrated ? float(end->launches_ms - start->launches_ms)
                           : std::chrono::duration<float, std::milli>(end->time - start->time).count();
  return cudaSuccess;
}

// ---- graphs ----

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  ApiCall call("cudaStreamBeginCapture");
  if (call.failure != cudaSuccess) return result(call.failure);
  if (!stream || stream->capturing) return result(cudaErrorStreamCaptureUnsupported);
  stream->capturing = std::make_shared<std::vector<Work>>();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  ApiCall call("cudaStreamEndCapture");
  if (call.failure != cudaSuccess) return result(call.failure);
  if (!stream || !stream->capturing) return result(cudaErrorIllegalState);
  *graph = new CUgraph_st{std::move(stream->capturing)};
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  ApiCall call("cudaGraphInstantiate");
  if (call.failure == cudaSuccess) *executable = new CUgraphExec_st{graph->work}, ++stats.graphs;
  return result(call.failure);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  ApiCall call("cudaGraphLaunch");
  return result(call.enqueue(stream, [work = executable->work] {
    for (const Work& item : *work) {
      if (cudaError_t error = item()) return error;
    }
    return cudaSuccess;
  }));
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  ApiCall call("cudaGraphExecDestroy");
  call.drain();
  delete executable;
  return cudaSuccess;
}
}
