#include "train/trainer.h"

#include <algorithm>
#include <cmath>

#include "train/checkpoint_writer.h"
#include "train/state_file.h"

namespace drivlm {

namespace {

bool trains_something(const NetworkDescription& network, const TrainedParts& parts) {
  const std::vector<Parameter> table = parameters(network);
  return std::any_of(table.begin(), table.end(), [&](const Parameter& p) { return parts.includes(p); });
}

// What the tower gives for a tile.
int64_t tower_values(const NetworkDescription& network) { return network.vision.positions() * network.vision.dim; }

// Every number of a pack that memory is addressed by.
void check(const Pack& pack, const NetworkDescription& network, const TrainingSizes& sizes) {
  const auto fail = [](const std::string& what) { throw Error(Code::bad_argument, "pack: " + what); };
  const auto number = [](int64_t value) { return std::to_string(value); };
  const int64_t rows = static_cast<int64_t>(pack.ids.size()), vocab = network.language.vocab;
  if (rows < 1 || rows > sizes.rows)
    fail("expected 1 to " + number(sizes.rows) + " rows as planned, found " + number(rows) + ".");
  int64_t slots = 0;
  for (int32_t id : pack.ids) {
    if (id < -1 || id >= vocab) fail("the id " + number(id) + " is not below " + number(vocab) + ".");
    slots += id == -1;
  }
  const int64_t tile_bytes = 3 * network.vision.tile_size * network.vision.tile_size;
  const int64_t bytes = static_cast<int64_t>(pack.tiles.size()), tiles = bytes / tile_bytes;
  if (bytes % tile_bytes != 0 || tiles > sizes.tiles)
    fail("expected whole tiles of " + number(tile_bytes) + " bytes, " + number(sizes.tiles) + " at most, found " +
         number(bytes) + " bytes.");
  if (slots != tiles * network.vision.tile_tokens())
    fail(number(tiles) + " tiles have " + number(tiles * network.vision.tile_tokens()) + " image tokens, found " +
         number(slots) + " places for them.");
  int64_t next = 0;
  for (size_t i = 0; i < pack.spans.size(); ++i) {
    const AttentionSpan& span = pack.spans[i];
    if (span.row != next || span.rows < 1 || span.rows > rows - next) fail("spans must follow one another.");
    next += span.rows;
    if (span.prefix_rows == 0) continue;
    // The last span without a prefix: the head of the family.
    size_t head = i;
    while (head-- > 0 && pack.spans[head].prefix_rows != 0) {
    }
    if (head >= pack.spans.size() || pack.spans[head].row != span.prefix_row ||
        pack.spans[head].rows != span.prefix_rows)
      fail("a prefix must be the last span without one.");
  }
  if (next != rows) fail("rows outside of the spans.");
  if (pack.targets.empty()) fail("expected a target.");
  for (const Pack::Target& target : pack.targets) {
    if (target.row < 0 || target.row >= rows) fail("the target row " + number(target.row) + " is none of its rows.");
    if (target.label < 0 || target.label >= vocab) fail("the label " + number(target.label) + " is no token.");
    if (!std::isfinite(target.weight)) fail("a weight that is no number.");
  }
}

}  // namespace

TrainerPlan Trainer::plan(const NetworkDescription& network, const TrainerOptions& options) {
  const TrainingDevice device = make_training_device(options.device);
  const size_t trained = ParameterValues::bytes(network, options.parts);
  return {
      ParameterValues::bytes(network),
      trained,
      2 * trained,
      options.mean_decay > 0 ? trained : 0,
      Training::activation_bytes(network, options.sizes, options.parts, *device.device, *device.gradients),
      static_cast<size_t>(TowerCache::bytes(tower_values(network), 1) - TowerCache::bytes(tower_values(network), 0))};
}

Trainer::Trainer(const ModelSource& source, const TrainerOptions& options)
    : source_(source),
      options_(options),
      device_(make_training_device(options.device)),
      training_(source_, options.sizes, options.parts, *device_.device, *device_.gradients),
      optimizer_(source_.network, *device_.device, options.parts) {
  if (!trains_something(source_.network, options.parts)) {
    throw Error(Code::bad_argument,
                "Nothing would be trained: this network's head is its embedding, which goes with the language model.");
  }
  if (const auto& cache = options.tower_cache; !cache.file.empty()) {
    if (options.parts.patches || options.parts.first_tower_layer < source_.network.vision.output_layer)
      throw Error(Code::bad_argument, "What a tower gives cannot be kept while it is trained.");
    tower_cache_ = std::make_unique<TowerCache>(cache.file, cache.key, tower_values(source_.network), cache.max_bytes);
    training_.keep_tower_in(tower_cache_.get());
  }
  if (options.mean_decay <= 0) return;
  mean_ = std::make_unique<ParameterValues>(source_.network, *device_.device, "The mean of the weights", options.parts);
  for (size_t row = 0; row < mean_->table().size(); ++row) {
    const Tensor from = training_.masters().row(row), to = mean_->row(row);
    if (to) std::copy_n(from.as<float>(), to.count(), to.as<float>());
  }
}

double Trainer::learn(const Pack& pack) {
  check(pack, source_.network, options_.sizes);
  const VisionConfig& vision = source_.network.vision;
  const int64_t tiles = static_cast<int64_t>(pack.tiles.size()) / (3 * vision.tile_size * vision.tile_size);
  std::vector<float> factors;
  if (options_.drop_path.rate > 0)
    factors = drop_path_factors(vision, options_.drop_path, options_.parts.first_tower_layer, updates(), packs_, tiles);
  ++packs_;
  return training_.add_gradients(pack, factors);
}

double Trainer::update(const OptimizerSettings& settings) {
  packs_ = 0;
  const double norm = optimizer_.update(training_.masters(), training_.gradients(), *device_.gradients, settings);
  training_.gradients().clear();
  if (!mean_ || !std::isfinite(norm)) return norm;
  const float share = static_cast<float>(1 - options_.mean_decay);
  for (size_t row = 0; row < mean_->table().size(); ++row) {
    const Tensor to = mean_->row(row);
    if (!to) continue;
    const float* from = training_.masters().row(row).as<float>();
    float* mean = to.as<float>();
    for (int64_t i = 0; i < to.count(); ++i) mean[i] += share * (from[i] - mean[i]);
  }
  return norm;
}

std::vector<Tensor> Trainer::state() const {
  std::vector<Tensor> out;
  for (size_t row = 0; row < training_.masters().table().size(); ++row) {
    if (!optimizer_.trains(row)) continue;
    out.push_back(training_.masters().row(row));
    out.push_back(optimizer_.first_moments()[row]);
    out.push_back(optimizer_.second_moments()[row]);
    if (mean_) out.push_back(mean_->row(row));
  }
  return out;
}

void Trainer::save(const std::string& path, const std::string& key) const {
  write_state(path, key, optimizer_.updates(), state());
}

void Trainer::restore(const std::string& path, const std::string& key) {
  optimizer_.set_updates(read_state(path, key, state()));
  training_.masters().refresh();
}

void Trainer::write(const std::vector<std::string>& files) const {
  std::vector<Tensor> values;
  for (size_t row = 0; row < training_.masters().table().size(); ++row) {
    const bool mean = mean_ && mean_->row(row);
    values.push_back(mean ? mean_->row(row) : training_.masters().row(row));
  }
  write_checkpoint(source_, values, files);
}

}  // namespace drivlm
