// Loss and gradients of a pack through the whole network.
#pragma once

#include <memory>

#include "train/decoder.h"
#include "train/tower.h"

namespace drivlm {

struct TrainingSizes {
  int64_t rows = 1;   // of a pack
  int64_t tiles = 0;  // of a pack
  int64_t tiles_at_once = 2;
  int64_t logits_at_once = 64;

  // Where everything that the forward pass computes fits in this many bytes it is kept for the backward pass, all tiles at once. Elsewhere each
  // block is computed again from what entered it: a third more work.
  size_t keep_bytes = size_t{1} << 30;
};

class Training {
 public:
  // Reserves everything that packs of these sizes need. The device's memory must be the host's, its activations f32. Throws as load_weights,
  // and OUT_OF_MEMORY.
  Training(const ModelSource& source, const TrainingSizes& sizes, const TrainedParts& parts, Device& device,
           Gradients& gradients);

  // Bytes of what packs of these sizes are worked on in.
  static size_t activation_bytes(const NetworkDescription& network, const TrainingSizes& sizes,
                                 const TrainedParts& parts, Device& device, Gradients& gradients);

  // Adds the gradients of a pack's loss to gradients(); returns the loss. Bytes do not depend on the number of threads. drop_path: of the pack's
  // tiles, train/drop_path.h; empty: none.
  double add_gradients(const Pack& pack, const std::vector<float>& drop_path = {});

  // train/tower_cache.h, of a tower that nothing of is trained; it must outlive this.
  void keep_tower_in(TowerCache* cache) { space_->tower.keep_in(cache); }
  int64_t encoded_tiles() const { return space_->tower.encoded_tiles(); }

  Masters& masters() { return masters_; }
  const Masters& masters() const { return masters_; }
  ParameterValues& gradients() { return values_; }
  Tensor input_gradient() const { return space_->decoder.input_gradient(); }  // [rows, llm_dim], of the last pack

 private:
  struct Space {
    Space(const NetworkDescription& network, const TrainingSizes& sizes, const TrainedParts& parts, bool keep_blocks,
          const Masters& masters, Device& device, Gradients& gradients, Arena& arena);
    TowerTraining tower;
    DecoderTraining decoder;
    Tensor image_tokens, d_image_tokens;  // [tiles * tile_tokens, llm_dim]
  };

  struct Layout {
    bool keep_blocks;
    size_t bytes;
  };
  static Layout layout(const NetworkDescription& network, const TrainingSizes& sizes, const TrainedParts& parts,
                       Device& device, Gradients& gradients);

  const NetworkDescription network_;
  const TrainingSizes sizes_;
  const TrainedParts parts_;
  Masters masters_;
  ParameterValues values_;
  std::unique_ptr<Memory> memory_;
  std::unique_ptr<Space> space_;
};

}  // namespace drivlm
