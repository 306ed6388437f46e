#include "train/training.h"

#include <algorithm>

namespace drivlm {

Training::Space::Space(const NetworkDescription& network, const TrainingSizes& sizes, const TrainedParts& parts,
                       const Masters& masters, Device& device, Gradients& gradients, Arena& arena)
    : tower(network, masters, device.ops(), gradients, parts,
            std::max<int64_t>(1, std::min(sizes.tiles_at_once, sizes.tiles)), sizes.tiles, arena),
      decoder(network.language, masters, device, gradients, parts, sizes.rows, sizes.logits_at_once, arena) {
  const int64_t tokens = sizes.tiles * network.vision.tile_tokens();
  image_tokens = arena.take(DType::f32, {tokens, network.language.dim});
  d_image_tokens = arena.take(DType::f32, {tokens, network.language.dim});
}

Training::Training(const ModelSource& source, const TrainingSizes& sizes, const TrainedParts& parts, Device& device,
                   Gradients& gradients)
    : network_(source.network),
      sizes_(sizes),
      parts_(parts),
      masters_(source, device),
      values_(network_, device, "The gradients", parts),
      memory_(
          device.allocate(activation_bytes(network_, sizes, parts, device, gradients), "The activations of training")) {
  Arena arena(memory_->data, memory_->bytes);
  space_ = std::make_unique<Space>(network_, sizes, parts, masters_, device, gradients, arena);
}

size_t Training::activation_bytes(const NetworkDescription& network, const TrainingSizes& sizes,
                                  const TrainedParts& parts, Device& device, Gradients& gradients) {
  const Masters none(network, device);
  Arena measure;
  Space(network, sizes, parts, none, device, gradients, measure);
  return measure.used();
}

double Training::add_gradients(const Pack& pack) {
  const int64_t size = network_.vision.tile_size, tile_bytes = size * size * 3;
  const int64_t tiles = static_cast<int64_t>(pack.tiles.size()) / tile_bytes,
                tokens = tiles * network_.vision.tile_tokens();
  if (tiles > sizes_.tiles) throw Error(Code::internal, "train: more tiles than planned");
  if (tiles == 0) return space_->decoder.forward_backward(values_, {}, pack, {});
  const Tensor image_tokens = space_->image_tokens.rows(0, tokens),
               d_image_tokens = space_->d_image_tokens.rows(0, tokens);
  const Tensor pixels(const_cast<uint8_t*>(pack.tiles.data()), DType::u8, {tiles, size, size, 3});
  space_->tower.forward(image_tokens, pixels);
  const double loss = space_->decoder.forward_backward(values_, d_image_tokens, pack, image_tokens);
  if (parts_.reaches_image_tokens()) space_->tower.backward(values_, d_image_tokens);
  return loss;
}

}  // namespace drivlm
