#include "training.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <utility>

#include "kernels/cpu/cpu_gradients.h"
#include "kernels/cpu/targets.h"
#include "kernels/cpu/training_ops.h"
#include "train/trainer.h"

namespace drivlm::cpu {
extern const KernelTable kEmulatedPairs;  // test/native/emulated_pairs.cpp
}

namespace drivlm::test {

namespace {

// Bounds of the goldens in f32: the loss to 5e-5, a gradient by norm(difference) / norm(golden) over the stored entries; a parameter whose
// golden norm is under 1e-6 of the largest by 1e-5 of that.
constexpr double kLossBound = 5e-5, kGradientBound = 1e-4, kSmall = 1e-6, kSmallBound = 1e-5;

Pack pack_of(const Dump& dump, const std::string& name) {
  Pack pack;
  const Array &ids = *dump.find(name + ".tokens"), &spans = *dump.find(name + ".spans"),
              &labels = *dump.find(name + ".labels");
  const Array& weights = *dump.find(name + ".weights");
  pack.ids.assign(ids.as<int32_t>(), ids.as<int32_t>() + ids.count());
  for (int64_t i = 0; i < spans.shape[0]; ++i)
    pack.spans.push_back({spans.as<int32_t>()[2 * i], spans.as<int32_t>()[2 * i + 1]});
  if (const Array* tiles = dump.find(name + ".tiles"))
    pack.tiles.assign(tiles->as<uint8_t>(), tiles->as<uint8_t>() + tiles->count());
  for (int64_t row = 0; row + 1 < ids.count(); ++row) {
    const int32_t label = labels.as<int32_t>()[row + 1];
    if (label >= 0) pack.targets.push_back({row, label, weights.as<float>()[row + 1]});
  }
  return pack;
}

double norm(const std::vector<double>& values) {
  double sum = 0;
  for (double v : values) sum += v * v;
  return std::sqrt(sum);
}

class Case {
 public:
  Case(const Dump& dump, const Pack& pack, int threads, int64_t tiles_at_once, const TrainedParts& parts = {},
       size_t keep_bytes = TrainingSizes().keep_bytes, const std::vector<float>& drop_path = {},
       const cpu::KernelTable& kernels = *cpu::chosen_target().kernels, DType products = DType::f32)
      : device_(threads, kernels, products),
        gradients_(threads, kernels, products),
        pack_(pack),
        training_(dump.source, sizes(dump, tiles_at_once, keep_bytes), parts, device_, gradients_) {
    loss_ = training_.add_gradients(pack_, drop_path);
  }

  // Another pack on top, of the same sizes at most.
  void add(const Pack& pack) { loss_ += training_.add_gradients(pack); }

  double loss() const { return loss_; }
  Training& training() { return training_; }

  std::vector<char> bytes() {
    std::vector<char> out;
    for (size_t i = 0; i < training_.gradients().table().size(); ++i) {
      const Tensor t = training_.gradients().row(i);
      out.insert(out.end(), t.as<char>(), t.as<char>() + t.bytes());
    }
    return out;
  }

 private:
  TrainingSizes sizes(const Dump& dump, int64_t tiles_at_once, size_t keep_bytes) const {
    const int64_t tile = dump.source.network.vision.tile_size;
    return {static_cast<int64_t>(pack_.ids.size()), static_cast<int64_t>(pack_.tiles.size()) / (3 * tile * tile),
            tiles_at_once, 7, keep_bytes};
  }

