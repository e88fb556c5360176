// C++17: 32 threads and a barrier stand for a simdgroup, so that the bodies run, and are tested, without a GPU.
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#define GHOST_FUNCTION inline
#define GHOST_THREAD
#define GHOST_UNROLL
// STATES is a run-time number here.
#define GHOST_STATES_MAX 64

namespace ghost_host {

constexpr int kLanes = 32;
constexpr std::size_t kExchangeBytes = 64;

// All lanes arrive before any leaves. Waiting lanes yield: there are more of them than cores.
class Barrier {
 public:
  void wait() {
    const unsigned int round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == kLanes - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.fetch_add(1, std::memory_order_acq_rel);
      return;
    }
    while (round_.load(std::memory_order_acquire) == round) std::this_thread::yield();
  }

 private:
  std::atomic<int> arrived_{0};
  std::atomic<unsigned int> round_{0};
};

struct Simdgroup {
  Barrier barrier;
  // Two sets of slots taken in turn: a lane may write the next set while another still reads this one.
  unsigned char slots[2][kLanes][kExchangeBytes];
};

inline thread_local Simdgroup* simdgroup = nullptr;
inline thread_local int lane_index = 0;
inline thread_local int turn = 0;

// body(group, row, lane) on every lane of every simdgroup of a grid (groups, rows).
template <typename Body>
void launch(int groups, int rows, const Body& body) {
  Simdgroup shared;
  std::vector<std::thread> lanes;
  for (int lane = 0; lane < kLanes; ++lane) {
    lanes.emplace_back([&shared, &body, groups, rows, lane] {
      simdgroup = &shared;
      lane_index = lane;
      for (int row = 0; row < rows; ++row) {
        for (int group = 0; group < groups; ++group) body(group, row, lane);
      }
    });
  }
  for (std::thread& lane : lanes) lane.join();
}

}  // namespace ghost_host

GHOST_FUNCTION float ghost_as_float(unsigned int bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

GHOST_FUNCTION unsigned int ghost_as_uint(float value) {
  unsigned int bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

template <int COUNT, typename T>
GHOST_FUNCTION void ghost_exchange(GHOST_THREAD T* values, int mask) {
  static_assert(COUNT * sizeof(T) <= ghost_host::kExchangeBytes, "a slot is too small");
  auto& slots = ghost_host::simdgroup->slots[ghost_host::turn];
  ghost_host::turn ^= 1;
  std::memcpy(slots[ghost_host::lane_index], values, COUNT * sizeof(T));
  ghost_host::simdgroup->barrier.wait();
  std::memcpy(values, slots[ghost_host::lane_index ^ mask], COUNT * sizeof(T));
}
