#include "addon/pictures.h"

#include <cstring>
#include <utility>

#include "addon/fields.h"
#include "addon/guarded.h"
#include "addon/pool_work.h"
#include "image/borrowed_rows.h"
#include "image/canvas.h"

namespace drivlm {
namespace {

constexpr int64_t kMaxCells = 1024;
constexpr int64_t kMaxTileCount = 4096;

// Less than this is copied at once: sooner done than read through the kernel.
constexpr size_t kSmallBytes = 64 << 10;

// ---- handles: an External that shares native memory, which the garbage collector hears of ----

const napi_type_tag kCellTag = {0x6472697677a1c0deULL, 0x63656c6cULL};
const napi_type_tag kTilesTag = {0x6472697677a1c0deULL, 0x74696c6573ULL};

template <class T>
struct Handle {
  std::shared_ptr<const T> shared;
  int64_t bytes;
};

template <class T>
void finalize(napi_env env, void* data, void*) {
  const std::unique_ptr<Handle<T>> handle(static_cast<Handle<T>*>(data));
  int64_t total;
  napi_adjust_external_memory(env, -handle->bytes, &total);
}

template <class T>
MakeValue make_handle(std::shared_ptr<const T> shared, int64_t bytes, const napi_type_tag& tag) {
  return [shared = std::move(shared), bytes, &tag](napi_env env) -> napi_value {
    auto handle = std::make_unique<Handle<T>>(Handle<T>{shared, bytes});
    napi_value value;
    if (napi_create_external(env, handle.get(), finalize<T>, nullptr, &value) != napi_ok) return nullptr;
    handle.release();
    int64_t total;
    napi_adjust_external_memory(env, bytes, &total);
    return napi_type_tag_object(env, value, &tag) == napi_ok ? value : nullptr;
  };
}

bool is_handle(Napi::Value value, const napi_type_tag& tag) {
  bool tagged = false;
  return value.IsExternal() && napi_check_object_type_tag(value.Env(), value, &tag, &tagged) == napi_ok && tagged;
}

template <class T>
std::shared_ptr<const T> from_handle(Napi::Value value, const napi_type_tag& tag, const std::string& name,
                                     const char* expected) {
  if (!is_handle(value, tag)) fail(name, expected);
  return value.As<Napi::External<Handle<T>>>().Data()->shared;
}

// ---- a picture's bytes ----

// How a job reads a picture: each part gets a reader of its own.
struct Source {
  int64_t width = 0, height = 0;
  std::shared_ptr<const Pixels> copy;  // what was small, or could not be borrowed
  std::shared_ptr<BorrowedBytes> bytes;
  bool owned = false;  // nobody but the package knows the buffer: its memory stays

