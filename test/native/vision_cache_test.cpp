// Memory for the cache of image tokens that cannot be had: a scene is seen without, and the cache stays whole.
#include "serve/vision_cache.h"

#include "check.h"
#include "failing_new.h"
#include "tiny_engine.h"

namespace drivlm::test {
namespace {

TEST(a_scene_is_seen_though_the_vision_cache_cannot_be_filled) {
  const auto engine = tiny_engine(8192, 4, false, 1 << 20);
  const size_t tile_bytes = kTileTokens * tiny_network().language.dim * sizeof(float);
  const auto first = see(*engine, 1, 1);  // working memory has its size from here on
  steps_until(*engine, *first);
  CHECK_EQ(engine->stats().vision_cache_bytes, static_cast<int64_t>(tile_bytes));
  const auto second = [&] {
    const FailingNew failing(tile_bytes);
    const auto scene = see(*engine, 1, 2);
    steps_until(*engine, *scene);
    CHECK_EQ(failing.failed(), 1);
    return scene;
  }();
  CHECK(second->done);
  CHECK_EQ(second->message, "");
  CHECK_EQ(engine->stats().vision_cache_bytes, static_cast<int64_t>(tile_bytes));
  const auto uncached = ask(*engine, second->result.scene, 4);
  steps_until(*engine, *uncached);
  engine->release(second->result.scene);
  const auto third = see(*engine, 1, 2);
  steps_until(*engine, *third);
  CHECK_EQ(third->result.cached_tiles, int64_t{0});
  CHECK_EQ(engine->stats().vision_cache_bytes, static_cast<int64_t>(2 * tile_bytes));
  const auto cached = ask(*engine, third->result.scene, 4);
  steps_until(*engine, *cached);
  CHECK(uncached->done && cached->done && uncached->result.ids == cached->result.ids);
}

TEST(a_vision_cache_that_cannot_take_an_entry_is_as_it_was) {
  int failures = 0;
  for (int passed = 0;; ++passed, ++failures) {
    VisionCache cache(100);
    cache.put({1, 1}, std::vector<char>(40));
    std::vector<char> second(40, 7);
    try {
      const FailingNew failing(0, passed);
      cache.put({2, 2}, std::move(second));
    } catch (const std::bad_alloc&) {
      CHECK_EQ(cache.bytes(), int64_t{40});
      CHECK(cache.find({1, 1}) != nullptr && cache.find({2, 2}) == nullptr);
      cache.put({2, 2}, std::vector<char>(40, 8));
      cache.put({3, 3}, std::vector<char>(40, 9));  // the first goes
      CHECK(cache.find({1, 1}) == nullptr);
      CHECK(cache.find({2, 2}) != nullptr && cache.find({2, 2})->front() == 8);
      CHECK(cache.find({3, 3}) != nullptr);
      continue;
    }
    break;
  }
  CHECK_EQ(failures, 2);  // the entry, and its place in the index
}

}  // namespace
}  // namespace drivlm::test
