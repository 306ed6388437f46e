// Scenes: tiles to image tokens, prompt and image tokens to pages of the KV cache. One unit at a time, so that running
// questions go on between them.

#include "serve/engine_impl.h"

namespace drivlm {

// What TypeScript may have got wrong: nothing below reads out of bounds after this.
void EngineImpl::check(const SceneRequest& request) const {
  int64_t slots = 0, tiles = 0;
  for (int32_t id : request.ids) {
    if (id < -1 || id >= network_.language.vocab)
      throw Error(Code::bad_argument, text("Token id %d is outside the vocabulary.", id));
    slots += id == -1;
  }
  for (const auto& image : request.images) {
    if (image->size != network_.vision.tile_size) {
      throw Error(Code::bad_argument,
                  text("Expected tiles of %lld pixels, received %lld.",
                       static_cast<long long>(network_.vision.tile_size), static_cast<long long>(image->size)));
    }
    tiles += image->count;
  }
  if (request.ids.empty()) throw Error(Code::bad_argument, "A scene needs at least one token.");
  if (slots != tiles * network_.vision.tile_tokens()) {
    throw Error(Code::bad_argument,
                text("The prompt has %lld image slots, the images make %lld image tokens.",
                     static_cast<long long>(slots), static_cast<long long>(tiles * network_.vision.tile_tokens())));
  }
  if (static_cast<int64_t>(request.ids.size()) > options_.max_context) {
    throw Error(
        Code::context_overflow,
        text(
            "The views take %zu tokens, the context holds %lld. Use fewer tiles, or load the model with a larger maxContext.",
            request.ids.size(), static_cast<long long>(options_.max_context)));
  }
}

Progressed EngineImpl::scene_unit() {
  if (seeing_.empty()) return Progressed::waits;
  if (!seeing_.front()->reserved) {
    // A scene that is seen again for somebody is as old as what he asked.
    for (const SceneJobPtr& job : seeing_) {
      const auto found = scenes_.find(job->request.scene);
      if (found != scenes_.end() && !found->second->claims.empty())
        job->age = std::min(job->age, *found->second->claims.begin());
    }
    std::iter_swap(seeing_.begin(), std::min_element(seeing_.begin(), seeing_.end(),
                                                     [](const auto& a, const auto& b) { return a->age < b->age; }));
  }
  SceneJob& job = *seeing_.front();
  Progressed progressed = Progressed::waits;
  std::unique_ptr<Error> failure;
  guarded([&] { progressed = advance(job); }, [&](const Error& error) { failure = std::make_unique<Error>(error); });
  if (progressed != Progressed::done && !failure) return progressed;
  SceneJobPtr finished = std::move(seeing_.front());
  seeing_.pop_front();
  if (failure) {
    finished->sequence.release();
    publish_stats();
    finished->request.on_error(*failure);
  } else {
    publish_stats();  // whoever hears of the scene finds it counted
    finished->request.on_done(std::move(finished->result));
  }
  return Progressed::done;
}

Progressed EngineImpl::advance(SceneJob& job) {
  if (!job.reserved) {
    if (job.hashes.empty()) start(job);
    if (!take_room({job, nullptr, true, [&] { return begin(job); }}, "The scene", "")) return Progressed::waits;
    job.reserved = true;
    counters_.shared_tokens += job.result.shared_tokens;
    find_tiles(job);
    return Progressed::worked;
  }
  if (job.encoded < job.to_encode.size()) {
    encode_tiles(job);
    return Progressed::worked;
  }
  if (!job.prompt.done()) {
    Probe probe(*device_, job.request.probe, job.result.probes);
    const int64_t rows = std::min<int64_t>(space_.language.max_rows(), job.prompt.left());
    const int32_t* ids = job.prompt.ids.data() + job.prompt.cursor;
    const int64_t slots = std::count(ids, ids + rows, -1);
    device_->begin_stage();
    const Chunk chunk{&job.sequence,
                      ids,
                      rows,
                      slots > 0 ? space_.image_tokens.rows(job.prompt.slot, slots) : Tensor(),
                      job.prompt.rope_regime,
                      Logits::none};
    space_.language.forward({chunk}, cache_.kv(), job.request.probe.empty() ? nullptr : &probe, [&] {
      if (job.request.control->cancel) throw aborted();
    });
    const double stage_ms = device_->end_stage();
    job.sequence.length += rows;
    job.prompt.cursor += rows;
    job.prompt.slot += slots;
    job.result.prefill_ms += stage_ms;
    counters_.prefill_ms += stage_ms;
    counters_.prefill_tokens += rows;
    if (!job.prompt.done()) return Progressed::worked;
    read_cache_probes(probe, job.request.probe, job.sequence);
  }

  CachedTokens cached;
  cached.rope_regime = job.prompt.rope_regime;
  cached.ids = std::move(job.prompt.ids);
  cached.tiles = std::move(job.hashes);
  if (space_.chunk_tokens && job.result.image_tokens > 0) {
    Tensor used = space_.image_tokens.rows(0, job.result.image_tokens);
    auto copy = std::make_shared<std::vector<char>>(used.bytes());
    device_->download(copy->data(), used);
    cached.image_tokens = std::move(copy);
  }
  cached.sequence = std::move(job.sequence);
  keep_scene(job, std::move(cached));
  return Progressed::done;
}

// Under its number, or under a new one. A scene that was released while it was seen again is gone.
void EngineImpl::keep_scene(SceneJob& job, CachedTokens cached) {
  std::shared_ptr<Scene> scene;
  if (job.request.scene != 0) {
    const auto found = scenes_.find(job.request.scene);
    if (found != scenes_.end()) scene = found->second;
    ++counters_.reseen;
  } else {
    scene = std::make_shared<Scene>();
    scene->id = next_scene_++;
    scenes_.emplace(scene->id, scene);
  }
  if (scene) {
    scene->last_used = ++clock_;
    scene->cached = std::move(cached);
  }
  job.result.scene = scene ? scene->id : job.request.scene;
}

void EngineImpl::start(SceneJob& job) {
  job.result.tokens = static_cast<int64_t>(job.request.ids.size());
  for (const auto& image : job.request.images) {
    for (int64_t tile = 0; tile < image->count; ++tile) job.tiles.push_back(image->tile(tile));
    job.hashes.insert(job.hashes.end(), image->hashes.begin(), image->hashes.end());
  }
  job.result.tiles = static_cast<int64_t>(job.tiles.size());
  job.result.image_tokens = job.result.tiles * network_.vision.tile_tokens();
  job.prompt.ids = job.request.ids;
  job.prompt.rope_regime = space_.language.rope().regime(job.result.tokens);
}

// Shares what stands in the cache already, with pages for the rest. False, and the scene holds nothing, if the pool has too few.
bool EngineImpl::begin(SceneJob& job) {
  if (job.request.probe.empty()) share_prefix(job);
  if (cache_.reserve(job.sequence, job.result.tokens)) return true;
  pages_lacking_ = cache_.pages_needed(job.sequence, job.result.tokens);
  job.sequence.release();
  job.prompt.cursor = 0;
  job.prompt.slot = job.result.shared_tokens = 0;
  return false;
}

// Which tiles are known, and which must be encoded.
void EngineImpl::find_tiles(SceneJob& job) {
  job.result.queue_ms = ms_since(job.submitted);
  const Clock::time_point begin = Clock::now();
  const int64_t tile_tokens = network_.vision.tile_tokens();
  // Tiles whose tokens stand in the shared prefix are needed again only for a host copy.
  const int64_t skipped = space_.chunk_tokens ? 0 : job.prompt.slot / tile_tokens;
  for (int64_t tile = skipped; tile < job.result.tiles; ++tile) {
    const std::vector<char>* known =
        vision_cache_.enabled() && job.request.probe.empty() ? vision_cache_.find(job.hashes[tile]) : nullptr;
    if (known) {
      device_->upload(space_.image_tokens.rows(tile * tile_tokens, tile_tokens), known->data());
      ++job.result.cached_tiles;
    } else {
      job.to_encode.push_back(tile);
    }
  }
  counters_.tiles_cached += job.result.cached_tiles;
  job.result.preprocess_ms = ms_since(begin);
}

// Takes over the longest prefix that a living scene has in its cache: same ids, same pixels in the slots, same rotation.
void EngineImpl::share_prefix(SceneJob& job) {
  const int64_t tile_tokens = network_.vision.tile_tokens();
  const CachedTokens* best = nullptr;
  int64_t best_length = 0;
  for (const auto& [id, one] : scenes_) {
    if (!one->cached) continue;
    const CachedTokens& scene = *one->cached;
    if (scene.rope_regime != job.prompt.rope_regime) continue;
    const int64_t most = std::min<int64_t>(scene.sequence.length, job.result.tokens);
    int64_t length = 0, slot = 0;
    while (length < most && scene.ids[length] == job.prompt.ids[length]) {
      if (scene.ids[length] == -1) {
        if (scene.tiles[slot / tile_tokens] != job.hashes[slot / tile_tokens]) break;
        ++slot;
      }
      ++length;
    }
    if (length > best_length) {
      best = &scene;
      best_length = length;
    }
  }
  if (!best) return;
  job.sequence = cache_.fork_prefix(best->sequence, best_length);
  job.prompt.cursor = best_length;
  job.prompt.slot = std::count(job.prompt.ids.begin(), job.prompt.ids.begin() + best_length, -1);
  job.result.shared_tokens = best_length;
}

// The next tiles that are in no cache; neighbours of to_encode need not be neighbours in the scene.
void EngineImpl::encode_tiles(SceneJob& job) {
  const int64_t tile_tokens = network_.vision.tile_tokens();
  int64_t count = 1;  // a run of consecutive tiles, so that their tokens are written in place
  const int64_t first = job.to_encode[job.encoded];
  while (count < space_.vision.max_tiles() && job.encoded + count < job.to_encode.size() &&
         job.to_encode[job.encoded + count] == first + count)
    ++count;
  device_->begin_stage();
  Tensor tiles = space_.tiles.rows(0, count);
  for (int64_t i = 0; i < count; ++i) device_->upload(tiles.rows(i, 1), job.tiles[first + i]);
  Probe probe(*device_, job.request.probe, job.result.probes);
  Tensor tokens = space_.image_tokens.rows(first * tile_tokens, count * tile_tokens);
  space_.vision.encode(tokens, tiles, job.request.probe.empty() ? nullptr : &probe, [&] {
    if (job.request.control->cancel) throw aborted();
  });
  const double stage_ms = device_->end_stage();
  job.result.vision_ms += stage_ms;
  counters_.vision_ms += stage_ms;
  for (int64_t i = 0; i < count && vision_cache_.enabled(); ++i) {
    Tensor part = tokens.rows(i * tile_tokens, tile_tokens);
    try {
      std::vector<char> copy(part.bytes());
      device_->download(copy.data(), part);
      vision_cache_.put(job.hashes[first + i], std::move(copy));
    } catch (const std::bad_alloc&) {
      break;  // the scene is seen without: the cache is there to save time only
    }
  }
  job.encoded += count;
  counters_.tiles_encoded += count;
}

void EngineImpl::read_cache_probes(Probe& probe, const std::vector<std::string>& names,
                                   const Sequence& sequence) const {
  const KvShape& shape = cache_.kv().shape;
  for (const std::string& name : names) {
    for (int64_t layer = 0; layer < shape.layers; ++layer) {
      const std::string key = "llm.k" + std::to_string(layer), value = "llm.v" + std::to_string(layer);
      if (name != key && name != value) continue;
      const size_t count = shape.kv_heads * sequence.length * shape.head_dim;
      std::vector<float> keys(count), values(count);
      device_->ops().read_kv(keys.data(), values.data(), cache_.kv(), layer, sequence.pages.data(), sequence.length);
      probe.put(name, {shape.kv_heads, sequence.length, shape.head_dim},
                name == key ? std::move(keys) : std::move(values));
    }
  }
}

}  // namespace drivlm