  // JS thread.
  std::unique_ptr<Rows> open() {
    if (copy) return std::make_unique<PixelRows>(*copy);
    if (owned) return std::make_unique<PixelRows>(bytes->data(), width, height);
    if (auto rows = BorrowedRows::open(bytes->data(), width, height)) return rows;
    copy_now();
    return std::make_unique<PixelRows>(*copy);
  }
  void copy_now() {
    copy = std::make_shared<const Pixels>(Pixels{{bytes->data(), bytes->data() + bytes->size()}, width, height});
  }
};

Source to_source(Napi::Value value, const std::string& name) {
  const Fields fields(value, name);
  Source source;
  source.width = fields.integer("width", 1, kMaxPixels);
  source.height = fields.integer("height", 1, kMaxPixels);
  if (!fits(source.width, source.height)) {
    throw Error(Code::bad_view, text("%s: expected up to %lld pixels with edges of up to %lld, found %lld x %lld.",
                                     name.c_str(), static_cast<long long>(kMaxPixels), static_cast<long long>(kMaxEdge),
                                     static_cast<long long>(source.width), static_cast<long long>(source.height)));
  }
  source.owned = fields.boolean_or("owned", false);
  const Napi::Value rgb = fields.get("rgb");
  if (!rgb.IsTypedArray() || rgb.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
    fail(fields.path("rgb"), "a Uint8Array");
  const std::string called = fields.has("name") ? fields.string("name") : name;
  source.bytes = std::make_shared<BorrowedBytes>(rgb.Env(), rgb, called);
  const auto expected = static_cast<size_t>(source.width * source.height * 3);
  if (source.bytes->size() != expected) {
    throw Error(Code::bad_view,
                text("%s: expected %zu bytes, found %zu.", fields.path("rgb").c_str(), expected, source.bytes->size()));
  }
  if (!source.owned && expected <= kSmallBytes) source.copy_now();
  if (!source.owned && !source.copy) source.bytes->watch_changes();
  return source;
}

Label to_label(Napi::Value value, const std::string& name) {
  const Fields fields(value, name);
  Label label;
  label.width = fields.integer("width", 1, 16384);
  label.height = fields.integer("height", 1, 16384);
  label.left = fields.integer("left", -16384, 16384);
  label.top = fields.integer("top", -16384, 16384);
  label.mask = to_bytes(fields.get("mask"), fields.path("mask"));
  int i = 0;
  fields.each("ink", 3, [&](Napi::Value part, const std::string& where) {
    label.ink[i++] = static_cast<uint8_t>(to_integer(part, where, 0, 255));
  });
  if (i != 3) fail(fields.path("ink"), "three numbers");
  validate(label);
  return label;
}

std::shared_ptr<const Canvas> to_canvas(Napi::Value value, const std::string& name) {
  const Fields fields(value, name);
  auto canvas = std::make_shared<Canvas>();
  canvas->columns = fields.integer("columns", 1, kMaxCells);
  fields.each("cells", kMaxCells, [&](Napi::Value cell, const std::string& where) {
    canvas->cells.push_back(from_handle<Pixels>(cell, kCellTag, where, "a cell"));
  });
  validate(*canvas);
  return canvas;
}

// ---- the functions ----

// prepareCells(pictures, cell)
Napi::Value js_prepare_cells(const Napi::CallbackInfo& info) {
  return guarded_promise(info.Env(), [&]() -> Napi::Value {
    const Fields cell(info[1], "cell");
    const int64_t width = cell.integer("width", 1, 16384), height = cell.integer("height", 1, 16384);
    if (!fits(width, height)) fail("cell", "fewer pixels");
    PoolWork work;
    const auto made = std::make_shared<std::vector<std::shared_ptr<const Pixels>>>();
    each_of(info[0], "pictures", kMaxCells, [&](Napi::Value picture, const std::string& where) {
      Source source = to_source(picture, where);
      std::shared_ptr<const Label> label;
      const Fields fields(picture, where);
      if (fields.has("label"))
        label = std::make_shared<const Label>(to_label(fields.get("label"), fields.path("label")));
      const std::shared_ptr<Rows> rows = source.open();
      const size_t at = made->size();
      made->emplace_back();
      if (!source.copy) work.borrowed.push_back(source.bytes);
      work.parts.push_back([rows, copy = source.copy, label, made, at, width, height] {
        (*made)[at] = std::make_shared<const Pixels>(make_cell(*rows, width, height, label.get()));
      });
    });
    work.finish = [made, width, height]() -> MakeValue {
      return [made, bytes = width * height * 3](napi_env env) -> napi_value {
        napi_value list;
        if (napi_create_array_with_length(env, made->size(), &list) != napi_ok) return nullptr;
        for (size_t i = 0; i < made->size(); ++i) {
          const napi_value handle = make_handle<Pixels>((*made)[i], bytes, kCellTag)(env);
          if (handle == nullptr || napi_set_element(env, list, static_cast<uint32_t>(i), handle) != napi_ok)
            return nullptr;
        }
        return list;
      };
    };
    return run_in_pool(info.Env(), "drivlm.prepareCells", std::move(work));
  });
}

// prepareTiles(picture | { cells, columns }, grid, tileSize)
Napi::Value js_prepare_tiles(const Napi::CallbackInfo& info) {
  return guarded_promise(info.Env(), [&]() -> Napi::Value {
    const Fields fields(info[1], "grid");
    Grid grid;
    grid.columns = fields.integer("columns", 1, kMaxTileCount);
    grid.rows = fields.integer("rows", 1, kMaxTileCount);
    grid.thumbnail = fields.boolean("thumbnail");
    const int64_t tile_size = to_integer(info[2], "tileSize", 1, 16384);

    PoolWork work;
    std::vector<std::unique_ptr<Rows>> readers;
    std::shared_ptr<const void> pixels;  // of the readers
    if (Fields(info[0], "image").has("cells")) {
      const auto canvas = to_canvas(info[0], "image");
      pixels = canvas;
      for (int64_t i = 0; i < TileCutter::parts(grid, true); ++i)
        readers.push_back(std::make_unique<CanvasRows>(*canvas));
    } else {
      Source source = to_source(info[0], "image");
      if (!source.copy) work.borrowed.push_back(source.bytes);
      for (int64_t i = 0; i < TileCutter::parts(grid, false); ++i) readers.push_back(source.open());
      pixels = source.copy;
    }
    const auto cutter = std::make_shared<TileCutter>(std::move(readers), grid, tile_size);
    for (int64_t i = 0; i < cutter->parts(); ++i) work.parts.push_back([cutter, pixels, i] { cutter->part(i); });
    work.finish = [cutter] {
      const std::shared_ptr<const Tiles> tiles = cutter->tiles();
      return make_handle<Tiles>(tiles, tiles->count * tiles->tile_bytes(), kTilesTag);
    };
    return run_in_pool(info.Env(), "drivlm.prepareTiles", std::move(work));
  });
}

Napi::Value to_uint8_array(Napi::Env env, const uint8_t* from, size_t bytes) {
  auto array = Napi::Uint8Array::New(env, bytes);
  if (bytes > 0) std::memcpy(array.Data(), from, bytes);
  return array;
}

Napi::Value js_tile_bytes(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto tiles = from_handle<Tiles>(info[0], kTilesTag, "tiles", "tiles of prepareTiles");
    return to_uint8_array(info.Env(), tiles->rgb.get(), static_cast<size_t>(tiles->count * tiles->tile_bytes()));
  });
}

Napi::Value js_canvas_bytes(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto canvas = to_canvas(info[0], "canvas");
    CanvasRows rows(*canvas);
    std::vector<uint8_t> rgb(static_cast<size_t>(rows.width * rows.height * 3));
    for (int64_t y = 0; y < rows.height; ++y) std::memcpy(&rgb[y * rows.width * 3], rows.read(y, 1), rows.width * 3);
    auto object = Napi::Object::New(info.Env());
    object["rgb"] = to_uint8_array(info.Env(), rgb.data(), rgb.size());
    object["width"] = static_cast<double>(rows.width);
    object["height"] = static_cast<double>(rows.height);
    return object;
  });
}

}  // namespace

