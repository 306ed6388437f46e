// Reads the fields of a JS object; what is not there or of another type throws BAD_ARGUMENT with its path.
#pragma once

#include <array>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "addon/convert.h"

namespace drivlm {

constexpr int64_t kMaxInteger = int64_t{1} << 53;  // what a JS number holds exactly
constexpr int64_t kMaxTokens = int64_t{1} << 24;

[[noreturn]] inline void fail(const std::string& name, const char* expected) {
  throw Error(Code::bad_argument, text("Expected %s for %s.", expected, name.c_str()));
}

// One of `names`; its index.
template <size_t kCount>
size_t to_choice(Napi::Value value, const std::string& name, const char* const (&names)[kCount]) {
  const std::string found = value.IsString() ? value.As<Napi::String>().Utf8Value() : std::string();
  std::string list;
  for (size_t i = 0; i < kCount; ++i) {
    if (found == names[i]) return i;
    list += (i == 0 ? "'" : ", '") + std::string(names[i]) + "'";
  }
  fail(name, ("one of " + list).c_str());
}

// A copy of a typed array's elements.
template <class T>
std::vector<T> to_vector(Napi::Value value, const std::string& name, napi_typedarray_type type, const char* expected) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type) fail(name, expected);
  const auto array = value.As<Napi::TypedArrayOf<T>>();
  const size_t length = array.ElementLength();
  if (length > static_cast<size_t>(kMaxTokens)) fail(name, "a shorter array");
  const T* data = array.Data();
  return {data, data + length};
}

inline std::vector<int32_t> to_ids(Napi::Value value, const std::string& name) {
  return to_vector<int32_t>(value, name, napi_int32_array, "an Int32Array");
}

inline std::string to_text(Napi::Value value, const std::string& name) {
  if (!value.IsString()) fail(name, "a string");
  return value.As<Napi::String>().Utf8Value();
}

// Calls visit(value, path) for every entry of an array.
template <class Visit>
void each_of(Napi::Value value, const std::string& name, int64_t max_length, Visit visit) {
  if (!value.IsArray()) fail(name, "an array");
  const auto array = value.As<Napi::Array>();
  const uint32_t length = array.Length();
  if (length > max_length) fail(name, text("at most %lld entries", static_cast<long long>(max_length)).c_str());
  for (uint32_t i = 0; i < length; ++i) {
    Napi::HandleScope scope(array.Env());
    visit(array.Get(i), name + "[" + std::to_string(i) + "]");
  }
}

// An object with its name in messages.
class Fields {
 public:
  Fields(Napi::Value value, std::string name) : name_(std::move(name)) {
    if (!value.IsObject()) fail(name_, "an object");
    object_ = value.As<Napi::Object>();
  }

  std::string path(const char* key) const { return name_ + "." + key; }
  Napi::Value get(const char* key) const { return object_.Get(key); }
  bool has(const char* key) const { return !get(key).IsUndefined(); }

  int64_t integer(const char* key, int64_t low, int64_t high) const {
    return to_integer(get(key), path(key), low, high);
  }
  int64_t integer_or(const char* key, int64_t absent, int64_t low, int64_t high) const {
    return has(key) ? integer(key, low, high) : absent;
  }
  double number(const char* key) const {
    const Napi::Value value = get(key);
    if (!value.IsNumber()) fail(path(key), "a number");
    const double number = value.As<Napi::Number>().DoubleValue();
    if (!std::isfinite(number)) fail(path(key), "a finite number");
    return number;
  }
  bool boolean(const char* key) const { return to_boolean(get(key), path(key)); }
  bool boolean_or(const char* key, bool absent) const { return has(key) ? boolean(key) : absent; }
  std::string string(const char* key) const { return to_text(get(key), path(key)); }
  template <size_t kCount>
  size_t choice(const char* key, const char* const (&names)[kCount]) const {
    return to_choice(get(key), path(key), names);
  }
  Fields fields(const char* key) const { return {get(key), path(key)}; }

  // Calls visit(value, path) for every entry of an array.
  template <class Visit>
  void each(const char* key, int64_t max_length, Visit visit) const {
    each_of(get(key), path(key), max_length, visit);
  }
  std::vector<double> numbers(const char* key, int64_t max_length) const {
    std::vector<double> result;
    each(key, max_length, [&](Napi::Value value, const std::string& where) {
      if (!value.IsNumber()) fail(where, "a number");
      result.push_back(value.As<Napi::Number>().DoubleValue());
      if (!std::isfinite(result.back())) fail(where, "a finite number");
    });
    return result;
  }
  std::array<float, 3> triple(const char* key) const {
    const std::vector<double> values = numbers(key, 3);
    if (values.size() != 3) fail(path(key), "three numbers");
    return {static_cast<float>(values[0]), static_cast<float>(values[1]), static_cast<float>(values[2])};
  }
  std::vector<uint8_t> bytes(const char* key, int64_t expected) const {
    const Napi::Value value = get(key);
    if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
      fail(path(key), "a Uint8Array");
    }
    const auto array = value.As<Napi::Uint8Array>();
    const size_t length = array.ByteLength();
    if (length != static_cast<size_t>(expected)) {
      throw Error(Code::bad_view, text("%s: expected %lld bytes, found %zu.", path(key).c_str(),
                                       static_cast<long long>(expected), length));
    }
    const uint8_t* data = array.Data();
    return {data, data + length};
  }
  std::vector<int32_t> ids(const char* key) const { return to_ids(get(key), path(key)); }
  std::vector<std::string> strings(const char* key, int64_t max_length) const {
    std::vector<std::string> result;
    each(key, max_length,
         [&](Napi::Value value, const std::string& where) { result.push_back(to_text(value, where)); });
    return result;
  }

 private:
  std::string name_;
  Napi::Object object_;
};

}  // namespace drivlm
