// The paged cache: counted references, copy on write, and no page that is lost or given out twice.
#include <map>

#include "check.h"
#include "device/registry.h"
#include "serve/kv_cache.h"

namespace drivlm::test {
namespace {

constexpr KvShape kShape{2, 1, 8, 4, 12};  // 12 pages of 4 tokens

struct Fixture {
  DeviceOptions options = [] {
    DeviceOptions o;
    o.precision = DType::f32;
    return o;
  }();
  std::unique_ptr<Device> device = make_device(options);
  std::unique_ptr<Memory> memory = device->allocate(device->kv_bytes(kShape), "The KV cache");
  KvCache cache{device->ops(), {memory->data, kShape}};
};

TEST(kv_cache_reserves_whole_pages_or_nothing) {
  Fixture f;
  KvSequence a;
  CHECK(f.cache.reserve(a, 5));
  CHECK_EQ(a.pages.size(), size_t{2});
  CHECK_EQ(f.cache.pages_free(), int64_t{10});
  KvSequence b;
  CHECK(!f.cache.reserve(b, 41));
  CHECK(b.pages.empty());
  CHECK_EQ(f.cache.pages_free(), int64_t{10});
  CHECK(f.cache.reserve(b, 40));
  CHECK_EQ(f.cache.pages_free(), int64_t{0});
  a.release();
  b.release();
  CHECK_EQ(f.cache.pages_free(), kShape.pages);
}

TEST(kv_cache_copies_a_partly_filled_page_for_whoever_writes_to_it) {
  Fixture f;
  KvSequence scene;
  CHECK(f.cache.reserve(scene, 6));
  scene.length = 6;
  KvSequence question = f.cache.fork(scene);
  CHECK_EQ(f.cache.pages_free(), int64_t{10});
  CHECK_EQ(f.cache.pages_needed(question, 8), int64_t{1});  // the copy
  CHECK_EQ(f.cache.pages_needed(question, 9), int64_t{2});
  CHECK(f.cache.reserve(question, 8));
  CHECK_EQ(question.pages[0], scene.pages[0]);
  CHECK(question.pages[1] != scene.pages[1]);
  KvSequence second = f.cache.fork(scene);
  scene.release();
  CHECK_EQ(f.cache.pages_needed(second, 8), int64_t{0});  // alone with it now
  question.release();
  second.release();
  CHECK_EQ(f.cache.pages_free(), kShape.pages);
}

TEST(kv_sequences_give_their_pages_back_when_they_go) {
  Fixture f;
  {
    KvSequence a;
    CHECK(f.cache.reserve(a, 9));
    a.length = 9;
    KvSequence moved = std::move(a);
    CHECK(a.pages.empty() && a.length == 0);
    CHECK_EQ(moved.length, int64_t{9});
    KvSequence b = f.cache.fork(moved);
    CHECK(f.cache.reserve(b, 16));  // a copy of the third page, and a fourth
    CHECK_EQ(f.cache.pages_free(), int64_t{7});
    moved = std::move(b);  // what it held goes
    CHECK_EQ(f.cache.pages_free(), int64_t{8});
    std::vector<KvSequence> forks;
    for (int i = 0; i < 5; ++i) forks.push_back(f.cache.fork(moved));
    CHECK_EQ(f.cache.pages_free(), int64_t{8});
  }
  CHECK_EQ(f.cache.pages_free(), kShape.pages);
}

TEST(kv_cache_trims_to_what_is_cached) {
  Fixture f;
  KvSequence a;
  CHECK(f.cache.reserve(a, 40));
  a.length = 5;
  a.trim(0);
  CHECK_EQ(a.pages.size(), size_t{2});
  KvSequence prefix = f.cache.fork_prefix(a, 4);
  CHECK_EQ(prefix.pages.size(), size_t{1});
  a.release();
  prefix.release();
  CHECK_EQ(f.cache.pages_free(), kShape.pages);
}

TEST(kv_cache_keeps_its_counts_whatever_is_done) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    Fixture f;
    Random random(seed);
    std::vector<KvSequence> all;
    for (int action = 0; action < 400; ++action) {
      const size_t i = all.empty() ? 0 : random() % all.size();
      switch (random() % 5) {
        case 0: {
          KvSequence fresh;
          if (f.cache.reserve(fresh, 1 + random() % 12)) all.push_back(std::move(fresh));
          break;
        }
        case 1:
          if (!all.empty()) all.push_back(f.cache.fork_prefix(all[i], random() % (all[i].length + 1)));
          break;
        case 2: {
          if (all.empty()) break;
          const int64_t wanted = all[i].length + 1 + random() % 6, needed = f.cache.pages_needed(all[i], wanted),
                        free = f.cache.pages_free();
          const bool got = f.cache.reserve(all[i], wanted);
          CHECK_EQ(got, needed <= free);
          CHECK_EQ(f.cache.pages_free(), got ? free - needed : free);
          if (got) all[i].length = wanted;
          break;
        }
        case 3:
          if (!all.empty()) all[i].trim(random() % 10);
          break;
        default:
          if (all.empty()) break;
          all.erase(all.begin() + static_cast<std::ptrdiff_t>(i));
      }
      std::map<int32_t, int> used;
      for (const KvSequence& one : all) {
        CHECK(static_cast<int64_t>(one.pages.size()) * kShape.page_tokens >= one.length);
        for (int32_t page : one.pages) ++used[page];
      }
      CHECK_EQ(f.cache.pages_free() + static_cast<int64_t>(used.size()), kShape.pages);
    }
    all.clear();
    CHECK_EQ(f.cache.pages_free(), kShape.pages);
  }
}

}  // namespace
}  // namespace drivlm::test
