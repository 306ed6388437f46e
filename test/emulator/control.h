// The test's side of the emulator: options, what was found, what was counted.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include <cuda_runtime_api.h>

namespace emu {

// Set before the first CUDA call, or between launches. The environment overrides the defaults: EMULATOR_SEED,
// EMULATOR_STRICT, EMULATOR_DEVICES, EMULATOR_MEMORY_MIB, EMULATOR_SMS, EMULATOR_CAPABILITY (87), EMULATOR_DRIVER (12020: 12.2),
// EMULATOR_FAIL_LAUNCH, EMULATOR_INTEGRATED, EMULATOR_MAPPED_COST. EMULATOR_STATS=1 prints some of the statistics when the process ends.
struct Options {
  unsigned seed = 0;               // 0: lanes and warps in order; else shuffled by this seed
  size_t shared_limit = 99 << 10;  // opt-in limit of a block; 99 KiB is the smallest of our targets (sm_86, 89, 120)
  int max_reports = 8;             // later ones are counted only
  bool global_races = true;        // conflicts between blocks of one launch
  bool deferred = true;            // stream work runs when somebody waits for it, not when it is enqueued
  bool quiet = false;              // do not print reports to stderr
  bool strict = false;             // a launch with a report fails, as one that faults does
  int devices = 1;
  size_t device_bytes = size_t(24) << 30;
  int multiprocessors = 16;  // Orin AGX
  int capability = 87;
  int driver = CUDART_VERSION;  // what cudaDriverGetVersion says; 0: no driver is running
  // The GPU shares the CPU's memory: host memory can be registered. Events then count launches, one millisecond each, and mapped_cost more where
  // a launch reads registered memory, so that what host code measures is known.
  bool integrated = false;
  int mapped_cost = 0;
  unsigned long long fail_launch =
      0;  // the launch of this number, from 1, fails and makes all later calls fail; 0: none
};
extern Options options;

// One problem: a race, an access out of bounds, ... The text names file, line, block and thread.
struct Report {
  std::string kind, text;
};
const std::vector<Report>& reports();
void clear_reports();

// Forgets a failed launch, which otherwise makes every later call fail, as on a GPU.
void revive();

// The next call of this runtime function (by its CUDA name) fails with `error`.
void fail_next(const char* function, cudaError_t error);

// Some kernel file was compiled with instrumentation: this is the checked flavour.
bool checked();

struct Stats {
  unsigned long long launches, blocks, switches, collectives, accesses, copies, matrix_products;
  unsigned long long allocations, events, graphs;  // cudaMalloc that succeeded, cudaEventRecord, cudaGraphInstantiate
  unsigned long long mapped_reads;                 // of registered host memory, by kernels
  unsigned long long ldmatrix_conflicts;           // extra shared-memory passes beyond the one a phase of 8 rows needs
};
extern Stats stats;

// Bytes allocated with cudaMalloc and not yet freed.
size_t device_bytes_in_use();

}  // namespace emu
