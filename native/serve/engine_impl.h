// The engine's state. engine.cpp: requests and the order of work; engine_scenes.cpp, engine_questions.cpp, engine_scores.cpp: the
// work; engine_eviction.cpp: who gets pages and places for it.
#pragma once

#include <algorithm>
#include <array>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "device/arena.h"
#include "network/decoder.h"
#include "network/probe.h"
#include "network/vision.h"
#include "serve/engine.h"
#include "serve/jobs.h"
#include "serve/kv_cache.h"
#include "serve/vision_cache.h"

namespace drivlm {

// The part of the device's memory that is scratch, laid out the same way when measuring and when running.
struct Workspace {
  Workspace(const NetworkDescription& network, const Weights& weights, Device& device, const EngineOptions& options,
            Arena& arena);

  VisionEncoder vision;
  Decoder language;
  Tensor tiles;         // u8 [tiles at a time, size, size, 3]
  Tensor image_tokens;  // [tokens of one scene, dim]: of the scene that is being encoded
  Tensor chunk_tokens;  // [rows of a pass, dim]: of a scene that is prefilled anew; empty for models that never do
};

// The outcome of a unit of work. waits: nothing was done, for lack of jobs or of pages; worked: a part was done; done: the last part was.
enum class Progressed { waits, worked, done };

// What came of a request's need for room: it has it; others will give some back; nobody will.
enum class Room { taken, later, none };

struct Need {
  Job& job;
  const Scene* own;            // the scene that it asks about, which is not evicted for it
  bool place;                  // among max_scenes
  std::function<bool()> take;  // takes pages; false, and nothing is held, if there are too few
  bool begun = false;          // it has begun, and gives back what it holds only when it ends
};

class EngineImpl final : public Engine {
 public:
  EngineImpl(const ModelSource& source, const EngineOptions& options, const Progress& progress,
             const std::atomic<bool>& cancel);

  void submit(SceneRequest request) override;
  void submit(GenerateRequest request) override;
  void submit(ScoreRequest request) override;
  void set_vocabulary(std::shared_ptr<const Vocabulary> vocabulary) override { vocabulary_ = std::move(vocabulary); }
  void hold(int64_t scene) override;
  void release(int64_t scene) override;
  void withdraw(int64_t scene, int64_t claim) override;
  std::vector<int64_t> take_evicted() override;
  bool step() override;
  void fail_all(const Error& error) override;
  EngineStats stats() const override;
  MemoryPlan memory() const override { return plan_; }
  const LoadReport& load_report() const override { return load_report_; }

 private:
  using SceneJobPtr = std::unique_ptr<SceneJob>;
  using GenerateJobPtr = std::unique_ptr<GenerateJob>;
  using ScoreJobPtr = std::unique_ptr<ScoreJob>;

  // engine.cpp
  template <class Body, class OnError>
  void guarded(const Body& body, const OnError& on_error);
  void check_ids(const std::vector<int32_t>& ids) const;
  std::shared_ptr<Scene> scene_to_ask(int64_t scene, const std::vector<int32_t>& ids) const;
  int64_t tokens_before_answer(const Scene* scene, const std::vector<int32_t>& ids) const;
  void fork_scene(Question& question, const std::vector<int32_t>& ids);
  bool begin(Question& question, const std::vector<int32_t>& ids, int64_t extra_tokens);
  bool model_unit();
  bool drop_cancelled();
  void publish_stats();

  // engine_eviction.cpp
  int64_t free_places() const;
  bool works_besides(const Job& job) const;
  bool busy(const Scene& scene) const;
  int64_t wanted_since(const Scene& scene) const;
  std::vector<std::shared_ptr<Scene>> evictable(const Scene* own) const;
  void evict(Scene& scene);
  template <class QuestionJob>
  void tell_evicted(QuestionJob& job);
  int64_t age_of(int64_t id, int64_t claim);
  bool yields_room(const Job& job) const;
  Room find_room(const Need& need);
  bool take_room(const Need& need, const char* what, const char* advice);

