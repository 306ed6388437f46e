// Who gets pages of the KV cache and places among max_scenes, and which scenes give theirs up: docs/decisions/0027.
//
// A request takes all it needs to begin at once, or nothing: nobody who waits holds what another one waits for. So whoever holds something
// either works, and ends, or is a scene, which can be evicted, or a dialogue, which cannot; and of those who wait, the one that asked first
// is served or told as soon as nobody works.

#include "serve/engine_impl.h"

namespace drivlm {

namespace {

constexpr int64_t kNobody = INT64_MAX;

}  // namespace

int64_t EngineImpl::free_places() const {
  int64_t taken = 0;
  for (const auto& [id, scene] : scenes_) taken += scene->cached && !scenes_.contains(scene->place_of);
  const auto keeps = [](const GenerateJobPtr& job) { return job->request.keep && !job->takes_place; };
  taken += std::count_if(running_.begin(), running_.end(), keeps);
  taken += std::count_if(prefilling_.begin(), prefilling_.end(), keeps);
  taken += !seeing_.empty() && seeing_.front()->reserved;
  return options_.max_scenes - taken;
}

// Somebody else works, and will give something back, or leave a scene that can be evicted.
bool EngineImpl::works_besides(const Job& job) const {
  const auto works = [&](const auto& jobs) {
    return !jobs.empty() && jobs.front()->reserved && static_cast<const Job*>(jobs.front().get()) != &job;
  };
  return !running_.empty() || !prefilling_.empty() || works(scoring_) || works(seeing_);
}

// A question of it has begun: most of its pages would not come back.
bool EngineImpl::busy(const Scene& scene) const {
  const auto of_scene = [&](const GenerateJobPtr& job) { return job->request.scene == scene.id; };
  return std::any_of(running_.begin(), running_.end(), of_scene) ||
         std::any_of(prefilling_.begin(), prefilling_.end(), of_scene) ||
         (!scoring_.empty() && scoring_.front()->reserved && scoring_.front()->request.scene == scene.id);
}

// The age of the first one that waits to ask about it.
int64_t EngineImpl::wanted_since(const Scene& scene) const {
  int64_t first = scene.claims.empty() ? kNobody : *scene.claims.begin();
  for (const GenerateJobPtr& job : waiting_) {
    if (job->scene.get() == &scene) first = std::min(first, job->age);
  }
  for (const ScoreJobPtr& job : scoring_) {
    if (job->scene.get() == &scene) first = std::min(first, job->age);
  }
  return first;
}

// Those that could be evicted, which includes what was released while somebody waits to ask about it.
std::vector<std::shared_ptr<Scene>> EngineImpl::evictable(const Scene* own) const {
  std::vector<std::shared_ptr<Scene>> found;
  const auto add = [&](const std::shared_ptr<Scene>& scene) {
    if (scene && scene.get() != own && scene->cached && !scene->dialogue && !busy(*scene) &&
        std::find(found.begin(), found.end(), scene) == found.end())
      found.push_back(scene);
  };
  for (const auto& [id, scene] : scenes_) add(scene);
  for (const GenerateJobPtr& job : waiting_) add(job->scene);
  for (const ScoreJobPtr& job : scoring_) add(job->scene);
  return found;
}

void EngineImpl::evict(Scene& scene) {
  scene.cached.reset();
  ++counters_.evicted;
  {
    std::lock_guard lock(stats_mutex_);
    evicted_.push_back(scene.id);
  }
  const auto tell = [&](auto& jobs) {
    for (auto it = jobs.begin(); it != jobs.end();) {
      if ((*it)->scene.get() != &scene) {
        ++it;
        continue;
      }
      const auto job = std::move(*it);
      it = jobs.erase(it);
      tell_evicted(*job);
    }
  };
  tell(waiting_);
  tell(scoring_);
}

template <class QuestionJob>
void EngineImpl::tell_evicted(QuestionJob& job) {
  if (!job.request.on_evicted) {
    job.request.on_error(Error(Code::disposed, "The scene was evicted."));
    return;
  }
  guarded(
      [&] {
        job.scene->claims.insert(job.age);
        publish_stats();
        job.request.on_evicted(job.age);
      },
      job.request.on_error);
}

template void EngineImpl::tell_evicted(GenerateJob& job);
template void EngineImpl::tell_evicted(ScoreJob& job);

// Somebody asks about a scene. What is asked again keeps its age, and claims nothing any more.
int64_t EngineImpl::age_of(int64_t id, int64_t claim) {
  ++clock_;
  const auto found = scenes_.find(id);
  if (found != scenes_.end()) {
    found->second->claims.erase(claim);
    found->second->last_used = clock_;
  }
  return claim > 0 ? claim : clock_;
}

// Somebody who asked before waits for room.
bool EngineImpl::yields_room(const Job& job) const {
  const auto older = [&](const auto& waiting) { return waiting->waits_for_room && waiting->age < job.age; };
  return (!seeing_.empty() && older(seeing_.front())) || (!scoring_.empty() && older(scoring_.front())) ||
         std::any_of(waiting_.begin(), waiting_.end(), older);
}

Room EngineImpl::find_room(const Need& need) {
  const auto taken = [&] { return (!need.place || free_places() > 0) && need.take(); };
  if (taken()) return Room::taken;
  const bool works = works_besides(need.job);
  if (!options_.evict) return works && (!need.place || free_places() > 0) ? Room::later : Room::none;

  std::vector<std::shared_ptr<Scene>> idle, wanted;
  for (auto& scene : evictable(need.own)) (wanted_since(*scene) == kNobody ? idle : wanted).push_back(scene);
  std::sort(idle.begin(), idle.end(), [](const auto& a, const auto& b) { return a->last_used < b->last_used; });
  for (const auto& scene : idle) {
    evict(*scene);
    if (taken()) return Room::taken;
  }
  if (works) return Room::later;

  // Nobody will give anything back. Scenes that others want go last, and not to somebody who asked after these: they will ask before long.
  // But what has begun holds pages that they may need, and goes on.
  std::sort(wanted.begin(), wanted.end(),
            [&](const auto& a, const auto& b) { return wanted_since(*a) > wanted_since(*b); });
  bool later = false;
  for (const auto& scene : wanted) {
    if (!need.begun && wanted_since(*scene) < need.job.age) {
      later = true;
      continue;
    }
    evict(*scene);
    if (taken()) return Room::taken;
  }
  return later ? Room::later : Room::none;
}

bool EngineImpl::take_room(const Need& need, const char* what, const char* advice) {
  need.job.waits_for_room = true;
  if (!need.begun && yields_room(need.job)) return false;
  const Room room = find_room(need);
  if (room == Room::later) return false;
  need.job.waits_for_room = false;
  if (room == Room::taken) return true;
  if (need.place && free_places() <= 0) {
    throw Error(
        Code::out_of_memory,
        text(
            "maxScenes lets %lld scenes and dialogues stand in the cache, and there are so many%s. Dispose of one, or load the model with a "
            "larger maxScenes%s.",
            static_cast<long long>(options_.max_scenes), options_.evict ? ", none of which can be evicted" : "",
            options_.evict ? "" : ", or with { evict: 'resee' }"));
  }
  throw Error(Code::out_of_memory,
              text("%s needs %lld more pages of the KV cache, %lld of %lld are free. Dispose of scenes, %sor load the "
                   "model with more kvMemory.",
                   what, static_cast<long long>(pages_lacking_), static_cast<long long>(cache_.pages_free()),
                   static_cast<long long>(cache_.pages_total()), advice));
}

// ---- holders ----

void EngineImpl::hold(int64_t id) {
  const auto found = scenes_.find(id);
  if (found != scenes_.end()) ++found->second->holders;
}

void EngineImpl::release(int64_t id) {
  const auto found = scenes_.find(id);
  if (found == scenes_.end()) return;
  // What takes its place has it from now on; if others hold this one, they need a place of their own.
  for (const auto& [other, scene] : scenes_) {
    if (scene->place_of == id) scene->place_of = 0;
  }
  if (--found->second->holders == 0) scenes_.erase(found);
  publish_stats();
}

void EngineImpl::withdraw(int64_t id, int64_t claim) {
  const auto found = scenes_.find(id);
  if (found != scenes_.end()) found->second->claims.erase(claim);
}

std::vector<int64_t> EngineImpl::take_evicted() {
  std::lock_guard lock(stats_mutex_);
  return std::exchange(evicted_, {});
}

}  // namespace drivlm
