// Times training on the CPU, beside what this machine could do at best in the same run.
//
//   drivlm_train_bench [--threads N] [--only TEXT] [--json FILE] [--clock wall|cpu]
//
//   street_step      street-tiny's network, one packed moment: 6 tiles, a prefix of 113 tokens, 16 questions of 24 tokens of which 7 are learned;
//                    forward, backward, AdamW. Floor: 3 x the operations of the forward pass.
//   tower_block      one block of InternViT-300M between patches and projector, 13 tiles; forward, recompute, backward
//   decoder_block    one block of Qwen2-0.5B, 3,400 tokens; the same. Floor of both: 4 x the operations of the forward pass.
//
// `_f32` and `_bf16` are the precision of matrix products; where nothing multiplies bf16 faster they are the same. Weights are random: times do not depend on them.
#include <unistd.h>

#include <filesystem>
#include <random>

#include "cpu_bench.h"
#include "device/registry.h"
#include "train/optimizer.h"
#include "train/training.h"

using namespace drivlm;
using namespace drivlm::cpu;

namespace {

// Street-tiny (models/street-tiny/config.json), or a block of InternVL2-1B.
NetworkDescription street_tiny() {
  NetworkDescription n;
  n.vision = {128, 6, 4, 32, 512, 14, 112, 8, true, 1e-6f, true, false, 6, {0.5f, 0.5f, 0.5f}, {0.25f, 0.25f, 0.25f}};
  n.projector = {1e-5f, 2};
  n.language = {192, 4, 6, 2, 32, 512, 711, 1e-6f, true, false, false, {}};
  return n;
}

NetworkDescription one_block() {
  NetworkDescription n;
  n.vision = {
      1024, 1, 16, 64, 4096, 14, 448, 32, true, 1e-6f, true, false, 1, {0.5f, 0.5f, 0.5f}, {0.25f, 0.25f, 0.25f}};
  n.projector = {1e-5f, 2};
  n.language = {896, 1, 14, 2, 64, 4864, 64, 1e-6f, true, false, false, {}};
  return n;
}

// Operations of one forward pass.
double tower_operations(const NetworkDescription& n, int64_t tiles) {
  const VisionConfig& c = n.vision;
  const double rows = static_cast<double>(tiles * c.positions()), dim = static_cast<double>(c.dim),
               tokens = static_cast<double>(tiles * c.tile_tokens()), llm = static_cast<double>(n.language.dim);
  const double block = 2 * rows * (4 * dim * dim + 2 * dim * static_cast<double>(c.ffn_dim)) +
                       4 * rows * static_cast<double>(c.positions()) * dim;
  return 2 * static_cast<double>(tiles * c.patches() * c.patch_values()) * dim +
         block * static_cast<double>(c.output_layer) + 2 * tokens * (4 * dim * llm + llm * llm);
}

double decoder_operations(const NetworkDescription& n, const Pack& pack) {
  const LanguageConfig& c = n.language;
  double seen = 0;
  for (const AttentionSpan& s : pack.spans)
    seen += static_cast<double>(s.rows) * (static_cast<double>(s.prefix_rows) + static_cast<double>(s.rows + 1) / 2);
  const double rows = static_cast<double>(pack.ids.size()), dim = static_cast<double>(c.dim),
               q_dim = static_cast<double>(c.q_dim());
  const double block =
      2 * rows * dim * (static_cast<double>(c.qkv_dim()) + q_dim + 3 * static_cast<double>(c.ffn_dim)) +
      4 * seen * q_dim;
  return block * static_cast<double>(c.layers) +
         2 * static_cast<double>(pack.targets.size()) * dim * static_cast<double>(c.vocab);
}

// Random weights in a file that is unlinked once they are read.
class Source {
 public:
  explicit Source(const NetworkDescription& network) {
    source_.network = network;
    std::string path = (std::filesystem::temp_directory_path() / "drivlm-train-XXXXXX").string();
    ::close(::mkstemp(path.data()));
    std::ofstream file(path, std::ios::binary);
    std::mt19937 random(7);
    std::uniform_real_distribution<float> uniform(-0.05f, 0.05f);
    int64_t offset = 0;
    for (const Parameter& parameter : parameters(network)) {
      std::vector<float> values(parameter.count());
      for (float& value : values) value = uniform(random) + (parameter.part == Parameter::Part::norm ? 1.0f : 0.0f);
      file.write(reinterpret_cast<const char*>(values.data()),
                 static_cast<std::streamsize>(values.size() * sizeof(float)));
      source_.tensors.push_back(
          {parameter.role, DType::f32, parameter.shape, {{0, offset, parameter.rows(), DType::f32}}});
      offset += static_cast<int64_t>(values.size() * sizeof(float));
    }
    source_.files = {path};
    source_.file_bytes = {offset};
  }
  ~Source() { ::unlink(source_.files[0].c_str()); }
  Source(const Source&) = delete;
  operator const ModelSource&() const { return source_; }

