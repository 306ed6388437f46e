# Debian 12's g++ 12, native or crossing, linked against Debian 11's C library. scripts/prebuild/main.mjs sets DRIVLM_TARGET (x86_64, aarch64) and
# DRIVLM_SYSROOT.
foreach(name TARGET SYSROOT)
  if(NOT DEFINED DRIVLM_${name})
    set(DRIVLM_${name} $ENV{DRIVLM_${name}})
  endif()
  list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES DRIVLM_${name})
endforeach()

set(triplet ${DRIVLM_TARGET}-linux-gnu)
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR ${DRIVLM_TARGET})
set(CMAKE_CXX_COMPILER ${triplet}-g++-12)
set(CMAKE_CUDA_HOST_COMPILER ${triplet}-g++-12)

# Only links see the older library, of which check.mjs holds every symbol to account; headers are the compiler's own, so that an object is the same as in
# any other build and a compiler cache knows it. Debian's compilers look for libraries in /usr/lib/TRIPLET before the sysroot: hence -B and -L.
set(libraries "--sysroot=${DRIVLM_SYSROOT} -B${DRIVLM_SYSROOT}/usr/lib/${triplet}/")
string(APPEND libraries " -L${DRIVLM_SYSROOT}/usr/lib/${triplet} -L${DRIVLM_SYSROOT}/lib/${triplet}")
foreach(kind SHARED MODULE EXE)
  set(CMAKE_${kind}_LINKER_FLAGS_INIT "${libraries}")
endforeach()
