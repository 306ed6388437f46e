// A small network with random weights, whole: six views to logits on the device, held to the CPU in f32 by the rule of all ops.
#include <algorithm>
#include <thread>

#include "../../test/emulator/testing.h"
#include "model_run.h"

using drivlm::gpu::ModelRun;
using drivlm::gpu::RandomWeights;
using namespace drivlm::cuda::testing;

namespace {

std::vector<float> logits(const RandomWeights& weights, const std::string& device, drivlm::DType precision,
                          drivlm::DeviceOptions options = {}) {
  options.device = device, options.precision = precision;
  options.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  ModelRun run(weights, options);
  drivlm::GenerateRequest question = run.question(run.see(run.scene()).scene, drivlm::gpu::kQuestionTokens, 6);
  question.want_logits = true;
  std::vector<drivlm::GenerateRequest> requests;
  requests.push_back(std::move(question));
  return run.ask(std::move(requests)).front().logits;
}

}  // namespace

TEST(model_small) {
  const RandomWeights weights(drivlm::gpu::network(true));
  const std::vector<float> exact = logits(weights, "cpu", drivlm::DType::f32),
                           plain = logits(weights, "cpu", drivlm::DType::bf16),
                           got = logits(weights, "cuda", drivlm::DType::bf16);
  CHECK(got.size() == exact.size() && plain.size() == exact.size() && !exact.empty());
  CHECK(*std::max_element(exact.begin(), exact.end()) > 0.1f);
  check_close("logits of six steps", got, std::vector<double>(exact.begin(), exact.end()), plain, 24);
}

TEST(
    model_small_quantised) {  // weights, activations and cache in fewer bits: no further from f32 than the CPU in the same formats
  const RandomWeights weights(drivlm::gpu::network(true));
  const std::vector<float> exact = logits(weights, "cpu", drivlm::DType::f32);
  for (const drivlm::WeightFormat format : {drivlm::WeightFormat::int8, drivlm::WeightFormat::int4}) {
    drivlm::DeviceOptions options;
    options.weights = format, options.kv = drivlm::KvFormat::int8;
    options.int8_activations = format == drivlm::WeightFormat::int8;
    const std::vector<float> plain = logits(weights, "cpu", drivlm::DType::bf16, options),
                             got = logits(weights, "cuda", drivlm::DType::bf16, options);
    check_close(options.int8_activations ? "logits in int8" : "logits in int4", got,
                std::vector<double>(exact.begin(), exact.end()), plain, 24);
  }
}
