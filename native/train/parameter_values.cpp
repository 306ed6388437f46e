#include "train/parameter_values.h"

#include <algorithm>
#include <cstring>

namespace drivlm {

namespace {

constexpr int64_t kAlign = 16;  // values: 64 bytes

// Values of a row with what keeps the next one aligned; rows that are one matrix follow each other closely.
int64_t extent(const Parameter& p, const TrainedParts& parts) {
  if (!parts.includes(p)) return 0;
  return p.joins_next ? p.count() : (p.count() + kAlign - 1) / kAlign * kAlign;
}

}  // namespace

bool TrainedParts::includes(const Parameter& parameter) const {
  switch (parameter.use) {
    case Use::patches: return patches;
    case Use::tower: return parameter.layer >= first_tower_layer;
    case Use::projector: return projector;
    case Use::decoder:
    case Use::embedding: return decoder;
    case Use::head: return head;
  }
  return false;
}

size_t ParameterValues::bytes(const NetworkDescription& network, const TrainedParts& parts) {
  int64_t total = 0;
  for (const Parameter& p : parameters(network)) total += extent(p, parts);
  return static_cast<size_t>(total) * sizeof(float);
}

ParameterValues::ParameterValues(const NetworkDescription& network, Device& device, const char* what,
                                 const TrainedParts& parts)
    : table_(parameters(network)), memory_(device.allocate(bytes(network, parts), what)) {
  float* at = static_cast<float*>(memory_->data);
  for (size_t i = 0; i < table_.size(); ++i) {
    const Parameter& p = table_[i];
    const bool included = parts.includes(p);
    tensors_.push_back(!included             ? Tensor()
                       : p.shape.size() == 2 ? Tensor(at, DType::f32, {p.shape[0], p.shape[1]})
                                             : Tensor(at, DType::f32, {p.shape[0]}));
    index_[p.role] = i;
    at += extent(p, parts);
  }
  clear();
}

Tensor ParameterValues::find(const std::string& role) const {
  const auto found = index_.find(role);
  return found == index_.end() ? Tensor() : tensors_[found->second];
}

Tensor ParameterValues::find_joined(const std::string& first_role, const std::string& second_role) const {
  const Tensor first = find(first_role), second = find(second_role);
  if (!first && !second) return {};
  if (!first || second.data != first.as<float>() + first.count())
    throw Error(Code::internal, first_role + ": not joined with " + second_role);
  return Tensor(first.data, DType::f32, {first.shape[0] + second.shape[0], first.shape[1]});
}

void ParameterValues::clear() {
  if (memory_->bytes > 0) std::memset(memory_->data, 0, memory_->bytes);
}

// Hands out tensors over the masters' own memory.
class Masters::Source final : public ParameterSource {
 public:
  Source(Masters& masters, Device& device) : masters_(masters), device_(device) {}

  bool has(const std::string& role) const override { return static_cast<bool>(masters_.find(role)); }
  MatrixPtr matrix(const std::string& role) override { return device_.load_matrix(host(role)); }
  MatrixPtr gated(const std::string& gate, const std::string& up) override {
    return device_.load_gated(host(gate), host(up));
  }
  MatrixPtr table(const std::string& role) override { return device_.load_table(host(role)); }
  TiedMatrices tied(const std::string& role) override { return device_.load_tied(host(role)); }
  Tensor vector(const std::string& role) override { return masters_.find(role); }
  Tensor positions(const std::string& role, int64_t, int64_t to) override {
    masters_.positions_.resize((1 + to * to) * masters_.find(role).shape[1]);
    return Tensor(masters_.positions_.data(), DType::f32, {static_cast<int64_t>(masters_.positions_.size())});
  }

 private:
  HostTensor host(const std::string& role) const {
    const Tensor t = masters_.find(role);
    return {role, DType::f32, t.shape[0], t.row_size(), {{t.data, t.shape[0]}}};
  }

  Masters& masters_;
  Device& device_;
};

Masters::Masters(const ModelSource& source, Device& device)
    : ParameterValues(source.network, device, "The trained weights"),
      stored_grid_(source.network.vision.position_grid),
      grid_(source.network.vision.grid()) {
  size_t row = 0;
  read_parameters(source, device, [&](const Parameter&, const std::vector<float>& values) {
    std::copy(values.begin(), values.end(), this->row(row++).as<float>());
  });
  Source own(*this, device);
  bind_weights(weights_, own, source.network);
  refresh();
}

Masters::Masters(const NetworkDescription& network, Device& device)
    : ParameterValues(network, device, "", TrainedParts::none()),
      stored_grid_(network.vision.position_grid),
      grid_(network.vision.grid()) {}

void Masters::refresh() {
  const Tensor table = find(kPositionTable);
  const std::vector<float> stored(table.as<float>(), table.as<float>() + table.count());
  const std::vector<float> resized = resize_positions(stored, stored_grid_, grid_, table.shape[1]);
  std::copy(resized.begin(), resized.end(), positions_.begin());
}

}  // namespace drivlm
