// The only place that includes napi.h, with the settings it needs; CMakeLists.txt defines them for the whole addon.
#pragma once

#if NAPI_VERSION != 9 || !defined(NODE_ADDON_API_CPP_EXCEPTIONS) || !defined(NODE_ADDON_API_CPP_EXCEPTIONS_ALL)
#error "the addon is built through CMakeLists.txt"
#endif

#include <napi.h>