  TrainingCpuDevice device_;
  CpuGradients gradients_;
  const Pack pack_;
  Training training_;
  double loss_ = 0;
};

// The largest relative difference of a parameter's gradient.
double worst_gradient(Training& found_of, Training& expected_of) {
  double largest = 0;
  const auto norm_of = [](Tensor t, const float* minus) {
    std::vector<double> values(t.count());
    for (int64_t i = 0; i < t.count(); ++i) values[i] = static_cast<double>(t.as<float>()[i]) - (minus ? minus[i] : 0);
    return norm(values);
  };
  ParameterValues &found = found_of.gradients(), &expected = expected_of.gradients();
  for (size_t i = 0; i < expected.table().size(); ++i) largest = std::max(largest, norm_of(expected.row(i), nullptr));
  double worst = 0;
  for (size_t i = 0; i < expected.table().size(); ++i) {
    const double size = norm_of(expected.row(i), nullptr),
                 difference = norm_of(found.row(i), expected.row(i).as<float>());
    worst = std::max(worst, difference / std::max(size, kSmall * largest));
  }
  return worst;
}

// The gradients of every parameter that the dump has entries of.
void compare_gradients(const Dump& dump, const std::string& name, Training& training, const std::string& label,
                       const Report& report) {
  struct Compared {
    std::string parameter;
    double golden, difference;
  };
  std::vector<Compared> all;
  double largest = 0;
  const std::string prefix = name + ".grad.";
  for (auto it = dump.arrays.lower_bound(prefix); it != dump.arrays.end() && it->first.starts_with(prefix); ++it) {
    if (!it->first.ends_with(".val")) continue;
    const std::string parameter = it->first.substr(prefix.size(), it->first.size() - prefix.size() - 4);
    const int32_t* where = dump.find(prefix + parameter + ".where")->as<int32_t>();
    std::vector<double> golden, difference;
    for (int64_t i = 0; i < it->second.count(); ++i) {
      const Tensor found = training.gradients().find(dump.source.tensors[where[2 * i]].role);
      golden.push_back(it->second.as<float>()[i]);
      difference.push_back(found.as<float>()[where[2 * i + 1]] - golden.back());
    }
    all.push_back({parameter, norm(golden), norm(difference)});
    largest = std::max(largest, all.back().golden);
  }
  if (all.empty()) report(label + ": no gradients in the dump", INFINITY, 0);
  for (const Compared& one : all) {
    const bool small = one.golden < kSmall * largest;
    report(label + " d " + one.parameter, small ? one.difference / largest : one.difference / one.golden,
           small ? kSmallBound : kGradientBound);
  }
}

void check(const Dump& dump, const std::string& name, const std::string& label, const Report& report) {
  Case run(dump, pack_of(dump, name), 2, 3);
  report(label + " loss", std::fabs(run.loss() - dump.find(name + ".loss")->as<float>()[0]), kLossBound);

  double total = 0;
  for (size_t i = 0; i < run.training().gradients().table().size(); ++i) {
    const Tensor t = run.training().gradients().row(i);
    for (int64_t j = 0; j < t.count(); ++j) total += static_cast<double>(t.as<float>()[j]) * t.as<float>()[j];
  }
  const double expected = dump.find(name + ".grad_norm")->as<float>()[0];
  report(label + " norm of all gradients", std::fabs(std::sqrt(total) - expected) / expected, kGradientBound);

  compare_gradients(dump, name, run.training(), label, report);
  if (const Array* input = dump.find(name + ".input_gradient")) {
    const Tensor found = run.training().input_gradient();
    std::vector<double> golden, difference;
    for (int64_t i = 0; i < input->count(); ++i) {
      golden.push_back(input->as<float>()[i]);
      difference.push_back(found.as<float>()[i] - golden.back());
    }
    report(label + " d inputs_embeds", norm(difference) / norm(golden), kGradientBound);
  }

  // The same where blocks are computed again, three tiles at a time.
  Case again(dump, pack_of(dump, name), 2, 3, {}, 0);
  report(label + " blocks computed again", worst_gradient(again.training(), run.training()), 1e-5);

  // The same bytes for another number of threads.
  Case other(dump, pack_of(dump, name), 1, 3);
  report(label + " bytes on one thread and on two", run.bytes() == other.bytes() && run.loss() == other.loss() ? 0 : 1,
         0);
}

// Two continuations of one prefix, seen once, against each with a prefix of its own.
void check_shared_prefix(const Dump& dump, const std::string& name, const std::string& label, const Report& report) {
  const Pack first = pack_of(dump, name);
  const int64_t rows = static_cast<int64_t>(first.ids.size()), start = first.targets.front().row;
  const auto last_slot = std::find(first.ids.rbegin(), first.ids.rend(), -1);
  const int64_t prefix = std::max<int64_t>(start / 2, first.ids.rend() - last_slot);
  if (prefix > start) return;  // a later picture: nothing to share
  Pack second = first;
  std::reverse(second.ids.begin() + prefix, second.ids.end());
  Pack shared = first;
  shared.ids.insert(shared.ids.end(), second.ids.begin() + prefix, second.ids.end());
  shared.spans = {{0, prefix}, {prefix, rows - prefix, 0, prefix}, {rows, rows - prefix, 0, prefix}};
  for (Pack::Target target : second.targets) {
    target.row += rows - prefix;
    shared.targets.push_back(target);
  }
  Case once(dump, shared, 2, 2), apart(dump, first, 2, 2);
  apart.add(second);
  report(label + " shared prefix, loss", std::fabs(once.loss() - apart.loss()) / apart.loss(), 1e-5);
  report(label + " shared prefix, worst gradient", worst_gradient(once.training(), apart.training()), 1e-5);
}

// Products of factors rounded to bf16, by the bounds of the goldens for bf16: 1 % of the loss, 0.1 of all gradients.
void check_bf16(const Dump& dump, const std::string& name, const std::string& label, const Report& report) {
  const Pack pack = pack_of(dump, name);
  Case exact(dump, pack, 2, 3), rounded(dump, pack, 2, 3, {}, 0, {}, cpu::kEmulatedPairs, DType::bf16);
  const double loss = std::fabs(rounded.loss() - exact.loss()) / exact.loss();
  report(label + " loss in bf16", loss, 0.01);
  double difference = 0, size = 0;
  for (size_t i = 0; i < exact.training().gradients().table().size(); ++i) {
    const Tensor a = exact.training().gradients().row(i), b = rounded.training().gradients().row(i);
    for (int64_t j = 0; j < a.count(); ++j) {
      difference += std::pow(static_cast<double>(b.as<float>()[j]) - a.as<float>()[j], 2);
      size += std::pow(static_cast<double>(a.as<float>()[j]), 2);
    }
  }
  const double relative = std::sqrt(difference / size);
  report(label + " gradients in bf16", relative, 0.1);
  report(label + " bf16 rounds", relative > 1e-5 ? 0 : 1, 0);
}

// One sample with given coins; and coins that are drawn are a function of their key alone, as many as the rate says.
void check_drop_path(const Dump& dump, const std::string& label, const Report& report) {
  const VisionConfig& vision = dump.source.network.vision;
  const auto drawn = [&](int64_t step, int64_t pack) {
    return drop_path_factors(vision, {0.25, 42}, 0, step, pack, 4000);
  };
  const std::vector<float> factors = drawn(3, 1), last(factors.end() - 8000, factors.end());
  const double dropped = static_cast<double>(std::count(last.begin(), last.end(), 0.0f)) / 8000;
  report(label + " share of what is dropped", std::fabs(dropped - 0.25), 0.025);  // five deviations
  report(label + " coins of a key", factors == drawn(3, 1) && factors != drawn(4, 1) && factors != drawn(3, 2) ? 0 : 1,
         0);
  const Array* given = dump.find("drop_path.factors");
  if (!given) return;
  const int32_t number = dump.find("drop_path.sample")->as<int32_t>()[0];
  for (const auto& [name, array] : dump.arrays) {
    if (!name.ends_with(".number") || array.as<int32_t>()[0] != number) continue;
    for (const size_t keep_bytes : {TrainingSizes().keep_bytes, size_t{0}}) {
      Case run(dump, pack_of(dump, name.substr(0, name.size() - 7)), 2, 3, {}, keep_bytes,
               {given->as<float>(), given->as<float>() + given->count()});
      report(label + " drop path, loss", std::fabs(run.loss() - dump.find("drop_path.loss")->as<float>()[0]),
             kLossBound);
      compare_gradients(dump, "drop_path", run.training(), label + " drop path", report);
    }
  }
}

// How far a run may be from the golden one, relative; early: in the updates 0 to 3. The bounds of the goldens' README.
struct RunBounds {
  double early_loss, late_loss, early_norm, late_norm, moved;
  double value;  // absolute
};
constexpr RunBounds kF32Run{5e-5, 5e-5, 1e-4, 1e-4, 1e-3, 2e-4}, kBf16Run{0.02, 0.06, 0.04, 0.12, 0.03, 0};

// Eight updates of AdamW over two samples each: losses, norms before clipping and, at the end, how far the values went and the values themselves.
void check_updates(const Dump& dump, const std::string& key, double weight_decay, WeightDecay rule, DType products,
                   const std::string& label, const Report& report) {
  const std::string run = "run." + key;
  const Array* losses = dump.find(run + ".loss");
  if (!losses) return;
  std::map<int32_t, Pack> packs;
  for (const auto& [name, array] : dump.arrays) {
    if (name.ends_with(".number")) packs[array.as<int32_t>()[0]] = pack_of(dump, name.substr(0, name.size() - 7));
  }
  TrainingSizes sizes{1, 0, 2, 16};
  const int64_t tile = dump.source.network.vision.tile_size;
  for (auto& [number, pack] : packs) {
    for (Pack::Target& target : pack.targets) target.weight /= 2;  // of the two samples of an update
    sizes.rows = std::max(sizes.rows, static_cast<int64_t>(pack.ids.size()));
    sizes.tiles = std::max(sizes.tiles, static_cast<int64_t>(pack.tiles.size()) / (3 * tile * tile));
  }
  const bool bf16 = products == DType::bf16;
  const RunBounds& bounds = bf16 ? kBf16Run : kF32Run;
  const cpu::KernelTable& kernels = bf16 ? cpu::kEmulatedPairs : *cpu::chosen_target().kernels;
  TrainingCpuDevice device(2, kernels, products);
  CpuGradients gradients(2, kernels, products);
  Training training(dump.source, sizes, {}, device, gradients);
  const Masters start(dump.source, device);
  Optimizer optimizer(dump.source.network, device, {});
  OptimizerSettings settings;
  settings.weight_decay = weight_decay;
  settings.decay = rule;
  double worst_loss = 0, worst_norm = 0;  // in parts of their bounds
  for (int64_t update = 0; update < 8; ++update) {
    const bool early = update < 4;
    training.gradients().clear();
    for (int64_t micro = 0; micro < 2; ++micro) {
      const double loss = 2 * training.add_gradients(packs.at((2 * update + micro) % packs.size()));
      const double expected = losses->as<float>()[2 * update + micro];
      worst_loss =
          std::max(worst_loss, std::fabs(loss - expected) / expected / (early ? bounds.early_loss : bounds.late_loss));
    }
    settings.learning_rate = settings.vision_learning_rate = dump.find(run + ".lr")->as<float>()[update];
    const double norm = optimizer.update(training.masters(), training.gradients(), gradients, settings);
    const double expected = dump.find(run + ".grad_norm")->as<float>()[update];
    worst_norm =
        std::max(worst_norm, std::fabs(norm - expected) / expected / (early ? bounds.early_norm : bounds.late_norm));
  }
  report(label + " losses", worst_loss, 1);
  report(label + " norms", worst_norm, 1);
  if (const Array* golden = dump.find(run + ".moved")) {
    double squares = 0;
    for (size_t row = 0; row < start.table().size(); ++row) {
      const Tensor from = start.row(row), to = training.masters().row(row);
      for (int64_t i = 0; i < from.count(); ++i)
        squares += std::pow(static_cast<double>(to.as<float>()[i]) - from.as<float>()[i], 2);
    }
    const double expected = golden->as<float>()[0];
    report(label + " way of the values", std::fabs(std::sqrt(squares) - expected) / expected, bounds.moved);
  }
  double worst_value = -1;
  const std::string prefix = run + ".grad.";
  for (auto it = dump.arrays.lower_bound(prefix); it != dump.arrays.end() && it->first.starts_with(prefix); ++it) {
    if (!it->first.ends_with(".val")) continue;
    const int32_t* where = dump.find(it->first.substr(0, it->first.size() - 4) + ".where")->as<int32_t>();
    for (int64_t i = 0; i < it->second.count(); ++i) {
      const Tensor found = training.masters().find(dump.source.tensors[where[2 * i]].role);
      worst_value =
          std::max<double>(worst_value, std::fabs(found.as<float>()[where[2 * i + 1]] - it->second.as<float>()[i]));
    }
  }
  if (!bf16) report(label + " values at the end", worst_value < 0 ? INFINITY : worst_value, bounds.value);
}

// What is not trained stays as it is, byte for byte, and a gradient that is no number changes nothing.
void check_parts(const Dump& dump, const std::string& name, const std::string& label, const Report& report) {
  Case run(dump, pack_of(dump, name), 2, 3);
  TrainingCpuDevice device(2, *cpu::chosen_target().kernels);
  CpuGradients gradients(2, *cpu::chosen_target().kernels);
  TrainedParts parts = TrainedParts::none();
  parts.projector = true;
  Optimizer optimizer(dump.source.network, device, parts);
  Masters& masters = run.training().masters();
  const std::vector<Parameter>& table = masters.table();
  const auto values = [&] {
    std::vector<std::vector<char>> out;
    for (size_t i = 0; i < table.size(); ++i)
      out.emplace_back(masters.row(i).as<char>(), masters.row(i).as<char>() + masters.row(i).bytes());
    return out;
  };
  OptimizerSettings settings;
  settings.learning_rate = settings.vision_learning_rate = 1e-3;
  const auto before = values();
  float& first = run.training().gradients().find("projector.fc1.weight").as<float>()[0];
  const float kept = std::exchange(first, NAN);
  const double none = optimizer.update(masters, run.training().gradients(), gradients, settings);
  report(label + " no update by what is no number",
         !std::isfinite(none) && values() == before && optimizer.updates() == 0 ? 0 : 1, 0);
  first = kept;
  optimizer.update(masters, run.training().gradients(), gradients, settings);
  const auto after = values();
  bool right = true;
  for (size_t i = 0; i < table.size(); ++i) {
    right = right && (before[i] != after[i]) == (table[i].use == Use::projector) &&
            optimizer.trains(i) == (table[i].use == Use::projector);
  }
  report(label + " only the projector changes", right ? 0 : 1, 0);

  // The tower has a rate of its own: at 0 it stays, and the others are as they would be.
  const auto updated = [&](double rate, double vision_rate) {
    Case fresh(dump, pack_of(dump, name), 2, 3);
    Optimizer whole(dump.source.network, device, {});
    settings.learning_rate = rate;
    settings.vision_learning_rate = vision_rate;
    whole.update(fresh.training().masters(), fresh.training().gradients(), gradients, settings);
    std::vector<std::vector<char>> out;
    for (size_t i = 0; i < table.size(); ++i) {
      const Tensor row = fresh.training().masters().row(i);
      out.emplace_back(row.as<char>(), row.as<char>() + row.bytes());
    }
    return out;
  };
  const auto both = updated(1e-3, 1e-3), tower = updated(0, 1e-3), others = updated(1e-3, 0);
  right = true;
  for (size_t i = 0; i < table.size(); ++i) {
    const bool vision = table[i].use == Use::tower || table[i].use == Use::patches;
    right = right && before[i] != both[i] && tower[i] == (vision ? both : before)[i] &&
            others[i] == (vision ? before : both)[i];
  }
  report(label + " the tower has its own learning rate", right ? 0 : 1, 0);
}

// Gradients of a part alone are those of the whole, byte for byte; what is frozen has none.
void check_partial_gradients(const Dump& dump, const std::string& name, const std::string& label,
                             const Report& report) {
  const Pack pack = pack_of(dump, name);
  Case whole(dump, pack, 2, 3);
  TrainedParts projector = TrainedParts::none(), head = projector, last_layers = projector, language = projector;
  projector.projector = true;
  head.head = true;
  last_layers.first_tower_layer = dump.source.network.vision.output_layer - 1;
  language.decoder = language.head = language.projector = true;
  for (const TrainedParts& parts : {projector, head, last_layers, language}) {
    Case some(dump, pack, 2, 3, parts);
    bool same = some.loss() == whole.loss();
    const ParameterValues &all = whole.training().gradients(), &found = some.training().gradients();
    for (size_t i = 0; i < all.table().size(); ++i) {
      const Tensor one = found.row(i);
      same = same && static_cast<bool>(one) == parts.includes(all.table()[i]) &&
             (!one || std::memcmp(one.data, all.row(i).data, one.bytes()) == 0);
    }
    report(label + " gradients of a part", same ? 0 : 1, 0);
  }
}

std::string contents(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// A run that is saved, taken up again on another number of threads and ended gives the files of one that was not; without an update it gives the
// files that it started from.
void check_trainer(const Dump& dump, const std::string& name, const std::string& label, const Report& report) {
  const Pack pack = pack_of(dump, name);
  const int64_t tile = dump.source.network.vision.tile_size;
  TrainerOptions options;
  options.device.precision = DType::f32;
  options.sizes = {static_cast<int64_t>(pack.ids.size()), static_cast<int64_t>(pack.tiles.size()) / (3 * tile * tile),
                   2, 16};
  options.mean_decay = 0.5;
  OptimizerSettings settings;
  settings.learning_rate = settings.vision_learning_rate = 1e-3;
  const auto learn = [&](Trainer& trainer, int updates) {
    for (int i = 0; i < updates; ++i) {
      trainer.learn(pack);
      trainer.update(settings);
    }
  };
  char made[] = "/tmp/drivlm-trainer-XXXXXX";
  const std::string folder = ::mkdtemp(made), key(64, 'k');
  const auto written = [&](const Trainer& trainer) {
    std::vector<std::string> files;
    std::string all;
    for (size_t i = 0; i < dump.source.files.size(); ++i) files.push_back(folder + "/" + std::to_string(i));
    trainer.write(files);
    for (const std::string& file : files) all += contents(file);
    return all;
  };
  std::string start;
  for (const std::string& file : dump.source.files) start += contents(file);

  options.device.threads = 1;
  Trainer whole(dump.source, options);
  report(label + " files of no update", written(whole) == start ? 0 : 1, 0);
  learn(whole, 2);
  whole.save(folder + "/state", key);
  learn(whole, 2);
  options.device.threads = 3;
  Trainer resumed(dump.source, options);
  resumed.restore(folder + "/state", key);
  report(label + " updates of a state", resumed.updates() == 2 ? 0 : 1, 0);
  learn(resumed, 2);
  const std::string end = written(whole);
  report(label + " files after a resume", end == written(resumed) && end != start && end.size() == start.size() ? 0 : 1,
         0);
  std::filesystem::remove_all(folder);
}

// A frozen tower's values out of a file, of some tiles and of all: the same loss, to the last bit.
void check_tower_cache(const Dump& dump, const std::string& name, const std::string& label, const Report& report) {
  const Pack pack = pack_of(dump, name);
  const VisionConfig& vision = dump.source.network.vision;
  const int64_t tiles = static_cast<int64_t>(pack.tiles.size()) / (3 * vision.tile_size * vision.tile_size);
  TrainerOptions options;
  options.device.threads = 2;
  options.device.precision = DType::f32;
  options.sizes = {static_cast<int64_t>(pack.ids.size()), tiles, 3, 16, 0};
  options.parts = TrainedParts::none();
  options.parts.projector = true;
  const double loss = Trainer(dump.source, options).learn(pack);
  char made[] = "/tmp/drivlm-tower-XXXXXX";
  const std::string folder = ::mkdtemp(made);
  const int64_t values = vision.positions() * vision.dim;
  for (const int64_t room : {tiles / 2, tiles}) {
    options.tower_cache = {folder + "/tower", std::string(kStateKeyBytes, 'k'), TowerCache::bytes(values, room)};
    Trainer trainer(dump.source, options);
    const int64_t there = room == tiles ? tiles / 2 : 0;  // by the trainer before
    report(label + " loss with a tower's file", trainer.learn(pack) == loss ? 0 : 1, 0);
    report(label + " tiles through the tower", trainer.encoded_tiles() == tiles - there ? 0 : 1, 0);
    report(label + " loss again", trainer.learn(pack) == loss ? 0 : 1, 0);
    report(label + " tiles through the tower again", trainer.encoded_tiles() == 2 * tiles - there - room ? 0 : 1, 0);
  }
  std::filesystem::remove_all(folder);
}

// What JavaScript may hand over.
void check_bad_packs(const Dump& dump, const std::string& name, const std::string& label, const Report& report) {
  const Pack good = pack_of(dump, name);
  const int64_t tile = dump.source.network.vision.tile_size, rows = static_cast<int64_t>(good.ids.size());
  TrainerOptions options;
  options.device.precision = DType::f32;
  options.sizes = {rows, static_cast<int64_t>(good.tiles.size()) / (3 * tile * tile), 1, 16};
  Trainer trainer(dump.source, options);
  const std::vector<std::function<void(Pack&)>> breaks = {
      [](Pack& p) { p.ids.push_back(1); },
      [](Pack& p) { p.ids.clear(), p.spans.clear(); },
      [](Pack& p) { p.ids[0] = -2; },
      [&](Pack& p) { p.ids[0] = static_cast<int32_t>(dump.source.network.language.vocab); },
      [](Pack& p) { p.ids[0] = -1; },
      [](Pack& p) { p.tiles.pop_back(); },
      [&](Pack& p) { p.tiles.resize(p.tiles.size() + 3 * tile * tile); },
      [](Pack& p) { p.spans[0].rows--; },
      [](Pack& p) { p.spans[0].rows = INT64_MAX; },
      [](Pack& p) { p.spans[0].row = 1; },
      [](Pack& p) { p.spans.clear(); },
      [](Pack& p) { p.spans[0].prefix_rows = 1; },
      [&](Pack& p) { p.spans = {{0, 2}, {2, rows - 2, 0, 1}}; },
      [&](Pack& p) { p.spans = {{0, 2}, {2, 1, 0, 2}, {3, rows - 3, 2, 1}}; },
      [](Pack& p) { p.targets.clear(); },
      [&](Pack& p) { p.targets[0].row = rows; },
      [](Pack& p) { p.targets[0].row = -1; },
      [](Pack& p) { p.targets[0].label = -100; },
      [&](Pack& p) { p.targets[0].label = static_cast<int32_t>(dump.source.network.language.vocab); },
      [](Pack& p) { p.targets[0].weight = NAN; },
  };
  for (size_t i = 0; i < breaks.size(); ++i) {
    Pack pack = good;
    breaks[i](pack);
    bool refused = false;
    try {
      trainer.learn(pack);
    } catch (const Error& error) {
      refused = error.code == Code::bad_argument;
    }
    report(label + " bad pack " + std::to_string(i), refused ? 0 : 1, 0);
  }
  report(label + " a good pack after them", std::isfinite(trainer.learn(good)) ? 0 : 1, 0);
}

}  // namespace

void run_training(const Dump& dump, const std::string& label, const Report& report) {
  const std::string end = ".tokens";
  for (const auto& [name, array] : dump.arrays) {
    if (!name.ends_with(end)) continue;
    const std::string id = name.substr(0, name.size() - end.size());
    check(dump, id, label + " " + id, report);
    if (dump.find(id + ".spans")->shape[0] == 1) check_shared_prefix(dump, id, label + " " + id, report);
  }
  if (dump.find("one-picture.tokens")) {
    check_parts(dump, "one-picture", label, report);
    check_bf16(dump, "one-picture", label, report);
    check_partial_gradients(dump, "one-picture", label, report);
    check_trainer(dump, "one-picture", label, report);
    check_tower_cache(dump, "one-picture", label, report);
    check_bad_packs(dump, "one-picture", label, report);
  }
  check_drop_path(dump, label, report);
  check_updates(dump, "decay_all", 0.05, WeightDecay::all, DType::f32, label + " updates", report);
  check_updates(dump, "strong_decay_all", 5, WeightDecay::all, DType::f32, label + " updates of strong decay", report);
  check_updates(dump, "strong_decay_trainer", 5, WeightDecay::standard, DType::f32,
                label + " updates of strong standard decay", report);
  check_updates(dump, "bf16", 0.05, WeightDecay::all, DType::bf16, label + " updates in bf16", report);
}

}  // namespace drivlm::test
