// The 16-bit float formats on the host. Round to nearest even, NaN stays NaN.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace drivlm {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

inline float to_float(float v) { return v; }

inline float to_float(bf16 v) { return std::bit_cast<float>(static_cast<uint32_t>(v.bits) << 16); }

inline float to_float(f16 v) {
  const uint32_t sign = (v.bits & 0x8000u) << 16;
  const uint32_t exponent = (v.bits >> 10) & 0x1f, mantissa = v.bits & 0x3ff;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {  // zero and subnormals: mantissa * 2^-24 is exact
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

template <class T>
inline T from_float(float v);

template <>
inline float from_float<float>(float v) {
  return v;
}

template <>
inline bf16 from_float<bf16>(float v) {
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

template <>
inline f16 from_float<f16>(float v) {
  const uint32_t bits = std::bit_cast<uint32_t>(v), magnitude = bits & 0x7fffffffu;
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const auto with_sign = [&](uint32_t rest) { return f16{static_cast<uint16_t>(sign | rest)}; };
  if (magnitude > 0x7f800000u) return with_sign(0x7e00 | ((bits >> 13) & 0x3ff));
  if (magnitude >= 0x477ff000u) return with_sign(0x7c00);  // 65520 and above
  if (magnitude < 0x38800000u) {                           // below 2^-14: multiples of 2^-24, rounded by the addition
    const float rounded = std::bit_cast<float>(magnitude) + 0.5f;
    return with_sign(std::bit_cast<uint32_t>(rounded) - 0x3f000000u);
  }
  return with_sign((magnitude - 0x38000000u + 0xfff + ((magnitude >> 13) & 1)) >> 13);
}

}  // namespace drivlm
