// The emulator's own CUDA runtime: order, waiting, graphs, errors that stick.
#include "control.h"
#include "testing.h"
#include "wrappers_test.h"

using namespace drivlm::cuda;
using namespace drivlm::cuda::testing;

namespace {
struct Stream {
  Stream() { cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking); }
  ~Stream() { cudaStreamDestroy(stream); }
  cudaStream_t stream = nullptr;
};
// The reports so far, which a test expected and takes off the list.
std::string take_reports() {
  std::string kinds;
  for (const emu::Report& report : emu::reports()) kinds += report.kind + ";";
  emu::clear_reports();
  return kinds;
}
}  // namespace

TEST(runtime_waits) {  // work is done when somebody waits, not before
  Stream s;
  Buffer<int> data(std::vector<int>(10, 1));
  int* pinned = nullptr;
  CHECK(cudaMallocHost(reinterpret_cast<void**>(&pinned), 40) == cudaSuccess);
  pinned[0] = -1;
  run_increment(data.data, 10, s.stream);
  cudaMemcpyAsync(pinned, data.data, 40, cudaMemcpyDeviceToHost, s.stream);
  CHECK(pinned[0] == -1);
  CHECK(cudaStreamSynchronize(s.stream) == cudaSuccess);
  CHECK(pinned[0] == 2);
  // A pinned source is read late, a pageable one at once.
  int pageable[10] = {7};
  pinned[0] = 5;
  cudaMemcpyAsync(data.data, pageable, 40, cudaMemcpyHostToDevice, s.stream);
  pageable[0] = 8;
  cudaStreamSynchronize(s.stream);
  data.download();
  CHECK(data.host[0] == 7);
  cudaMemcpyAsync(data.data, pinned, 40, cudaMemcpyHostToDevice, s.stream);
  pinned[0] = 6;
  cudaStreamSynchronize(s.stream);
  data.download();
  CHECK(data.host[0] == 6);
  CHECK(cudaFreeHost(pinned) == cudaSuccess);
}

TEST(runtime_events) {
  Stream s;
  cudaEvent_t start, end;
  cudaEventCreate(&start), cudaEventCreate(&end);
  Buffer<int> data(std::vector<int>(100, 1));
  cudaEventRecord(start, s.stream);
  run_increment(data.data, 100, s.stream);
  cudaEventRecord(end, s.stream);
  float ms = -1;
  CHECK(cudaEventElapsedTime(&ms, start, end) == cudaErrorNotReady);
  CHECK(cudaEventSynchronize(end) == cudaSuccess);
  CHECK(cudaEventElapsedTime(&ms, start, end) == cudaSuccess && ms >= 0);
  cudaEventDestroy(start), cudaEventDestroy(end);
  cudaGetLastError();
}

TEST(runtime_graphs) {
  Stream s;
  Buffer<int> data(std::vector<int>(10, 0));
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  CHECK(cudaStreamBeginCapture(s.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  run_increment(data.data, 10, s.stream);
  run_increment(data.data, 10, s.stream);
  CHECK(cudaStreamSynchronize(s.stream) == cudaErrorStreamCaptureUnsupported);
  CHECK(cudaStreamEndCapture(s.stream, &graph) == cudaSuccess);
  CHECK(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
  data.download();
  CHECK(data.host[0] == 0);  // capturing runs nothing
  for (int i = 0; i < 3; ++i) CHECK(cudaGraphLaunch(executable, s.stream) == cudaSuccess);
  cudaStreamSynchronize(s.stream);
  data.download();
  CHECK(data.host[9] == 6);
  cudaGraphExecDestroy(executable), cudaGraphDestroy(graph);
  cudaGetLastError();
}

TEST(runtime_memory) {
  void* p = nullptr;
  CHECK(cudaMalloc(&p, emu::options.device_bytes + 1) == cudaErrorMemoryAllocation);
  cudaGetLastError();
  const size_t before = emu::device_bytes_in_use();
  CHECK(cudaMalloc(&p, 1000) == cudaSuccess && uintptr_t(p) % 256 == 0);
  CHECK(emu::device_bytes_in_use() == before + 1000);
  CHECK(cudaMemset(p, 0, 1001) != cudaSuccess);
  emu::revive();
  CHECK(cudaFree(p) == cudaSuccess);
  CHECK(cudaFree(p) == cudaErrorInvalidValue);
  CHECK(emu::device_bytes_in_use() == before);
  CHECK(cudaFree(nullptr) == cudaSuccess);
  cudaGetLastError();
  take_reports();
}

TEST(runtime_sticky_errors) {   // a failed kernel makes every later call fail
  if (!emu::checked()) return;  // the fast flavour meets the guard page, which ends the process
  emu::options.quiet = true;
  Buffer<int> data(std::vector<int>(1500, 1));
  run_overrun(data.data, 1500);
  CHECK(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
  CHECK(take_reports() == "global out of bounds;");
  void* p;
  CHECK(cudaMalloc(&p, 16) == cudaErrorLaunchFailure);
  int* ints = static_cast<int*>(data.data);
  try {
    run_increment(ints, 10, nullptr);
    fail("a launch after a failed one went through");
  } catch (const drivlm::Error& error) {
    CHECK(error.code == drivlm::Code::device_lost);
  }
  emu::revive();
  run_increment(ints, 10, nullptr);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  emu::options.quiet = false;
}

TEST(runtime_failures_by_name) {
  emu::fail_next("cudaMalloc", cudaErrorMemoryAllocation);
  void* p;
  CHECK(cudaMalloc(&p, 16) == cudaErrorMemoryAllocation);
  CHECK(cudaMalloc(&p, 16) == cudaSuccess);
  CHECK(cudaFree(p) == cudaSuccess);
  cudaGetLastError();
}
