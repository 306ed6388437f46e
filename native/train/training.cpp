#include "train/training.h"

#include <algorithm>

namespace drivlm {

Training::Space::Space(const NetworkDescription& network, const TrainingSizes& sizes, const TrainedParts& parts,
                       bool keep_blocks, const Masters& masters, Device& device, Gradients& gradients, Arena& arena)
    : tower(network, masters, device.ops(), gradients, parts,
            std::max<int64_t>(1, keep_blocks ? sizes.tiles : std::min(sizes.tiles_at_once, sizes.tiles)), sizes.tiles,
            keep_blocks, arena),
      decoder(network.language, masters, device, gradients, parts, sizes.rows, sizes.logits_at_once, keep_blocks,
              arena) {
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
      values_(network_, device, "The gradients", parts) {
  const Layout found = layout(network_, sizes, parts, device, gradients);
  memory_ = device.allocate(found.bytes, "The activations of training");
  Arena arena(memory_->data, memory_->bytes);
  space_ = std::make_unique<Space>(network_, sizes, parts, found.keep_blocks, masters_, device, gradients, arena);
}

Training::Layout Training::layout(const NetworkDescription& network, const TrainingSizes& sizes,
                                  const TrainedParts& parts, Device& device, Gradients& gradients) {
  const Masters none(network, device);
  for (const bool keep_blocks : {true, false}) {
    Arena measure;
    Space(network, sizes, parts, keep_blocks, none, device, gradients, measure);
    if (!keep_blocks || measure.used() <= sizes.keep_bytes) return {keep_blocks, measure.used()};
  }
  throw Error(Code::internal, "train: no layout");
}

size_t Training::activation_bytes(const NetworkDescription& network, const TrainingSizes& sizes,
                                  const TrainedParts& parts, Device& device, Gradients& gradients) {
  return layout(network, sizes, parts, device, gradients).bytes;
}

double Training::add_gradients(const Pack& pack, const std::vector<float>& drop_path) {
  const int64_t size = network_.vision.tile_size, tile_bytes = size * size * 3;
  const int64_t tiles = static_cast<int64_t>(pack.tiles.size()) / tile_bytes,
                tokens = tiles * network_.vision.tile_tokens();
  if (tiles > sizes_.tiles) throw Error(Code::internal, "train: more tiles than planned");
  if (!drop_path.empty() && static_cast<int64_t>(drop_path.size()) != 2 * network_.vision.output_layer * tiles)
    throw Error(Code::internal, "train: drop path of other tiles");
  if (tiles == 0) return space_->decoder.forward_backward(values_, {}, pack, {});
  const Tensor image_tokens = space_->image_tokens.rows(0, tokens),
               d_image_tokens = space_->d_image_tokens.rows(0, tokens);
  const Tensor pixels(const_cast<uint8_t*>(pack.tiles.data()), DType::u8, {tiles, size, size, 3});
  space_->tower.forward(image_tokens, pixels, drop_path.empty() ? nullptr : drop_path.data());
  const double loss = space_->decoder.forward_backward(values_, d_image_tokens, pack, image_tokens);
  if (parts_.reaches_image_tokens()) space_->tower.backward(values_, d_image_tokens);
  return loss;
}

}  // namespace drivlm