  // engine_scenes.cpp
  void check(const SceneRequest& request) const;
  Progressed scene_unit();
  bool begin(SceneJob& job);
  void start(SceneJob& job);
  void find_tiles(SceneJob& job);
  void keep_scene(SceneJob& job, CachedTokens cached);
  Progressed advance(SceneJob& job);
  void encode_tiles(SceneJob& job);
  void share_prefix(SceneJob& job);
  void read_cache_probes(Probe& probe, const std::vector<std::string>& names, const Sequence& sequence) const;

  // engine_questions.cpp
  void check(const GenerateRequest& request) const;
  bool admit(GenerateJob& job);
  bool admit_waiting();
  Progressed prefill_unit();
  bool end_unasked();
  Chunk prompt_chunk(Question& question, int64_t rows, Logits logits);
  void advance_prompt(Question& question, int64_t rows);
  bool decode_unit();
  void plan_step(GenerateJob& job, int64_t rows_left);
  SampleParams sample_params(GenerateJob& job);
  void finish_prefill(GenerateJobPtr job, Tensor logits_row);
  void finish_step(GenerateJobPtr job, const Chunk& chunk, int64_t drafted, Tensor logits, const Sample& first);
  bool take(GenerateJob& job, const Sample& sample, Tensor logits_row);
  bool emit(GenerateJob& job, int32_t id, float logprob);
  void complete(GenerateJob& job);
  void fail(GenerateJob& job, const Error& error);

  // engine_scores.cpp
  Progressed score_unit();
  Progressed advance(ScoreJob& job);
  SampleParams scored(const ScoreRequest& request, int64_t row, int32_t id) const;
  Progressed score_prompt(ScoreJob& job);
  Progressed score_pass(ScoreJob& job);
  void end(ScoreJob& job);

  const NetworkDescription network_;
  const EngineOptions options_;
  std::unique_ptr<Device> device_;
  const MemoryPlan plan_;
  std::unique_ptr<Memory> arena_memory_, kv_memory_;
  LoadReport load_report_;
  const Weights weights_;
  Arena arena_;
  Workspace space_;
  KvCache cache_;
  VisionCache vision_cache_;
  std::shared_ptr<const Vocabulary> vocabulary_;

  std::map<int64_t, std::shared_ptr<Scene>> scenes_;
  int64_t next_scene_ = 1;
  int64_t clock_ = 0;                      // counts requests and scenes, for their order
  int64_t pages_lacking_ = 0;              // of who found too few last
  std::deque<SceneJobPtr> seeing_;         // the first is being worked on
  std::deque<ScoreJobPtr> scoring_;        // the first is being worked on
  std::deque<GenerateJobPtr> waiting_;     // not admitted
  std::deque<GenerateJobPtr> prefilling_;  // admitted
  std::vector<GenerateJobPtr> running_;
  // How often work that is ready let other work go first; prefill, scores, scenes.
  std::array<int64_t, 3> passed_over_{};
  int64_t in_pass_ = 0;          // questions that are in none of these while the model works on them
  std::unique_ptr<Error> lost_;  // the device failed: nothing works any more

  EngineStats counters_;  // of the engine's thread
  mutable std::mutex stats_mutex_;
  EngineStats published_;
  std::vector<int64_t> evicted_;  // until take_evicted()
};

// The error for logits that are NaN.
inline Error damaged_weights() {
  return Error(
      Code::bad_weights,
      "The model's logits are not numbers (NaN), so its weights are damaged, or too large for its precision. Compare the checksums of the weight "
      "files with those of their source, or fetch the files anew; if they are whole, load with { precision: 'f32' }.");
}

inline const Error& aborted() {
  static const Error error(Code::aborted, "The request was aborted.");
  return error;
}

// Runs the body; what it throws goes to on_error(const Error&), and a lost device is remembered.
template <class Body, class OnError>
void EngineImpl::guarded(const Body& body, const OnError& on_error) {
  try {
    body();
  } catch (const Error& error) {
    if (error.code == Code::device_lost && !lost_) lost_ = std::make_unique<Error>(error);
    on_error(error);
  } catch (const std::bad_alloc&) {
    on_error(Error(Code::out_of_memory, "The process ran out of memory."));
  } catch (const std::exception& error) {
    on_error(Error(Code::internal, error.what()));
  }
}

}  // namespace drivlm