std::shared_ptr<const Tiles> to_tiles(Napi::Value value, const std::string& name) {
  if (is_handle(value, kTilesTag)) return from_handle<Tiles>(value, kTilesTag, name, "tiles");
  const Fields fields(value, name);
  const int64_t count = fields.integer("tileCount", 1, kMaxTileCount), size = fields.integer("tileSize", 1, 16384);
  auto tiles = std::make_shared<Tiles>(count, size);
  const Napi::Value given = fields.get("tiles");
  if (!given.IsTypedArray() || given.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
    fail(fields.path("tiles"), "a Uint8Array");
  const auto bytes = given.As<Napi::Uint8Array>();
  if (static_cast<int64_t>(bytes.ByteLength()) != count * tiles->tile_bytes()) {
    throw Error(Code::bad_view, text("%s: expected %lld bytes, found %zu.", fields.path("tiles").c_str(),
                                     static_cast<long long>(count * tiles->tile_bytes()), bytes.ByteLength()));
  }
  std::memcpy(tiles->rgb.get(), bytes.Data(), bytes.ByteLength());
  for (int64_t i = 0; i < count; ++i) tiles->hash(i);
  return tiles;
}

void define_pictures(Napi::Env env, Napi::Object exports) {
  exports["prepareCells"] = Napi::Function::New(env, js_prepare_cells, "prepareCells");
  exports["prepareTiles"] = Napi::Function::New(env, js_prepare_tiles, "prepareTiles");
  exports["tileBytes"] = Napi::Function::New(env, js_tile_bytes, "tileBytes");
  exports["canvasBytes"] = Napi::Function::New(env, js_canvas_bytes, "canvasBytes");
}

}  // namespace drivlm
