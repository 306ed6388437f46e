// A run of training: packs in, updates of the weights, states that a run goes on from, and the checkpoint at its end.
//
//   for each update:  learn(pack) for each of its packs, then update(settings)
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "device/registry.h"
#include "train/drop_path.h"
#include "train/optimizer.h"
#include "train/training.h"

namespace drivlm {

struct TrainerOptions {
  DeviceOptions device;
  TrainingSizes sizes;
  TrainedParts parts;
  DropPath drop_path;
  double mean_decay = 0;  // of the running mean of the weights, which is then what is written; 0: none

  // Where a tower that nothing of is trained keeps what it gives: train/tower_cache.h. No file: nowhere.
  struct {
    std::string file, key;
    int64_t max_bytes = 0;
  } tower_cache;
};

// Bytes by kind, from the code that reserves them.
struct TrainerPlan {
  size_t weights_bytes, gradients_bytes, moments_bytes, mean_bytes, activations_bytes;
  size_t tower_tile_bytes;  // that a tile takes on the disk, in the tower's cache
};

class Trainer {
 public:
  static TrainerPlan plan(const NetworkDescription& network, const TrainerOptions& options);

  // Throws as load_weights and make_device; BAD_ARGUMENT if nothing is trained, or if what a tower gives is to be kept that is trained.
  Trainer(const ModelSource& source, const TrainerOptions& options);

  // Adds the gradients of a pack, and returns its loss. Throws BAD_ARGUMENT for a pack out of range.
  double learn(const Pack& pack);

  // Updates the weights by the gradients added since the last update, and returns their norm before clipping. Where that is no number, nothing
  // changes.
  double update(const OptimizerSettings& settings);

  int64_t updates() const { return optimizer_.updates(); }

  // Tiles that went through the tower.
  int64_t encoded_tiles() const { return training_.encoded_tiles(); }

  // errno of the write at which the tower's file was given up; 0 if it was not.
  int tower_cache_error() const { return tower_cache_ ? tower_cache_->error() : 0; }

  // train/state_file.h
  void save(const std::string& path, const std::string& key) const;
  void restore(const std::string& path, const std::string& key);

  // train/checkpoint_writer.h
  void write(const std::vector<std::string>& files) const;

 private:
  std::vector<Tensor> state() const;

  const ModelSource source_;
  const TrainerOptions options_;
  TrainingDevice device_;
  std::unique_ptr<TowerCache> tower_cache_;
  Training training_;
  Optimizer optimizer_;
  std::unique_ptr<ParameterValues> mean_;
  int64_t packs_ = 0;  // since the last update
};

}  // namespace drivlm
