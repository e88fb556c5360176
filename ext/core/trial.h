// Whether short runs of a team are quicker together or by the caller alone: measured, again and again.
#pragma once

#include <algorithm>

namespace ghost {

// Two CPUs that are two hardware threads of one core, a busy machine or a tiny model can make meeting every other
// microsecond dearer than the workers' help (v12 on CPUs that were slow to pass a cache line on: 75 microseconds a byte
// alone, 95 together). As long as the trials say the same they come more and more rarely.
class Trial {
 public:
  // Whether to do the next run together.
  bool together() const { return runs_ < kRuns ? runs_ % 2 == 0 : together_; }

  // The last run took so many seconds per item, with workers or without.
  void add(bool with_workers, double seconds) {
    if (runs_ >= kWarmUp && runs_ < kRuns) seconds_[with_workers][counted_[with_workers]++] = seconds;
    if (++runs_ == kRuns) decide();
    if (runs_ >= kRuns + pause_) restart();
  }

 private:
  static constexpr int kRuns = 20;   // of a trial: together and alone by turns
  static constexpr int kWarmUp = 4;  // of those do not count: a sleeping worker wakes up
  static constexpr int kShortest = 64, kLongest = 4096;  // runs between two trials

  void decide() {
    const bool before = together_;
    const double together = median(true), alone = median(false);  // a run that was held up does not decide
    together_ = counted_[1] == 0 || counted_[0] == 0 ? before : together <= alone;
    pause_ = together_ == before ? std::min(2 * pause_, kLongest) : kShortest;
  }
  double median(bool with_workers) {
    double* first = seconds_[with_workers];
    std::sort(first, first + counted_[with_workers]);
    return first[counted_[with_workers] / 2];
  }
  void restart() { runs_ = counted_[0] = counted_[1] = 0; }

  int runs_ = 0;  // since the last trial began
  int pause_ = kShortest;
  bool together_ = true;
  double seconds_[2][kRuns] = {};
  int counted_[2] = {0, 0};
};

}  // namespace ghost
