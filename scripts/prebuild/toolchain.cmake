# Debian 12's g++ 12, native or crossing, against Debian 11's C library. scripts/prebuild/main.mjs sets DRIVLM_TARGET (x86_64, aarch64) and DRIVLM_SYSROOT.
foreach(name TARGET SYSROOT)
  if(NOT DEFINED DRIVLM_${name})
    set(DRIVLM_${name} $ENV{DRIVLM_${name}})
  endif()
  list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES DRIVLM_${name})
endforeach()

set(triplet ${DRIVLM_TARGET}-linux-gnu)
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR ${DRIVLM_TARGET})
set(CMAKE_SYSROOT ${DRIVLM_SYSROOT})
set(CMAKE_CXX_COMPILER ${triplet}-g++-12)
set(CMAKE_CUDA_HOST_COMPILER ${triplet}-g++-12)

# Debian's compilers look for libraries in /usr/lib/TRIPLET before the sysroot. The flags stand here for nvcc's links too, which CMake 3.25 gives no sysroot.
set(libraries "--sysroot=${CMAKE_SYSROOT} -B${CMAKE_SYSROOT}/usr/lib/${triplet}/")
string(APPEND libraries " -L${CMAKE_SYSROOT}/usr/lib/${triplet} -L${CMAKE_SYSROOT}/lib/${triplet}")
foreach(kind SHARED MODULE EXE)
  set(CMAKE_${kind}_LINKER_FLAGS_INIT "${libraries}")
endforeach()
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
