// Pictures at the seam: views to cells, cells or a picture to tiles, all on the pool and from the caller's own bytes. Cells and tiles stay
// native: JavaScript holds opaque handles of them.
#pragma once

#include <memory>
#include <string>

#include "addon/napi_setup.h"
#include "image/tiles.h"

namespace drivlm {

// prepareCells, prepareTiles, tileBytes and canvasBytes of lib/native.ts.
void define_pictures(Napi::Env env, Napi::Object exports);

// The tiles of a handle, or of finished tiles, which are copied. Throws Error.
std::shared_ptr<const Tiles> to_tiles(Napi::Value value, const std::string& name);

}  // namespace drivlm