 private:
  ModelSource source_;
};

std::vector<uint8_t> pixels(const VisionConfig& c, int64_t tiles) {
  std::vector<uint8_t> out(tiles * c.tile_size * c.tile_size * 3);
  std::mt19937 random(3);
  for (uint8_t& value : out) value = static_cast<uint8_t>(random());
  return out;
}

TrainingDevice device_of(Bench& bench, DType precision) {
  DeviceOptions options;
  options.precision = precision;
  options.threads = bench.workers().count();
  return make_training_device(options);
}

void street_step(Bench& bench, const std::string& name, DType precision) {
  if (!bench.wants(name)) return;
  const NetworkDescription network = street_tiny();
  const int64_t tiles = 6, prefix = 113, questions = 16, length = 24, learned = 7;
  Pack pack;
  pack.tiles = pixels(network.vision, tiles);
  pack.spans.push_back({0, prefix});
  for (int64_t i = 0; i < prefix; ++i)
    pack.ids.push_back(i >= 12 && i < 12 + tiles * network.vision.tile_tokens() ? -1
                                                                                : static_cast<int32_t>(i * 7 % 700));
  for (int64_t q = 0; q < questions; ++q) {
    const int64_t row = static_cast<int64_t>(pack.ids.size());
    pack.spans.push_back({row, length, 0, prefix});
    for (int64_t i = 0; i < length; ++i) {
      pack.ids.push_back(static_cast<int32_t>((q * 31 + i * 7) % 700));
      if (i >= length - learned)
        pack.targets.push_back({row + i - 1, pack.ids.back(), 1.0 / static_cast<double>(questions * learned)});
    }
  }
  const TrainingDevice on = device_of(bench, precision);
  const Source source(network);
  TrainingSizes sizes;
  sizes.rows = static_cast<int64_t>(pack.ids.size());
  sizes.tiles = tiles;
  Training training(source, sizes, {}, *on.device, *on.gradients);
  Optimizer optimizer(network, *on.device, {});
  OptimizerSettings settings;
  settings.learning_rate = settings.vision_learning_rate = 1e-5;
  const double forward = tower_operations(network, tiles) + decoder_operations(network, pack);
  bench.time(name, precision == DType::f32 ? "f32" : "bf16", 3 * forward, 0, [&] {
    training.gradients().clear();
    training.add_gradients(pack);
    optimizer.update(training.masters(), training.gradients(), *on.gradients, settings);
  });
}

// One pass over a tower or a decoder of one block.
void block(Bench& bench, const std::string& name, DType precision, int64_t tiles, int64_t rows) {
  if (!bench.wants(name)) return;
  const NetworkDescription network = one_block();
  Pack pack;
  for (int64_t i = 0; i < rows; ++i) pack.ids.push_back(static_cast<int32_t>(i % 60));
  pack.spans.push_back({0, rows});
  for (int64_t i = rows * 99 / 100; i + 1 < rows; ++i) pack.targets.push_back({i, 5, 0.1});
  const TrainingDevice on = device_of(bench, precision);
  const Source source(network);
  TrainingSizes sizes;
  sizes.rows = rows;
  sizes.tiles = tiles;
  sizes.keep_bytes = 0;  // as in a network of many blocks
  const char* unit = precision == DType::f32 ? "f32" : "bf16";
  if (tiles == 0) {
    Training training(source, sizes, {}, *on.device, *on.gradients);
    bench.time(name, unit, 4 * decoder_operations(network, pack), 0, [&] { training.add_gradients(pack); }, 3);
    return;
  }
  const Masters masters(source, *on.device);
  ParameterValues gradients(network, *on.device, "The gradients");
  Arena measure;
  TowerTraining(network, masters, on.device->ops(), *on.gradients, {}, sizes.tiles_at_once, tiles, false, measure);
  const std::unique_ptr<Memory> memory = on.device->allocate(measure.used(), "The activations");
  Arena arena(memory->data, memory->bytes);
  TowerTraining tower(network, masters, on.device->ops(), *on.gradients, {}, sizes.tiles_at_once, tiles, false, arena);
  std::vector<uint8_t> bytes = pixels(network.vision, tiles);
  const int64_t tokens = tiles * network.vision.tile_tokens(), dim = network.language.dim,
                size = network.vision.tile_size;
  std::vector<float> out(tokens * dim), d_out(tokens * dim, 1e-3f);
  bench.time(
      name, unit, 4 * tower_operations(network, tiles), 0,
      [&] {
        tower.forward(Tensor(out.data(), DType::f32, {tokens, dim}),
                      Tensor(bytes.data(), DType::u8, {tiles, size, size, 3}));
        tower.backward(gradients, Tensor(d_out.data(), DType::f32, {tokens, dim}));
      },
      3);
}

}  // namespace

int main(int argc, char** argv) {
  return bench_main(argc, argv, [](Bench& bench) {
    for (const DType precision : {DType::f32, DType::bf16}) {
      const std::string end = precision == DType::f32 ? "_f32" : "_bf16";
      street_step(bench, "street_step" + end, precision);
      block(bench, "tower_block" + end, precision, 13, 1);
      block(bench, "decoder_block" + end, precision, 0, 3400);
    }
  });
}
